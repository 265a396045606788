//! Gathers the facts for the judgement of a tunnel's health (`sixxs_core::health`), and reports changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::Duration,
};

use sixxs_common::stat::Counters;
use sixxs_core::{
    config::{OnLeak, Tunnel},
    doctor::ways::Shadow,
    enforce,
    health::{Facts, Health, ShadowEffect, ShadowFate, Watch},
    lasting::REPAIR,
    proof::{Counted, Manner, Vigil},
    routing::{Problem, Step, desired::Place},
    tunnel,
    types::{IfName, Prefix},
};
use tokio::time::Instant;

use super::{
    answers::{Waiting, monotonic_ns},
    report,
    state::State,
};
use crate::{api::About, clock};

/// Decides which changes of health become alerts.
#[derive(Debug, Default)]
pub(super) struct HealthAlerts {
    watches: BTreeMap<IfName, Watch>,
    due: Option<Duration>,
}

impl HealthAlerts {
    /// Something may have changed: health is judged when a repair has had its time.
    pub(super) fn look_later(&mut self, now: Duration) {
        self.due.get_or_insert(now.saturating_add(REPAIR));
    }

    /// Takes the present health of all tunnels; returns those to report.
    fn look(
        &mut self,
        now: Duration,
        all: BTreeMap<IfName, Health>,
    ) -> impl Iterator<Item = (IfName, Health)> {
        self.watches.retain(|name, _| all.contains_key(name));
        let watches = &mut self.watches;
        let reported: Vec<_> = all
            .into_iter()
            .filter(|(name, health)| watches.entry(name.clone()).or_default().look(now, health))
            .collect();
        self.due = watches.values().filter_map(Watch::due).min();
        reported.into_iter()
    }
}

impl State {
    /// When health is judged for alerts; `None`: when something changes.
    pub(super) fn health_due(&self) -> Option<Instant> {
        let due = self.health_alerts.due?;
        Some(clock::after(self.started, due))
    }

    /// Judges all tunnels, and raises an alert for each whose health has changed for good.
    pub(super) fn report_health(&mut self) -> anyhow::Result<()> {
        let all = self.judge_all()?;
        for (name, health) in self.health_alerts.look(self.started.elapsed(), all) {
            self.alerts.raise(About::Health {
                tunnel: name.to_string(),
                health: health.level.name().to_owned(),
                reasons: health.reasons.iter().map(ToString::to_string).collect(),
            });
        }
        Ok(())
    }

    fn judge_all(&self) -> anyhow::Result<BTreeMap<IfName, Health>> {
        let tunnels = &self.config.tunnels;
        let counters: Vec<_> = tunnels
            .iter()
            .map(|tunnel| report::read(self, &tunnel.name))
            .collect::<Result<_, _>>()?;
        let waiting = Waiting::look(&self.kernel, &counters, monotonic_ns()?)?;
        let judge = |(tunnel, counters): (&Tunnel, &Counters)| {
            let link = self.observed.links.by_name(&tunnel.name);
            let state = self.tunnels[&tunnel.name].state(link);
            let in_place = (self.is_routed(tunnel), self.has_program(&tunnel.name));
            let health = self.health(tunnel, &state, in_place, (counters, &waiting));
            (tunnel.name.clone(), health)
        };
        Ok(tunnels.iter().zip(&counters).map(judge).collect())
    }

    /// Whether the program of an interface is attached, where one belongs.
    pub(super) fn has_program(&self, name: &IfName) -> bool {
        let interface = self.enforcement.interfaces.get(name);
        interface.is_some_and(|interface| self.kernel.hook(interface).is_some())
    }

