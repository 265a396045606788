//! Rules and routes: the desired state, the observed state, and the plan that leads from one to the
//! other.
//!
//! [`desired`] and [`observed`] are different types on purpose: an intent names an interface, an
//! observation has an index, and only [`plan::diff`] uses both.

mod commands;
pub mod connected;
pub mod delegations;
pub mod desired;
pub mod exits;
mod host_prefixes;
pub mod in_place;
pub mod observed;
pub mod plan;
pub mod routers;

pub use desired::Desired;
pub use in_place::{InPlace, Owners};
pub use observed::Observed;
pub use plan::{Plan, Problem, Step, diff};

use std::net::Ipv6Addr;

use crate::types::{IfName, Metric, Prefix, RulePriority, TableId};

/// Metric of the default route: the kernel's default for routes without a metric.
pub const DEFAULT_METRIC: Metric = Metric(1024);

/// Metric of the `unreachable` route behind it, higher than any usual one. While the interface is
/// missing, packets get an error instead of the main table's route.
pub const UNREACHABLE_METRIC: Metric = Metric(4_278_198_272);

/// The metric of the routes that the kernel adds with an address (`IP6_RT_PRIO_ADDRCONF`).
pub const KERNEL_METRIC: Metric = Metric(256);

/// The main table.
pub const MAIN_TABLE: TableId = TableId(254);

/// The table of the host's own addresses, to which the kernel's rule at priority 0 leads.
pub const LOCAL_TABLE: TableId = TableId(255);

/// In that mode, the table for direct destinations without a route.
pub const DIRECTS_TABLE: TableId = TableId(201);

/// Keeps a gateway's link-layer address resolved. The programs redirect leaks to the neighbour
/// directly, and a packet to an unresolved neighbour is lost.
///
/// The kernel keeps it resolved (`NTF_EXT_MANAGED`, 5.16), with or without the daemon.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The interface.
    pub interface: IfName,
    /// The gateway.
    pub address: Ipv6Addr,
}

/// A policy rule with conditions only on addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Its priority.
    pub priority: RulePriority,
    /// Source; the prefix of length 0 for any.
    pub from: Prefix,
    /// Destination, if the rule has one.
    pub to: Option<Prefix>,
    /// The table to look up.
    pub table: TableId,
    /// Whether default routes in the table are ignored (`suppress_prefixlength 0`).
    pub no_default: bool,
}
