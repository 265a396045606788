//! Converts dumps to plain data.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rtnetlink::{
    packet_core::NLM_F_REQUEST,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{
            InfoData, InfoKind, InfoVrf, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
            LinkLayerType, LinkMessage,
        },
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage,
            NeighbourState,
        },
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
            RouteProtocol, RouteType,
        },
    },
};
use sixxs_core::{
    link::{Candidate, Link, LinkLayer, Links},
    routing::{
        MAIN_TABLE, Observed,
        connected::{ConnectedRoute, MAX_PAIRS},
        exits::LookedUpTables,
        observed::{LocalTable, ObservedNeighbour, ObservedRoute, ObservedTarget},
    },
    types::{IfIndex, IfName, Metric, Mtu, PROTOCOL, Prefix, TableId},
};

use super::{
    DUMP, Netlink, RequestError, Scope, addresses::SeenAddress, far_end, link_facts, link_type,
};

/// An address that only a default route covers: the first of global unicast, 2000::/3, which some
/// configurations use as a default route (RFC 4291 §2.4). No host has it.
pub const GLOBAL: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0);
const GLOBAL_BITS: u8 = 3;

/// After this time, other software has finished setting up a new interface.
const NEW_LINK_TIME: Duration = Duration::from_secs(60);

/// Grace period for an exit whose route disappeared. A network manager that sets an interface up again
/// removes the route and adds it back.
const EXIT_GRACE: Duration = Duration::from_secs(5);
impl Netlink {
    /// Reads interfaces, addresses, rules and routes.
    pub async fn observe(&mut self, scope: &Scope) -> anyhow::Result<Observed> {
        self.foreign_routes.want_rejects(scope.delegations);
        let (mut links, vrfs, on_link) = self.links(&scope.kernel_tunnels).await?;
        (self.rules, self.foreign_rules) = self.rules().await?;
        if scope.exits {
            let tables = LookedUpTables::of(&self.foreign_rules, &scope.tables, &vrfs);
            self.find_exits(&mut links, &tables).await?;
            self.find_newcomers(&mut links);
        }
        let connected = if scope.connected {
            self.foreign_routes.current().await?.connected.clone()
        } else {
            Vec::new()
        };
        let routers = if scope.routers {
            self.foreign_routes.current().await?.routers.clone()
        } else {
            Vec::new()
        };
        let (rejects, source_routes) = if scope.delegations {
            let answer = self.foreign_routes.current().await?;
            (answer.rejects.clone(), answer.source_routes.clone())
        } else {
            (Vec::new(), Vec::new())
        };
        let connected_is_complete = scope.connected && connected.len() <= MAX_PAIRS;
        let links = match &scope.patterns {
            Some(names) => Links::with_patterns(links, names),
            None => links.into_iter().collect(),
        };
        let mut routes = self
            .routes(None, Some(PROTOCOL))
            .await
            .context("list the routes of sixxs")?;
        for table in &scope.tables {
            let all = self
                .routes(Some(*table), None)
                .await
                .with_context(|| format!("list the routes of table {table}"))?;
            routes.extend(all.into_iter().filter(|route| !route.is_ours()));
        }
        let neighbours = self.neighbours().await?;
        Ok(Observed {
            links,
            neighbours,
            local_table: LocalTable::of(&self.foreign_rules),
            rules: self.rules.iter().map(|(rule, _)| rule.clone()).collect(),
            routes,
            connected,
            connected_is_complete,
            routers,
            rejects,
            source_routes,
            on_link,
        })
    }

    /// Sets for each interface whether it is an exit, or was one within the grace period.
    async fn find_exits(
        &mut self,
        links: &mut [Link],
        tables: &LookedUpTables,
    ) -> anyhow::Result<()> {
        let answer = self.foreign_routes.current().await?;
        let (exits, has_hidden) = (tables.exits(&answer.routes), answer.has_hidden);
        let now = Instant::now();
        let before = std::mem::take(&mut self.exits);
        for link in links.iter_mut().filter(|link| link.up) {
            let is_hidden_exit = has_hidden
                && tables.has_main()
                && !exits.contains(&link.index)
                && self.has_default_route(link.index).await?;
            let gone = if is_hidden_exit || exits.contains(&link.index) {
                None
            } else if let Some(gone) = before.get(&link.index) {
                Some(gone.unwrap_or(now))
            } else {
                continue;
            };
            link.is_exit = gone.is_none_or(|gone| now.duration_since(gone) < EXIT_GRACE);
            if link.is_exit {
                self.exits.insert(link.index, gone);
            }
        }
        Ok(())
    }

    /// When the grace period of the next former exit ends.
    #[must_use]
    pub fn exit_ends(&self) -> Option<Instant> {
        let gone = self.exits.values().flatten().min();
        gone.map(|gone| gone.checked_add(EXIT_GRACE).unwrap_or(*gone))
    }

