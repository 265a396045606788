//! Echo pairing: matches echo requests that arrive by a tunnel with the replies that leave, as proof that the
//! tunnel answers.

use sixxs_common::{
    echo::{self, Watched},
    layout::Interface,
    packet::{self, Echo, EchoMessage, Ipv6},
    stat::Stat,
};

use crate::{
    Counted,
    frame::{self, Frame},
    maps,
};

/// A request to a tunnel's own address arrived by that tunnel: registers it as pending. (A host behind this
/// one, in a routed prefix, may not exist; no reply is expected from there.)
///
/// The reply time is measured only if the request is the first one since the last clock tick: the exact clock
/// costs more than everything else here.
#[inline(always)]
pub(crate) fn request_arrived(interface: &Interface, ipv6: &Ipv6, number: u32, request: &Counted) {
    let tag = echo::tag(ipv6.destination, ipv6.source, number);
    sixxs_asked(
        tag,
        interface.slot,
        request.tick_ns,
        request.is_first.into(),
    );
}

/// A reply leaves by the tunnel that its source belongs to.
#[inline(always)]
pub(crate) fn reply_left(ipv6: &Ipv6, number: u32) {
    sixxs_replied(echo::tag(ipv6.source, ipv6.destination, number), 1);
}

/// A packet leaves, or was dropped, at another interface than the tunnel that its source belongs to.
#[inline(always)]
pub(crate) fn reply_misrouted(frame: &Frame, ipv6: &Ipv6) {
    if let Some(EchoMessage {
        kind: Echo::Reply,
        number: Some(number),
    }) = packet::echo(frame, ipv6)
    {
        sixxs_replied(echo::tag(ipv6.source, ipv6.destination, number), 0);
    }
}

// The kernel verifies global functions separately, and each only once. It requires that they return a number;
// the callers ignore it.

/// Registers a request that arrived by the tunnel in this slot at the last tick; `is_timed` 1: its reply time
/// is measured.
#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_asked(tag: u64, tunnel: u32, tick: u64, is_timed: u32) -> u32 {
    let (Some(slot), Some(pending)) = (maps::slot(tunnel), maps::pending(tag)) else {
        return 0; // unreachable: both numbers are within the maps
    };
    match pending.watch(tag, tunnel, tick) {
        Watched::Repeated => return 0,
        Watched::New => {}
        Watched::Evicted(other) => {
            if let Some(other) = maps::slot(other) {
                other.add(Stat::EchoForgotten, 1);
            }
        }
    }
    if is_timed != 0 {
        pending.time(frame::precise_now_ns());
    }
    slot.add(Stat::EchoWatched, 1);
    if let Some(state) = maps::state(tunnel)
        && state.watched_ns == 0
    {
        state.watched_ns = tick;
    }
    0
}

/// Handles a reply; `by_tunnel` 1: the request is answered; 0: the reply took another path, and the request
/// stays unanswered.
#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_replied(tag: u64, by_tunnel: u32) -> u32 {
    let Some(pending) = maps::pending(tag) else {
        return 0; // unreachable, as above
    };
    if !pending.answer(tag) {
        return 0;
    }
    let tunnel = pending.slot;
    let Some(slot) = maps::slot(tunnel) else {
        return 0; // unreachable: the slot was valid when it was stored
    };
    if by_tunnel == 0 {
        slot.add(Stat::EchoAstray, 1);
        return 0;
    }
    slot.add(Stat::EchoAnswered, 1);
    slot.update_time(Stat::LastAnswer, frame::now_ns());
    if pending.is_timed != 0 {
        let took = frame::precise_now_ns().wrapping_sub(pending.at_ns);
        maps::add_time(tunnel, took);
    }
    0
}
