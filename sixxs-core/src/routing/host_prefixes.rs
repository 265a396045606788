//! The addresses and prefixes of the host, which no broker may assign.

use super::{Observed, exits::PIECE_BITS};
use crate::{
    config::{Config, HostPrefixes},
    link::Link,
    types::Prefix,
};

impl Config {
    /// The addresses of all interfaces except tunnels, and the on-link prefixes of uplinks.
    #[must_use]
    pub fn host_prefixes(&self, observed: &Observed) -> HostPrefixes {
        let is_tunnel = |link: &&Link| self.tunnels.iter().any(|tunnel| tunnel.name == link.name);
        let is_uplink = |link: &Link| match &self.uplinks {
            Some(uplinks) => uplinks.contains(&link.name),
            None => link.is_exit,
        };
        let mut host_prefixes = HostPrefixes::new();
        for link in observed.links.iter().filter(|link| !is_tunnel(link)) {
            let own = link.addresses.iter().map(|own| Prefix::host(*own));
            let on_link = observed.on_link.iter().chain(&observed.connected);
            let on_link = on_link
                .filter(|route| is_uplink(link) && route.index == link.index)
                .map(|route| route.destination)
                // A shorter prefix is a part of the internet, and not on any link.
                .filter(|prefix| prefix.bits() > PIECE_BITS);
            let all = own.chain(on_link).filter(|prefix| !is_link_local(*prefix));
            host_prefixes.extend(all.map(|prefix| (prefix, link.name.clone())));
        }
        host_prefixes
    }
}

fn is_link_local(prefix: Prefix) -> bool {
    prefix.address().is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        config::{Kind, Learned, parse},
        routing::connected::ConnectedRoute,
        types::{IfIndex, Mtu},
    };

    fn link(index: u32, name: &str, address: &str, is_exit: bool) -> Link {
        Link {
            addresses: vec![address.parse().unwrap()],
            is_exit,
            ..Link::up(IfIndex(index), name.parse().unwrap(), Mtu(1500))
        }
    }

    #[test]
    fn a_broker_cannot_assign_prefixes_of_the_host() {
        let text =
            "[[tunnel]]\nname = \"sixxs0\"\nkind = \"interface\"\naddress = \"2001:db8:1::2\"";
        let config = parse("f", text).unwrap();
        let route = |destination: &str, index| ConnectedRoute {
            destination: destination.parse().unwrap(),
            index: IfIndex(index),
        };
        let observed = Observed {
            links: [
                link(1, "lan0", "2001:db8:cc::1", false),
                link(2, "net0", "2001:db8:ff:0:1::5", true),
                link(3, "sixxs0", "2001:db8:a::2", false),
            ]
            .into_iter()
            .collect(),
            on_link: vec![
                route("2001:db8:cc::/64", 1),
                route("2001:db8:ff:0:1::/80", 2),
                route("2001::/16", 2),
                route("2001:db8:a::/64", 3),
            ],
            connected: vec![route("2001:db8:fe::/56", 2)],
            ..Observed::default()
        };
        let host_prefixes = config.host_prefixes(&observed);
        let name = config.tunnels[0].name.clone();
        let far = "2001:db8:a::1";
        for (address, peer, other) in [
            ("2001:db8:ff:0:1::5", far, Some("net0")),
            // As long as the prefix of the uplink's link is: 80 bits, or 56 by its route.
            ("2001:db8:ff:0:1::77", far, Some("net0")),
            ("2001:db8:ff:0:2::77", far, None),
            ("2001:db8:fe:ff::1", far, Some("net0")),
            ("2001:db8:fd::1", far, None),
            ("2001:db8:cc::1", far, Some("lan0")),
            ("2001:db8:cc::2", far, None),
            ("2001:db8:a::2", far, None),
            ("2001:db8:a::2", "2001:db8:ff:0:1::1", Some("net0")),
        ] {
            let learned = Learned {
                kind: Kind::Interface,
                address: format!("{address}/64").parse().unwrap(),
                peer: peer.parse().unwrap(),
                mtu: Mtu::MINIMUM,
            };
            let (whole, conflicts) = config.with_learned(
                &BTreeMap::from([(name.clone(), learned)]),
                &host_prefixes,
                &config,
            );
            let found = conflicts.first().map(|conflict| conflict.other.as_str());
            assert_eq!(found, other, "{address}");
            let has_it = whole.tunnels[0].addresses[0].address.to_string() == address;
            assert_eq!(has_it, other.is_none(), "{address}");
        }
    }
}
