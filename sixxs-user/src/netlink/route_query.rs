//! Queries the kernel for the route of a packet.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::Context as _;
use rtnetlink::{
    packet_core::NLM_F_REQUEST,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType},
    },
};
use sixxs_core::types::{IfIndex, Metric, Prefix, TableId};

use super::{Netlink, RequestError, observe::GLOBAL};

/// The attributes of a packet that affect its route.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteQuery {
    /// Its source; `None`: not selected yet.
    pub source: Option<Ipv6Addr>,
    /// Its destination; `None`: any remote destination.
    pub destination: Option<Ipv6Addr>,
    /// Owner of the sending socket; `None`: this process.
    pub uid: Option<u32>,
    /// Its mark.
    pub mark: Option<u32>,
    /// The interface that received it; `None`: the host itself sends it.
    pub iif: Option<IfIndex>,
    /// The interface that the socket is bound to.
    pub oif: Option<IfIndex>,
}

/// The result of the query.
#[derive(Debug)]
pub enum RouteResult {
    /// The packet takes this route.
    By(FoundRoute),
    /// There is no route; the sender gets this error.
    Refused(io::Error),
}

/// A route that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRoute {
    /// Its table.
    pub table: TableId,
    /// Its destination.
    pub destination: Prefix,
    /// Its source, for a source-specific route; else the prefix of length 0.
    pub from: Prefix,
    /// Its metric.
    pub metric: Metric,
    /// Origin of the route (`rtm_protocol`).
    pub protocol: u8,
    /// Whether the destination is an address of this host.
    pub is_local: bool,
    /// Its outgoing interface.
    pub index: Option<IfIndex>,
    /// Next hop.
    pub gateway: Option<Ipv6Addr>,
    /// The path MTU of the destination, in bytes; `None`: the interface's.
    pub mtu: Option<u32>,
}

impl Netlink {
    /// The route of a packet.
    pub async fn query_route(&self, question: RouteQuery) -> anyhow::Result<RouteResult> {
        let request = message(question, RouteFlags::FibMatch);
        let matched = match self.one_route(request).await? {
            Ok(matched) => matched,
            Err(error) => return Ok(RouteResult::Refused(error)),
        };
        // The route may have several next hops; a second request returns the one that the packet takes.
        let request = message(question, RouteFlags::empty());
        let chosen = match self.one_route(request).await? {
            Ok(chosen) => chosen,
            Err(error) => return Ok(RouteResult::Refused(error)),
        };
        Ok(RouteResult::By(found(&matched, &chosen)))
    }

    /// The outgoing interface for an IPv4 destination, from an address of this host.
    pub async fn egress_interface4(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
    ) -> anyhow::Result<Option<IfIndex>> {
        let answer = self.one_route(message4(source, destination)).await?;
        Ok(answer.ok().and_then(|route| oif(&route)))
    }

    /// The router for an IPv4 destination, from an address of this host; `None`: there is no route, or no router.
    pub async fn gateway4(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
    ) -> anyhow::Result<Option<Ipv4Addr>> {
        let answer = self.one_route(message4(source, destination)).await?;
        let attributes = answer.map(|route| route.attributes).unwrap_or_default();
        Ok(attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(gateway),
                _ => None,
            }))
    }

    async fn one_route(&self, request: RouteMessage) -> anyhow::Result<io::Result<RouteMessage>> {
        let request = RouteNetlinkMessage::GetRoute(request);
        match self.request(request, NLM_F_REQUEST).await {
            Ok(answers) => {
                let mut routes = answers.into_iter().filter_map(|answer| match answer {
                    RouteNetlinkMessage::NewRoute(route) => Some(route),
                    _ => None,
                });
                let none = || io::Error::from_raw_os_error(libc::ENETUNREACH);
                Ok(routes.next().ok_or_else(none))
            }
            Err(RequestError::Kernel(refusal)) => Ok(Err(refusal.into())),
            Err(error) => Err(error).context("look a route up"),
        }
    }
}

/// An error of a route query, with its meaning (the kernel's `fib6_rule_action` and `ip6_rt_type_to_error`).
#[must_use]
pub fn route_error(error: &io::Error) -> String {
    let meaning = match error.raw_os_error() {
        Some(libc::EINVAL) => "a `blackhole` rule or route drops it",
        Some(libc::EACCES) => "a `prohibit` rule or route refuses it",
        Some(libc::EHOSTUNREACH) => "an `unreachable` route refuses it",
        Some(libc::ENETUNREACH) => "there is no route, or an `unreachable` rule refuses it",
        _ => return error.to_string(),
    };
    meaning.to_owned()
}

fn message4(source: Ipv4Addr, destination: Ipv4Addr) -> RouteMessage {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    request.header.kind = RouteType::Unspec;
    request.header.destination_prefix_length = 32;
    request.header.source_prefix_length = 32;
    request.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(destination)),
        RouteAttribute::Source(RouteAddress::Inet(source)),
    ];
    request
}

fn message(question: RouteQuery, flags: RouteFlags) -> RouteMessage {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet6;
    request.header.kind = RouteType::Unspec;
    request.header.flags = flags;
    request.header.destination_prefix_length = 128;
    let destination = question.destination.unwrap_or(GLOBAL);
    let destination = RouteAttribute::Destination(RouteAddress::Inet6(destination));
    request.attributes.push(destination);
    if let Some(source) = question.source {
        request.header.source_prefix_length = 128;
        let source = RouteAttribute::Source(RouteAddress::Inet6(source));
        request.attributes.push(source);
    }
    let more = [
        question.uid.map(RouteAttribute::Uid),
        question.mark.map(RouteAttribute::Mark),
        question.iif.map(|index| RouteAttribute::Iif(index.0)),
        question.oif.map(|index| RouteAttribute::Oif(index.0)),
    ];
    request.attributes.extend(more.into_iter().flatten());
    request
}

fn oif(message: &RouteMessage) -> Option<IfIndex> {
    let mut attributes = message.attributes.iter();
    attributes.find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(IfIndex(*index)),
        _ => None,
    })
}

fn found(matched: &RouteMessage, chosen: &RouteMessage) -> FoundRoute {
    let header = &matched.header;
    let mut found = FoundRoute {
        table: TableId(u32::from(header.table)),
        destination: Prefix::ALL,
        from: Prefix::ALL,
        metric: Metric(0),
        protocol: u8::from(header.protocol),
        is_local: header.kind == RouteType::Local,
        index: oif(chosen),
        gateway: None,
        mtu: None,
    };
    for attribute in &matched.attributes {
        match attribute {
            RouteAttribute::Table(table) => found.table = TableId(*table),
            RouteAttribute::Priority(metric) => found.metric = Metric(*metric),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                found.destination = Prefix::containing(*address, header.destination_prefix_length);
            }
            RouteAttribute::Source(RouteAddress::Inet6(address)) => {
                found.from = Prefix::containing(*address, header.source_prefix_length);
            }
            _ => {}
        }
    }
    for attribute in &chosen.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => found.gateway = Some(*address),
            RouteAttribute::Metrics(metrics) => {
                found.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    found
}
