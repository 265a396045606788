//! The sources: to which tunnel or group a prefix belongs, and by which uplinks its packets may leave.

use std::collections::{BTreeMap, BTreeSet};

use sixxs_common::layout::{
    self, ANY_UPLINK, ANY_UPLINK_MULTICAST_ONLY, MULTICAST_ONLY, SHORTEST_ROUTED,
};

use crate::{
    config::Tunnel,
    link::Link,
    types::{IfIndex, IfName, Prefix},
};

/// A source prefix and the tunnel that it belongs to. Packets to this prefix arrive by the same tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The prefix.
    pub prefix: Prefix,
    /// The tunnel or the group.
    pub tunnel: IfName,
    /// The uplinks that have this same address.
    pub home: Home,
    /// Whether it is in a prefix that is routed through the tunnel. The provider of an uplink accepts no
    /// packets from such an address, even if the uplink has it.
    pub is_routed: bool,
    /// What it is to the tunnel.
    pub kind: SourceKind,
}

/// What a source is to its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// An address or a prefix of the tunnel: packets to it arrive by the tunnel.
    Own,
    /// The tunnel's far end, or a network on its link: packets to it leave by the tunnel.
    OnLink,
    /// A prefix of a group, which is named instead of the tunnel: packets to it may arrive by each of its links.
    OfGroup,
}

impl Source {
    /// Its entry in the map. `slot` belongs to the tunnel or group.
    #[must_use]
    pub const fn entry(&self, slot: u32) -> layout::Source {
        let (bits, home) = (self.prefix.bits(), self.home_number());
        match self.kind {
            SourceKind::Own => layout::Source::new(slot, bits, home),
            SourceKind::OnLink => layout::Source::on_link(slot),
            SourceKind::OfGroup => layout::Source::of_group(slot, bits, home),
        }
    }

    /// [`layout::Source::home`](sixxs_common::layout::Source::home).
    #[must_use]
    pub const fn home_number(&self) -> u32 {
        match (self.home, self.is_routed) {
            (Home::Nowhere, _) => 0,
            (Home::Uplink(index), false) => index.0,
            (Home::Uplink(index), true) => index.0 | MULTICAST_ONLY,
            (Home::Several, false) => ANY_UPLINK,
            (Home::Several, true) => ANY_UPLINK_MULTICAST_ONLY,
        }
    }
}

/// Uplinks by which packets from a tunnel's source may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// None.
    Nowhere,
    /// This one.
    Uplink(IfIndex),
    /// More than one.
    Several,
}

/// A tunnel's addresses and prefixes, the networks on its link, and the addresses within them that need their own entry:
/// those of uplinks, and the tunnel's far end. They get this name.
pub(super) fn sources(name: &IfName, tunnel: &Tunnel, uplinks: &[&Link]) -> Vec<Source> {
    let mut homes: BTreeMap<Prefix, Home> = tunnel
        .sources()
        .map(|prefix| (prefix, Home::Nowhere))
        .collect();
    for uplink in uplinks {
        for address in &uplink.addresses {
            if tunnel.sources().any(|prefix| prefix.contains(*address)) {
                homes
                    .entry(Prefix::host(*address))
                    .and_modify(|home| {
                        *home = match home {
                            Home::Nowhere => Home::Uplink(uplink.index),
                            _ => Home::Several,
                        };
                    })
                    .or_insert(Home::Uplink(uplink.index));
            }
        }
    }
    let far_ends = [tunnel.peer, tunnel.gateway].into_iter().flatten();
    let far_ends: BTreeSet<_> = far_ends
        .filter(|far_end| tunnel.prefixes.iter().any(|p| p.contains(*far_end)))
        .map(Prefix::host)
        .collect();
    // A shorter prefix means "all sources", including those of the uplinks.
    let is_routed = |source: Prefix| {
        let is_own = tunnel
            .addresses
            .iter()
            .any(|own| Prefix::host(own.address) == source);
        let mut routed = tunnel.prefixes.iter();
        !is_own
            && routed.any(|prefix| {
                u16::from(prefix.bits()) >= SHORTEST_ROUTED && prefix.contains(source.address())
            })
    };
    let source = |prefix, home, kind| Source {
        prefix,
        tunnel: name.clone(),
        home,
        is_routed: is_routed(prefix),
        kind,
    };
    let known: BTreeSet<_> = homes.keys().copied().collect();
    let here = homes
        .into_iter()
        .map(|(prefix, home)| source(prefix, home, SourceKind::Own));
    let on_link = tunnel.on_link.iter().copied();
    let on_link = far_ends.into_iter().chain(on_link);
    let on_link = on_link.filter(|prefix| !known.contains(prefix));
    let on_link = on_link.map(|prefix| source(prefix, Home::Nowhere, SourceKind::OnLink));
    here.chain(on_link).collect()
}
