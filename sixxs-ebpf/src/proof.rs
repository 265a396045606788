//! The proof that a tunnel answers: echo requests that came in by it are paired with replies that leave.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use sixxs_common::{
    address::Address,
    decide::Tables as _,
    echo::{self, Watched},
    packet::{self, Echo, Ipv6, Packet as _},
    stat::Stat,
};

use crate::{
    frame::{self, Frame},
    maps,
};

/// A request came in by a tunnel.
#[inline(always)]
pub(crate) fn came(frame: &Frame, ipv6: &Ipv6) {
    sixxs_echo(frame.context().as_ptr().cast(), ipv6.offset, CAME);
}

/// A reply leaves by the tunnel that its source belongs to.
#[inline(always)]
pub(crate) fn left(frame: &Frame, ipv6: &Ipv6) {
    sixxs_echo(frame.context().as_ptr().cast(), ipv6.offset, LEFT);
}

/// A packet leaves, or was dropped, elsewhere than in the tunnel that its source belongs to.
#[inline(always)]
pub(crate) fn elsewhere(frame: &Frame, ipv6: &Ipv6) {
    if packet::echo(frame, ipv6) == Some(Echo::Reply) {
        sixxs_echo(frame.context().as_ptr().cast(), ipv6.offset, ELSEWHERE);
    }
}

const CAME: u32 = 0;
const LEFT: u32 = 1;
const ELSEWHERE: u32 = 2;

/// What [`came`], [`left`] and [`elsewhere`] do with an echo message whose IPv6 header is at `offset`.
///
/// A global function to the kernel, for the reasons of `sixxs_leak`. What it returns says nothing:
/// the kernel wants a number.
#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_echo(skb: *mut __sk_buff, offset: u32, what: u32) -> u32 {
    let frame = &Frame::new(TcContext::new(skb));
    // None of this is ever missing: it was there a moment ago.
    if let Some(ipv6) = packet::ipv6_again(frame, offset)
        && let Some(upper) = packet::transport(frame, &ipv6)
        && let Some(message) = frame.peek(upper.offset + 4)
    {
        let message = u32::from_ne_bytes(message);
        match what {
            CAME => watch(frame, ipv6.destination, ipv6.source, message),
            _ => answer(ipv6.source, ipv6.destination, message, what == LEFT),
        }
    }
    0
}

/// Waits for the reply to a request for an address of the tunnel that it came by. What is behind this
/// host, in a routed prefix, may not be there at all: of it nothing is expected.
#[inline(always)]
fn watch(frame: &Frame, local: Address, remote: Address, message: u32) {
    let Some((interface, slot)) = maps::interface(frame.ifindex()) else {
        return; // never, as above
    };
    let tables = maps::InKernel {
        slot,
        generation: interface.generation,
    };
    match tables.source(local) {
        Some(source) if source.is_address() && source.slot() == interface.slot => {}
        _ => return,
    }
    let now = frame::exactly_now_ns();
    let tag = echo::tag(local, remote, message);
    let Some(pending) = maps::pending(tag) else {
        return; // never: a place is below their number
    };
    match pending.watch(tag, interface.slot, now) {
        Watched::Again => return,
        Watched::New => {}
        Watched::Instead(other) => {
            if let Some(other) = maps::slot(other) {
                other.add(Stat::EchoForgotten, 1);
            }
        }
    }
    slot.add(Stat::EchoWatched, 1);
    if let Some(state) = maps::state(interface.slot)
        && state.watched_ns == 0
    {
        state.watched_ns = now;
    }
}

/// A reply: the request is answered, or is not and never will be.
#[inline(always)]
fn answer(local: Address, remote: Address, message: u32, by_tunnel: bool) {
    let now = frame::exactly_now_ns();
    let tag = echo::tag(local, remote, message);
    let Some((took, tunnel)) = maps::pending(tag).and_then(|pending| pending.answer(tag, now))
    else {
        return;
    };
    let Some(slot) = maps::slot(tunnel) else {
        return; // never: it was one when it was written
    };
    if by_tunnel {
        slot.add(Stat::EchoAnswered, 1);
        slot.set(Stat::LastAnswer, now);
        maps::add_time(tunnel, took);
    } else {
        slot.add(Stat::EchoAstray, 1);
    }
}