    /// Invalidates cached routes, after an event for a foreign route that matters.
    pub fn foreign_routes_changed(&mut self) {
        self.foreign_routes.changed();
    }

    /// Marks candidates that are new or came up lately; interfaces that were up at the first observation are
    /// not new. An uplink that is down has no default route, and is an exit again from its first packet on.
    fn find_newcomers(&mut self, links: &mut [Link]) {
        let now = Instant::now();
        let seen = std::mem::take(&mut self.seen);
        for link in links {
            let since = match &seen {
                _ if !link.up => Some(now),
                Some(seen) => *seen.get(&link.index).unwrap_or(&Some(now)),
                None => None,
            };
            let since = since.filter(|since| now.duration_since(*since) < NEW_LINK_TIME);
            if since.is_some() && link.candidate == Candidate::Settled {
                link.candidate = Candidate::Fresh;
            }
            self.seen.get_or_insert_default().insert(link.index, since);
        }
    }

    /// Queries the route in the main table out of an interface. This takes one request per interface, for any
    /// number of routes and any kind of next hop.
    async fn has_default_route(&self, index: IfIndex) -> anyhow::Result<bool> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet6;
        request.header.kind = RouteType::Unspec;
        request.header.flags = RouteFlags::FibMatch;
        request.header.destination_prefix_length = 128;
        request.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet6(GLOBAL)),
            RouteAttribute::Oif(index.0),
        ];
        let request = RouteNetlinkMessage::GetRoute(request);
        match self.request(request, NLM_F_REQUEST).await {
            Ok(answers) => Ok(answers.iter().any(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => route(message).is_some_and(|route| {
                    route.table == MAIN_TABLE
                        && route.destination.contains(GLOBAL)
                        && route.destination.bits() <= GLOBAL_BITS
                }),
                _ => false,
            })),
            // No route, or the interface is gone.
            Err(RequestError::Kernel(_)) => Ok(false),
            Err(error) => Err(error).context("look a default route up"),
        }
    }

    /// Interfaces, the tables of VRFs, and the on-link prefixes of addresses.
    /// `kernel_tunnels`: interfaces whose far ends to find out.
    async fn links(
        &mut self,
        kernel_tunnels: &BTreeSet<IfName>,
    ) -> anyhow::Result<(Vec<Link>, BTreeSet<TableId>, Vec<ConnectedRoute>)> {
        let mut addresses = self.addresses().await?;
        let mut request = LinkMessage::default();
        request
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers = self
            .request(RouteNetlinkMessage::GetLink(request), DUMP)
            .await
            .context("list the interfaces")?;
        let messages = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(message),
            _ => None,
        });
        let on_link = addresses.values().flatten().map(SeenAddress::on_link);
        let on_link = on_link.collect();
        let (mut links, mut vrfs) = (Vec::new(), BTreeSet::new());
        for message in messages {
            vrfs.extend(vrf_table(&message));
            links.extend(link(&message).map(|mut link| {
                for seen in addresses.remove(&link.index).unwrap_or_default() {
                    link.addresses.push(seen.address);
                    link.unusable
                        .extend(seen.unusable().map(|why| (seen.address, why)));
                }
                if kernel_tunnels.iter().any(|name| name.matches(&link.name)) {
                    link.endpoints = match far_end::kind(&message) {
                        Some(InfoKind::Wireguard) => self.wireguard.endpoints(link.index),
                        _ => far_end::endpoint(&message).into_iter().collect(),
                    };
                }
                link
            }));
        }
        Ok((links, vrfs, on_link))
    }

    async fn neighbours(&self) -> anyhow::Result<Vec<ObservedNeighbour>> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Inet6;
        let answers = self
            .request(RouteNetlinkMessage::GetNeighbour(request), DUMP)
            .await
            .context("list the neighbours")?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message),
                _ => None,
            })
            .filter(|neighbour| neighbour.is_ours || neighbour.stays_resolved)
            .collect())
    }

    /// Routes of one table, or of one protocol. The kernel filters, since the socket uses strict checks.
    async fn routes(
        &self,
        table: Option<TableId>,
        protocol: Option<u8>,
    ) -> anyhow::Result<Vec<ObservedRoute>> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet6;
        request.header.protocol = protocol.map_or(RouteProtocol::Unspec, RouteProtocol::from);
        request.header.kind = RouteType::Unspec;
        if let Some(table) = table {
            request.attributes.push(RouteAttribute::Table(table.0));
        }
        let answers = match self
            .request(RouteNetlinkMessage::GetRoute(request), DUMP)
            .await
        {
            Ok(answers) => answers,
            // A table that never had a route does not exist.
            Err(RequestError::Kernel(error))
                if table.is_some() && error.kind() == std::io::ErrorKind::NotFound =>
            {
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => route(&message),
                _ => None,
            })
            // Kernels before 4.20 do not filter.
            .filter(|route| table.is_none_or(|table| route.table == table))
            .filter(|route| protocol.is_none_or(|protocol| route.protocol == protocol))
            .collect())
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let mut name = None;
    let mut mtu = 0;
    let mut mac = None;
    let mut is_part = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = text.parse().ok(),
            LinkAttribute::Mtu(value) => mtu = *value,
            LinkAttribute::Controller(_) => is_part = true,
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    let header = &message.header;
    let is_loopback = header.flags.contains(LinkFlags::Loopback);
    let name = name?;
    Some(Link {
        index: IfIndex(header.index),
        up: header.flags.contains(LinkFlags::Up),
        mtu: Mtu(mtu),
        layer: link_layer(header.link_layer_type, mac, &name),
        name,
        matched: None,
        carrier: header.flags.contains(LinkFlags::LowerUp),
        addresses: Vec::new(),
        unusable: BTreeMap::new(),
        is_exit: false,
        candidate: if is_loopback || is_part {
            Candidate::Never
        } else {
            Candidate::Settled
        },
        endpoints: Vec::new(),
        driver: link_facts::driver(message),
        vlan_of: link_facts::vlan_of(message),
        forwards_ipv4: link_facts::forwards_ipv4(message),
        xdp: link_facts::xdp_program(message),
    })
}

