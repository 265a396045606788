//! The maps, private beside their accessors.
//!
//! All except the scratch map, the growth table, the budgets, the inside tests and the outside tests are pinned, so the programs of a new daemon continue with
//! the existing counters.

mod inside_test;
mod outside_test;
mod screening;

use core::ffi::c_void;

use aya_ebpf::{
    helpers::bpf_map_lookup_percpu_elem,
    macros::map,
    maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, lpm_trie::Key,
    },
};
use sixxs_common::{
    address::Address,
    budget::Budget,
    decide::Tables,
    echo::{self, Pending, Times},
    endpoint::{self, Endpoint, EndpointFilter, OuterCounters},
    flow::Flow,
    layout::{
        self, CACHED_PER_HALF, CachedLookup, Control, FEW_SOURCES, FlowRecord, Interface,
        LeakEvent, NO_TUNNEL, SlotName, SlotState, Source, SourceTable, Tunnel, TunnelState,
        USE_TRIE, probe_index,
    },
    packet::{Ipv6, Packet},
    recursion::{self, Growth},
    six_in_four::OuterPath,
    source_filter::SourceFilter,
    stat::{Counters, Stat},
};

pub(crate) use inside_test::inside_test;
pub(crate) use outside_test::{outside_test, outside_test_of};
pub(crate) use screening::{count_forged, is_screening_valid, screen, stranger_budget};

/// Flag for maps that allocate memory only for entries in use; LPM tries require it.
const NO_PREALLOC: u32 = aya_ebpf::bindings::BPF_F_NO_PREALLOC;

#[map]
static INTERFACES: Array<Interface> = Array::pinned(layout::INTERFACES, 0);
#[map]
static COUNTERS: PerCpuArray<SlotState> = PerCpuArray::pinned(layout::SLOTS, 0);
#[map]
static CONTROL: Array<Control> = Array::pinned(1, 0);
#[map]
static FEW: Array<SourceTable> = Array::pinned(2, 0);
/// Filters over the sources: of the present generation, and of the one before or after it.
#[map]
static SOURCE_FILTERS: Array<SourceFilter> = Array::pinned(2, 0);
#[map]
static SOURCES: LpmTrie<[u8; 16], Source> = LpmTrie::pinned(layout::SOURCES, NO_PREALLOC);
#[map]
static DIRECTS: LpmTrie<[u8; 20], u32> = LpmTrie::pinned(layout::DIRECTS, NO_PREALLOC);
#[map]
static TUNNELS: Array<Tunnel> = Array::pinned(layout::SLOTS, 0);
/// Outer paths of the tunnels that the programs carry, by slot.
#[map]
static OUTER_PATHS: Array<OuterPath> = Array::pinned(layout::SLOTS, 0);
/// The slots of these tunnels, by the outer addresses of packets from the broker.
#[map]
static SLOTS_BY_OUTER: HashMap<[u8; 8], u32> = HashMap::pinned(layout::SLOTS, 0);
/// The slots of tunnels, by the endpoint of their outer packets.
#[map]
static ENDPOINTS: HashMap<Endpoint, u32> = HashMap::pinned(endpoint::ENDPOINTS, NO_PREALLOC);
/// The addresses of all endpoints.
#[map]
static ENDPOINT_FILTER: Array<EndpointFilter> = Array::pinned(1, 0);
/// Outer packets of tunnels, by slot.
#[map]
static OUTER_COUNTERS: PerCpuArray<OuterCounters> = PerCpuArray::pinned(layout::SLOTS, 0);
#[map]
static STATES: Array<TunnelState> = Array::pinned(layout::SLOTS, 0);
#[map]
static LEAKS: LruHashMap<Flow, FlowRecord> = LruHashMap::pinned(layout::FLOWS, 0);
#[map]
static EVENTS: RingBuf = RingBuf::pinned(layout::EVENTS_BYTES, 0);
#[map]
static ECHOES: Array<Pending> = Array::pinned(echo::ENTRIES, 0);
#[map]
static TIMES: PerCpuHashMap<u32, Times> = PerCpuHashMap::pinned(layout::SLOTS, NO_PREALLOC);
/// Not used by the programs: user space stores there which name each slot belongs to.
#[map]
static SLOTS: Array<SlotName> = Array::pinned(layout::SLOTS, 0);

