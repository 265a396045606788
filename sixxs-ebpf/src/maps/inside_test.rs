//! The map of the inside tests, private beside its accessor.

use aya_ebpf::{macros::map, maps::Array};
use sixxs_common::inside_test::{ENTRIES, InsideTest};

/// The tests. Not pinned: they end with the daemon that runs them.
#[map]
static INSIDE_TESTS: Array<InsideTest> = Array::with_max_entries(ENTRIES, 0);

/// The slot of a test.
#[inline(always)]
pub(crate) fn inside_test(index: u32) -> Option<&'static mut InsideTest> {
    // SAFETY: the pointer is a map value, checked for null. User space and other processors may write it at the same
    // time; each field is one aligned word, and a test has one request and one reply.
    INSIDE_TESTS
        .get_ptr_mut(index)
        .map(|test| unsafe { &mut *test })
}
