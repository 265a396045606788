//! Keys and values of the maps, as kernel and user space share them.
//!
//! A change of shape here needs a new [`VERSION`]: maps are pinned and outlive the daemon.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::{Address, Prefix},
    flow::Flow,
    stat::Counters,
};

/// Version of everything in this module; part of the path that maps are pinned under.
///
/// What was counted survives a change of it, as long as two things stay: a slot's state begins with
/// [`CAPACITY`](crate::stat::CAPACITY) counters, and new ones come after those in use.
pub const VERSION: u32 = 4;

/// Places for interfaces and tunnels: each tunnel and each uplink has one slot, for ever the same
/// for the same name.
pub const SLOTS: u32 = 512;

/// The slot of interfaces that are no uplinks yet: never anybody else's.
pub const NEWCOMERS_SLOT: u32 = SLOTS - 1;

/// Size of the interface table. A power of two, well above the number of interfaces with
/// programs, so that runs of collisions stay short.
pub const INTERFACES: u32 = 2048;

/// How far an interface's entry may stand from its place in the table.
pub const PROBES: u32 = 8;

/// Source prefixes compared one by one before the trie is used instead.
pub const FEW_SOURCES: usize = 8;

/// Source prefixes at most.
pub const SOURCES: u32 = 131_072;

/// Direct destinations at most, over all tunnels.
pub const DIRECTS: u32 = 16_384;

/// Leaking conversations remembered at a time; the least recently used one gives way.
pub const FLOWS: u32 = 8192;

/// Size of the event ring in bytes.
pub const EVENTS_BYTES: u32 = 256 * 1024;

/// What an interface is to the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// A native uplink.
    Uplink = 1,
    /// A tunnel.
    Tunnel = 2,
}

impl Role {
    /// Its number in [`Interface::role`].
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u8 {
        self as u8
    }
}

/// The number names no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRole;

impl TryFrom<u8> for Role {
    type Error = NoRole;

    #[inline(always)]
    fn try_from(raw: u8) -> Result<Self, NoRole> {
        match raw {
            1 => Ok(Self::Uplink),
            2 => Ok(Self::Tunnel),
            _ => Err(NoRole),
        }
    }
}

/// An interface with our programs on it. The table is indexed by interface index modulo its size,
/// with linear probing: an array lookup is inlined by the verifier, a hash lookup is a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Interface {
    /// Interface index; 0 in an empty entry.
    pub ifindex: u32,
    /// Its slot.
    pub slot: u32,
    /// [`Role`]; 0 in an empty entry.
    pub role: u8,
    /// Bytes of link layer before the IP header: 14 or 0.
    pub link_bytes: u8,
    /// Its own link-layer address, zero where it has none.
    pub mac: [u8; 6],
    /// [`Control::generation`], here because the programs read this entry anyway.
    pub generation: u64,
    /// Zero.
    pub reserved: u64,
    /// Our address in the tunnel, which nobody else may send from; unspecified: any may come in.
    pub own: Address,
}

const _: () = assert!(size_of::<Interface>() == 48);

/// Where in the interface table an index may stand, the preferred place first.
#[inline(always)]
pub const fn interface_place(ifindex: u32, probe: u32) -> u32 {
    ifindex.wrapping_add(probe) % INTERFACES
}

/// What a source prefix belongs to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Source {
    /// The tunnel's slot.
    pub tunnel: u16,
    /// Length of the prefix; 128 for an address of the tunnel itself, 0 for its far end.
    pub bits: u16,
    /// Index of an uplink that has this very address as well, and by which it may leave; 0 for
    /// none, [`ANY_UPLINK`] where several have it. With [`GROUPS_ONLY`] only to multicast groups.
    pub home: u32,
}

impl Source {
    /// Of nobody.
    pub const NOBODYS: Self = Self {
        tunnel: NOBODY,
        bits: 0,
        home: 0,
    };

    /// A prefix of this length of the tunnel in `slot`, which is below [`SLOTS`].
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "SLOTS fits, asserted below"
    )]
    pub const fn new(slot: u32, bits: u8, home: u32) -> Self {
        Self {
            tunnel: slot as u16,
            bits: bits as u16,
            home,
        }
    }

    /// The far end of the tunnel in `slot`, or a next hop there, where a prefix of the tunnel has it.
    #[must_use]
    pub const fn far_end(slot: u32) -> Self {
        Self::new(slot, 0, 0)
    }

    /// Whether it may leave by the uplink of this index, which has it as well.
    #[inline(always)]
    #[must_use]
    pub const fn is_at_home(self, ifindex: u32, to_group: bool) -> bool {
        let home = self.home;
        if home == ifindex || home == ANY_UPLINK {
            return true;
        }
        to_group && (home == ifindex | GROUPS_ONLY || home == SEVERAL_GROUPS_ONLY)
    }

    /// Whether packets to it come here by the tunnel.
    #[inline(always)]
    #[must_use]
    pub const fn is_here(self) -> bool {
        self.bits >= SHORTEST_ROUTED
    }

    /// The tunnel's slot.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.tunnel as u32
    }

    /// Whether it is an address of the tunnel itself, which this host answers for.
    #[inline(always)]
    #[must_use]
    pub const fn is_address(self) -> bool {
        self.bits == 128
    }
}

