//! What the kernel programs should know: interfaces, tunnels, sources.
//!
//! Names stand here where the maps have slot numbers: which slot is whose is kept with the pinned
//! counters, and [`slots::assign`] decides it.

pub mod slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use sixxs_common::layout::{ANY_UPLINK, GROUPS_ONLY, SEVERAL_GROUPS_ONLY, SHORTEST_ROUTED};

use crate::{
    config::{Config, OnLeak, Tunnel},
    link::{Candidate, Link, LinkLayer, Links},
    types::{IfIndex, IfName, Mtu, Prefix},
};

/// What the programs should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enforcement {
    /// Interfaces that should have programs, by name.
    pub interfaces: BTreeMap<IfName, Interface>,
    /// Where leaks go, by the tunnel's name.
    pub tunnels: BTreeMap<IfName, Outlet>,
    /// Sources, the longest prefixes first.
    pub sources: Vec<Source>,
    /// Destinations reached without a tunnel.
    pub directs: Vec<(IfName, Prefix)>,
    /// Interfaces to which programs are attached by filters, also where the kernel has something newer: their
    /// tunnels are of our own making, and very many.
    pub by_filters: BTreeSet<IfName>,
    /// What cannot be enforced, in words.
    pub problems: Vec<String>,
}

/// More tunnels of our own making than this are very many: for each TCX link the kernel waits for a grace
/// period of RCU, of some 10 ms, twice for each tunnel, and for a filter it does not.
const MANY: usize = 16;

/// Which programs an interface gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Egress only.
    Uplink,
    /// Egress and ingress.
    Tunnel,
    /// Egress only; no uplink, but made so lately that it may be about to become one, and guarded as
    /// if it were.
    Newcomer,
    /// Egress only, and not in use: the program is there for the day that it becomes an uplink.
    Candidate,
}

/// Programs wait at so many interfaces that are no uplinks, at most: each one costs the kernel a
/// few milliseconds to attach.
const CANDIDATES: usize = 64;

/// An interface that should have programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: IfIndex,
    /// What it is.
    pub role: Role,
    /// Its own link-layer address; `None`: it has no link layer.
    pub mac: Option<[u8; 6]>,
    /// Our address in it, from which nothing may come in; `None`: there is none, or what others make
    /// of the interface is theirs to say.
    pub own: Option<Ipv6Addr>,
}

/// Where leaks of a tunnel go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlet {
    /// The tunnel's interface, if it is there and up.
    pub index: Option<IfIndex>,
    /// What fits into it.
    pub mtu: Mtu,
    /// What becomes of leaks.
    pub on_leak: OnLeak,
    /// The interface's own link-layer address; `None`: it has no link layer.
    pub mac: Option<[u8; 6]>,
    /// Next hop, on an interface with a link layer.
    pub gateway: Option<Ipv6Addr>,
    /// Who sends Packet Too Big.
    pub router: Ipv6Addr,
}

/// Whose packets those with a source in this prefix are. Packets to it come here by the same tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The prefix.
    pub prefix: Prefix,
    /// The tunnel.
    pub tunnel: IfName,
    /// Which uplinks have this very address themselves.
    pub home: Home,
    /// Whether it is out of a prefix that is routed by the tunnel: from such an address the provider of an
    /// uplink takes nothing, whether the uplink has it or not.
    pub is_routed: bool,
    /// Whether it is the tunnel's far end: packets to it leave by the tunnel.
    pub is_far_end: bool,
}

impl Source {
    /// [`layout::Source::home`](sixxs_common::layout::Source::home).
    #[must_use]
    pub const fn home_number(&self) -> u32 {
        match (self.home, self.is_routed) {
            (Home::Nowhere, _) => 0,
            (Home::Uplink(index), false) => index.0,
            (Home::Uplink(index), true) => index.0 | GROUPS_ONLY,
            (Home::Several, false) => ANY_UPLINK,
            (Home::Several, true) => SEVERAL_GROUPS_ONLY,
        }
    }
}

/// Uplinks by which a source may leave although it is a tunnel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// None.
    Nowhere,
    /// This one.
    Uplink(IfIndex),
    /// More than one.
    Several,
}

