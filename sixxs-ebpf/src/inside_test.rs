//! The inside test: puts its packet in, and recognises the packet and its reply.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use sixxs_common::{
    decide::Verdict,
    echo,
    inside_test::{self, InsideTest, Way},
    packet::{self, ECHO_REPLY, ECHO_REQUEST, IPV6_HEADER_BYTES, Packet as _},
};

use crate::{
    frame::{self, Frame},
    maps, redirect,
};

/// Puts a copy of the frame into the way in of the interface whose index is the first word of the control buffer. Returns
/// 0 if the kernel has taken it.
#[inline(always)]
pub(crate) fn inject(context: &TcContext) -> i32 {
    let skb: *mut __sk_buff = context.as_ptr().cast();
    // SAFETY: the context is a valid `__sk_buff` while the program runs.
    let ifindex = unsafe { (*skb).cb[0] };
    i32::try_from(redirect::copy_to_ingress(skb, ifindex)).unwrap_or(-1)
}

/// Whether an ICMPv6 message that arrived by a tunnel is the request of a test. The IPv6 header is at `offset`.
#[inline(always)]
pub(crate) fn arrived(frame: &Frame, offset: u32) -> bool {
    sixxs_test_arrived(frame.context().as_ptr().cast(), offset) != 0
}

/// Whether an ICMPv6 message that is about to leave is the reply of a test. The IPv6 header is at `offset`.
#[inline(always)]
pub(crate) fn left(frame: &Frame, offset: u32, verdict: Verdict) -> bool {
    let way = Way::of(verdict).raw();
    sixxs_test_left(frame.context().as_ptr().cast(), offset, way) != 0
}

// Global functions: the kernel verifies them separately, and each only once.

#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_test_arrived(skb: *mut __sk_buff, offset: u32) -> u32 {
    let frame = &Frame::new(TcContext::new(skb));
    let Some(test) = test(frame, offset, ECHO_REQUEST) else {
        return 0;
    };
    test.arrived_ns = frame::precise_now_ns();
    1
}

#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_test_left(skb: *mut __sk_buff, offset: u32, way: u32) -> u32 {
    let frame = &Frame::new(TcContext::new(skb));
    let Some(test) = test(frame, offset, ECHO_REPLY) else {
        return 0;
    };
    let now_ns = frame::precise_now_ns();
    test.reply(now_ns, frame.ifindex(), frame.ingress_ifindex(), way);
    1
}

/// The test that an ICMPv6 message of this kind belongs to.
#[inline(always)]
fn test(frame: &Frame, offset: u32, wanted: u8) -> Option<&'static mut InsideTest> {
    let [kind, _, _, _, number @ ..]: [u8; 8] = frame.peek(offset + IPV6_HEADER_BYTES)?;
    if kind != wanted {
        return None;
    }
    let number = u32::from_ne_bytes(number);
    let test = maps::inside_test(inside_test::entry_index(number))?;
    if test.tag == 0 {
        return None;
    }
    let ipv6 = packet::ipv6_again(frame, offset)?;
    let (local, remote) = match wanted {
        ECHO_REQUEST => (ipv6.destination, ipv6.source),
        _ => (ipv6.source, ipv6.destination),
    };
    let tag = echo::tag(local, remote, number);
    test.has(tag, frame::now_ns()).then_some(test)
}
