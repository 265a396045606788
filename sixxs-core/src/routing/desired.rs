//! The rules and routes that should be there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use super::{DEFAULT_METRIC, MAIN_TABLE, Neighbour, Rule, UNREACHABLE_METRIC};
use crate::{
    config::{Config, Tunnel},
    types::{IfName, Metric, Mtu, RulePriority, TableId},
};

/// What should be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Rules.
    pub rules: BTreeSet<Rule>,
    /// Default routes, by table and metric.
    pub routes: BTreeMap<(TableId, Metric), Target>,
    /// Gateways to be kept resolved.
    pub neighbours: BTreeSet<Neighbour>,
}

/// Where a default route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Through a tunnel.
    Interface {
        /// Its interface.
        name: IfName,
        /// Next hop, on an interface with a link layer.
        gateway: Option<Ipv6Addr>,
        /// The configured MTU.
        mtu: Option<Mtu>,
    },
    /// Nowhere: the sender gets an error.
    Unreachable,
}

impl Desired {
    /// The rules and routes of all tunnels that `wanted` accepts.
    #[must_use]
    pub fn new(config: &Config, wanted: impl Fn(&Tunnel) -> bool) -> Self {
        let mut desired = Self::default();
        for tunnel in config.tunnels.iter().filter(|tunnel| wanted(tunnel)) {
            desired.add(tunnel, config.rule_priority);
        }
        desired
    }

    fn add(&mut self, tunnel: &Tunnel, priority: RulePriority) {
        let through = Target::Interface {
            name: tunnel.name.clone(),
            gateway: tunnel.gateway,
            mtu: tunnel.mtu,
        };
        self.routes.insert((tunnel.table, DEFAULT_METRIC), through);
        self.routes
            .insert((tunnel.table, UNREACHABLE_METRIC), Target::Unreachable);
        self.neighbours
            .extend(tunnel.gateway.map(|address| Neighbour {
                interface: tunnel.name.clone(),
                address,
            }));
        for from in tunnel.sources() {
            self.rules.insert(Rule {
                priority,
                from,
                to: None,
                table: tunnel.table,
            });
            // Right before: what is reached without the tunnel, such as the LANs behind this host.
            for to in &tunnel.direct {
                self.rules.insert(Rule {
                    priority: RulePriority(priority.0 - 1),
                    from,
                    to: Some(*to),
                    table: MAIN_TABLE,
                });
            }
        }
    }

    /// Only what belongs to one tunnel of the configuration.
    #[must_use]
    pub fn of(config: &Config, name: &IfName) -> Self {
        Self::new(config, |tunnel| tunnel.name == *name)
    }
}
