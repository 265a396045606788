//! Rules, routes and interfaces of our own: carried out, read back, and what was put back is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use sixxs_core::{
    config::{Config, RuleMode},
    routing::{
        Desired, Problem, Rule, Step,
        desired::{Place, Target},
        diff,
    },
    types::{IfIndex, IfName, Prefix, TableId},
};
use tracing::debug;

use super::state::State;
use crate::netlink::Removed;

/// Rounds of plan and apply before something is called a problem: others may be at work too.
const ROUNDS: usize = 3;

/// What was in place after the last round: what of it is missing now, somebody took away.
#[derive(Default)]
pub(super) struct InPlace {
    rules: BTreeSet<Rule>,
    routes: BTreeSet<Place>,
    /// Interfaces that were set up, and their addresses.
    set_up: BTreeSet<(IfIndex, Option<Ipv6Addr>)>,
}

/// Whose tables and sources are. There may be ten thousands of either.
struct Owners {
    tables: BTreeMap<TableId, IfName>,
    sources: BTreeMap<Prefix, IfName>,
}

impl Owners {
    fn of(config: &Config) -> Self {
        let tunnels = || config.tunnels.iter();
        let tables = match config.rule_mode {
            RuleMode::Rules => tunnels().map(|t| (t.table, t.name.clone())).collect(),
            // One table for all: the source says whose it is.
            RuleMode::Subtrees => BTreeMap::new(),
        };
        let sources = tunnels().flat_map(|t| t.sources().map(|source| (source, t.name.clone())));
        Self {
            tables,
            sources: sources.collect(),
        }
    }

    fn tunnel(&self, table: TableId, source: Prefix) -> Option<IfName> {
        let found = match source {
            Prefix::ALL => self.tables.get(&table),
            source => self.sources.get(&source),
        };
        found.cloned()
    }
}

impl State {
    pub(super) async fn route(&mut self) -> anyhow::Result<Vec<String>> {
        let desired = self.desired();
        let mut problems = Vec::new();
        self.plan = diff(&desired, &self.observed);
        for _ in 0..ROUNDS {
            if self.plan.steps.is_empty() {
                break;
            }
            let outcome = self.netlink.apply(&self.plan).await;
            let owners = Owners::of(&self.config);
            for step in &outcome.done {
                debug!("{step}");
                self.note_correction(step, &owners);
            }
            problems = outcome.failed.iter().map(ToString::to_string).collect();
            // What counts is what the kernel says afterwards.
            self.observed = self.netlink.observe(&self.scope()).await?;
            self.plan = diff(&desired, &self.observed);
        }
        // An interface that is not there is seen as its tunnel's state.
        let occupied = |problem: &&Problem| matches!(problem, Problem::Occupied { .. });
        let occupied = self.plan.problems.iter().filter(occupied);
        problems.extend(occupied.map(ToString::to_string));
        self.in_place = InPlace {
            rules: desired
                .rules
                .iter()
                .filter(|rule| !self.plan.steps.contains(&Step::AddRule(**rule)))
                .copied()
                .collect(),
            routes: desired
                .routes
                .keys()
                .filter(|key| !self.is_route_missing(**key, &desired))
                .copied()
                .collect(),
            set_up: self.set_up(&desired),
        };
        Ok(problems)
    }

    /// What interfaces of our own making have of what they should have.
    fn set_up(&self, desired: &Desired) -> BTreeSet<(IfIndex, Option<Ipv6Addr>)> {
        let mut set_up = BTreeSet::new();
        for (name, wanted) in &desired.interfaces {
            let Some(link) = self.observed.links.by_name(name) else {
                continue;
            };
            if link.up {
                set_up.insert((link.index, None));
            }
            let addresses = wanted.addresses.iter().map(|a| a.address);
            let there = addresses.filter(|address| link.addresses.contains(address));
            set_up.extend(there.map(|address| (link.index, Some(address))));
        }
        set_up
    }

    /// Whether a route is not there because its interface is not.
    fn waits_for_interface(&self, place: Place, desired: &Desired) -> bool {
        let Some(Target::Interface { name: wanted, .. }) = desired.routes.get(&place) else {
            return false;
        };
        self.plan.problems.iter().any(|problem| match problem {
            Problem::InterfaceMissing { name, .. } | Problem::InterfaceDown { name, .. } => {
                name == wanted
            }
            Problem::Occupied { table, .. } => *table == place.table,
        })
    }

    fn is_route_missing(&self, place: Place, desired: &Desired) -> bool {
        let in_steps = self.plan.steps.iter().any(|step| match step {
            Step::AddRoute(route) | Step::ReplaceRoute(route) => route.place == place,
            Step::SetUp(..)
            | Step::AddAddress(..)
            | Step::AddRule(_)
            | Step::KeepNeighbour(..)
            | Step::DeleteRule(_)
            | Step::DeleteRoute(_)
            | Step::DeleteNeighbour(..) => false,
        });
        in_steps || self.waits_for_interface(place, desired)
    }

    /// A step that puts back what was in place before is a correction.
    fn note_correction(&mut self, step: &Step, owners: &Owners) {
        let was_set_up = |index, address| self.in_place.set_up.contains(&(index, address));
        let (lost, tunnel) = match step {
            Step::SetUp(index, name, _) => (was_set_up(*index, None), Some(name.clone())),
            Step::AddAddress(index, name, address) => (
                was_set_up(*index, Some(address.address)),
                Some(name.clone()),
            ),
            Step::AddRule(rule) => (
                self.in_place.rules.contains(rule),
                owners.tunnel(rule.table, rule.from),
            ),
            Step::AddRoute(route) | Step::ReplaceRoute(route) => (
                self.in_place.routes.contains(&route.place),
                owners.tunnel(route.place.table, route.place.source),
            ),
            // A gateway comes and goes with its interface.
            Step::KeepNeighbour(..)
            | Step::DeleteRule(_)
            | Step::DeleteRoute(_)
            | Step::DeleteNeighbour(..) => return,
        };
        if !lost {
            return;
        }
        let removed = match step {
            Step::SetUp(..) => Removed::Link,
            Step::AddAddress(..) => Removed::Address,
            Step::AddRule(_) | Step::DeleteRule(_) => Removed::Rule,
            Step::AddRoute(_)
            | Step::ReplaceRoute(_)
            | Step::KeepNeighbour(..)
            | Step::DeleteRoute(_)
            | Step::DeleteNeighbour(..) => Removed::Route,
        };
        self.corrected(tunnel, step.to_string(), removed);
    }
}
