//! Drops forged outer packets where they arrive, at TC and at XDP alike.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use sixxs_common::{
    endpoint::Direction,
    layout::Interface,
    packet::{ETHERNET_HEADER_BYTES, Packet, UDP},
    screening::{Forgery, STRANGERS_PER_SECOND, Screened, screen},
    six_in_four::{HEADER_BYTES, PROTOCOL},
};

use crate::{
    NEXT, SHOT,
    frame::{self, Frame},
    inside_test,
    maps::{self, Slot},
    outside_test,
};

/// Offset of the protocol, behind the time to live, in an IPv4 header.
const TTL_OFFSET: u32 = 8;
/// Offset of the destination port in a UDP header.
const PORT_OFFSET: u32 = 2;

/// Whether the IPv4 packet at `offset` may be one for a tunnel. For most packets that costs one load.
#[inline(always)]
pub(crate) fn may_be_outer<P: Packet + ?Sized>(packet: &P, offset: u32) -> bool {
    let Some([_, protocol]) = packet.load(offset + TTL_OFFSET) else {
        return false;
    };
    if protocol != PROTOCOL && protocol != UDP {
        return false;
    }
    let Some(screen) = maps::screen() else {
        return false; // unreachable: the map has one entry
    };
    if protocol == PROTOCOL {
        return screen.has_six_in_four != 0;
    }
    match packet.load(offset + HEADER_BYTES + PORT_OFFSET) {
        Some(port) => screen.has_port(port),
        None => false,
    }
}

/// The hook at which a packet is screened. Each has its own budget for strangers: a packet passes both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Tc,
    Xdp,
}

/// Screens a packet of `bytes` bytes, and counts it if it is forged. `uplink` is the slot of the interface.
#[inline(always)]
pub(crate) fn judge<P: Packet + ?Sized>(
    packet: &P,
    (offset, bytes): (u32, u32),
    interface: &Interface,
    uplink: Slot,
    hook: Hook,
) -> Screened {
    let tables = maps::KernelTables {
        slot: uplink,
        generation: interface.generation,
        ifindex: interface.ifindex,
    };
    let (slot, reason) = match screen(packet, offset, &tables) {
        // This host sent it.
        Screened::Forged {
            reason: Forgery::OwnSource,
            ..
        } if inside_test::is_testing() && outside_test::is_inside(packet, offset) => {
            return Screened::Pass;
        }
        Screened::Forged { slot, reason } => (slot, reason),
        Screened::Stranger { slot } if is_flood(slot, hook) => (slot, Forgery::StrangerFlood),
        passed => return passed,
    };
    let now_ns = frame::now_ns();
    if !maps::is_screening_valid(now_ns) {
        return Screened::Pass;
    }
    maps::count_forged(slot, reason);
    // It does arrive from there, as far as anybody can know.
    if reason.is_from_broker()
        && let Some(outer) = maps::outer_counters(slot)
    {
        outer.count(Direction::In, bytes.into(), now_ns);
    }
    Screened::Forged { slot, reason }
}

/// Whether other hosts than the broker have sent too many datagrams in this second.
#[inline(always)]
fn is_flood(slot: u32, hook: Hook) -> bool {
    match maps::stranger_budget(slot, hook == Hook::Xdp) {
        Some(budget) => !budget.take(STRANGERS_PER_SECOND, frame::now_ns()),
        None => false, // unreachable: the slot is within the map
    }
}

#[inline(always)]
fn is_udp(frame: &Frame, offset: u32) -> bool {
    frame
        .load(offset + TTL_OFFSET)
        .is_some_and(|[_, protocol]: [u8; 2]| protocol == UDP)
}

/// Screens a frame at TC. Returns `NEXT` or `SHOT`.
#[inline(always)]
pub(crate) fn arrived(frame: &Frame, link_bytes: u32) -> i32 {
    if frame.is_ipv4() && may_be_outer(frame, link_bytes) {
        sixxs_screen(frame.context().as_ptr().cast(), link_bytes)
    } else {
        NEXT
    }
}

/// A global function: the kernel verifies it separately, and only once.
#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_screen(skb: *mut __sk_buff, link_bytes: u32) -> i32 {
    let frame = &Frame::new(TcContext::new(skb));
    // The verifier needs a constant.
    let offset = if link_bytes == 0 {
        0
    } else {
        ETHERNET_HEADER_BYTES
    };
    let Some((interface, uplink)) = maps::interface(frame.ifindex()) else {
        return NEXT;
    };
    // The kernel has merged datagrams of one sender. Only the first one could be read, and the others may be good.
    if frame.gso_bytes() != 0 && is_udp(frame, offset) {
        return NEXT;
    }
    let bytes = frame.bytes_behind(offset);
    match judge(frame, (offset, bytes), interface, uplink, Hook::Tc) {
        Screened::Forged { .. } => SHOT,
        _ => NEXT,
    }
}
