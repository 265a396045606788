//! Answers echo requests to a tunnel's own address, without the host's network stack.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use sixxs_common::{
    answer::{ANSWERS_PER_SECOND, HOP_LIMIT, may_answer},
    layout::Interface,
    packet::{self, ECHO_REPLY, ECHO_REQUEST, ICMPV6, IPV6_HEADER_BYTES, Packet as _},
};

use crate::{
    NEXT, REDIRECT, SHOT,
    frame::{self, Frame, Refused},
    maps, redirect,
};

/// Offset of the hop limit from that of the next header, in the fixed header.
const NEXT_HEADER_OFFSET: u32 = 6;
/// Offset of both addresses in the fixed header.
const ADDRESSES_OFFSET: u32 = 8;
/// Offset of the checksum in an ICMPv6 message.
const CHECKSUM_OFFSET: u32 = 2;

/// Turns an echo request, which arrived by the tunnel, into its reply, and sends it back by the tunnel. Returns `NEXT`
/// and leaves the frame as it is, if the host is to answer. The caller counts it.
#[inline(always)]
pub(crate) fn answer(frame: &Frame) -> i32 {
    sixxs_answer(frame.context().as_ptr().cast())
}

/// A global function: the kernel verifies it separately, and only once.
#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_answer(skb: *mut __sk_buff) -> i32 {
    let frame = &Frame::new(TcContext::new(skb));
    let Some((interface, _)) = maps::interface(frame.ifindex()) else {
        return NEXT; // unreachable: the caller has found it
    };
    let link = u32::from(interface.link_bytes);
    // The verifier needs a constant.
    if link != 0 && link != packet::ETHERNET_HEADER_BYTES {
        return NEXT; // unreachable: there are no others
    }
    let (Some(ipv6), Some(tunnel)) = (
        packet::ipv6_again(frame, link),
        maps::tunnel(interface.slot),
    ) else {
        return NEXT;
    };
    let message = link + IPV6_HEADER_BYTES;
    // RFC 4443 §4.1: the code of a request is 0.
    let bytes = frame.bytes_behind(interface.link_bytes);
    if !frame.is_for_this_host()
        || !may_answer(&ipv6, link, bytes, tunnel.mtu)
        || frame.peek(message) != Some([ECHO_REQUEST, 0])
    {
        return NEXT;
    }
    let Some(budget) = maps::answer_budget(interface.slot) else {
        return NEXT; // unreachable: the slot is within the map
    };
    if !budget.take(ANSWERS_PER_SECOND, frame::now_ns()) {
        return NEXT;
    }
    match turn_round(frame, interface, &ipv6, link) {
        Ok(()) => REDIRECT,
        // It is no request any more, and no reply yet.
        Err(Refused) => SHOT,
    }
}

/// Exchanges the ends of a frame, changes its type, and redirects it to its own interface.
#[inline(always)]
fn turn_round(
    frame: &Frame,
    interface: &Interface,
    ipv6: &packet::Ipv6,
    link: u32,
) -> Result<(), Refused> {
    let message = link + IPV6_HEADER_BYTES;
    // The addresses change places, so that the checksum over the pseudo header stays (RFC 8200 §8.1).
    let (from, to) = (ipv6.destination.octets(), ipv6.source.octets());
    frame.replace_in_sum(
        message + CHECKSUM_OFFSET,
        [ECHO_REQUEST, 0],
        [ECHO_REPLY, 0],
    )?;
    frame.rewrite(message, &[ECHO_REPLY, 0])?;
    frame.rewrite(link + ADDRESSES_OFFSET, &from)?;
    frame.rewrite(link + ADDRESSES_OFFSET + 16, &to)?;
    frame.rewrite(link + NEXT_HEADER_OFFSET, &[ICMPV6, HOP_LIMIT])?;
    if link != 0 {
        let ends: [u8; 12] = frame.peek(0).ok_or(Refused)?;
        let [a, b, c, d, e, f, from @ ..] = ends;
        frame.store(0, &from)?;
        frame.store(6, &[a, b, c, d, e, f])?;
    }
    redirect::to_egress(interface.ifindex)
}
