//! Observed network interfaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use crate::{
    endpoint::Endpoint,
    types::{IfIndex, IfName, Mtu},
};

/// The link-layer header of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// None: TUN, sit, PPP, WireGuard, …
    None,
    /// An Ethernet header; the interface has this address.
    Ethernet([u8; 6]),
    /// Another header (`ARPHRD_…` number): the programs cannot read such packets.
    Unsupported(u16),
}

/// Whether an interface that is no uplink may become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Candidate {
    /// It cannot: the loopback, or a port of a bridge, a bond or similar.
    #[default]
    Never,
    /// It can, once it becomes an exit.
    Settled,
    /// It can, and it was made or brought up so recently that its route may not have been added yet.
    Fresh,
}

/// The driver of an interface, as far as it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkDriver {
    /// Any other one.
    #[default]
    Other,
    /// A bond of several interfaces, whose packets arrive at these.
    Bond,
    /// One end of a pair (`veth`).
    Veth,
    /// IPv6 in IPv4 (`sit`).
    Sit,
}

/// Where an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, or in the hardware.
    Native,
    /// In the kernel, after it has made an `sk_buff`.
    Generic,
}

impl XdpMode {
    /// Its name for users.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// An XDP program that is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpProgram {
    /// The program's ID.
    pub id: u32,
    /// Where it is attached.
    pub mode: XdpMode,
}

/// The reason why an address of an interface is unusable (RFC 4862 §5.4).
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
    /// Its name. If the configuration has a pattern for it (`ppp*`), the pattern.
    pub name: IfName,
    /// Its name in the kernel, if `name` is a pattern.
    pub matched: Option<IfName>,
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
    /// The unusable addresses, with the reason.
    pub unusable: BTreeMap<Ipv6Addr, Unusable>,
    /// Whether a rule can lead packets to the internet through it ([`crate::routing::exits`]).
    pub is_exit: bool,
    /// Whether it may become an exit.
    pub candidate: Candidate,
    /// The far ends of a foreign tunnel, as far as the kernel knows them.
    pub endpoints: Vec<Endpoint>,
    /// Its driver.
    pub driver: LinkDriver,
    /// For a VLAN's interface: the interface whose tagged frames it receives.
    pub vlan_of: Option<IfIndex>,
    /// Whether packets that arrive there may be forwarded by IPv4.
    pub forwards_ipv4: bool,
    /// Its XDP program, of sixxs or of other software.
    pub xdp: Option<XdpProgram>,
}

impl Link {
    /// An interface that is up and has a carrier, without a link layer and addresses.
    #[must_use]
    pub const fn up(index: IfIndex, name: IfName, mtu: Mtu) -> Self {
        Self {
            index,
            name,
            matched: None,
            up: true,
            mtu,
            layer: LinkLayer::None,
            carrier: true,
            addresses: Vec::new(),
            unusable: BTreeMap::new(),
            is_exit: false,
            candidate: Candidate::Never,
            endpoints: Vec::new(),
            driver: LinkDriver::Other,
            vlan_of: None,
            forwards_ipv4: false,
            xdp: None,
        }
    }

    /// Its name in the kernel.
    #[must_use]
    pub fn kernel_name(&self) -> &IfName {
        self.matched.as_ref().unwrap_or(&self.name)
    }

    /// Its global unicast addresses.
    pub fn global_addresses(&self) -> impl Iterator<Item = &Ipv6Addr> {
        self.addresses.iter().filter(|address| is_global(address))
    }
}

/// Whether it is a global unicast address, `2000::/3` (RFC 4291 §2.4).
#[must_use]
pub const fn is_global(address: &Ipv6Addr) -> bool {
    address.octets()[0] >> 5 == 0b001
}

/// All interfaces of the network namespace, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links(BTreeMap<IfName, Link>);

impl Links {
    /// The interface of this name.
    #[must_use]
    pub fn by_name(&self, name: &IfName) -> Option<&Link> {
        let by_kernel_name = || self.iter().find(|link| link.kernel_name() == name);
        self.0.get(name).or_else(by_kernel_name)
    }

    /// The interfaces, one of them with the pattern as its name for each pattern in `names`: one that is up, with a
    /// global address, and of several the newest. `names` has all names in the configuration; an interface that it names matches no pattern.
    #[must_use]
    pub fn with_patterns(mut links: Vec<Link>, names: &BTreeSet<IfName>) -> Self {
        for pattern in names.iter().filter(|name| name.pattern().is_some()) {
            let mut matching = matching(&mut links, pattern, names);
            if let Some(newest) = matching.by_ref().max_by_key(|link| rank(link)) {
                let name = std::mem::replace(&mut newest.name, pattern.clone());
                newest.matched = Some(name);
            }
        }
        links.into_iter().collect()
    }