/// Length in bits of the shortest prefix that a broker routes to somebody. A shorter one says "all
/// sources", and not what is behind this host.
pub const SHORTEST_ROUTED: u16 = 16;

/// [`Source::home`]: the address is on more than one uplink.
pub const ANY_UPLINK: u32 = u32::MAX;

/// Bit of [`Source::home`]: the address is out of a prefix that a broker routes here, and the provider takes
/// nothing from it.
pub const GROUPS_ONLY: u32 = 1 << 31;

/// [`Source::home`]: such an address is on more than one uplink.
pub const SEVERAL_GROUPS_ONLY: u32 = ANY_UPLINK - 1;

/// [`Source::tunnel`] of a [`Recent`] address that belongs to no tunnel: no slot.
pub const NOBODY: u16 = u16::MAX;

const _: () = assert!(SLOTS < NOBODY as u32);

/// What one processor keeps of a slot, and no other one writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct SlotState {
    /// What was counted.
    pub counters: Counters,
    /// What was found out about addresses seen last: of sources in the first half, of destinations in the
    /// second, each in the place there that [`Address::place_among`] gives it. Nearly all packets of a
    /// host have one of few sources and destinations: so most lookups end here, at the same low price for
    /// two prefixes and for 100,000.
    pub recent: [Recent; RECENT],
}

/// Addresses remembered per interface and processor.
pub const RECENT: usize = 2 * RECENT_OF_A_KIND;

/// Of these, sources, and as many destinations: a power of two.
pub const RECENT_OF_A_KIND: usize = 8;

/// Whose an address was when it was looked up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Recent {
    /// The address.
    pub address: Address,
    /// [`Interface::generation`] of that time: in any other this says nothing.
    pub generation: u64,
    /// Whose it was; [`Source::NOBODYS`] for nobody's.
    pub source: Source,
}

const _: () = assert!(size_of::<Recent>() == 32);

impl Recent {
    /// Whether this is about `address`, and still true.
    #[inline(always)]
    #[must_use]
    pub const fn is_about(&self, address: Address, generation: u64) -> bool {
        self.address.difference(address) | (self.generation ^ generation) == 0
    }
}

/// Data of a key in the trie of direct destinations: the tunnel's slot in network order, then the
/// address. The slot counts as the first [`DIRECT_SLOT_BITS`] bits of each prefix.
#[inline(always)]
#[must_use]
pub const fn direct_key(slot: u32, destination: Address) -> [u8; 20] {
    let [s0, s1, s2, s3] = slot.to_be_bytes();
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = destination.octets();
    [
        s0, s1, s2, s3, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p,
    ]
}

/// Bits that the slot takes in a [`direct_key`].
pub const DIRECT_SLOT_BITS: u32 = 32;

/// A source prefix in [`SourceTable`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FewSource {
    /// The prefix.
    pub prefix: Prefix,
    /// Whose it is.
    pub source: Source,
}

/// How sources are looked up. There are two, used in turn: the one not in use is written, then
/// [`Control::table`] names it, so that no packet meets a half-written one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SourceTable {
    /// What all prefixes have in common: an address outside belongs to no tunnel.
    pub common: Prefix,
    /// Number of entries of `few`, the longest prefixes first; [`USE_TRIE`] when there are more
    /// than fit.
    pub count: u32,
    /// Zero.
    pub reserved: u32,
    /// The prefixes.
    pub few: [FewSource; FEW_SOURCES],
}

const _: () = assert!(size_of::<SourceTable>() == 40 + FEW_SOURCES * 40);

/// [`SourceTable::count`]: look in the trie.
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

/// The one entry of the control map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Control {
    /// Which of the two source tables is in use: 0 or 1.
    pub table: u32,
    /// Zero.
    pub reserved: u32,
    /// Another one after each change of the sources, and never 0; what was remembered under an
    /// earlier one counts no more.
    pub generation: u64,
}

/// A tunnel, by slot: written by user space, read by the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Tunnel {
    /// Index of its interface; 0 while there is none that is up.
    pub ifindex: u32,
    /// What fits into it, in bytes of IPv6 packet: the smaller of the configured MTU and the
    /// interface's.
    pub mtu: u32,
    /// [`OnLeak`](crate::treatment::OnLeak).
    pub on_leak: u8,
    /// Bytes of link layer: 14 or 0.
    pub link_bytes: u8,
    /// The interface's own link-layer address.
    pub mac: [u8; 6],
    /// Next hop on an interface with a link layer.
    pub next_hop: NextHop,
    /// Zero.
    pub reserved: u32,
    /// Who sends Packet Too Big in the tunnel's name.
    pub router: Address,
}

const _: () = assert!(size_of::<Tunnel>() == 56);

/// A next hop in the shape of the kernel's `struct bpf_redir_neigh`, so that the helper can be
/// given the map's own memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct NextHop {
    /// [`AF_INET6`]; 0 for none.
    pub family: u32,
    /// The address.
    pub octets: [u8; 16],
}

