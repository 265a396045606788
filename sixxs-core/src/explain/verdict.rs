//! The programs' decision about a packet: from the contents of their maps, or from the configuration.

use std::net::Ipv6Addr;

use sixxs_common::{
    address::Address,
    decide::{self, Verdict, decide},
    layout::{Source, Tunnel},
    packet::Ipv6,
    treatment::{Decision, Fit, Leak, treat},
};

use super::{Endpoint, Packet};
use crate::{
    enforce::{Enforcement, Role},
    types::{IfIndex, IfName},
};

/// A program's decision about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The verdict; `None`: the interface is inactive, and everything passes.
    pub verdict: Option<Verdict>,
    /// For a leak: the tunnel's entry.
    pub tunnel: Tunnel,
    /// For a leak: the tunnel's name.
    pub name: Option<IfName>,
    /// The endpoint of the flow between the packet's addresses that the programs treat as outer packets of a
    /// tunnel.
    pub recursion: Option<Endpoint>,
}

/// The program's action for the packet, if it is a leak of `bytes` bytes.
#[must_use]
pub fn treated(decided: &Decided, bytes: u32) -> Decision {
    let is_recursion = decided.recursion.is_some();
    treat(
        &decided.tunnel,
        &HypotheticalLeak {
            bytes,
            is_recursion,
        },
    )
}

/// A leak that is not real.
struct HypotheticalLeak {
    bytes: u32,
    is_recursion: bool,
}

impl Leak for HypotheticalLeak {
    fn longest_bytes(&self) -> u32 {
        self.bytes
    }

    /// The tunnel's entry has the interface's index and MTU, so no query of the kernel is needed.
    fn fit(&self, _ifindex: u32) -> Fit {
        Fit::Fits
    }

    fn is_recursion(&self) -> bool {
        self.is_recursion
    }
}

/// The programs' verdict for a packet that leaves by an interface, according to the configuration. An
/// interface that is neither uplink nor tunnel counts as an uplink.
#[must_use]
pub fn verdict(wanted: &Enforcement, packet: &Packet, name: &IfName, index: IfIndex) -> Verdict {
    let tables = DesiredTables { wanted, index };
    let role = wanted.interfaces.get(name).map(|interface| interface.role);
    let exit = match (role, tables.slot(name)) {
        (Some(Role::Tunnel), Some(slot)) => decide::Exit::Tunnel(slot),
        _ => decide::Exit::Uplink(index.0),
    };
    decide(Ok(&header(packet)), exit, &tables)
}

/// The header of a packet, with the fields that the decision uses.
#[must_use]
pub fn header(packet: &Packet) -> Ipv6 {
    Ipv6 {
        offset: 0,
        source: Address::from_octets(packet.source.octets()),
        destination: Address::from_octets(packet.destination.octets()),
        payload_bytes: 0,
        next_header: 59,
    }
}

/// The desired state as tables; a tunnel's slot is its position in the order of names.
struct DesiredTables<'a> {
    wanted: &'a Enforcement,
    /// The interface by which the packet leaves.
    index: IfIndex,
}

impl DesiredTables<'_> {
    fn slot(&self, tunnel: &IfName) -> Option<u32> {
        let mut names = self.wanted.tunnels.keys();
        let place = names.position(|name| name == tunnel)?;
        u32::try_from(place).ok()
    }
}