/// Not used by the programs either: the counters of programs whose maps had another layout.
#[map]
static CARRIED: Array<Counters> = Array::pinned(layout::SLOTS, 0);

/// Growth of flows into tunnels. Not pinned: programs that are loaded later do not need it.
#[map]
static GROWTHS: Array<Growth> = Array::with_max_entries(recursion::GROWTHS, 0);

/// Budgets for answers to echo requests. Not pinned either.
#[map]
static ANSWERS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(layout::SLOTS, 0);

/// Buffer for the event under construction, because the stack has only 512 bytes.
#[map]
static SCRATCH: PerCpuArray<LeakEvent> = PerCpuArray::with_max_entries(1, 0);

/// This processor's counters of a slot, and its cache of addresses.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    state: *mut SlotState,
}

impl Slot {
    /// Adds to a counter.
    #[inline(always)]
    pub(crate) fn add(self, stat: Stat, amount: u64) {
        // SAFETY: `state` is a map value that was checked for null, and that the kernel keeps until the
        // program returns. No other program runs on this processor in that time, and no other processor
        // writes this copy. `stat.index()` is below CAPACITY (asserted at compile time).
        unsafe {
            let counter = (&raw mut (*self.state).counters[stat.index()]).cast::<u64>();
            *counter = (*counter).wrapping_add(amount);
        }
    }

    /// Stores a point in time; returns whether it differs from the stored one.
    #[inline(always)]
    pub(crate) fn update_time(self, stat: Stat, value: u64) -> bool {
        // SAFETY: as in `add`.
        unsafe {
            let before = core::mem::replace(&mut (*self.state).counters[stat.index()], value);
            before != value
        }
    }
}

impl Slot {
    /// The owner of an address, from the half of the cache that starts at index `first`. If it is not cached, it
    /// is looked up and cached.
    #[inline(always)]
    fn cached_source(self, address: Address, first: usize, generation: u64) -> Source {
        let index = first + address.hash_below(CACHED_PER_HALF);
        // SAFETY: as in `add`; `hash_below` is below its argument, and both halves of the cache fit.
        let cached = unsafe { &mut (*self.state).cache[index] };
        if !cached.is_valid_for(address, generation) {
            let [high, low] = address.words();
            cache_source(cached, high, low, generation);
        }
        cached.source
    }
}

/// The counters of a slot; `None` only for a number out of range.
#[inline(always)]
pub(crate) fn slot(slot: u32) -> Option<Slot> {
    COUNTERS.get_ptr_mut(slot).map(|state| Slot { state })
}

/// The maximum number of processors to read. On a host with more, the counts of the others are missing, and a
/// flow may be cleared although it is recursive.
const PROCESSORS: u32 = 128;

/// The sum of a slot's counter over all processors. Expensive: only for rare cases. Kernel 5.19.
#[inline(always)]
pub(crate) fn sum_over_processors(slot: u32, stat: Stat) -> u64 {
    let map = (&raw const COUNTERS).cast_mut().cast::<c_void>();
    let mut sum = 0_u64;
    let mut processor = 0;
    while processor < PROCESSORS {
        // SAFETY: the map is a per-CPU array with keys of four bytes; the helper checks both numbers.
        let state = unsafe { bpf_map_lookup_percpu_elem(map, (&raw const slot).cast(), processor) };
        if state.is_null() {
            break;
        }
        // SAFETY: a map value, checked for null; it begins with the counters, and `stat.index()` is below
        // CAPACITY.
        let counted = unsafe { *state.cast::<u64>().add(stat.index()) };
        sum = sum.wrapping_add(counted);
        processor += 1;
    }
    sum
}

/// Whether a source that begins with this word may be a tunnel's.
#[inline(always)]
pub(crate) fn may_be_source(first: u64, generation: u64) -> bool {
    SOURCE_FILTERS
        .get((generation & 1) as u32)
        .is_none_or(|filter| filter.may_have(first))
}

/// The entry of an interface, with its counters.
#[inline(always)]
pub(crate) fn interface(ifindex: u32) -> Option<(&'static Interface, Slot)> {
    let mut interface = INTERFACES.get(probe_index(ifindex, 0))?;
    if interface.ifindex != ifindex {
        interface = displaced(ifindex)?;
    }
    slot(interface.slot).map(|slot| (interface, slot))
}

