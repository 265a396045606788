//! Keys and values of the BPF maps, which the kernel programs and user space share.
//!
//! Every change of a layout here needs a new [`VERSION`]: the maps are pinned, and exist longer than the
//! daemon.

use bytemuck::{Pod, Zeroable};

pub use crate::source::{
    ANY_UPLINK, ANY_UPLINK_MULTICAST_ONLY, MULTICAST_ONLY, NO_TUNNEL, OF_GROUP, SHORTEST_ROUTED,
    Source,
};
use crate::{
    address::{Address, Prefix},
    budget::Budget,
    flow::Flow,
    stat::Counters,
};

/// Version of all types in this module. It is part of the path at which the maps are pinned.
///
/// User space carries the counters over to a new version. For that, three properties must not change: the state
/// of a slot begins with its counters, new counters are appended, and the values of the map `CARRIED` are counters alone.
pub const VERSION: u32 = 7;

/// The number of slots. Each tunnel and each uplink has a slot. A name keeps its slot for the lifetime of the
/// pinned maps; the slot of an unused name is reused only if all slots are taken.
pub const SLOTS: u32 = 512;

/// The slot of interfaces that are no uplinks yet, but may become uplinks. No tunnel or uplink gets it.
pub const NEWCOMERS_SLOT: u32 = SLOTS - 1;

/// Size of the interface table: a power of two, well above the number of interfaces with programs. So
/// collision chains stay short.
pub const INTERFACES: u32 = 2048;

/// The number of entries of the table that are probed for an interface's entry.
pub const PROBES: u32 = 8;

/// The maximum number of source prefixes that are compared one by one. With more, the programs use the trie.
pub const FEW_SOURCES: usize = 8;

/// The maximum number of source prefixes.
pub const SOURCES: u32 = 131_072;

/// The maximum number of direct destinations, over all tunnels.
pub const DIRECTS: u32 = 16_384;

/// The maximum number of leaking flows with a record. A new flow replaces the least recently used one.
pub const FLOWS: u32 = 8192;

/// Size of the ring buffer for events, in bytes.
pub const EVENTS_BYTES: u32 = 256 * 1024;

/// The role of an interface in the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// A native uplink.
    Uplink = 1,
    /// A tunnel.
    Tunnel = 2,
    /// No uplink and no tunnel: only outer packets of tunnels arrive here.
    Underlay = 3,
}

impl Role {
    /// The value of [`Interface::role`].
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u8 {
        self as u8
    }
}

/// The number is not a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRole;

impl TryFrom<u8> for Role {
    type Error = NoRole;

    #[inline(always)]
    fn try_from(raw: u8) -> Result<Self, NoRole> {
        match raw {
            1 => Ok(Self::Uplink),
            2 => Ok(Self::Tunnel),
            3 => Ok(Self::Underlay),
            _ => Err(NoRole),
        }
    }
}

/// An interface with programs of this project. The index in the table is the interface index modulo the
/// table's size, with linear probing. The verifier inlines an array lookup, but a hash lookup is a function
/// call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Interface {
    /// Interface index; 0 in an empty entry.
    pub ifindex: u32,
    /// The interface's slot.
    pub slot: u32,
    /// [`Role`]; 0 in an empty entry.
    pub role: u8,
    /// Length of the link-layer header before the IP header, in bytes: 14 or 0.
    pub link_bytes: u8,
    /// The interface's own link-layer address; zero if it has none.
    pub mac: [u8; 6],
    /// [`Control::generation`]. It is copied here because the programs read this entry for each packet. Its lowest bit is
    /// the index of the [`SourceFilter`](crate::source_filter::SourceFilter).
    pub generation: u64,
    /// 1 for a tunnel whose packets the programs carry, by its [`OuterPath`](crate::six_in_four::OuterPath); else 0.
    pub is_carried: u8,
    /// 1 for a tunnel whose echo requests the programs answer; else 0.
    pub answers_echo: u8,
    /// 1 if outer packets are counted here; else 0.
    pub counts_outer: u8,
    /// 1 if outer packets are counted here and some tunnel has an endpoint with an IPv6 address; else 0.
    pub counts_outer_ipv6: u8,
    /// 1 if the XDP program may answer echo requests here; else 0.
    pub answers_by_xdp: u8,
    /// 1 at an uplink with Ethernet headers: the programs look sources up in the
    /// [`SourceFilter`](crate::source_filter::SourceFilter) first. Else 0.
    pub uses_filter: u8,
    /// Always 0.
    pub reserved: [u8; 2],
    /// The local address of the tunnel. A packet that arrives with this source address is dropped.
    /// Unspecified: no packet is dropped for its source.
    pub own: Address,
}

