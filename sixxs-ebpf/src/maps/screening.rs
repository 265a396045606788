//! The maps of the screening, private beside their accessors.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use sixxs_common::{
    address::Address,
    budget::Budget,
    decide::Tables,
    layout,
    screening::{
        self, Expectations, Expected, FEW_ENDS, ForgedCounters, Forgery, LocalEnd, Screen, Sender,
    },
};

use super::{KernelTables, NO_PREALLOC};
use crate::frame;

/// The packets to screen.
#[map]
static SCREEN: Array<Screen> = Array::pinned(1, 0);
/// What is expected of packets to the outer addresses of tunnels.
#[map]
static EXPECTED: HashMap<LocalEnd, Expected> = HashMap::pinned(screening::OUTER_ENDS, NO_PREALLOC);
/// The slots of 6in4 tunnels, by both outer addresses of packets from the broker. Each broker also has an entry with
/// zeroes instead of this host's address.
#[map]
static ENDS: HashMap<[u8; 8], u32> = HashMap::pinned(2 * screening::OUTER_ENDS, NO_PREALLOC);
/// Until when screening is valid, in nanoseconds of CLOCK_MONOTONIC.
#[map]
static VALID: Array<u64> = Array::pinned(1, 0);
/// Forged packets, by the slot of the tunnel that they claim to belong to.
#[map]
static FORGED: PerCpuArray<ForgedCounters> = PerCpuArray::pinned(layout::SLOTS, 0);
/// Budgets for datagrams of other hosts than the broker, at TC and then at XDP. Not pinned either.
#[map]
static STRANGERS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(2 * layout::SLOTS, 0);

/// This processor's budget for datagrams of other hosts than the broker of the tunnel in a slot.
#[inline(always)]
pub(crate) fn stranger_budget(slot: u32, at_xdp: bool) -> Option<&'static mut Budget> {
    let first = if at_xdp { layout::SLOTS } else { 0 };
    // SAFETY: as in `outer_counters`.
    STRANGERS
        .get_ptr_mut(first + slot)
        .map(|budget| unsafe { &mut *budget })
}

/// The record that selects the packets to screen.
#[inline(always)]
pub(crate) fn screen() -> Option<&'static Screen> {
    SCREEN.get(0)
}

/// Whether user space has confirmed lately what is screened.
#[inline(always)]
pub(crate) fn is_screening_valid(now_ns: u64) -> bool {
    VALID.get(0).is_some_and(|until_ns| now_ns < *until_ns)
}

/// Counts a forged packet for the tunnel in a slot.
#[inline(always)]
pub(crate) fn count_forged(slot: u32, reason: Forgery) {
    if let Some(counters) = FORGED.get_ptr_mut(slot) {
        // SAFETY: as in `Slot::add`: a value of this processor, checked for null. `reason.index()` is below the number
        // of counters (asserted at compile time).
        unsafe {
            let counter = counters.cast::<u64>().add(reason.index() & 7);
            *counter = (*counter).wrapping_add(1);
        }
    }
}

impl Expectations for KernelTables {
    #[inline(always)]
    fn expected(&self, end: &LocalEnd) -> Option<&Expected> {
        // SAFETY: the entry stays memory of this map until the program returns. If user space replaces it meanwhile,
        // some of its numbers may be of another tunnel: then one packet may be judged by them.
        unsafe { EXPECTED.get(end) }
    }

    #[inline(always)]
    fn sender(&self, addresses: [u8; 8]) -> Sender {
        if let Some(slot) = among_few(addresses) {
            return Sender::Broker(slot);
        }
        let [a, b, c, d, ..] = addresses;
        // A flood is of strangers, so this lookup is the first one.
        // SAFETY: only its presence matters.
        if unsafe { ENDS.get([a, b, c, d, 0, 0, 0, 0]) }.is_none() {
            return Sender::Stranger;
        }
        // SAFETY: the value is one aligned word, so a change by user space cannot tear it.
        match unsafe { ENDS.get(addresses) } {
            Some(slot) => Sender::Broker(*slot),
            None => Sender::OtherBroker,
        }
    }

    #[inline(always)]
    fn has_port(&self, port: [u8; 2]) -> bool {
        screen().is_some_and(|screen| screen.has_port(port))
    }

    #[inline(always)]
    fn comes_here(&self, address: Address) -> bool {
        Tables::comes_here(self, address)
    }

    #[inline(always)]
    fn tai_seconds(&self) -> u64 {
        frame::tai_seconds()
    }
}

/// The slot of the 6in4 tunnel between these addresses, if it is one of the few that are compared one by one.
#[inline(always)]
fn among_few(addresses: [u8; 8]) -> Option<u32> {
    let screen = screen()?;
    let wanted = u64::from_ne_bytes(addresses);
    let mut at = 0;
    while at < FEW_ENDS {
        if at >= screen.count as usize {
            return None;
        }
        let entry = &screen.few[at];
        if u64::from_ne_bytes(entry.addresses) == wanted {
            return Some(entry.slot);
        }
        at += 1;
    }
    None
}
