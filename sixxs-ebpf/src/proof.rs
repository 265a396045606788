//! The proof that a tunnel answers: echo requests that came in by it are paired with replies that leave.

use sixxs_common::{
    decide::Tables as _,
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

/// A request to a tunnel's own address came in by it: the reply is waited for. (What is behind this host, in
/// a routed prefix, may not be there at all: of it nothing is expected.) Not the reply to somebody there, which
/// leaves by no tunnel; that such a request came from outside is forged.
///
/// How long the reply takes is of interest where the request is the first since the last tick of the
/// clock: the exact clock costs more than all else here.
#[inline(always)]
pub(crate) fn came(
    interface: &Interface,
    tables: &maps::InKernel,
    ipv6: &Ipv6,
    number: u32,
    request: &Counted,
) {
    if tables.comes_here(ipv6.source) {
        return;
    }
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
pub(crate) fn left(ipv6: &Ipv6, number: u32) {
    sixxs_replied(echo::tag(ipv6.source, ipv6.destination, number), 1);
}

/// A packet leaves, or was dropped, elsewhere than in the tunnel that its source belongs to.
#[inline(always)]
pub(crate) fn elsewhere(frame: &Frame, ipv6: &Ipv6) {
    if let Some(EchoMessage {
        kind: Echo::Reply,
        number: Some(number),
    }) = packet::echo(frame, ipv6)
    {
        sixxs_replied(echo::tag(ipv6.source, ipv6.destination, number), 0);
    }
}

// Global functions to the kernel, which verifies each by itself, and so once. What they return says
// nothing: the kernel wants a number.

/// Waits for the reply to a request that came by the tunnel in this slot at the last tick; 1: its time is
/// of interest.
#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_asked(tag: u64, tunnel: u32, tick: u64, is_timed: u32) -> u32 {
    let (Some(slot), Some(pending)) = (maps::slot(tunnel), maps::pending(tag)) else {
        return 0; // never: both are below the numbers of them
    };
    match pending.watch(tag, tunnel, tick) {
        Watched::Again => return 0,
        Watched::New => {}
        Watched::Instead(other) => {
            if let Some(other) = maps::slot(other) {
                other.add(Stat::EchoForgotten, 1);
            }
        }
    }
    if is_timed != 0 {
        pending.time(frame::exactly_now_ns());
    }
    slot.add(Stat::EchoWatched, 1);
    if let Some(state) = maps::state(tunnel)
        && state.watched_ns == 0
    {
        state.watched_ns = tick;
    }
    0
}

/// A reply, 1: by the tunnel: the request is answered, or is not and never will be.
#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_replied(tag: u64, by_tunnel: u32) -> u32 {
    let Some(pending) = maps::pending(tag) else {
        return 0; // never, as above
    };
    if !pending.answer(tag) {
        return 0;
    }
    let tunnel = pending.slot;
    let Some(slot) = maps::slot(tunnel) else {
        return 0; // never: it was one when it was written
    };
    if by_tunnel == 0 {
        slot.add(Stat::EchoAstray, 1);
        return 0;
    }
    slot.add(Stat::EchoAnswered, 1);
    slot.renew(Stat::LastAnswer, frame::now_ns());
    if pending.is_timed != 0 {
        let took = frame::exactly_now_ns().wrapping_sub(pending.at_ns);
        maps::add_time(tunnel, took);
    }
    0
}