const _: () = assert!(size_of::<Interface>() == 48);

/// The index in the interface table to probe for the entry of an interface. `probe` 0 is the preferred index.
#[inline(always)]
pub const fn probe_index(ifindex: u32, probe: u32) -> u32 {
    ifindex.wrapping_add(probe) % INTERFACES
}

const _: () = assert!(SLOTS < NO_TUNNEL as u32);

/// The state of a slot on one processor. No other processor writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct SlotState {
    /// The counters.
    pub counters: Counters,
    /// Cached lookups of recent addresses: sources in the first half, destinations in the second half. Within
    /// its half, the index of an address is [`Address::hash_below`]. Nearly all packets of a host use few
    /// sources and destinations. So the cache answers most lookups, at the same low cost for two prefixes and
    /// for 100,000.
    pub cache: [CachedLookup; CACHED_LOOKUPS],
}

/// Number of cached addresses per interface and processor.
pub const CACHED_LOOKUPS: usize = 2 * CACHED_PER_HALF;

/// Number of cached sources, and also of cached destinations; a power of two.
pub const CACHED_PER_HALF: usize = 8;

/// A cached lookup of an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct CachedLookup {
    /// The address.
    pub address: Address,
    /// [`Interface::generation`] at the time of the lookup. The entry is invalid in any other generation.
    pub generation: u64,
    /// The result of the lookup; [`Source::NONE`] if the address belongs to no tunnel.
    pub source: Source,
}

const _: () = assert!(size_of::<CachedLookup>() == 32);

impl CachedLookup {
    /// Whether the entry is for `address`, and valid in this generation.
    #[inline(always)]
    #[must_use]
    pub const fn is_valid_for(&self, address: Address, generation: u64) -> bool {
        self.address.difference(address) | (self.generation ^ generation) == 0
    }
}

/// Data of a key in the trie of direct destinations: the tunnel's slot in network byte order, then the
/// address. The slot is the first [`DIRECT_SLOT_BITS`] bits of each prefix.
#[inline(always)]
#[must_use]
pub const fn direct_key(slot: u32, destination: Address) -> [u8; 20] {
    let [s0, s1, s2, s3] = slot.to_be_bytes();
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = destination.octets();
    [
        s0, s1, s2, s3, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p,
    ]
}

/// Length of the slot in a [`direct_key`], in bits.
pub const DIRECT_SLOT_BITS: u32 = 32;

/// A source prefix in [`SourceTable`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FewSource {
    /// The prefix.
    pub prefix: Prefix,
    /// The tunnel that the prefix belongs to.
    pub source: Source,
}

/// The source prefixes for the lookup. There are two tables: user space writes the inactive one, then sets
/// [`Control::table`] to it. So no packet meets a partly written table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SourceTable {
    /// A prefix that contains all source prefixes. An address outside of it belongs to no tunnel.
    pub common: Prefix,
    /// Number of used entries in `few`, the longest prefixes first; [`USE_TRIE`] if there are more prefixes
    /// than entries.
    pub count: u32,
    /// Always 0.
    pub reserved: u32,
    /// The source prefixes.
    pub few: [FewSource; FEW_SOURCES],
}

const _: () = assert!(size_of::<SourceTable>() == 40 + FEW_SOURCES * 40);

/// Value of [`SourceTable::count`]: the programs look up sources in the trie.
pub const USE_TRIE: u32 = u32::MAX;

impl SourceTable {
    /// The table of a host without tunnels.
    pub const EMPTY: Self = Self {
        common: Prefix::NEVER,
        count: 0,
        reserved: 0,
        few: [FewSource {
            prefix: Prefix::NEVER,
            source: Source::new(0, 0, 0),
        }; FEW_SOURCES],
    };
}

