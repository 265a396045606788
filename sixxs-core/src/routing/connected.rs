//! Local networks: the prefixes on the link of an interface that is neither an exit nor a tunnel.
//!
//! Examples are containers on a bridge, hosts of a LAN, and peers of a VPN. Replies to them leave by
//! that interface, whatever their source is. Through a tunnel they would reach the internet, where no
//! router knows a route back.

use std::collections::BTreeSet;

use crate::{
    config::{Config, Tunnel},
    link::Links,
    types::{IfIndex, IfName, Prefix},
};

/// The maximum number of pairs of a source and a local network: a packet is compared with their rules
/// one by one.
pub const MAX_PAIRS: usize = 4096;

/// A foreign route of the main table to destinations on the link: unicast, without a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectedRoute {
    /// Its destination, longer than [`PIECE_BITS`](super::exits::PIECE_BITS).
    pub destination: Prefix,
    /// Its interface.
    pub index: IfIndex,
}

/// There are too many local networks for the kernel programs' map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there are more than {limit} local networks, too many for {sources} addresses and prefixes of tunnels: \
     replies to them leave by the tunnels; name those that matter in `direct`, and set `direct_connected = false`"
)]
pub struct TooManyNetworks {
    /// Limit of networks for this number of sources.
    pub limit: usize,
    /// Number of addresses and prefixes of all tunnels and groups.
    pub sources: usize,
}

/// The local networks among `routes`.
pub fn local_networks(
    config: &Config,
    links: &Links,
    routes: &[ConnectedRoute],
) -> Result<BTreeSet<Prefix>, TooManyNetworks> {
    if !config.direct_connected {
        return Ok(BTreeSet::new());
    }
    let is_tunnel = |name: &IfName| config.tunnels.iter().any(|tunnel| tunnel.name == *name);
    let is_uplink = |name: &IfName| config.uplinks.iter().flatten().any(|uplink| uplink == name);
    let local = |route: &&ConnectedRoute| {
        let destination = route.destination.address();
        let is_global = !destination.is_unicast_link_local() && !destination.is_multicast();
        let link = links.by_index(route.index);
        is_global
            && link.is_some_and(|link| {
                link.up && !link.is_exit && !is_tunnel(&link.name) && !is_uplink(&link.name)
            })
    };
    // A network in a prefix of a tunnel is already direct.
    let prefixes = config.tunnels.iter().flat_map(Tunnel::routed_prefixes);
    let of_groups = config.group_prefixes().map(|(prefix, _)| prefix);
    let prefixes: Vec<_> = prefixes.chain(of_groups).collect();
    let is_new = |network: &Prefix| {
        let within =
            |prefix: &Prefix| prefix.bits() <= network.bits() && prefix.contains(network.address());
        !prefixes.iter().any(within)
    };
    let networks = routes.iter().filter(local).map(|route| route.destination);
    let networks: BTreeSet<_> = networks.filter(is_new).collect();
    let sources: usize = config.tunnels.iter().map(|t| t.sources().count()).sum();
    let sources = sources + config.group_prefixes().count();
    let limit = MAX_PAIRS / sources.max(1);
    // With more routes than that, the rest was not read.
    if networks.len() > limit || routes.len() > MAX_PAIRS {
        return Err(TooManyNetworks { limit, sources });
    }
    Ok(networks)
}

