//! Delegated prefixes (RFC 8415 §6.3): which prefixes a DHCPv6 client has got for the networks behind this host, and by
//! which interface.
//!
//! The kernel does not know delegations. It has two traces of them:
//! - a reject route for the whole prefix, by which packets to its unused part do not go back to the provider
//!   (RFC 7084 WPD-5). `networkd` and `dhcpcd` make one with the protocol `dhcp`, for prefixes shorter than 64 bits;
//! - with some clients (`odhcp6c` with netifd) a default route for packets from the prefix, which names the interface.
//!
//! Nothing here is guessed. A prefix that may be of several interfaces is [`Delegation::Unclear`].

use std::collections::{BTreeMap, BTreeSet};

use super::{Observed, observed::RejectRoute};
use crate::{
    config::{Config, Kind, PrefixSource, Tunnel},
    link::{Link, is_global},
    types::{IfName, Prefix},
};

/// The lengths of prefixes that count as delegated, in bits.
pub const DELEGATED_BITS: std::ops::RangeInclusive<u8> = 16..=64;

/// Whose a delegated prefix is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delegation {
    /// It is of this tunnel.
    Of(IfName),
    /// It is of one of these interfaces.
    Unclear(BTreeSet<IfName>),
}

/// The delegated prefixes, as far as they may be of tunnels that follow theirs. `before`: the interfaces that may have had
/// each unclear prefix before. They still may, even if they have no default route now.
pub fn delegations(
    config: &Config,
    observed: &Observed,
    before: &BTreeMap<Prefix, BTreeSet<IfName>>,
) -> impl Iterator<Item = (Prefix, Delegation)> {
    let present = candidates(config, observed);
    let rejects = observed.rejects.iter().filter(|route| {
        let destination = route.destination;
        DELEGATED_BITS.contains(&destination.bits()) && is_global(&destination.address())
    });
    rejects.filter_map(move |route| {
        let mut candidates = present.clone();
        let earlier = before.get(&route.destination).into_iter().flatten();
        candidates.extend(
            earlier
                .filter(|name| is_there(config, observed, name))
                .cloned(),
        );
        let delegation = owner(config, observed, route, &candidates)?;
        Some((route.destination, delegation))
    })
}

/// Whether an interface exists, and the configuration does not list the prefixes of its tunnel.
fn is_there(config: &Config, observed: &Observed, name: &IfName) -> bool {
    let tunnel = config.tunnels.iter().find(|tunnel| tunnel.name == *name);
    observed.links.by_name(name).is_some() && tunnel.is_none_or(may_have_delegation)
}

/// Whose the prefix of a route is; `None`: not of a tunnel that follows its prefixes.
fn owner(
    config: &Config,
    observed: &Observed,
    route: &RejectRoute,
    candidates: &BTreeSet<IfName>,
) -> Option<Delegation> {
    let follows = |name: &IfName| {
        let mut tunnels = config.tunnels.iter();
        tunnels.any(|tunnel| {
            tunnel.name == *name && tunnel.follows.prefixes == PrefixSource::Delegated
        })
    };
    let by_source = observed.source_routes.iter();
    let is_for_it = |source: Prefix| {
        // Of a prefix that no DHCP client has got, a route for a part shows nothing.
        let may_be_part = route.is_by_dhcp || source.bits() <= route.destination.bits();
        may_be_part && source.overlaps(route.destination)
    };
    let by_source = by_source.filter(|other| is_for_it(other.source));
    let leading: BTreeSet<_> = by_source
        .filter_map(|route| observed.links.by_index(route.index))
        .map(|link| link.name.clone())
        .collect();
    let possible = match leading.is_empty() {
        false => leading,
        true if route.is_by_dhcp => candidates.clone(),
        true => return None,
    };
    match possible.first() {
        Some(only) if possible.len() == 1 => follows(only).then(|| Delegation::Of(only.clone())),
        _ => possible
            .iter()
            .any(follows)
            .then_some(Delegation::Unclear(possible)),
    }
}

