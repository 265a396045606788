//! The desired state of the kernel programs' maps: interfaces, tunnels, sources.
//!
//! Here interfaces and tunnels have names; in the maps they have slot numbers. The pinned maps store which
//! slot belongs to which name, and [`slots::assign`] assigns them.

pub mod endpoints;
pub mod outer_paths;
pub mod screening;
pub mod slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use screening::{Screening, XdpWish};
use sixxs_common::layout::{
    self, ANY_UPLINK, ANY_UPLINK_MULTICAST_ONLY, MULTICAST_ONLY, SHORTEST_ROUTED,
};

use crate::{
    config::{AnswerEcho, Config, Kind, OnLeak, Tunnel},
    endpoint::Endpoint,
    link::{Candidate, Link, LinkLayer, Links},
    tunnel::OuterPath,
    types::{IfIndex, IfName, Mtu, Prefix},
};

/// The desired state of the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enforcement {
    /// Interfaces that should have programs, by name.
    pub interfaces: BTreeMap<IfName, Interface>,
    /// Destinations of leaks, by the name of the tunnel or the group.
    pub tunnels: BTreeMap<IfName, RedirectTarget>,
    /// Whether the programs answer echo requests to the tunnels' own addresses.
    pub answers_echo: bool,
    /// Outer paths of the tunnels that the programs carry.
    pub outer_paths: BTreeMap<IfName, OuterPath>,
    /// Endpoints of tunnels, whose outer packets are counted at the uplinks.
    pub endpoints: BTreeMap<Endpoint, IfName>,
    /// What the programs screen where outer packets arrive.
    pub screening: Screening,
    /// Sources, the longest prefixes first.
    pub sources: Vec<Source>,
    /// Destinations that are reached without the tunnel.
    pub directs: Vec<(IfName, Prefix)>,
    /// Interfaces to which programs are attached by clsact filters even if the kernel supports TCX: native
    /// tunnels, if there are very many.
    pub by_filters: BTreeSet<IfName>,
    /// Problems, in words.
    pub problems: Vec<String>,
}

/// More native tunnels than this are very many. For each TCX link the kernel waits for an RCU grace period of
/// about 10 ms, twice per tunnel; for a filter it does not.
const MANY_TUNNELS: usize = 16;

/// The role of an interface, which determines its programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Egress; also ingress, if some tunnel has an endpoint.
    Uplink,
    /// Egress and ingress.
    Tunnel,
    /// Egress only. It is no uplink, but appeared so recently that it may become one, so it is guarded like
    /// an uplink.
    Newcomer,
    /// Egress only, and inactive: the program is attached in case the interface becomes an uplink.
    Candidate,
    /// Egress and ingress; inactive at egress, like a candidate. It is no uplink, but leads to the broker of a tunnel
    /// that the programs carry.
    Underlay,
}

/// The maximum number of interfaces with programs that are no uplinks: each one takes the kernel a few
/// milliseconds to attach.
const MAX_CANDIDATES: usize = 64;

/// An interface that should have programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: IfIndex,
    /// Its role.
    pub role: Role,
    /// Its own link-layer address; `None`: it has no link layer.
    pub mac: Option<[u8; 6]>,
    /// The local inner address. Packets that arrive with this source are dropped. `None`: there is none, or
    /// another program manages the interface.
    pub own: Option<Ipv6Addr>,
    /// Whether the programs see the outer packets that arrive there: it leads to the broker of a tunnel that they
    /// carry, or it is an uplink and some tunnel has an endpoint.
    pub is_underlay: bool,
    /// Whether it is to have the XDP program; `None`: there is nothing to screen.
    pub xdp: Option<XdpWish>,
}

/// The destination for leaks of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectTarget {
    /// The tunnel's interface, if it is there and up.
    pub index: Option<IfIndex>,
    /// The largest packet that fits.
    pub mtu: Mtu,
    /// The action for leaks.
    pub on_leak: OnLeak,
    /// The interface's own link-layer address; `None`: it has no link layer.
    pub mac: Option<[u8; 6]>,
    /// Next hop, for an interface with a link layer.
    pub gateway: Option<Ipv6Addr>,
    /// The source address of Packet Too Big.
    pub router: Ipv6Addr,
}

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
            SourceKind::OnLink => layout::Source::far_end(slot),
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