impl Config {
    /// The configuration with these destinations direct for all tunnels and groups.
    #[must_use]
    pub fn with_direct(mut self, networks: &BTreeSet<Prefix>) -> Self {
        let of_tunnels = self.tunnels.iter_mut().map(|tunnel| &mut tunnel.direct);
        let of_groups = self.groups.iter_mut().map(|group| &mut group.direct);
        for direct in of_tunnels.chain(of_groups) {
            let missing = networks.iter().filter(|network| !direct.contains(network));
            let missing: Vec<_> = missing.copied().collect();
            direct.extend(missing);
        }
        self
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::{
        config::parse,
        link::{Candidate, Link, LinkLayer},
        types::Mtu,
    };

    const ONE: &str =
        "[[tunnel]]\nname = \"sixxs0\"\nkind = \"interface\"\naddress = \"2001:db8:a::2/64\"\n";

    fn link(index: u32, name: &str) -> Link {
        Link {
            layer: LinkLayer::Ethernet([2; 6]),
            candidate: Candidate::Settled,
            ..Link::up(IfIndex(index), name.parse().unwrap(), Mtu(1500))
        }
    }

    fn route(destination: &str, index: u32) -> ConnectedRoute {
        ConnectedRoute {
            destination: destination.parse().unwrap(),
            index: IfIndex(index),
        }
    }

    fn found(config: &str, links: Vec<Link>, routes: &[ConnectedRoute]) -> Vec<String> {
        let config = parse("test", config).unwrap();
        let links = links.into_iter().collect();
        let networks = local_networks(&config, &links, routes).unwrap();
        networks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_local() {
        let routes = [
            route("2001:db8:5::/64", 2),
            route("fd00:d0c::/64", 3),
            route("fe80::/64", 3),
            route("2001:db8:a::/64", 4),
            route("fd00:99::/64", 5),
            route("fd00:77::/64", 6),
        ];
        let mut uplink = link(2, "net0");
        uplink.is_exit = true;
        let mut down = link(5, "br1");
        down.up = false;
        let links = || {
            vec![
                uplink.clone(),
                link(3, "br0"),
                link(4, "sixxs0"),
                down.clone(),
            ]
        };
        assert_eq!(found(ONE, links(), &routes), ["fd00:d0c::/64"]);
        let routed = format!("{ONE}prefixes = [\"fd00:d0c::/48\"]\n");
        assert_eq!(found(&routed, links(), &routes), Vec::<String>::new());
        let named = format!("uplinks = [\"br0\"]\n{ONE}");
        assert_eq!(found(&named, links(), &routes), Vec::<String>::new());
        let off = format!("direct_connected = false\n{ONE}");
        assert_eq!(found(&off, links(), &routes), Vec::<String>::new());
    }

    #[test]
    fn too_many_connected_networks_are_reported() {
        let routes: Vec<_> = (0..4097)
            .map(|number| route(&format!("fd00:{number:x}::/64"), 3))
            .collect();
        let config = parse("test", ONE).unwrap();
        let links = [link(3, "br0")].into_iter().collect();
        let error = local_networks(&config, &links, &routes).unwrap_err();
        assert_eq!((error.limit, error.sources), (4096, 1));
        assert!(local_networks(&config, &links, &routes[1..]).is_ok());
    }

    #[test]
    fn they_are_direct_for_all() {
        let config = parse("test", ONE).unwrap();
        let networks: BTreeSet<Prefix> = ["fd00:1::/64".parse().unwrap()].into();
        let with = config.with_direct(&networks).with_direct(&networks);
        assert_eq!(with.tunnels[0].direct, ["fd00:1::/64".parse().unwrap()]);
    }

    /// Each source has a rule for each network.
    #[test]
    fn more_sources_leave_room_for_fewer_networks() {
        let routes: Vec<_> = (0..4097)
            .map(|number| route(&format!("fd00:{number:x}::/64"), 3))
            .collect();
        let three = format!("{ONE}prefixes = [\"2001:db8:b::/48\", \"2001:db8:c::/48\"]\n");
        let links = [link(3, "br0")].into_iter().collect();
        for (text, most) in [(ONE, 4096), (three.as_str(), 1365)] {
            let config = parse("test", text).unwrap();
            let found = |count| local_networks(&config, &links, &routes[..count]);
            assert_eq!(found(most).map(|networks| networks.len()), Ok(most));
            assert!(found(most + 1).is_err(), "{most}");
        }
    }

    #[test]
    fn a_network_that_a_tunnel_routes_is_no_local_one() {
        let routed = format!("{ONE}prefixes = [\"fd00:d0c::/48\"]\n");
        for (destination, is_local) in [
            ("fd00:d0c::/48", false),
            ("fd00:d0c:0:7::/64", false),
            ("fd00:d0c::/47", true),
            ("fd00:d0d::/48", true),
            ("fe80::/64", false),
            ("ff05::/64", false),
        ] {
            let found = found(&routed, vec![link(3, "br0")], &[route(destination, 3)]);
            assert_eq!(!found.is_empty(), is_local, "{destination}");
        }
    }
}