    /// Other interfaces that are up and match a pattern.
    pub fn also_match(&self, pattern: &IfName) -> impl Iterator<Item = &Link> {
        let has_pattern = pattern.pattern().is_some();
        self.iter().filter(move |link| {
            has_pattern && link.up && link.matched.is_none() && pattern.matches(&link.name)
        })
    }

    /// The interface with this index.
    #[must_use]
    pub fn by_index(&self, index: IfIndex) -> Option<&Link> {
        self.iter().find(|link| link.index == index)
    }

    /// All interfaces, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.0.values()
    }
}

/// How good an interface is for a pattern that several match: one with an address works, and the newest is the present
/// one of a connection that was made again.
fn rank(link: &Link) -> (bool, bool, IfIndex) {
    let has_address = link.global_addresses().next().is_some();
    (link.up, has_address, link.index)
}

/// The interfaces that match a pattern, and have no other name in the configuration.
fn matching<'a>(
    links: &'a mut [Link],
    pattern: &'a IfName,
    names: &'a BTreeSet<IfName>,
) -> impl Iterator<Item = &'a mut Link> {
    links.iter_mut().filter(move |link| {
        pattern.matches(&link.name) && !names.contains(&link.name) && link.matched.is_none()
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link::up(IfIndex(index), name.parse().unwrap(), Mtu::MINIMUM)
    }

    #[test]
    fn interfaces_are_found_by_name_and_by_index() {
        let links: Links = [link(3, "net1"), link(7, "net0")].into_iter().collect();
        let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(names, ["net0", "net1"]);
        for (index, name) in [(3, Some("net1")), (7, Some("net0")), (4, None)] {
            let found = links.by_index(IfIndex(index));
            assert_eq!(found.map(|link| link.name.as_str()), name);
        }
        for (name, index) in [("net1", Some(3)), ("net0", Some(7)), ("net2", None)] {
            let found = links.by_name(&name.parse().unwrap());
            assert_eq!(found.map(|link| link.index.0), index);
        }
    }

    #[test]
    fn a_pattern_takes_the_newest_interface_that_is_up() {
        let down = |index, name| Link {
            up: false,
            ..link(index, name)
        };
        let used = |index, name| Link {
            addresses: vec!["2001:db8::1".parse().unwrap()],
            ..link(index, name)
        };
        for (links, expected) in [
            (vec![], None),
            (vec![link(2, "net0")], None),
            (vec![link(2, "ppp0"), link(5, "ppp1")], Some("ppp1")),
            (vec![link(2, "ppp0"), down(5, "ppp1")], Some("ppp0")),
            (vec![down(2, "ppp0"), down(5, "ppp1")], Some("ppp1")),
            (vec![used(2, "ppp0"), link(5, "ppp1")], Some("ppp0")),
            (vec![used(2, "ppp0"), used(5, "ppp1")], Some("ppp1")),
            // It has a name of its own in the configuration.
            (vec![link(2, "ppp0"), link(9, "ppp7")], Some("ppp0")),
        ] {
            let names = ["ppp*", "ppp7"].map(|name| name.parse().unwrap()).into();
            let count = links.len();
            let links = Links::with_patterns(links, &names);
            let found = links.by_name(&"ppp*".parse().unwrap());
            assert_eq!(found.map(|link| link.kernel_name().as_str()), expected);
            assert_eq!(links.iter().count(), count);
            if let Some(name) = expected {
                assert_eq!(links.by_name(&name.parse().unwrap()), found);
            }
        }
    }

    #[test]
    fn global_addresses_are_in_one_eighth_of_the_space() {
        let mut net0 = link(3, "net0");
        let global = ["2000::", "2001:db8::1", "3fff:ffff::1"];
        let others = ["fe80::1", "fd00::1", "::1", "1fff::1", "4000::", "ff02::1"];
        let all = others[..3].iter().chain(&global).chain(&others[3..]);
        net0.addresses = all.map(|text| text.parse().unwrap()).collect();
        let found: Vec<_> = net0.global_addresses().map(ToString::to_string).collect();
        assert_eq!(found, global);
    }
}
