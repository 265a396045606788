//! Counts the outer packets of tunnels, where they arrive at an uplink or leave by it.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use sixxs_common::{
    address::Address,
    endpoint::{self, Direction, Version},
    packet::{ETHERNET_HEADER_BYTES, Ipv6, Packet as _},
};

use crate::{
    frame::{self, Frame},
    maps,
};

/// Counts a frame that arrives, if it comes from a tunnel's endpoint. Returns whether it may come from a broker.
#[inline(always)]
pub(crate) fn arrived(frame: &Frame, link_bytes: u32) -> bool {
    count(frame, link_bytes, Direction::In)
}

/// Counts a frame that leaves, if it goes to a tunnel's endpoint.
#[inline(always)]
pub(crate) fn left(frame: &Frame, link_bytes: u8) {
    // A tagged frame has left by its VLAN's interface before.
    if frame.has_offloaded_tag() {
        return;
    }
    count(frame, link_bytes.into(), Direction::Out);
}

/// [`left`], for a frame whose IPv6 header is known.
#[inline(always)]
pub(crate) fn left_ipv6(frame: &Frame, ipv6: &Ipv6) {
    let Some(filter) = maps::endpoint_filter() else {
        return; // unreachable: the map has one entry
    };
    if filter.may_have(ipv6.destination) && !frame.has_offloaded_tag() {
        sixxs_outer(
            frame.context().as_ptr().cast(),
            ipv6.offset,
            Direction::Out.raw(),
        );
    }
}

#[inline(always)]
fn count(frame: &Frame, offset: u32, direction: Direction) -> bool {
    let Some(filter) = maps::endpoint_filter() else {
        return false; // unreachable: the map has one entry
    };
    let remote = if frame.is_ipv4() {
        endpoint::remote4(frame, offset, direction)
    } else if filter.has_ipv6 != 0 && frame.is_ipv6() {
        remote6(frame, offset, direction)
    } else {
        None
    };
    let may_be = remote.is_some_and(|remote| filter.may_have(remote));
    if may_be {
        sixxs_outer(frame.context().as_ptr().cast(), offset, direction.raw());
    }
    may_be
}

/// The address of the other host in an IPv6 packet.
#[inline(always)]
fn remote6(frame: &Frame, offset: u32, direction: Direction) -> Option<Address> {
    let (_, [_, s0, s1, d0, d1]) = frame.words(offset)?;
    Some(Address::from_words(match direction {
        Direction::In => [s0, s1],
        Direction::Out => [d0, d1],
    }))
}

/// Counts a frame whose packet begins at `offset`, if it is one of a tunnel's endpoint. Returns 1 if it is, else 0.
/// A global function: the kernel verifies it separately, and only once.
#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_outer(skb: *mut __sk_buff, offset: u32, direction: u32) -> u32 {
    let frame = &Frame::new(TcContext::new(skb));
    // The verifier needs a bound.
    if offset > ETHERNET_HEADER_BYTES + 8 {
        return 0; // unreachable: two VLAN tags at most
    }
    let direction = Direction::from_raw(direction);
    let version = if frame.is_ipv4() {
        Version::V4
    } else {
        Version::V6
    };
    let Some(found) = endpoint::of(frame, offset, version, direction) else {
        return 0;
    };
    for key in found.keys() {
        if let Some(slot) = maps::endpoint_slot(&key) {
            if let Some(counters) = maps::outer_counters(slot) {
                let bytes = frame.bytes_behind(offset);
                counters.count(direction, bytes.into(), frame::now_ns());
            }
            return 1;
        }
    }
    0
}