/// The only entry of the control map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Control {
    /// Index of the active source table: 0 or 1.
    pub table: u32,
    /// Always 0.
    pub reserved: u32,
    /// Changes with every change of the sources, and is never 0. Lookups that were cached in an earlier
    /// generation are invalid.
    pub generation: u64,
}

/// The entry of a tunnel, by slot. User space writes it, and the programs read it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Tunnel {
    /// Index of the tunnel's interface; 0 if there is no such interface, or if it is down.
    pub ifindex: u32,
    /// The largest IPv6 packet that fits, in bytes: the smaller of the configured MTU and the interface's
    /// MTU.
    pub mtu: u32,
    /// [`OnLeak`](crate::treatment::OnLeak).
    pub on_leak: u8,
    /// Length of the link-layer header, in bytes: 14 or 0.
    pub link_bytes: u8,
    /// The interface's own link-layer address.
    pub mac: [u8; 6],
    /// The next hop, for an interface with a link layer.
    pub next_hop: NextHop,
    /// Always 0.
    pub reserved: u32,
    /// The source address of Packet Too Big.
    pub router: Address,
}

const _: () = assert!(size_of::<Tunnel>() == 56);

/// A next hop in the layout of the kernel's `struct bpf_redir_neigh`, so that the programs can pass the map
/// value itself to the helper.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct NextHop {
    /// [`AF_INET6`]; 0 if there is no next hop.
    pub family: u32,
    /// The address.
    pub octets: [u8; 16],
}

const _: () = assert!(size_of::<NextHop>() == 20);

/// `AF_INET6`.
pub const AF_INET6: u32 = 10;

/// The state of a tunnel that only the programs use. Several processors may write it at the same time. Then a
/// few events too many or too few pass the limit, which does no harm.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct TunnelState {
    /// Events that were sent to user space, of [`EVENTS_PER_SECOND`].
    pub events: Budget,
    /// Time of the last leak from this tunnel by a socket that is bound to an uplink, in nanoseconds of
    /// CLOCK_MONOTONIC; 0: never.
    pub bound_ns: u64,
    /// Arrival time of the first echo request whose reply was expected, in nanoseconds of CLOCK_MONOTONIC; 0:
    /// never.
    pub watched_ns: u64,
}

/// The maximum number of events per second and tunnel.
pub const EVENTS_PER_SECOND: u64 = 64;

/// A flow is reported at its first packet, and then at most once per this time.
pub const FLOW_REPORT_NS: u64 = 1_000_000_000;

/// The time after the last leak from a bound socket during which its answers are looked up.
pub const STEER_NS: u64 = 300_000_000_000;

impl TunnelState {
    /// Whether answers may have to be redirected to a socket that is bound to an uplink.
    #[inline(always)]
    #[must_use]
    pub const fn may_need_steering(&self, now_ns: u64) -> bool {
        self.bound_ns != 0 && now_ns.wrapping_sub(self.bound_ns) < STEER_NS
    }
}

/// The record of a leaking flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowRecord {
    /// Number of leaked packets, as the kernel passes them to the programs: a batch of segments counts once.
    pub packets: u64,
    /// Bytes in these packets, without the link layer.
    pub bytes: u64,
    /// Time of the last report, in nanoseconds of CLOCK_MONOTONIC.
    pub reported_ns: u64,
    /// Control group of the sending socket (its inode number under /sys/fs/cgroup); 0 if there is none.
    pub cgroup: u64,
    /// Slot of the tunnel that the source belongs to.
    pub tunnel: u32,
    /// Index of the interface by which the packet was about to leave.
    pub ifindex: u32,
    /// Index of the interface by which a forwarded packet arrived; 0 for a packet of this host.
    pub from_ifindex: u32,
    /// Index of the interface that the sending socket is bound to; 0 if it is not bound.
    pub bound_ifindex: u32,
    /// User ID of the sending socket's owner; [`NO_UID`] if there is no socket.
    pub uid: u32,
    /// [`Treatment`](crate::treatment::Treatment) of the flow's last packet.
    pub treatment: u32,
    /// The mark of the flow's first packet (from `SO_MARK` or a firewall); 0 if there is none.
    pub mark: u32,
    /// Until this time, the flow counts as outer packets of a tunnel, which are not redirected into a tunnel
    /// that they carry. In seconds of CLOCK_MONOTONIC; 0: never.
    pub recursive_until: u32,
}