/// The interfaces by which a DHCP client may get a prefix: uplinks, and tunnels whose prefixes the configuration does not
/// list.
fn candidates(config: &Config, observed: &Observed) -> BTreeSet<IfName> {
    let tunnel = |name: &IfName| config.tunnels.iter().find(|tunnel| tunnel.name == *name);
    let may_have = |link: &&Link| match (tunnel(&link.name), &config.uplinks) {
        (Some(tunnel), _) => may_have_delegation(tunnel),
        (None, Some(uplinks)) => uplinks.contains(&link.name),
        (None, None) => link.is_exit,
    };
    let links = observed.links.iter().filter(may_have);
    links.map(|link| link.name.clone()).collect()
}

const fn may_have_delegation(tunnel: &Tunnel) -> bool {
    matches!(tunnel.kind, Kind::Interface | Kind::Command { .. })
        && matches!(
            tunnel.follows.prefixes,
            PrefixSource::Delegated | PrefixSource::Unknown
        )
}

/// The prefixes of the networks on the link of an interface, each with the delegated prefix that contains it.
pub fn prefixes_of(observed: &Observed, interface: &Link) -> impl Iterator<Item = Prefix> {
    let on_link = observed.on_link.iter().filter(move |route| {
        let destination = route.destination;
        route.index == interface.index
            && *DELEGATED_BITS.start() <= destination.bits()
            && destination.bits() < 128
            && is_global(&destination.address())
    });
    on_link.map(|route| {
        let rejects = observed.rejects.iter().map(|reject| reject.destination);
        let around = rejects.filter(|delegated| {
            DELEGATED_BITS.contains(&delegated.bits())
                && delegated.bits() <= route.destination.bits()
                && delegated.overlaps(route.destination)
        });
        let nearest = around.max_by_key(|delegated| delegated.bits());
        nearest.unwrap_or(route.destination)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::parse,
        routing::{connected::ConnectedRoute, observed::SourceRoute},
        types::{IfIndex, Mtu},
    };

    /// One delegation, and whose it is: `net0`, `net1` and `he` are the interfaces.
    struct Case {
        name: &'static str,
        /// Lines of `net1` and of `he`.
        lines: [&'static str; 2],
        uplinks: &'static str,
        exits: &'static [&'static str],
        reject: (&'static str, bool),
        /// Source and interface.
        source_routes: &'static [(&'static str, &'static str)],
        expected: Option<Result<&'static str, &'static [&'static str]>>,
    }

    const AUTO: &str = "prefixes = \"auto\"";
    const BY_DHCP: (&str, bool) = ("2001:db8:100::/56", true);
    const INDICES: [(&str, u32); 4] = [("lan0", 5), ("net0", 2), ("net1", 3), ("he", 4)];

    const CASE: Case = Case {
        name: "",
        lines: [AUTO, "prefixes = []"],
        uplinks: "",
        exits: &[],
        reject: BY_DHCP,
        source_routes: &[],
        expected: Some(Ok("net1")),
    };

    fn index(name: &str) -> IfIndex {
        IfIndex(INDICES.iter().find(|(other, _)| *other == name).unwrap().1)
    }

    fn observed(exits: &[&str]) -> Observed {
        let links = INDICES.iter().map(|(name, index)| Link {
            is_exit: exits.contains(name),
            ..Link::up(IfIndex(*index), name.parse().unwrap(), Mtu(1500))
        });
        Observed {
            links: links.collect(),
            ..Observed::default()
        }
    }

    fn config(uplinks: &str, [net1, he]: [&str; 2]) -> Config {
        let text = format!(
            "{uplinks}\n[[link]]\nname = \"net1\"\nkind = \"interface\"\n{net1}\n\
             [[tunnel]]\nname = \"he\"\nkind = \"interface\"\naddress = \"2001:db8:e::2\"\n{he}\n"
        );
        parse("f", &text).unwrap()
    }

    #[test]
    fn a_prefix_is_of_the_only_interface_that_may_have_got_it() {
        for case in [
            Case {
                name: "one link",
                ..CASE
            },
            Case {
                name: "an uplink beside it",
                exits: &["net0"],
                expected: Some(Err(&["net0", "net1"])),
                ..CASE
            },
            Case {
                name: "an uplink that the file names",
                uplinks: "uplinks = [\"net0\"]",
                expected: Some(Err(&["net0", "net1"])),
                ..CASE
            },
            Case {
                name: "an exit that is no uplink by the file",
                uplinks: "uplinks = [\"lan0\"]",
                exits: &["net0"],
                expected: Some(Err(&["lan0", "net1"])),
                ..CASE
            },
            Case {
                name: "a tunnel without a word about prefixes",
                lines: [AUTO, ""],
                expected: Some(Err(&["he", "net1"])),
                ..CASE
            },
            Case {
                name: "two links",
                lines: [AUTO, AUTO],
                expected: Some(Err(&["he", "net1"])),
                ..CASE
            },
            Case {
                name: "two links, and a route shows which",
                lines: [AUTO, AUTO],
                source_routes: &[("2001:db8:100::/56", "he"), ("2001:db8:200::/56", "net1")],
                expected: Some(Ok("he")),
                ..CASE
            },
            Case {
                name: "a route of each",
                lines: [AUTO, AUTO],
                source_routes: &[
                    ("2001:db8:100::/57", "he"),
                    ("2001:db8:100:80::/57", "net1"),
                ],
                expected: Some(Err(&["he", "net1"])),
                ..CASE
            },
            Case {
                name: "a route by the uplink",
                source_routes: &[("2001:db8:100::/56", "net0")],
                expected: None,
                ..CASE
            },
            Case {
                name: "not by a DHCP client",
                reject: ("2001:db8:100::/56", false),
                expected: None,
                ..CASE
            },
            Case {
                name: "not by a DHCP client, with a route for a part",
                reject: ("2001:db8:100::/56", false),
                source_routes: &[("2001:db8:100::/64", "net1")],
                expected: None,
                ..CASE
            },
            Case {
                name: "not by a DHCP client, with a route",
                reject: ("2001:db8:100::/56", false),
                source_routes: &[("2001:db8:100::/56", "net1")],
                ..CASE
            },
            Case {
                name: "a unique local prefix",
                reject: ("fd00:1::/48", true),
                expected: None,
                ..CASE
            },
            Case {
                name: "longer than a network",
                reject: ("2001:db8:100::/72", true),
                expected: None,
                ..CASE
            },
            Case {
                name: "nobody follows",
                lines: ["prefixes = \"2001:db8:77::/48\"", "prefixes = []"],
                expected: None,
                ..CASE
            },
        ] {
            let mut observed = observed(case.exits);
            observed.rejects = vec![RejectRoute {
                destination: case.reject.0.parse().unwrap(),
                is_by_dhcp: case.reject.1,
            }];
            let routes = case.source_routes.iter().map(|(source, name)| SourceRoute {
                source: source.parse().unwrap(),
                index: index(name),
            });
            observed.source_routes = routes.collect();
            let config = config(case.uplinks, case.lines);
            let found: Vec<_> = delegations(&config, &observed, &BTreeMap::new()).collect();
            let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
            let expected = case.expected.map(|expected| match expected {
                Ok(name) => Delegation::Of(name.parse().unwrap()),
                Err(possible) => Delegation::Unclear(names(possible)),
            });
            let found: Vec<_> = found
                .into_iter()
                .map(|(_, delegation)| delegation)
                .collect();
            assert_eq!(found, Vec::from_iter(expected), "{}", case.name);
        }
    }

    #[test]
    fn a_network_brings_the_delegated_prefix_around_it() {
        let mut observed = observed(&[]);
        let on_link = |name: &str, destination: &str| ConnectedRoute {
            destination: destination.parse().unwrap(),
            index: index(name),
        };
        observed.on_link = vec![
            on_link("lan0", "2001:db8:100:1::/64"),
            on_link("lan0", "2001:db8:300::/64"),
            on_link("lan0", "fe80::/64"),
            on_link("lan0", "fd00::/64"),
            on_link("lan0", "2001:db8:400::1/128"),
            on_link("net0", "2001:db8:500::/64"),
        ];
        observed.rejects = [
            "2001:db8::/32",
            "2001:db8:100::/56",
            "2000::/15",
            "2001:db8:500::/56",
        ]
        .map(|destination| RejectRoute {
            destination: destination.parse().unwrap(),
            is_by_dhcp: false,
        })
        .into();
        let lan = observed.links.by_index(index("lan0")).unwrap();
        let found: Vec<_> = prefixes_of(&observed, lan).map(|p| p.to_string()).collect();
        assert_eq!(found, ["2001:db8:100::/56", "2001:db8::/32"]);
    }
}
