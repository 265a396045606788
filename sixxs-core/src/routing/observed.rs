//! The observed rules and routes.

use std::net::Ipv6Addr;

use super::{Rule, connected::ConnectedRoute, desired::RouteKey, routers::Router};
use crate::{
    explain::rules::PolicyRule,
    link::Links,
    types::{IfIndex, Metric, PROTOCOL, Prefix, RulePriority, TableId},
};

/// The kernel's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Interfaces.
    pub links: Links,
    /// All rules that carry the protocol number of sixxs.
    pub rules: Vec<ObservedRule>,
    /// The position of the foreign rule that looks up the local table for every packet: usually the kernel's,
    /// before all others.
    pub local_table: LocalTable,
    /// All routes with the protocol number of sixxs, in any table, and all foreign routes in the tables of sixxs.
    pub routes: Vec<ObservedRoute>,
    /// Neighbours with the protocol number of sixxs, and foreign ones that stay resolved without sixxs.
    pub neighbours: Vec<ObservedNeighbour>,
    /// Routes to networks on the link of interfaces.
    pub connected: Vec<ConnectedRoute>,
    /// Whether `connected` was read, and has all of them.
    pub connected_is_complete: bool,
    /// The next hops of foreign default routes, if the configuration needs them.
    pub routers: Vec<Router>,
    /// Foreign routes that reject packets to a prefix, if the configuration needs them.
    pub rejects: Vec<RejectRoute>,
    /// Foreign default routes for packets from one prefix, if the configuration needs them.
    pub source_routes: Vec<SourceRoute>,
    /// Networks on the link according to the addresses of interfaces.
    pub on_link: Vec<ConnectedRoute>,
}

impl Observed {
    /// Whether the kernel routes an address on the link of an interface there.
    #[must_use]
    pub fn has_peer_route(&self, (index, peer): (IfIndex, Ipv6Addr)) -> bool {
        let destination = Prefix::host(peer);
        let route = ConnectedRoute { destination, index };
        self.connected.contains(&route)
    }
}

/// A foreign route that rejects all packets to a prefix: `unreachable`, `blackhole` or `prohibit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RejectRoute {
    /// Its destination.
    pub destination: Prefix,
    /// Whether a DHCP client made it, by its protocol (`RTPROT_DHCP`).
    pub is_by_dhcp: bool,
}

/// A foreign default route for packets from one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceRoute {
    /// The source prefix.
    pub source: Prefix,
    /// The interface by which it leads.
    pub index: IfIndex,
}

/// The position of the local table in the order of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalTable {
    /// The priority of the first rule for it.
    At(RulePriority),
    /// No rule looks it up.
    Never,
}

impl Default for LocalTable {
    fn default() -> Self {
        Self::At(RulePriority(0))
    }
}

impl LocalTable {
    /// From these rules.
    #[must_use]
    pub fn of(rules: &[PolicyRule]) -> Self {
        let mut asking = rules.iter().filter(|rule| rule.looks_up_local_table());
        asking
            .next()
            .map_or(Self::Never, |rule| Self::At(rule.priority))
    }

    /// Whether it is looked up before rules at a priority.
    #[must_use]
    pub fn is_before(self, priority: RulePriority) -> bool {
        matches!(self, Self::At(at) if at < priority)
    }
}

/// A resolved neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedNeighbour {
    /// Its interface.
    pub index: IfIndex,
    /// Its address.
    pub address: Ipv6Addr,
    /// Whether it carries the protocol number of sixxs.
    pub is_ours: bool,
    /// Whether the kernel keeps it resolved, or its entry is permanent.
    pub stays_resolved: bool,
}

/// A rule with the protocol number of sixxs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedRule {
    /// A rule with conditions only on addresses.
    Plain(Rule),
    /// A rule with other conditions (a mark, an interface, …) or with another action than a table lookup.
    /// This program makes no such rules, but this one carries the protocol number of sixxs: other software changed it,
    /// or an earlier version made it. The number, its position in the kernel's list, distinguishes such
    /// rules.
    Foreign(usize),
}

/// An observed route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedRoute {
    /// Its table.
    pub table: TableId,
    /// Its destination.
    pub destination: Prefix,
    /// Its source, for a source-specific route; else the prefix of length 0.
    pub source: Prefix,
    /// Its metric.
    pub metric: Metric,
    /// The protocol number of its creator (`rtm_protocol`).
    pub protocol: u8,
    /// Its target.
    pub target: ObservedTarget,
}

/// The target of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedTarget {
    /// Out of one interface.
    Interface {
        /// Its index.
        index: IfIndex,
        /// Next hop.
        gateway: Option<Ipv6Addr>,
        /// The route's own MTU in bytes; 0 for none.
        mtu: u32,
        /// The segment size to advertise, in bytes; 0 for none.
        advertised_mss: u32,
    },
    /// `unreachable`.
    Unreachable,
    /// `throw`.
    Throw,
    /// Anything else: several next hops, `blackhole`, …
    Other,
}

impl ObservedRoute {
    /// Whether it carries the protocol number of sixxs.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL
    }

    /// The key that distinguishes it from other routes.
    #[must_use]
    pub const fn key(&self) -> RouteKey {
        RouteKey {
            table: self.table,
            metric: self.metric,
            destination: self.destination,
            source: self.source,
        }
    }
}