const _: () = assert!(size_of::<FlowRecord>() == 64);

impl FlowRecord {
    /// Whether the flow counts as outer packets of a tunnel at this time.
    #[inline(always)]
    #[must_use]
    pub const fn is_recursive(&self, now_ns: u64) -> bool {
        self.recursive_until != 0 && now_ns < self.recursive_until as u64 * 1_000_000_000
    }
}

/// Value of [`FlowRecord::uid`]: there is no socket, as for a forwarded packet.
pub const NO_UID: u32 = u32::MAX;

/// An event about a leak, in the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct LeakEvent {
    /// The flow.
    pub flow: Flow,
    /// The record of the flow at the time of the event.
    pub record: FlowRecord,
}

const _: () = assert!(size_of::<LeakEvent>() == 104);

/// Name of the interface that a slot belongs to, padded with zeros. Only user space reads and writes it. It
/// is pinned together with the counters, so that both survive a restart.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SlotName {
    /// The name, in the kernel's format: at most 15 bytes, then a zero.
    pub bytes: [u8; 16],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_back() {
        for role in [Role::Uplink, Role::Tunnel, Role::Underlay] {
            assert_eq!(Role::try_from(role.raw()), Ok(role));
        }
        assert_eq!(Role::try_from(Interface::default().role), Err(NoRole));
    }

    #[test]
    fn steering_ends() {
        let mut state = TunnelState::default();
        assert!(!state.may_need_steering(1));
        state.bound_ns = 10;
        assert!(state.may_need_steering(10 + STEER_NS - 1));
        assert!(!state.may_need_steering(10 + STEER_NS));
    }

    #[test]
    fn an_interface_has_its_own_places_in_the_table() {
        for (ifindex, first) in [
            (0, 0),
            (5, 5),
            (INTERFACES - 1, INTERFACES - 1),
            (INTERFACES, 0),
            (3 * INTERFACES + 7, 7),
            (u32::MAX, INTERFACES - 1),
        ] {
            let places = (0..PROBES).map(|probe| probe_index(ifindex, probe));
            let expected = (first..first + PROBES).map(|place| place % INTERFACES);
            assert!(places.eq(expected), "{ifindex}");
        }
    }

    #[test]
    fn a_cached_lookup_is_of_one_address_and_one_generation() {
        let entry = CachedLookup {
            address: Address::from_words([6, 9]),
            generation: 6,
            source: Source::NONE,
        };
        for (words, generation, expected) in [
            ([6, 9], 6, true),
            ([7, 9], 6, false),
            ([6, 8], 6, false),
            ([6, 9], 7, false),
            // Both differ, and by the same bit.
            ([7, 9], 7, false),
        ] {
            let is_valid_for = entry.is_valid_for(Address::from_words(words), generation);
            assert_eq!(is_valid_for, expected, "{words:?} {generation}");
        }
    }

    #[test]
    fn the_key_of_a_direct_destination_begins_with_the_slot() {
        let octets = *b"0123456789abcdef";
        let key = direct_key(0x0102_0304, Address::from_octets(octets));
        let (slot, address) = key.split_at(DIRECT_SLOT_BITS as usize / 8);
        assert_eq!((slot, address), (&[1, 2, 3, 4][..], &octets[..]));
    }

    #[test]
    fn a_flow_counts_as_outer_packets_for_a_time() {
        for (recursive_until, now_ns, expected) in [
            (0, 0, false),
            (0, 1, false),
            (3, 0, true),
            (3, 2_999_999_999, true),
            (3, 3_000_000_000, false),
            (u32::MAX, 4_294_967_294_999_999_999, true),
        ] {
            let record = FlowRecord {
                recursive_until,
                ..FlowRecord::default()
            };
            let found = record.is_recursive(now_ns);
            assert_eq!(found, expected, "{recursive_until} {now_ns}");
        }
    }
}
