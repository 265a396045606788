//! The inside test: puts its packet in, and recognises the packet and its reply. Also recognises the packet of a live test.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use sixxs_common::{
    address::Address,
    decide::Verdict,
    inside_test::{self, Ends, InsideTest, Way},
    layout::Role,
    packet,
};

use crate::{
    frame::{self, Frame},
    maps, redirect,
};

/// 1 while user space carries out tests, else 0. The only writable static, so that it alone is the map `.bss`.
#[unsafe(no_mangle)]
static mut SIXXS_TESTING: u32 = 0;

/// Whether there are tests now, inside or outside.
#[inline(always)]
pub(crate) fn is_testing() -> bool {
    // SAFETY: the static belongs to this object. User space writes one aligned word.
    unsafe { (&raw const SIXXS_TESTING).read_volatile() != 0 }
}

/// Puts a copy of the frame into the ingress of the interface whose index is the first word of the control buffer, or into
/// its egress if the second word is not 0. Returns 0 if the kernel has taken it.
#[inline(always)]
pub(crate) fn inject(context: &TcContext) -> i32 {
    let skb: *mut __sk_buff = context.as_ptr().cast();
    // SAFETY: the context is a valid `__sk_buff` while the program runs.
    let [ifindex, leaves, ..] = unsafe { (*skb).cb };
    let result = match leaves {
        0 => redirect::copy_to_ingress(skb, ifindex),
        _ => redirect::copy_to_egress(skb, ifindex),
    };
    i32::try_from(result).unwrap_or(-1)
}

/// Whether a packet that arrived by a tunnel is of a test. The IPv6 header is at `offset`.
#[inline(always)]
pub(crate) fn arrived(frame: &Frame, offset: u32) -> bool {
    is_testing() && sixxs_test_arrived(frame.context().as_ptr().cast(), offset) != 0
}

/// A packet that is about to leave.
pub(crate) enum Leaving {
    /// It is of no test.
    Real,
    /// It is the reply of a test, and is dropped.
    Caught,
    /// It is the reply of a test, and is sent.
    LetGo,
}

/// The values of `sixxs_test_left`.
const REAL: u32 = 0;
const CAUGHT: u32 = 1;
const LET_GO: u32 = 2;

/// Whether a packet that is about to leave is the reply of a test. The IPv6 header is at `offset`.
#[inline(always)]
pub(crate) fn left(frame: &Frame, offset: u32, verdict: Verdict) -> Leaving {
    if !is_testing() {
        return Leaving::Real;
    }
    let way = Way::of(verdict).raw();
    match sixxs_test_left(frame.context().as_ptr().cast(), offset, way) {
        CAUGHT => Leaving::Caught,
        LET_GO => Leaving::LetGo,
        _ => Leaving::Real,
    }
}

/// Whether a packet that a socket sends is of a live test and has to be dropped here, since `sixxs_egress` would not see it or
/// not drop it. The IPv6 header is at the start.
#[inline(always)]
pub(crate) fn is_held(frame: &Frame) -> bool {
    if !is_testing() {
        return false;
    }
    let Some(ipv6) = packet::ipv6_at(frame, 0) else {
        return false;
    };
    let Some((ends, answer)) = inside_test::reply(frame, &ipv6) else {
        return false;
    };
    let Some(test) = maps::inside_test(inside_test::entry_index(ends.number)) else {
        return false;
    };
    if !test.is_live(ends.number, frame::now_ns()) {
        return false;
    }
    let (ifindex, now_ns) = (frame.ifindex(), frame::precise_now_ns());
    test.routed(now_ns, ifindex);
    // `sixxs_egress` recognises it by its addresses.
    if test.tag == ends.tag() && is_decided_about(ifindex, ipv6.source) {
        return false;
    }
    test.reply(now_ns, (ifindex, 0), Way::Held.raw(), answer);
    true
}

/// Whether `sixxs_egress` decides about packets with this source at an interface.
#[inline(always)]
fn is_decided_about(ifindex: u32, source: Address) -> bool {
    let [first, _] = source.words();
    maps::interface(ifindex).is_some_and(|(interface, _)| {
        interface.role != Role::Underlay.raw()
            && (interface.uses_filter == 0 || maps::may_be_source(first, interface.generation))
    })
}

// Global functions: the kernel verifies them separately, and each only once.

#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_test_arrived(skb: *mut __sk_buff, offset: u32) -> u32 {
    let frame = &Frame::new(TcContext::new(skb));
    let Some(ipv6) = packet::ipv6_again(frame, offset) else {
        return 0;
    };
    let Some(ends) = inside_test::request(frame, &ipv6) else {
        return 0;
    };
    let Some(test) = test(&ends) else {
        return 0;
    };
    let now_ns = frame::precise_now_ns();
    if test.arrived_ns == 0 {
        test.arrived_ns = now_ns;
    } else if test.closed_ns == 0 {
        test.closed_ns = now_ns;
    }
    1
}

#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_test_left(skb: *mut __sk_buff, offset: u32, way: u32) -> u32 {
    let frame = &Frame::new(TcContext::new(skb));
    let Some(ipv6) = packet::ipv6_again(frame, offset) else {
        return REAL;
    };
    let Some((ends, answer)) = inside_test::reply(frame, &ipv6) else {
        return REAL;
    };
    let Some(test) = test(&ends) else {
        return REAL;
    };
    let interfaces = (frame.ifindex(), frame.ingress_ifindex());
    test.reply(frame::precise_now_ns(), interfaces, way, answer);
    if test.lets_go(way) { LET_GO } else { CAUGHT }
}

/// The test that a packet belongs to.
#[inline(always)]
fn test(ends: &Ends) -> Option<&'static mut InsideTest> {
    let test = maps::inside_test(inside_test::entry_index(ends.number))?;
    test.has(ends.tag(), frame::now_ns()).then_some(test)
}