const _: () = assert!(size_of::<NextHop>() == 20);

/// `AF_INET6`.
pub const AF_INET6: u32 = 10;

/// What the programs keep per tunnel for themselves. Processors may race for it: then a few events
/// too many or too few are let through, which hurts nobody.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct TunnelState {
    /// Start of the second in which `events` counts, in nanoseconds of CLOCK_MONOTONIC.
    pub window_ns: u64,
    /// Events let through in it.
    pub events: u64,
    /// When a socket bound to an uplink last leaked from this tunnel; 0 for never.
    pub bound_ns: u64,
    /// When the first echo request came whose reply was waited for; 0 for never.
    pub watched_ns: u64,
}

/// Events a second that a tunnel may cause.
pub const EVENTS_PER_SECOND: u64 = 64;

/// A flow is reported at its first packet, then at most once in this time.
pub const FLOW_REPORT_NS: u64 = 1_000_000_000;

/// How long after the last leak from a bound socket answers are still looked up for it.
pub const STEER_NS: u64 = 300_000_000_000;

impl TunnelState {
    /// Takes one event from the budget of this second, if there is one left.
    #[inline(always)]
    pub fn admit(&mut self, now_ns: u64) -> bool {
        if now_ns.wrapping_sub(self.window_ns) >= 1_000_000_000 {
            self.window_ns = now_ns;
            self.events = 0;
        }
        if self.events >= EVENTS_PER_SECOND {
            return false;
        }
        self.events += 1;
        true
    }

    /// Whether answers may have to be handed to a socket that is bound to an uplink.
    #[inline(always)]
    #[must_use]
    pub const fn steers(&self, now_ns: u64) -> bool {
        self.bound_ns != 0 && now_ns.wrapping_sub(self.bound_ns) < STEER_NS
    }
}

/// What is known of a leaking flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowRecord {
    /// Packets of it that leaked, as the kernel hands them over.
    pub packets: u64,
    /// Bytes of them, without link layer.
    pub bytes: u64,
    /// When it was last reported, in nanoseconds of CLOCK_MONOTONIC.
    pub reported_ns: u64,
    /// Control group of the sending socket (its inode number under /sys/fs/cgroup); 0 for none.
    pub cgroup: u64,
    /// Slot of the tunnel that the source belongs to.
    pub tunnel: u32,
    /// Interface by which it was about to leave.
    pub ifindex: u32,
    /// Interface by which it came in, for a forwarded packet; 0 for our own.
    pub from_ifindex: u32,
    /// Interface that the sending socket is bound to; 0 for none.
    pub bound_ifindex: u32,
    /// Owner of the sending socket; [`NO_UID`] where there is none.
    pub uid: u32,
    /// [`Treatment`](crate::treatment::Treatment) of its last packet.
    pub treatment: u32,
    /// The mark of its first packet (`SO_MARK`, or a firewall's); 0 for none.
    pub mark: u32,
    /// Until when its packets are taken for a tunnel's own outer packets, which go into no tunnel that they
    /// carry: in seconds of CLOCK_MONOTONIC; 0 for never.
    pub recursive_until: u32,
}

const _: () = assert!(size_of::<FlowRecord>() == 64);

impl FlowRecord {
    /// Whether it is taken for a tunnel's own outer packets at this time.
    #[inline(always)]
    #[must_use]
    pub const fn is_recursive(&self, now_ns: u64) -> bool {
        self.recursive_until != 0 && now_ns < self.recursive_until as u64 * 1_000_000_000
    }
}

/// [`FlowRecord::uid`]: no socket, as for a forwarded packet.
pub const NO_UID: u32 = u32::MAX;

/// A leak event in the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct LeakEvent {
    /// Which conversation.
    pub flow: Flow,
    /// What was known of it then.
    pub record: FlowRecord,
}

const _: () = assert!(size_of::<LeakEvent>() == 104);

/// Name of the interface that a slot belongs to, zero-padded. Only user space reads and writes it;
/// it is pinned beside the counters so that both survive together.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SlotName {
    /// As the kernel has it: at most 15 bytes and a zero.
    pub bytes: [u8; 16],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_admitted_up_to_the_limit_each_second() {
        let mut state = TunnelState::default();
        let admitted =
            |state: &mut TunnelState, now| (0..1000).filter(|_| state.admit(now)).count();
        assert_eq!(admitted(&mut state, 5_000_000_000), 64);
        assert_eq!(admitted(&mut state, 5_999_999_999), 0);
        assert_eq!(admitted(&mut state, 6_000_000_000), 64);
    }

    #[test]
    fn roles_are_read_back() {
        for role in [Role::Uplink, Role::Tunnel] {
            assert_eq!(Role::try_from(role.raw()), Ok(role));
        }
        assert_eq!(Role::try_from(Interface::default().role), Err(NoRole));
    }

    #[test]
    fn steering_ends() {
        let mut state = TunnelState::default();
        assert!(!state.steers(1));
        state.bound_ns = 10;
        assert!(state.steers(10 + STEER_NS - 1));
        assert!(!state.steers(10 + STEER_NS));
    }
}
