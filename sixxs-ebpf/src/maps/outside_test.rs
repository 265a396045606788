//! The map of the outside tests, private beside its accessor.

use aya_ebpf::{macros::map, maps::Array};
use sixxs_common::{
    inside_test::Ends,
    outside_test::{self, ENTRIES, OutsideTest},
    packet::{Ipv6, Packet},
};

use crate::frame;

/// The tests. Not pinned: they end with the daemon that runs them.
#[map]
static OUTSIDE_TESTS: Array<OutsideTest> = Array::with_max_entries(ENTRIES, 0);

/// The test whose request a packet is.
#[inline(always)]
pub(crate) fn outside_test<P: Packet + ?Sized>(
    packet: &P,
    ipv6: &Ipv6,
) -> Option<&'static mut OutsideTest> {
    outside_test_of(&outside_test::request(packet, ipv6)?)
}

/// The test of a request with these ends.
#[inline(always)]
pub(crate) fn outside_test_of(ends: &Ends) -> Option<&'static mut OutsideTest> {
    // SAFETY: the pointer is a map value, checked for null. User space and other processors may write it at the same
    // time; each field but the source of an error is one aligned word, and that source is only shown.
    let test = OUTSIDE_TESTS
        .get_ptr_mut(outside_test::entry_index(ends.number))
        .map(|test| unsafe { &mut *test })?;
    test.has(ends.tag(), frame::now_ns()).then_some(test)
}
