//! The entry of a source prefix in the maps: whose it is.

use bytemuck::{Pod, Zeroable};

/// The tunnel that a source prefix belongs to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Source {
    /// The tunnel's slot.
    pub tunnel: u16,
    /// Length of the prefix in bits; 128 for an address of the tunnel itself, 0 for its far end and for a network on
    /// its link. For a prefix of a group, with the bit [`OF_GROUP`].
    pub bits: u16,
    /// Interface index of an uplink that has the same address: packets from it may leave by this uplink. 0:
    /// no uplink has it. [`ANY_UPLINK`]: several uplinks have it. With the bit [`MULTICAST_ONLY`], only packets
    /// to multicast groups may leave by the uplink.
    pub home: u32,
}

impl Source {
    /// The value for addresses that belong to no tunnel.
    pub const NONE: Self = Self {
        tunnel: NO_TUNNEL,
        bits: 0,
        home: 0,
    };

    /// A prefix with a length of `bits` that belongs to the tunnel in `slot`. `slot` is below [`SLOTS`](crate::layout::SLOTS).
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "SLOTS fits, asserted beside it"
    )]
    pub const fn new(slot: u32, bits: u8, home: u32) -> Self {
        Self {
            tunnel: slot as u16,
            bits: bits as u16,
            home,
        }
    }

    /// The far end or the next hop of the tunnel in `slot`, if a prefix of the tunnel contains it; or a network on its
    /// link. Packets to it leave by the tunnel.
    #[must_use]
    pub const fn on_link(slot: u32) -> Self {
        Self::new(slot, 0, 0)
    }

    /// A prefix with a length of `bits` of the group in `slot`. The entry of the slot leads to the group's active link.
    #[must_use]
    pub const fn of_group(slot: u32, bits: u8, home: u32) -> Self {
        let source = Self::new(slot, bits, home);
        Self {
            bits: source.bits | OF_GROUP,
            ..source
        }
    }

    /// Whether it is a prefix of a group.
    #[inline(always)]
    #[must_use]
    pub const fn is_of_group(self) -> bool {
        self.bits & OF_GROUP != 0
    }

    /// Whether packets from this source may leave by the uplink with this index, because the uplink has the
    /// same address. `to_multicast`: the destination is a multicast group.
    #[inline(always)]
    #[must_use]
    pub const fn is_at_home(self, ifindex: u32, to_multicast: bool) -> bool {
        let home = self.home;
        if home == ifindex || home == ANY_UPLINK {
            return true;
        }
        to_multicast && (home == ifindex | MULTICAST_ONLY || home == ANY_UPLINK_MULTICAST_ONLY)
    }

    /// Whether packets to this prefix arrive at this host by the tunnel.
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

    /// Whether it is an address of the tunnel itself: this host answers for it.
    #[inline(always)]
    #[must_use]
    pub const fn is_address(self) -> bool {
        self.bits == 128
    }
}

/// Bit of [`Source::bits`]: the prefix belongs to a group of links. Packets to it may arrive by each of them, and packets
/// from it leave by the active one.
pub const OF_GROUP: u16 = 1 << 15;

/// Length in bits of the shortest prefix that a broker routes to a client. A shorter prefix means "all
/// sources", not the networks behind this host.
pub const SHORTEST_ROUTED: u16 = 16;

/// Value of [`Source::home`]: more than one uplink has the address.
pub const ANY_UPLINK: u32 = u32::MAX;

/// Bit of [`Source::home`]: the address is within a prefix that a broker routes to this host. The provider of
/// the uplink accepts no packets from it.
pub const MULTICAST_ONLY: u32 = 1 << 31;

/// Value of [`Source::home`]: more than one uplink has the address, with the same restriction as
/// [`MULTICAST_ONLY`].
pub const ANY_UPLINK_MULTICAST_ONLY: u32 = ANY_UPLINK - 1;

/// Value of [`Source::tunnel`] in a [`CachedLookup`](crate::layout::CachedLookup) entry: the address belongs to no tunnel. It is not a valid
/// slot.
pub const NO_TUNNEL: u16 = u16::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::SLOTS;

    #[test]
    fn a_source_tells_whose_it_is_and_what_is_behind_it() {
        // its entry, whether packets to it arrive here, and whether it is this host's address
        for (source, is_here, is_address) in [
            (Source::new(511, 128, 0), true, true),
            (Source::new(511, 127, 0), true, false),
            (Source::new(511, 16, 0), true, false),
            (Source::new(511, 15, 0), false, false),
            (Source::on_link(511), false, false),
            (Source::of_group(511, 48, 0), true, false),
            (Source::of_group(511, 128, 0), true, false),
        ] {
            assert_eq!(source.slot(), 511, "{source:?}");
            assert_eq!(source.is_here(), is_here, "{source:?}");
            assert_eq!(source.is_address(), is_address, "{source:?}");
        }
        assert!(!Source::NONE.is_here());
        assert!(!Source::NONE.is_of_group() && !Source::new(511, 128, 0).is_of_group());
        assert!(Source::of_group(511, 48, 0).is_of_group());
        assert!(Source::NONE.slot() >= SLOTS);
    }
}
