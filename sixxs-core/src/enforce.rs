//! The desired state of the kernel programs' maps: interfaces, tunnels, sources.
//!
//! Here interfaces and tunnels have names; in the maps they have slot numbers. The pinned maps store which
//! slot belongs to which name, and [`slots::assign`] assigns them.

pub mod endpoints;
pub mod outer_paths;
pub mod screening;
pub mod slots;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

pub use source::{Home, Source, SourceKind};

use screening::{Screening, XdpWish};
use source::sources;

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

#[cfg(test)]
mod tests;