    /// The health of a tunnel, as of the last scan and of these counters.
    pub(super) fn health(
        &self,
        tunnel: &Tunnel,
        state: &tunnel::State,
        (is_routed, has_program): (bool, bool),
        (counters, waiting): (&Counters, &Waiting),
    ) -> Health {
        let addresses: Vec<_> = tunnel.addresses.iter().map(|a| a.address).collect();
        let slot = self.kernel.slot(&tunnel.name);
        let waiting = slot.map_or(0, |slot| waiting.of(slot));
        let vigil = self.vigils.get(&tunnel.name);
        let in_a_row =
            vigil.map(|vigil| vigil.unanswered_in_a_row(&Counted::of(counters), waiting));
        let mut shadows = self.shadows.iter();
        let shadow = shadows.find(|shadow| shadow.tunnel == tunnel.name.as_str());
        let leaking = slot.and_then(|slot| self.leaking.get(&slot));
        Health::judge(&Facts {
            state,
            link: self.observed.links.by_name(&tunnel.name),
            elsewhere: &self.elsewhere(&tunnel.name, &addresses),
            covers: self.covered_uplink(tunnel).as_ref(),
            addresses: &addresses,
            is_routed,
            has_program,
            shadow: shadow.map(|shadow| self.effect(shadow)).as_ref(),
            leaks: leaking.and_then(|leaking| leaking.treatment(self.started.elapsed())),
            unanswered_in_a_row: in_a_row.unwrap_or(0),
            manner: vigil.map_or(Manner::Fine, Vigil::manner),
        })
    }

    /// Whether a tunnel has its rules and routes: whether the last look left nothing to do for it.
    pub(super) fn is_routed(&self, tunnel: &Tunnel) -> bool {
        let sources: Vec<_> = tunnel.sources().collect();
        let is_its = |place: Place| match place.source {
            Prefix::ALL => place.table == tunnel.table,
            // One table for all: the source says whose it is.
            source => sources.contains(&source),
        };
        let is_about = |step: &Step| match step {
            Step::AddRoute(route) | Step::ReplaceRoute(route) => is_its(route.place),
            Step::AddRule(rule) => rule.from == Prefix::ALL || sources.contains(&rule.from),
            Step::KeepNeighbour(_, neighbour) => neighbour.interface == tunnel.name,
            Step::SetUp(_, name, _) | Step::AddAddress(_, name, _) => *name == tunnel.name,
            // Too much is not too little.
            Step::DeleteRule(_) | Step::DeleteRoute(_) | Step::DeleteNeighbour(..) => false,
        };
        self.is_wanted(tunnel)
            && !self.plan.steps.iter().any(is_about)
            && self
                .plan
                .problems
                .iter()
                .all(|problem| !is_about_tunnel(problem, tunnel))
    }

    /// An uplink that has global addresses, all of them a tunnel's.
    fn covered_uplink(&self, tunnel: &Tunnel) -> Option<IfName> {
        let is_covered =
            |address: &Ipv6Addr| tunnel.sources().any(|source| source.contains(*address));
        let uplinks = enforce::uplinks(&self.config, &self.observed.links);
        let mut covered = uplinks.into_iter().filter(|uplink| {
            let mut addresses = uplink.global_addresses().peekable();
            addresses.peek().is_some() && addresses.all(is_covered)
        });
        covered.next().map(|uplink| uplink.name.clone())
    }

    /// Addresses of a tunnel that other interfaces have.
    fn elsewhere(&self, tunnel: &IfName, addresses: &[Ipv6Addr]) -> Vec<(Ipv6Addr, IfName)> {
        let wanted: BTreeSet<_> = addresses.iter().collect();
        let others = self.observed.links.iter();
        others
            .filter(|link| link.name != *tunnel)
            .flat_map(|link| {
                let has = link.addresses.iter().filter(|a| wanted.contains(a));
                has.map(|address| (*address, link.name.clone()))
            })
            .collect()
    }

    fn effect(&self, shadow: &Shadow) -> ShadowEffect {
        let name = shadow
            .leaves_by
            .and_then(|index| self.observed.links.by_index(index))
            .map(|link| &link.name);
        let has_program = name.is_some_and(|name| self.has_program(name));
        let fate = match (shadow.leaves_by, self.config.on_leak) {
            (None, _) => ShadowFate::Refused,
            (Some(_), OnLeak::Redirect) if has_program => ShadowFate::Redirected,
            (Some(_), _) => ShadowFate::Lost,
        };
        ShadowEffect {
            priority: shadow.rule.priority,
            fate,
        }
    }
}

fn is_about_tunnel(problem: &Problem, tunnel: &Tunnel) -> bool {
    match problem {
        Problem::InterfaceMissing { name, .. }
        | Problem::InterfaceDown { name, .. }
        | Problem::MtuTooSmall { name, .. } => *name == tunnel.name,
        Problem::Occupied { table, .. } => *table == tunnel.table,
    }
}
