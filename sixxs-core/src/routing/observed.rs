//! The rules and routes that are there.

use std::net::Ipv6Addr;

use super::{Rule, connected::ConnectedRoute, desired::Place};
use crate::{
    explain::rules::SeenRule,
    link::Links,
    types::{IfIndex, Metric, PROTOCOL, Prefix, RulePriority, TableId},
};

/// What the kernel said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Interfaces.
    pub links: Links,
    /// All rules that carry our protocol number.
    pub rules: Vec<ObservedRule>,
    /// Where the local table is asked for every packet, by a rule of somebody else's: usually first of all, by the
    /// kernel's.
    pub local_table: LocalTable,
    /// All routes that carry our protocol number, in any table, and everybody's routes in the
    /// tables that we use.
    pub routes: Vec<ObservedRoute>,
    /// Neighbours that carry our protocol number, and everybody's that stay resolved by themselves.
    pub neighbours: Vec<ObservedNeighbour>,
    /// What interfaces are connected to.
    pub connected: Vec<ConnectedRoute>,
    /// What their addresses say is on their link.
    pub on_link: Vec<ConnectedRoute>,
}

/// Where in the order of rules the local table is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalTable {
    /// By the first rule that does so, which has this priority.
    At(RulePriority),
    /// Nowhere.
    Never,
}

impl Default for LocalTable {
    fn default() -> Self {
        Self::At(RulePriority(0))
    }
}

impl LocalTable {
    /// By these rules.
    #[must_use]
    pub fn by(rules: &[SeenRule]) -> Self {
        let mut asking = rules.iter().filter(|rule| rule.asks_local_table());
        asking
            .next()
            .map_or(Self::Never, |rule| Self::At(rule.priority))
    }

    /// Whether it is asked before rules at a priority.
    #[must_use]
    pub fn is_before(self, priority: RulePriority) -> bool {
        matches!(self, Self::At(at) if at < priority)
    }
}

/// A neighbour that needs no resolving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedNeighbour {
    /// Its interface.
    pub index: IfIndex,
    /// Its address.
    pub address: Ipv6Addr,
    /// Whether it bears our mark.
    pub ours: bool,
    /// Whether the kernel keeps it resolved, or somebody said for good what its address is.
    pub lasting: bool,
}

/// A rule of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedRule {
    /// One that asks for addresses only.
    Plain(Rule),
    /// One that asks for more (a mark, an interface, …) or does something else than look a table
    /// up. We make no such rules, but it bears our mark: somebody changed one, or an earlier
    /// version made it. The number tells them apart: the position in the kernel's list.
    Foreign(usize),
}

/// A route.
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
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
    /// Where it leads.
    pub target: ObservedTarget,
}

/// Where a route leads.
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
    /// Whether it bears our mark.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL
    }

    /// What tells it from other routes.
    #[must_use]
    pub const fn place(&self) -> Place {
        Place {
            table: self.table,
            metric: self.metric,
            destination: self.destination,
            source: self.source,
        }
    }
}