impl Enforcement {
    /// For the tunnels that `wanted` accepts, on a host with these interfaces.
    #[must_use]
    pub fn new(config: &Config, links: &Links, wanted: impl Fn(&Tunnel) -> bool) -> Self {
        let mut all = Self::default();
        let native = config.tunnels.iter().filter(|t| t.kind.is_native());
        let native: BTreeSet<_> = native.map(|tunnel| tunnel.name.clone()).collect();
        if native.len() > MANY {
            all.by_filters = native;
        }
        let uplinks = uplinks(config, links);
        for uplink in &uplinks {
            all.add_interface(uplink, Role::Uplink, None);
        }
        for name in config.uplinks.iter().flatten() {
            if links.by_name(name).is_none() {
                all.problems.push(format!("uplink {name} does not exist"));
            }
        }
        if config.uplinks.is_none() && !has_exit(links) {
            all.problems.push(
                "no route in any table leads to the world: there is no uplink to catch leaks at"
                    .to_owned(),
            );
        }
        if config.uplinks.is_none() {
            all.add_candidates(config, links);
        }
        for tunnel in config.tunnels.iter().filter(|tunnel| wanted(tunnel)) {
            let link = links.by_name(&tunnel.name);
            if let Some(link) = link {
                all.add_interface(link, Role::Tunnel, own(tunnel));
            }
            let outlet = all.outlet(tunnel, link, config.on_leak);
            all.tunnels.insert(tunnel.name.clone(), outlet);
            all.directs.extend(
                tunnel
                    .direct
                    .iter()
                    .map(|direct| (tunnel.name.clone(), *direct)),
            );
            all.sources.extend(sources(tunnel, &uplinks));
        }
        all.sources
            .sort_by_key(|source| (std::cmp::Reverse(source.prefix.bits()), source.prefix));
        all
    }

    fn add_interface(&mut self, link: &Link, role: Role, own: Option<Ipv6Addr>) {
        let mac = match link.layer {
            LinkLayer::None => None,
            LinkLayer::Ethernet(mac) => Some(mac),
            LinkLayer::Unsupported(kind) => {
                self.problems.push(format!(
                    "interface {} has a link layer that the programs cannot read (ARPHRD {kind})",
                    link.name
                ));
                return;
            }
        };
        let interface = Interface {
            index: link.index,
            role,
            mac,
            own,
        };
        self.interfaces.insert(link.name.clone(), interface);
    }

    /// Interfaces that may become uplinks, the new ones first.
    fn add_candidates(&mut self, config: &Config, links: &Links) {
        let is_tunnel = |link: &Link| config.tunnels.iter().any(|tunnel| tunnel.name == link.name);
        let of = |candidate| move |link: &&Link| link.candidate == candidate;
        let fresh = links.iter().filter(of(Candidate::Fresh));
        let settled = links.iter().filter(of(Candidate::Settled));
        let candidates = fresh.chain(settled).filter(|link| {
            // What the programs cannot read is a problem once it is an uplink.
            let is_readable = !matches!(link.layer, LinkLayer::Unsupported(_));
            is_readable && !link.is_exit && !is_tunnel(link)
        });
        for link in candidates.take(CANDIDATES) {
            let role = match link.candidate {
                Candidate::Fresh => Role::Newcomer,
                Candidate::Settled | Candidate::Never => Role::Candidate,
            };
            self.add_interface(link, role, None);
        }
    }

    fn outlet(&mut self, tunnel: &Tunnel, link: Option<&Link>, on_leak: OnLeak) -> Outlet {
        let mac = match link.map(|link| link.layer) {
            Some(LinkLayer::Ethernet(mac)) => Some(mac),
            _ => None,
        };
        let mut index = link.filter(|link| link.up).map(|link| link.index);
        if mac.is_some() && tunnel.gateway.is_none() {
            self.problems.push(format!(
                "interface {} has a link layer: leaks cannot be redirected into it without `gateway`",
                tunnel.name
            ));
            index = None;
        }
        let own = tunnel.sources().map(Prefix::address).next();
        let interface_mtu = link.map_or(Mtu::MINIMUM, |link| link.mtu);
        Outlet {
            index,
            mtu: tunnel
                .mtu
                .map_or(interface_mtu, |mtu| mtu.min(interface_mtu)),
            on_leak,
            mac,
            gateway: tunnel.gateway,
            router: tunnel
                .peer
                .or(tunnel.gateway)
                .or(own)
                .unwrap_or(Ipv6Addr::UNSPECIFIED),
        }
    }
}

/// The address from which nothing may come in by a tunnel. Without a peer we send Packet Too Big from
/// it ourselves.
fn own(tunnel: &Tunnel) -> Option<Ipv6Addr> {
    let is_certain = tunnel.kind.is_native() && tunnel.peer.is_some();
    let address = tunnel.addresses.first().map(|a| a.address);
    address.filter(|_| is_certain)
}

