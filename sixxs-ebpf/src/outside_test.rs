//! The outside test: passes its request on where it leaves, and takes it where it arrives. Called only while there are tests.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use sixxs_common::{
    ayiya, outside_test,
    packet::{self, ETHERNET_HEADER_BYTES, Packet},
    six_in_four::{HEADER_BYTES, PROTOCOL},
};

use crate::{
    NEXT, REDIRECT, SHOT,
    frame::{self, Frame, Refused},
    maps, redirect,
};

/// The frame is no request. None of the programs returns this.
const OTHER: i32 = 0;

/// The action for a packet that is about to leave; `None`: it is no request of a test. The request is not counted.
#[inline(always)]
pub(crate) fn left(frame: &Frame) -> Option<i32> {
    let action = sixxs_outside_left(frame.context().as_ptr().cast());
    (action != OTHER).then_some(action)
}

/// Whether a packet that arrived is a request, or an error that quotes one. The IPv6 header is at `offset`.
#[inline(always)]
pub(crate) fn arrived(frame: &Frame, offset: u32) -> bool {
    sixxs_outside_arrived(frame.context().as_ptr().cast(), offset) != 0
}

/// Whether an outer packet of a tunnel, whose IPv4 header is at `offset`, has a request inside. It has no IPv4 options.
#[inline(always)]
pub(crate) fn is_inside<P: Packet + ?Sized>(packet: &P, offset: u32) -> bool {
    /// Length of an IPv4 header, a UDP header and an AYIYA header.
    const SEALED: u32 = HEADER_BYTES + 8 + ayiya::HEADER_BYTES;
    /// Offset of the protocol, behind the time to live, in an IPv4 header.
    const TTL_OFFSET: u32 = 8;
    let inner = match packet.load(offset + TTL_OFFSET) {
        Some([_, PROTOCOL]) => offset + HEADER_BYTES,
        Some(_) => offset + SEALED,
        None => return false,
    };
    packet::ipv6_again(packet, inner)
        .is_some_and(|ipv6| maps::outside_test(packet, &ipv6).is_some())
}

// Global functions: the kernel verifies them separately, and each only once.

#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_outside_left(skb: *mut __sk_buff) -> i32 {
    let frame = &Frame::new(TcContext::new(skb));
    let Some((interface, _)) = maps::interface(frame.ifindex()) else {
        return OTHER;
    };
    // The verifier needs a constant.
    let has_link_layer = interface.link_bytes != 0;
    let offset = if has_link_layer {
        ETHERNET_HEADER_BYTES
    } else {
        0
    };
    let Some(ipv6) = packet::ipv6_again(frame, offset) else {
        return OTHER;
    };
    let Some(test) = maps::outside_test(frame, &ipv6) else {
        return OTHER;
    };
    if test.ifindex != frame.ifindex() {
        return OTHER;
    }
    // User space cannot address the frame. The kernel finds the neighbour, and the frame passes here again.
    if has_link_layer && test.is_addressed == 0 {
        test.is_addressed = 1;
        return match redirect::to_neighbour(test.ifindex, &test.next_hop) {
            Ok(()) => REDIRECT,
            Err(Refused) => SHOT,
        };
    }
    test.left_ns = frame::precise_now_ns();
    NEXT
}

#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_outside_arrived(skb: *mut __sk_buff, offset: u32) -> u32 {
    let frame = &Frame::new(TcContext::new(skb));
    let Some(ipv6) = packet::ipv6_again(frame, offset) else {
        return 0;
    };
    if let Some(test) = maps::outside_test(frame, &ipv6) {
        test.arrive(frame::precise_now_ns(), frame.ifindex());
        return 1;
    }
    let Some((ends, error)) = outside_test::error(frame, &ipv6) else {
        return 0;
    };
    let Some(test) = maps::outside_test_of(&ends) else {
        return 0;
    };
    test.fail(ipv6.source, error);
    1
}
