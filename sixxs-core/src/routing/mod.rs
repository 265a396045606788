//! Rules and routes: what should be there, what is there, and the plan that leads from one to the
//! other.
//!
//! [`desired`] and [`observed`] are different types on purpose: an intent names an interface, an
//! observation has an index, and only [`plan::diff`] sees both.

pub mod connected;
pub mod desired;
pub mod exits;
pub mod observed;
pub mod plan;
mod taken;

pub use desired::Desired;
pub use observed::Observed;
pub use plan::{Plan, Problem, Step, diff};

use std::net::Ipv6Addr;

use crate::types::{IfName, Metric, Prefix, RulePriority, TableId};

/// Metric of the default route: what the kernel gives routes that ask for none.
pub const DEFAULT_METRIC: Metric = Metric(1024);

/// Metric of the `unreachable` route behind it, higher than anyone would choose: packets get an
/// error instead of the main table while the interface is gone.
pub const UNREACHABLE_METRIC: Metric = Metric(4_278_198_272);

/// The main table.
pub const MAIN_TABLE: TableId = TableId(254);

/// The table of the host's own addresses, which the kernel's rule at priority 0 leads to.
pub const LOCAL_TABLE: TableId = TableId(255);

/// Where, in that mode, direct destinations end that have no route.
pub const DIRECTS_TABLE: TableId = TableId(201);

/// Keeps a gateway's link-layer address known. The programs hand leaks to the neighbour without the
/// kernel's help: one that has to be resolved first is lost.
///
/// The kernel does the work (`NTF_EXT_MANAGED`, 5.16), whether the daemon lives or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The interface.
    pub interface: IfName,
    /// The gateway.
    pub address: Ipv6Addr,
}

/// A rule that asks for nothing but addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Its priority.
    pub priority: RulePriority,
    /// Source; the prefix of length 0 for any.
    pub from: Prefix,
    /// Destination, if the rule asks for one.
    pub to: Option<Prefix>,
    /// The table to look in.
    pub table: TableId,
    /// Whether default routes found there do not count (`suppress_prefixlength 0`).
    pub no_default: bool,
}