/// The entry of an interface that is not at its preferred index. Not inlined: very rare.
#[cold]
#[inline(never)]
fn displaced(ifindex: u32) -> Option<&'static Interface> {
    let mut probe = 1;
    while probe < layout::PROBES {
        let interface = INTERFACES.get(probe_index(ifindex, probe))?;
        if interface.ifindex == ifindex {
            return Some(interface);
        }
        probe += 1;
    }
    None
}

/// The tunnel in a slot.
#[inline(always)]
pub(crate) fn tunnel(slot: u32) -> Option<&'static Tunnel> {
    TUNNELS.get(slot)
}

/// The outer path of the tunnel in a slot; `None` if the programs do not carry it.
#[inline(always)]
pub(crate) fn outer_path(slot: u32) -> Option<&'static OuterPath> {
    OUTER_PATHS.get(slot).filter(|path| path.ifindex != 0)
}

/// The slot of the tunnel between these outer addresses.
#[inline(always)]
pub(crate) fn outer_slot(ends: &[u8; 8]) -> Option<u32> {
    // SAFETY: the value is one aligned word, so a change by user space cannot tear it.
    unsafe { SLOTS_BY_OUTER.get(ends) }.copied()
}

/// The addresses of all endpoints.
#[inline(always)]
pub(crate) fn endpoint_filter() -> Option<&'static EndpointFilter> {
    ENDPOINT_FILTER.get(0)
}

/// Whether an endpoint may have this address.
#[inline(always)]
pub(crate) fn may_be_endpoint(remote: Address) -> bool {
    endpoint_filter().is_none_or(|filter| filter.may_have(remote))
}

/// The slot of the tunnel with this endpoint.
#[inline(always)]
pub(crate) fn endpoint_slot(endpoint: &Endpoint) -> Option<u32> {
    // SAFETY: the value is one aligned word, so a change by user space cannot tear it.
    unsafe { ENDPOINTS.get(endpoint) }.copied()
}

/// This processor's counters of the outer packets of the tunnel in a slot.
#[inline(always)]
pub(crate) fn outer_counters(slot: u32) -> Option<&'static mut OuterCounters> {
    // SAFETY: as in `Slot::add`: a value of this processor, checked for null, of which this program takes one reference
    // at a time.
    OUTER_COUNTERS
        .get_ptr_mut(slot)
        .map(|counters| unsafe { &mut *counters })
}

/// This processor's budget for answers of the tunnel in a slot.
#[inline(always)]
pub(crate) fn answer_budget(slot: u32) -> Option<&'static mut Budget> {
    // SAFETY: as in `outer_counters`.
    ANSWERS
        .get_ptr_mut(slot)
        .map(|budget| unsafe { &mut *budget })
}

/// The state that the programs keep for the tunnel in a slot.
#[inline(always)]
pub(crate) fn state(slot: u32) -> Option<&'static mut TunnelState> {
    // SAFETY: the pointer is a map value, checked for null. Other processors may write it at the same time;
    // each field is one aligned word, and `TunnelState` documents the effects of a race.
    STATES.get_ptr_mut(slot).map(|state| unsafe { &mut *state })
}

/// The entry for an echo request.
#[inline(always)]
pub(crate) fn pending(tag: u64) -> Option<&'static mut Pending> {
    // SAFETY: as in `state`; `Pending` documents the effects of a race.
    ECHOES
        .get_ptr_mut(echo::entry_index(tag))
        .map(|pending| unsafe { &mut *pending })
}

/// Adds a reply time to the times of a tunnel.
#[inline(always)]
pub(crate) fn add_time(slot: u32, ns: u64) {
    let Some(times) = TIMES.get_ptr_mut(slot) else {
        return; // the tunnel is gone: user space has removed its entry
    };
    // The mask does not change the value; it proves the bound to the verifier.
    let bucket = echo::bucket(ns) & 63;
    // SAFETY: as in `Slot::add`: a value of this processor, checked for null. A bucket is below BUCKETS, and
    // so an index into the 64 words of `Times`.
    unsafe {
        let replies = times.cast::<u64>().add(bucket);
        *replies = (*replies).wrapping_add(1);
        (*times).sum_ns = (*times).sum_ns.wrapping_add(ns);
    }
}