/// Whether packets can leave for the world at all. Tunnels count: each may be a native uplink itself, and
/// then all of them are guarded.
#[must_use]
pub fn has_exit(links: &Links) -> bool {
    links.iter().any(|link| link.is_exit)
}

/// The native uplinks that are there: those named, or else every exit that is no tunnel of ours,
/// wanted now or not.
#[must_use]
pub fn uplinks<'a>(config: &Config, links: &'a Links) -> Vec<&'a Link> {
    match &config.uplinks {
        Some(names) => names
            .iter()
            .filter_map(|name| links.by_name(name))
            .collect(),
        None => links
            .iter()
            .filter(|link| link.is_exit)
            .filter(|link| config.tunnels.iter().all(|tunnel| tunnel.name != link.name))
            .collect(),
    }
}

/// A tunnel's addresses and prefixes, and what lies within one of them: each uplink's address, and the
/// tunnel's far end.
fn sources(tunnel: &Tunnel, uplinks: &[&Link]) -> Vec<Source> {
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
        .filter(|far_end| !homes.contains_key(far_end))
        .collect();
    // A shorter prefix says "all sources", those of the uplinks among them.
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
    let source = |prefix, home, is_far_end| Source {
        prefix,
        tunnel: tunnel.name.clone(),
        home,
        is_routed: is_routed(prefix),
        is_far_end,
    };
    let here = homes
        .into_iter()
        .map(|(prefix, home)| source(prefix, home, false));
    let there = far_ends
        .into_iter()
        .map(|prefix| source(prefix, Home::Nowhere, true));
    here.chain(there).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn link(index: u32, name: &str, addresses: &[&str]) -> Link {
        Link {
            index: IfIndex(index),
            name: name.parse().unwrap(),
            up: true,
            mtu: Mtu(1500),
            layer: LinkLayer::Ethernet([2, 0, 0, 0, 0, 9]),
            carrier: true,
            unusable: BTreeMap::new(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            is_exit: false,
            candidate: Candidate::Never,
        }
    }

    fn config(text: &str) -> Config {
        config::parse("test", text).unwrap()
    }

    const ONE: &str = r#"
        [[tunnel]]
        name = "sixxs0"
        kind = "interface"
        address = "2001:db8:a::2/64"
        prefixes = ["2001:db8:aa::/48"]
        mtu = 1400
        peer = "2001:db8:a::1"
    "#;

    #[test]
    fn very_many_tunnels_of_our_own_have_filters() {
        let text = |count: usize| -> String {
            let tunnel = |n| {
                format!(
                    "[[tunnel]]\nname = \"own{n}\"\nkind = \"6in4\"\nremote4 = \"192.0.2.{n}\"\n\
                     address = \"2001:db8:{n}::2/64\"\npeer = \"2001:db8:{n}::1\"\n"
                )
            };
            ONE.to_owned() + &(1..=count).map(tunnel).collect::<String>()
        };
        for (count, expected) in [(0, 0), (MANY, 0), (MANY + 1, MANY + 1)] {
            let found = Enforcement::new(&config(&text(count)), &Links::default(), |_| true);
            assert_eq!(found.by_filters.len(), expected, "{count}");
            // Those of others are as many as they are.
            assert!(
                found
                    .by_filters
                    .iter()
                    .all(|name| name.as_str() != "sixxs0")
            );
        }
    }

    #[test]
    fn exits_are_uplinks() {
        let mut net0 = link(2, "net0", &[]);
        net0.is_exit = true;
        let mut tunnel = link(3, "sixxs0", &[]);
        tunnel.is_exit = true;
        let links: Links = [net0, tunnel, link(4, "lan0", &[])].into_iter().collect();
        let found = Enforcement::new(&config(ONE), &links, |_| true).interfaces;
        let roles: Vec<_> = found
            .iter()
            .map(|(name, i)| (name.as_str(), i.role))
            .collect();
        assert_eq!(roles, [("net0", Role::Uplink), ("sixxs0", Role::Tunnel)]);
        // The far end may be in the prefix; it is not here.
        let with = ONE.replace("2001:db8:a::1", "2001:db8:aa::1");
        let all = Enforcement::new(&config(&with), &links, |_| true);
        let far_ends = all.sources.iter().filter(|source| source.is_far_end);
        let far_ends: Vec<_> = far_ends.map(|source| source.prefix.to_string()).collect();
        assert_eq!(far_ends, ["2001:db8:aa::1"]);
        // A tunnel that is stopped does not turn into an uplink.
        let stopped = Enforcement::new(&config(ONE), &links, |_| false);
        assert_eq!(stopped.interfaces.len(), 1);
        assert_eq!(stopped.sources, vec![]);
    }

    #[test]
    fn what_may_become_an_uplink_has_a_program_before() {
        let candidate = |index, name, candidate| Link {
            candidate,
            ..link(index, name, &[])
        };
        let mut net0 = candidate(2, "net0", Candidate::Settled);
        net0.is_exit = true;
        let mut infiniband = candidate(6, "ib0", Candidate::Fresh);
        infiniband.layer = LinkLayer::Unsupported(32);
        let links: Links = [
            net0,
            candidate(3, "sixxs0", Candidate::Fresh),
            candidate(4, "lan0", Candidate::Settled),
            candidate(5, "wwan0", Candidate::Fresh),
            infiniband,
            candidate(7, "lo", Candidate::Never),
        ]
        .into_iter()
        .collect();
        let roles = |config: &Config| {
            let found = Enforcement::new(config, &links, |_| false);
            assert!(found.problems.is_empty(), "{:?}", found.problems);
            let interfaces = found.interfaces.into_iter();
            let roles = interfaces.map(|(name, interface)| (name.to_string(), interface.role));
            roles.collect::<Vec<_>>()
        };
        let expected = [
            ("lan0", Role::Candidate),
            ("net0", Role::Uplink),
            ("wwan0", Role::Newcomer),
        ];
        assert_eq!(
            roles(&config(ONE)),
            expected.map(|(name, role)| (name.to_owned(), role))
        );
        // Where uplinks are named, nothing else is touched.
        let named = config(&format!("uplinks = [\"net0\"]\n{ONE}"));
        assert_eq!(roles(&named), [("net0".to_owned(), Role::Uplink)]);
    }

    #[test]
    fn an_address_that_an_uplink_has_too_is_at_home_there() {
        let config = config(&format!("uplinks = [\"net0\", \"net1\"]\n{ONE}"));
        let links: Links = [
            link(
                2,
                "net0",
                &["2001:db8:aa:2::1", "2001:db8:1::1", "2001:db8:aa:3::1"],
            ),
            link(5, "net1", &["2001:db8:aa:3::1"]),
        ]
        .into_iter()
        .collect();
        let all = Enforcement::new(&config, &links, |_| true);
        let homes: Vec<_> = all
            .sources
            .iter()
            .map(|source| (source.prefix.to_string(), source.home))
            .collect();
        assert_eq!(
            homes,
            [
                ("2001:db8:a::2".to_owned(), Home::Nowhere),
                ("2001:db8:aa:2::1".to_owned(), Home::Uplink(IfIndex(2))),
                ("2001:db8:aa:3::1".to_owned(), Home::Several),
                ("2001:db8:aa::/48".to_owned(), Home::Nowhere),
            ]
        );
        // What a broker routes here is no provider's, on whatever wire it is.
        let routed: Vec<_> = all.sources.iter().map(|source| source.is_routed).collect();
        assert_eq!(routed, [false, true, true, true]);
        let numbers: Vec<_> = all.sources.iter().map(Source::home_number).collect();
        assert_eq!(numbers, [0, 2 | GROUPS_ONLY, SEVERAL_GROUPS_ONLY, 0]);
    }

    #[test]
    fn an_outlet_needs_an_interface_that_is_up_and_a_gateway_on_a_link_layer() {
        let name = "sixxs0".parse().unwrap();
        let outlet = |text: &str, links: Vec<Link>| {
            let all = Enforcement::new(&config(text), &links.into_iter().collect(), |_| true);
            (all.tunnels[&name].clone(), all.problems)
        };
        let (absent, problems) = outlet(ONE, vec![]);
        assert_eq!((absent.index, absent.mtu), (None, Mtu(1280)));
        assert!(problems.len() == 1 && problems[0].contains("no uplink"));

        let (without, problems) = outlet(ONE, vec![link(3, "sixxs0", &[])]);
        assert_eq!(without.index, None);
        assert!(problems.iter().any(|problem| problem.contains("gateway")));

        let with = format!("{ONE}\ngateway = \"fe80::1\"");
        let (there, _) = outlet(&with, vec![link(3, "sixxs0", &[])]);
        assert_eq!((there.index, there.mtu), (Some(IfIndex(3)), Mtu(1400)));
        assert_eq!(there.router.to_string(), "2001:db8:a::1");

        let mut downed = link(3, "sixxs0", &[]);
        downed.up = false;
        assert_eq!(outlet(&with, vec![downed]).0.index, None);
    }
}
