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
        plan::Route,
    },
    types::{IfIndex, IfName, Mtu, Prefix, TableId},
};
use tracing::debug;

use super::state::State;
use crate::netlink::{Failure, Removed};

/// Rounds of plan and apply before something is called a problem: others may be at work too.
const ROUNDS: usize = 3;

/// What was in place after the last round: what of it is missing now, somebody took away. What is
/// wanted otherwise now was not.
#[derive(Default)]
pub(super) struct InPlace {
    rules: BTreeSet<Rule>,
    routes: BTreeMap<Place, Target>,
    /// Interfaces that were up with the MTU that they should have.
    set_up: BTreeSet<(IfIndex, Mtu)>,
    addresses: BTreeSet<(IfIndex, Ipv6Addr)>,
}

impl InPlace {
    /// What could not be put back this time is put back when it can be.
    fn keep(&mut self, before: &Self, failed: &[Failure]) {
        for Failure { step, .. } in failed {
            match step {
                Step::AddRoute(Route { place, .. }) | Step::ReplaceRoute(Route { place, .. }) => {
                    let target = before.routes.get(place).cloned();
                    self.routes.extend(target.map(|target| (*place, target)));
                }
                Step::AddRule(rule) => self.rules.extend(before.rules.get(rule).copied()),
                Step::SetUp(..)
                | Step::AddAddress(..)
                | Step::KeepNeighbour(..)
                | Step::DeleteRule(_)
                | Step::DeleteRoute(_)
                | Step::DeleteNeighbour(..) => {}
            }
        }
    }
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
        let mut failed = Vec::new();
        self.plan = diff(&desired, &self.observed);
        for _ in 0..ROUNDS {
            if self.plan.steps.is_empty() {
                break;
            }
            let outcome = self.netlink.apply(&self.plan).await;
            let owners = Owners::of(&self.config);
            for step in &outcome.done {
                debug!("{step}");
                self.note_correction(step, &desired, &owners);
            }
            failed = outcome.failed;
            // What counts is what the kernel says afterwards.
            self.observed = self.netlink.observe(&self.scope()).await?;
            self.plan = diff(&desired, &self.observed);
        }
        let failures: Vec<_> = failed.iter().map(ToString::to_string).collect();
        let mut problems = self.lasting.look(self.started.elapsed(), &failures);
        let found = self.plan.problems.iter().filter(|problem| match problem {
            Problem::Occupied { .. } | Problem::MtuTooSmall { .. } => true,
            // An interface that is not there is seen as its tunnel's state.
            Problem::InterfaceMissing { .. } | Problem::InterfaceDown { .. } => false,
        });
        problems.extend(found.map(ToString::to_string));
        let in_place = self.in_place(&desired);
        let before = std::mem::replace(&mut self.in_place, in_place);
        self.in_place.keep(&before, &failed);
        Ok(problems)
    }

    /// What there is of what should be.
    fn in_place(&self, desired: &Desired) -> InPlace {
        let mut in_place = InPlace::default();
        let rules = desired.rules_beside(self.observed.local_table).into_iter();
        let there = rules.filter(|rule| !self.plan.steps.contains(&Step::AddRule(*rule)));
        in_place.rules.extend(there);
        let routes = desired.routes.iter();
        let there = routes.filter(|(place, _)| !self.is_route_missing(**place, desired));
        let there = there.map(|(place, target)| (*place, target.clone()));
        in_place.routes.extend(there);
        for (name, wanted) in &desired.interfaces {
            let Some(link) = self.observed.links.by_name(name) else {
                continue;
            };
            if link.up && link.mtu == wanted.mtu {
                in_place.set_up.insert((link.index, link.mtu));
            }
            let addresses = wanted.addresses.iter().map(|own| own.address.address);
            let there = addresses.filter(|address| link.addresses.contains(address));
            let there = there.map(|address| (link.index, address));
            in_place.addresses.extend(there);
        }
        in_place
    }

    /// Whether a route is not there because its interface is not.
    fn waits_for_interface(&self, place: Place, desired: &Desired) -> bool {
        let Some(Target::Interface { name: wanted, .. }) = desired.routes.get(&place) else {
            return false;
        };
        self.plan.problems.iter().any(|problem| match problem {
            Problem::InterfaceMissing { name, .. }
            | Problem::InterfaceDown { name, .. }
            | Problem::MtuTooSmall { name, .. } => name == wanted,
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
    fn note_correction(&mut self, step: &Step, desired: &Desired, owners: &Owners) {
        let was = &self.in_place;
        let (lost, tunnel) = match step {
            Step::SetUp(index, name, mtu) => {
                (was.set_up.contains(&(*index, *mtu)), Some(name.clone()))
            }
            Step::AddAddress(index, name, address) => (
                was.addresses.contains(&(*index, address.address.address)),
                Some(name.clone()),
            ),
            Step::AddRule(rule) => (
                was.rules.contains(rule),
                owners.tunnel(rule.table, rule.from),
            ),
            Step::AddRoute(route) | Step::ReplaceRoute(route) => {
                let (place, target) = (&route.place, desired.routes.get(&route.place));
                (
                    target.is_some() && was.routes.get(place) == target,
                    owners.tunnel(place.table, place.source),
                )
            }
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
