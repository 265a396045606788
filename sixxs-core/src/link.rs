//! Network interfaces as they were observed.

use std::{collections::BTreeMap, net::Ipv6Addr};

use crate::types::{IfIndex, IfName, Mtu};

/// What stands before the IP header on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// Nothing: TUN, sit, PPP, WireGuard, …
    None,
    /// An Ethernet header; the interface has this address.
    Ethernet([u8; 6]),
    /// Something else (`ARPHRD_…` number): the programs cannot read such packets.
    Unsupported(u16),
}

/// Whether an interface that is no uplink may become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Candidate {
    /// No: the loopback, or a part of a bridge, bond or the like.
    #[default]
    Never,
    /// When it becomes an exit.
    Settled,
    /// The same; it was made or came up so lately that whoever did that may not have come to the route
    /// yet.
    Fresh,
}

/// Why an address that an interface has cannot be used (RFC 4862 §5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Duplicate address detection has not ended.
    Tentative,
    /// Another host on the link has the address.
    Duplicate,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: IfIndex,
    /// Its name.
    pub name: IfName,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Its MTU.
    pub mtu: Mtu,
    /// Its link layer.
    pub layer: LinkLayer,
    /// Whether it has a carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Its IPv6 addresses.
    pub addresses: Vec<Ipv6Addr>,
    /// Those of its addresses that cannot be used, and why.
    pub unusable: BTreeMap<Ipv6Addr, Unusable>,
    /// Whether a rule can lead packets to the world out of it ([`crate::routing::exits`]).
    pub is_exit: bool,
    /// Whether it may come to that.
    pub candidate: Candidate,
}

impl Link {
    /// Those of its addresses that are global unicast, `2000::/3` (RFC 4291 §2.4).
    pub fn global_addresses(&self) -> impl Iterator<Item = &Ipv6Addr> {
        let is_global = |address: &&Ipv6Addr| address.octets()[0] >> 5 == 0b001;
        self.addresses.iter().filter(is_global)
    }
}

/// All interfaces of the network namespace, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links(BTreeMap<IfName, Link>);

impl Links {
    /// The interface of this name.
    #[must_use]
    pub fn by_name(&self, name: &IfName) -> Option<&Link> {
        self.0.get(name)
    }

    /// The interface with this index.
    #[must_use]
    pub fn by_index(&self, index: IfIndex) -> Option<&Link> {
        self.iter().find(|link| link.index == index)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.0.values()
    }
}

impl FromIterator<Link> for Links {
    fn from_iter<I: IntoIterator<Item = Link>>(links: I) -> Self {
        Self(
            links
                .into_iter()
                .map(|link| (link.name.clone(), link))
                .collect(),
        )
    }
}