/// This processor's buffer for an event.
#[inline(always)]
pub(crate) fn event_buffer() -> Option<&'static mut LeakEvent> {
    // SAFETY: the pointer is a map value, checked for null. No other program of this object runs on this
    // processor until this one returns, and this one takes the reference only once.
    SCRATCH.get_ptr_mut(0).map(|event| unsafe { &mut *event })
}

/// The record of a leaking flow.
#[inline(always)]
pub(crate) fn flow(flow: &Flow) -> Option<*mut FlowRecord> {
    LEAKS.get_ptr_mut(flow)
}

/// The growth of a flow into the tunnel in `slot`.
#[inline(always)]
pub(crate) fn growth(slot: u32, key: u64) -> Option<&'static mut Growth> {
    // SAFETY: as in `state`; `Growth` documents the effects of a race.
    GROWTHS
        .get_ptr_mut(recursion::entry_index(slot, key))
        .map(|growth| unsafe { &mut *growth })
}

/// Stores the record of a flow that leaks for the first time. An LRU map fails only under extreme contention;
/// then the flow stays unknown until its next packet.
#[inline(always)]
pub(crate) fn store_flow(flow: &Flow, record: &FlowRecord) -> bool {
    LEAKS.insert(flow, record, 0).is_ok()
}

/// Sends an event to user space; false if the ring buffer is full.
#[inline(always)]
pub(crate) fn emit(event: &LeakEvent) -> bool {
    EVENTS.output::<LeakEvent>(event, 0).is_ok()
}

/// The lookups of the decision, in the kernel, for a packet at an interface.
pub(crate) struct KernelTables {
    /// The interface's slot.
    pub(crate) slot: Slot,
    /// The interface's [`Interface::generation`].
    pub(crate) generation: u64,
    /// The interface's index.
    pub(crate) ifindex: u32,
}

impl Tables for KernelTables {
    #[inline(always)]
    fn source(&self, address: Address) -> Option<Source> {
        let source = self.slot.cached_source(address, 0, self.generation);
        (source.tunnel != NO_TUNNEL).then_some(source)
    }

    #[inline(always)]
    fn is_direct(&self, tunnel: u32, destination: Address) -> bool {
        in_directs(tunnel, destination)
    }

    #[inline(always)]
    fn leads_here(&self, tunnel: u32) -> bool {
        self::tunnel(tunnel).is_some_and(|entry| entry.ifindex == self.ifindex)
    }

    #[inline(always)]
    fn comes_here(&self, destination: Address) -> bool {
        let source = self
            .slot
            .cached_source(destination, CACHED_PER_HALF, self.generation);
        source.is_here()
    }

    #[inline(always)]
    fn is_expected<P: Packet + ?Sized>(&self, packet: &P, inner: &Ipv6) -> bool {
        outside_test(packet, inner).is_some()
    }
}

// Not inlined: they would take space on the stack of the common path.

/// Looks an address up, and stores the result in `cached`. If user space changes the tables at the same time, it
/// sets a new generation afterwards, so the result belongs to the old one and expires. The address is passed as
/// two words, which fit in registers; a single value would be passed in memory.
#[cold]
#[inline(never)]
fn cache_source(cached: &mut CachedLookup, high: u64, low: u64, generation: u64) {
    let address = Address::from_words([high, low]);
    *cached = CachedLookup {
        address,
        generation,
        source: in_tables(address).copied().unwrap_or(Source::NONE),
    };
}

#[inline(always)]
fn in_tables(address: Address) -> Option<&'static Source> {
    let control = CONTROL.get(0)?;
    let table = FEW.get(control.table)?;
    if !address.within(&table.common) {
        return None;
    }
    if table.count == USE_TRIE {
        return in_trie(address);
    }
    let mut at = 0;
    while at < FEW_SOURCES {
        if at >= table.count as usize {
            return None;
        }
        let entry = &table.few[at];
        if address.within(&entry.prefix) {
            return Some(&entry.source);
        }
        at += 1;
    }
    None
}

#[inline(always)]
fn in_trie(address: Address) -> Option<&'static Source> {
    SOURCES.get(Key::new(128, address.octets()))
}

#[cold]
#[inline(never)]
fn in_directs(tunnel: u32, destination: Address) -> bool {
    let key = layout::direct_key(tunnel, destination);
    DIRECTS
        .get(Key::new(layout::DIRECT_SLOT_BITS + 128, key))
        .is_some()
}