impl decide::Tables for DesiredTables<'_> {
    fn source(&self, address: Address) -> Option<Source> {
        let address = Ipv6Addr::from(address.octets());
        let mut sources = self.wanted.sources.iter();
        let source = sources.find(|source| source.prefix.contains(address))?;
        Some(source.entry(self.slot(&source.tunnel)?))
    }

    fn is_direct(&self, tunnel: u32, destination: Address) -> bool {
        let destination = Ipv6Addr::from(destination.octets());
        let mut directs = self.wanted.directs.iter();
        directs
            .any(|(name, prefix)| self.slot(name) == Some(tunnel) && prefix.contains(destination))
    }

    fn leads_here(&self, tunnel: u32) -> bool {
        let place = usize::try_from(tunnel).ok();
        let target = place.and_then(|place| self.wanted.tunnels.values().nth(place));
        target.is_some_and(|target| target.index == Some(self.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        link::{Link, Links},
        types::Mtu,
    };

    /// net0 and two tunnels; the second one has a routed prefix, in which one address is on net0.
    fn wanted() -> Enforcement {
        let config = config::parse(
            "test",
            r#"
            uplinks = ["net0"]
            [[tunnel]]
            name = "sixxs1"
            kind = "interface"
            address = "2001:db8:b::2/64"
            prefixes = ["2001:db8:bb::/48"]
            direct = ["2001:db8:5::/48"]
            peer = "2001:db8:bb:f::1"
            [[tunnel]]
            name = "sixxs0"
            kind = "interface"
            address = "2001:db8:a::2/64"
            "#,
        )
        .unwrap();
        let link = |(index, name): (u32, &str)| Link {
            addresses: match name {
                "net0" => vec!["2001:db8:bb:2::1".parse().unwrap()],
                _ => Vec::new(),
            },
            ..Link::up(IfIndex(index), name.parse().unwrap(), Mtu(1500))
        };
        let links: Links = [(2, "net0"), (3, "sixxs0"), (4, "sixxs1")]
            .map(link)
            .into_iter()
            .collect();
        Enforcement::new(&config, &links, |_| true)
    }

    fn packet(source: &str, destination: &str) -> Packet {
        Packet {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            uid: None,
            mark: None,
            iif: None,
            oif: None,
        }
    }

    /// Slots are positions in the order of names, not of the file.
    #[test]
    #[rustfmt::skip] // one table is easier to read
    fn a_packet_is_judged_by_the_configuration() {
        use Verdict::{Exempt, Leak, Loop, NotOurs, Own, Stray};
        let wanted = wanted();
        let outside = "2001:db8:ffff::9";
        for (source, destination, name, index, expected) in [
            ("2001:db8:a::2", outside, "net0", 2, Leak(0)),
            ("2001:db8:b::2", outside, "net0", 2, Leak(1)),
            ("2001:db8:bb:1::5", outside, "net0", 2, Leak(1)),
            ("2001:db8:1::1", outside, "net0", 2, NotOurs),
            ("2001:db8:a::2", outside, "sixxs0", 3, Own),
            ("2001:db8:a::2", outside, "sixxs1", 4, Leak(0)),
            ("2001:db8:bb:1::5", outside, "sixxs1", 4, Own),
            ("2001:db8:1::1", outside, "sixxs0", 3, Stray),
            ("2001:db8:a::2", "2001:db8:bb:1::5", "sixxs0", 3, Loop),
            ("2001:db8:b::2", "2001:db8:bb:f::1", "sixxs1", 4, Own), // to the far end
            ("2001:db8:b::2", "2001:db8:5::1", "net0", 2, Exempt),   // a direct destination
            ("2001:db8:a::2", "2001:db8:5::1", "net0", 2, Leak(0)),  // of the other tunnel only
            ("2001:db8:bb:2::1", "ff05::1", "net0", 2, Exempt),
            ("2001:db8:bb:2::1", outside, "net0", 2, Leak(1)),
            ("2001:db8:bb:2::1", "ff05::1", "net0", 9, Leak(1)),     // another interface of that name
            ("2001:db8:a::2", outside, "lan0", 7, Leak(0)),          // neither uplink nor tunnel
        ] {
            let packet = packet(source, destination);
            let found = verdict(&wanted, &packet, &name.parse().unwrap(), IfIndex(index));
            assert_eq!(found, expected, "{source} to {destination} by {name}");
        }
    }

    #[test]
    fn a_header_has_the_addresses_of_the_packet() {
        let packet = packet("2001:db8:a::2", "2001:db8:ffff::9");
        let header = header(&packet);
        assert_eq!(header.source.octets(), packet.source.octets());
        assert_eq!(header.destination.octets(), packet.destination.octets());
    }

    #[test]
    fn a_leak_is_treated_as_the_tunnel_and_its_flow_demand() {
        use sixxs_common::treatment::Treatment::{NoTunnel, Recursion, Redirected, TooBig};
        let endpoint = Some(Endpoint {
            address: "2001:db8:ffff::9".parse().unwrap(),
            port: 0,
        });
        for (ifindex, bytes, recursion, expected, mtu) in [
            (7, 1400, None, Redirected, 0),
            (7, 1401, None, TooBig, 1400),
            (7, 0, endpoint, Recursion, 0),
            (0, 0, None, NoTunnel, 0),
        ] {
            let decided = Decided {
                verdict: Some(Verdict::Leak(0)),
                tunnel: Tunnel {
                    ifindex,
                    mtu: 1400,
                    ..Tunnel::default()
                },
                name: None,
                recursion,
            };
            let decision = treated(&decided, bytes);
            assert_eq!((decision.treatment, decision.mtu), (expected, mtu));
        }
    }
}