/// The table of a VRF.
fn vrf_table(message: &LinkMessage) -> Option<TableId> {
    far_end::infos(message).find_map(|info| match info {
        LinkInfo::Data(InfoData::Vrf(facts)) => facts.iter().find_map(|fact| match fact {
            InfoVrf::TableId(table) => Some(TableId(*table)),
            _ => None,
        }),
        _ => None,
    })
}

/// The layer at which the programs receive an interface's packets, by its `ARPHRD_` type: without a header
/// before IP, with an Ethernet header, or with one that the programs do not support.
fn link_layer(kind: LinkLayerType, mac: Option<[u8; 6]>, name: &IfName) -> LinkLayer {
    match kind {
        LinkLayerType::Ether | LinkLayerType::Loopback => {
            LinkLayer::Ethernet(mac.unwrap_or_default())
        }
        LinkLayerType::None
        | LinkLayerType::Ppp
        | LinkLayerType::Rawip
        | LinkLayerType::Sit
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Ipgre
        | LinkLayerType::Ip6gre => LinkLayer::None,
        // The parser also returns this for types that it does not know.
        LinkLayerType::Void => {
            let number = link_type::of(name.as_str());
            LinkLayer::Unsupported(number.unwrap_or(u16::from(LinkLayerType::Void)))
        }
        other => LinkLayer::Unsupported(u16::from(other)),
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<ObservedNeighbour> {
    let mut address = None;
    let mut is_ours = false;
    let mut managed = false;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(*ip),
            NeighbourAttribute::Protocol(protocol) => is_ours = u8::from(*protocol) == PROTOCOL,
            NeighbourAttribute::ExtFlags(flags) => {
                managed = flags.contains(NeighbourExtFlags::Managed);
            }
            _ => {}
        }
    }
    Some(ObservedNeighbour {
        index: IfIndex(message.header.ifindex),
        address: address?,
        is_ours,
        stays_resolved: managed || message.header.state == NeighbourState::Permanent,
    })
}

pub(super) fn destination(message: &RouteMessage) -> Prefix {
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(*address),
            _ => None,
        });
    let address = address.unwrap_or(Ipv6Addr::UNSPECIFIED);
    Prefix::containing(address, message.header.destination_prefix_length)
}

/// A configured route.
pub(super) fn route(message: &RouteMessage) -> Option<ObservedRoute> {
    let header: &RouteHeader = &message.header;
    let mut source = Ipv6Addr::UNSPECIFIED;
    let mut table = u32::from(header.table);
    let mut metric = 0;
    let mut index = None;
    let mut gateway = None;
    let mut mtu = 0;
    let mut advertised_mss = 0;
    let mut several = false;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Source(RouteAddress::Inet6(address)) => source = *address,
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => gateway = Some(*address),
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(value) => index = Some(IfIndex(*value)),
            RouteAttribute::MultiPath(_) | RouteAttribute::NhId(_) => several = true,
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(value) => mtu = *value,
                        RouteMetric::Advmss(value) => advertised_mss = *value,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let target = match (header.kind, index) {
        (RouteType::Unreachable, _) => ObservedTarget::Unreachable,
        (RouteType::Throw, _) => ObservedTarget::Throw,
        (RouteType::Unicast, Some(index)) if !several => ObservedTarget::Interface {
            index,
            gateway,
            mtu,
            advertised_mss,
        },
        _ => ObservedTarget::Other,
    };
    // Entries of the route cache (RTM_F_CLONED) are not configured routes.
    let cloned = header.flags.contains(RouteFlags::Cloned);
    (!cloned).then_some(ObservedRoute {
        table: TableId(table),
        destination: destination(message),
        source: Prefix::containing(source, header.source_prefix_length),
        metric: Metric(metric),
        protocol: u8::from(header.protocol),
        target,
    })
}