impl Enforcement {
    /// For the tunnels that `wanted` accepts, on a host with these interfaces.
    #[must_use]
    pub fn new(config: &Config, links: &Links, wanted: impl Fn(&Tunnel) -> bool) -> Self {
        let mut all = Self {
            answers_echo: config.answer_echo == AnswerEcho::Kernel,
            ..Self::default()
        };
        let native = config.tunnels.iter().filter(|t| t.kind.is_native());
        let native: BTreeSet<_> = native.map(|tunnel| tunnel.name.clone()).collect();
        if native.len() > MANY_TUNNELS {
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
        if config.uplinks.is_none() && !has_exit(config, links) {
            all.problems.push(
                "no route in any table leads to the internet: there is no uplink to catch leaks at"
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
            let target = all.redirect_target(tunnel, link, config.on_leak);
            all.tunnels.insert(tunnel.name.clone(), target);
            all.directs.extend(
                tunnel
                    .direct
                    .iter()
                    .map(|direct| (tunnel.name.clone(), *direct)),
            );
            all.sources.extend(sources(&tunnel.name, tunnel, &uplinks));
        }
        all.add_groups(config, &uplinks, wanted);
        all.sources
            .sort_by_key(|source| (std::cmp::Reverse(source.prefix.bits()), source.prefix));
        all
    }

    /// Adds groups: each has the destination of its active link.
    fn add_groups(&mut self, config: &Config, uplinks: &[&Link], wanted: impl Fn(&Tunnel) -> bool) {
        for (group, tunnel) in config.groups_as_tunnels() {
            if !config.has_link(group, &wanted) {
                continue;
            }
            let nowhere = RedirectTarget {
                index: None,
                mtu: Mtu::MINIMUM,
                on_leak: config.on_leak,
                mac: None,
                gateway: None,
                router: Ipv6Addr::UNSPECIFIED,
            };
            // A link that is stopped has none.
            let target = self.tunnels.get(&group.active).cloned();
            let name = &group.name;
            self.tunnels.insert(name.clone(), target.unwrap_or(nowhere));
            let directs = group.direct.iter();
            self.directs
                .extend(directs.map(|direct| (name.clone(), *direct)));
            let sources = sources(name, &tunnel, uplinks).into_iter();
            self.sources
                .extend(sources.filter_map(|source| match source.kind {
                    SourceKind::Own => Some(Source {
                        kind: SourceKind::OfGroup,
                        ..source
                    }),
                    // What is on one link is none of the group's.
                    SourceKind::OnLink | SourceKind::OfGroup => None,
                }));
        }
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
            is_underlay: role == Role::Underlay,
            xdp: None,
        };
        self.interfaces.insert(link.name.clone(), interface);
    }

    /// Adds interfaces that may become uplinks, new ones first.
    fn add_candidates(&mut self, config: &Config, links: &Links) {
        let is_tunnel = |link: &Link| config.tunnels.iter().any(|tunnel| tunnel.name == link.name);
        let of = |candidate| move |link: &&Link| link.candidate == candidate;
        let fresh = links.iter().filter(of(Candidate::Fresh));
        let settled = links.iter().filter(of(Candidate::Settled));
        let candidates = fresh.chain(settled).filter(|link| {
            // An unsupported link layer is reported only if the interface is an uplink.
            let is_readable = !matches!(link.layer, LinkLayer::Unsupported(_));
            is_readable && !link.is_exit && !is_tunnel(link)
        });
        for link in candidates.take(MAX_CANDIDATES) {
            let role = match link.candidate {
                Candidate::Fresh => Role::Newcomer,
                Candidate::Settled | Candidate::Never => Role::Candidate,
            };
            self.add_interface(link, role, None);
        }
    }

    fn redirect_target(
        &mut self,
        tunnel: &Tunnel,
        link: Option<&Link>,
        on_leak: OnLeak,
    ) -> RedirectTarget {
        let mac = match link.map(|link| link.layer) {
            Some(LinkLayer::Ethernet(mac)) => Some(mac),
            _ => None,
        };
        let mut index = link.filter(|link| link.up).map(|link| link.index);
        if mac.is_some() && tunnel.gateway.is_none() {
            let name = &tunnel.name;
            self.problems.push(if tunnel.follows.gateway {
                format!(
                    "no router is known at {name}: leaks cannot be redirected into it until a default route there has \
                     a next hop, in any table"
                )
            } else {
                format!(
                    "interface {name} has a link layer: leaks cannot be redirected into it without `gateway`"
                )
            });
            index = None;
        }
        let own = tunnel.sources().map(Prefix::address).next();
        let interface_mtu = link.map_or(Mtu::MINIMUM, |link| link.mtu);
        RedirectTarget {
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

/// The source address that arriving packets of a tunnel must not have. `None` without a peer: then this host
/// itself sends Packet Too Big from that address.
fn own(tunnel: &Tunnel) -> Option<Ipv6Addr> {
    let is_certain = tunnel.kind.is_native() && tunnel.peer.is_some();
    let address = tunnel.addresses.first().map(|a| a.address);
    address.filter(|_| is_certain)
}

/// Whether there is any exit. Tunnels count: a tunnel may itself be a native uplink, and then all tunnels
/// are guarded. The only default route of such a link may be that of sixxs.
#[must_use]
pub fn has_exit(config: &Config, links: &Links) -> bool {
    let is_native_link = |tunnel: &Tunnel| {
        let link = links.by_name(&tunnel.name);
        let is_wired = link.is_some_and(|link| matches!(link.layer, LinkLayer::Ethernet(_)));
        tunnel.kind == Kind::Interface && is_wired
    };
    links.iter().any(|link| link.is_exit) || config.tunnels.iter().any(is_native_link)
}

/// The existing native uplinks: those named in the configuration, or otherwise every exit that is not a
/// configured tunnel, started or not.
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

/// A tunnel's addresses and prefixes, the networks on its link, and the addresses within them that need their own entry:
/// those of uplinks, and the tunnel's far end. They get this name.
fn sources(name: &IfName, tunnel: &Tunnel, uplinks: &[&Link]) -> Vec<Source> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn link(index: u32, name: &str, addresses: &[&str]) -> Link {
        Link {
            layer: LinkLayer::Ethernet([2, 0, 0, 0, 0, 9]),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ..Link::up(IfIndex(index), name.parse().unwrap(), Mtu(1500))
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
    fn many_native_tunnels_have_filters() {
        let text = |count: usize| -> String {
            let tunnel = |n| {
                format!(
                    "[[tunnel]]\nname = \"own{n}\"\nkind = \"6in4\"\nremote4 = \"192.0.2.{n}\"\n\
                     address = \"2001:db8:{n}::2/64\"\npeer = \"2001:db8:{n}::1\"\n"
                )
            };
            ONE.to_owned() + &(1..=count).map(tunnel).collect::<String>()
        };
        for (count, expected) in [
            (0, 0),
            (MANY_TUNNELS, 0),
            (MANY_TUNNELS + 1, MANY_TUNNELS + 1),
        ] {
            let found = Enforcement::new(&config(&text(count)), &Links::default(), |_| true);
            assert_eq!(found.by_filters.len(), expected, "{count}");
            // Only native tunnels count, not other interfaces.
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
        // The far end may be in the tunnel's prefix; it is not on this host.
        let with = ONE.replace("2001:db8:a::1", "2001:db8:aa::1");
        let all = Enforcement::new(&config(&with), &links, |_| true);
        let is_far_end = |source: &&Source| source.kind == SourceKind::OnLink;
        let far_ends = all.sources.iter().filter(is_far_end);
        let far_ends: Vec<_> = far_ends.map(|source| source.prefix.to_string()).collect();
        assert_eq!(far_ends, ["2001:db8:aa::1"]);
        // A stopped tunnel is not taken for an uplink.
        let stopped = Enforcement::new(&config(ONE), &links, |_| false);
        assert_eq!(stopped.interfaces.len(), 1);
        assert_eq!(stopped.sources, vec![]);
    }

    #[test]
    fn a_group_leads_to_its_active_link() {
        let text = format!(
            "{ONE}[[tunnel]]\nname = \"sixxs1\"\nkind = \"interface\"\naddress = \"2001:db8:b::2/64\"\n\
             peer = \"2001:db8:cc::1\"\n[[group]]\nlinks = [\"sixxs1\", \"sixxs0\"]\n\
             prefixes = [\"2001:db8:cc::/48\"]\n"
        );
        let mut config = config(&text);
        let on_tunnel = |index, name| Link {
            layer: LinkLayer::None,
            ..link(index, name, &[])
        };
        let links: Links = [
            link(2, "net0", &["2001:db8:cc:1::1"]),
            on_tunnel(3, "sixxs0"),
            on_tunnel(4, "sixxs1"),
        ]
        .into_iter()
        .collect();
        config.uplinks = Some(vec!["net0".parse().unwrap()]);
        let group: IfName = "group0".parse().unwrap();
        let mut all = Enforcement::new(&config, &links, |_| true);
        assert_eq!(all.tunnels[&group], all.tunnels[&config.tunnels[1].name]);
        assert_eq!(all.tunnels[&group].index, Some(IfIndex(4)));
        assert!(
            all.directs
                .contains(&(group.clone(), config.groups[0].prefixes[0]))
        );
        let of_group = all.sources.iter().filter(|source| source.tunnel == group);
        let entries: Vec<_> = of_group
            .map(|source| (source.prefix.to_string(), source.entry(9)))
            .collect();
        assert_eq!(
            entries,
            [
                (
                    "2001:db8:cc:1::1".to_owned(),
                    layout::Source::of_group(9, 128, 2 | MULTICAST_ONLY)
                ),
                (
                    "2001:db8:cc::/48".to_owned(),
                    layout::Source::of_group(9, 48, 0)
                ),
            ]
        );
        // Another link takes over: one entry changes.
        config.groups[0].active = "sixxs0".parse().unwrap();
        let other = Enforcement::new(&config, &links, |_| true);
        assert_eq!(other.tunnels[&group].index, Some(IfIndex(3)));
        all.tunnels = other.tunnels.clone();
        assert_eq!(all, other);
        // A link that is stopped leads nowhere; without any link there is no group.
        let stopped = Enforcement::new(&config, &links, |t| t.name.as_str() == "sixxs1");
        assert_eq!(stopped.tunnels[&group].index, None);
        let none = Enforcement::new(&config, &links, |_| false);
        assert!(none.tunnels.is_empty() && none.sources.is_empty());
    }

    #[test]
    fn candidates_have_a_program_in_advance() {
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
        // If the configuration names uplinks, no other interface is touched.
        let named = config(&format!("uplinks = [\"net0\"]\n{ONE}"));
        assert_eq!(roles(&named), [("net0".to_owned(), Role::Uplink)]);
    }

    #[test]
    fn an_address_that_an_uplink_has_too_may_leave_there() {
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
        // A prefix that a broker routes to this host belongs to no provider, whichever link has its
        // addresses.
        let routed: Vec<_> = all.sources.iter().map(|source| source.is_routed).collect();
        assert_eq!(routed, [false, true, true, true]);
        let numbers: Vec<_> = all.sources.iter().map(Source::home_number).collect();
        assert_eq!(
            numbers,
            [0, 2 | MULTICAST_ONLY, ANY_UPLINK_MULTICAST_ONLY, 0]
        );
    }

    #[test]
    fn a_redirect_needs_an_interface_that_is_up_and_a_gateway_on_a_link_layer() {
        let name = "sixxs0".parse().unwrap();
        let target = |text: &str, links: Vec<Link>| {
            let all = Enforcement::new(&config(text), &links.into_iter().collect(), |_| true);
            (all.tunnels[&name].clone(), all.problems)
        };
        let (absent, problems) = target(ONE, vec![]);
        assert_eq!((absent.index, absent.mtu), (None, Mtu(1280)));
        assert!(problems.len() == 1 && problems[0].contains("no uplink"));

        let (without, problems) = target(ONE, vec![link(3, "sixxs0", &[])]);
        assert_eq!(without.index, None);
        assert!(problems.iter().any(|problem| problem.contains("gateway")));

        let with = format!("{ONE}\ngateway = \"fe80::1\"");
        let (there, _) = target(&with, vec![link(3, "sixxs0", &[])]);
        assert_eq!((there.index, there.mtu), (Some(IfIndex(3)), Mtu(1400)));
        assert_eq!(there.router.to_string(), "2001:db8:a::1");

        let mut downed = link(3, "sixxs0", &[]);
        downed.up = false;
        assert_eq!(target(&with, vec![downed]).0.index, None);
    }

    /// A shorter prefix means "all sources", including those that the provider of an uplink accepts.
    #[test]
    fn only_prefixes_of_some_length_are_routed_by_a_broker() {
        let address = "2001:db8:cc::1";
        let net0 = link(2, "net0", &[address]);
        let links: Links = [net0].into_iter().collect();
        for (prefixes, number) in [
            (&["2001:db8:cc::/48"][..], 2 | MULTICAST_ONLY),
            (&["2001::/16"], 2 | MULTICAST_ONLY),
            (&["2000::/15"], 2),
            (&["2000::/3"], 2),
            (&["2000::/3", "2001:db8:dd::/48"], 2),
            (&["2000::/3", "2001:db8:cc::/64"], 2 | MULTICAST_ONLY),
        ] {
            let mut config = config(&format!("uplinks = [\"net0\"]\n{ONE}"));
            config.tunnels[0].prefixes = prefixes.iter().map(|p| p.parse().unwrap()).collect();
            let sources = Enforcement::new(&config, &links, |_| true).sources;
            let own = sources.iter().find(|s| s.prefix.to_string() == address);
            let found = own.map(Source::home_number);
            assert_eq!(found, Some(number), "{prefixes:?}");
        }
    }

    #[test]
    fn a_link_layer_that_cannot_be_read_is_a_problem_of_uplinks_and_tunnels() {
        let text = format!("uplinks = [\"net0\", \"net9\"]\n{ONE}");
        let mut net0 = link(2, "net0", &[]);
        net0.layer = LinkLayer::Unsupported(32);
        let tunnel = Link {
            layer: LinkLayer::None,
            ..link(3, "sixxs0", &[])
        };
        let links: Links = [net0, tunnel].into_iter().collect();
        let found = Enforcement::new(&config(&text), &links, |_| true);
        assert_eq!(
            found.problems,
            [
                "interface net0 has a link layer that the programs cannot read (ARPHRD 32)",
                "uplink net9 does not exist",
            ]
        );
        let interfaces: Vec<_> = found.interfaces.values().collect();
        assert_eq!(interfaces.len(), 1);
        assert_eq!((interfaces[0].mac, interfaces[0].own), (None, None));
    }
}
