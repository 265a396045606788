//! Rounds: each scans the host and reconciles it with the intent. They run as often as the rate limit allows.
//!
//! Composes the intent, the drivers, the endpoint updates, the probes, the history, the reconciler, the deprecator, the tamper
//! log, the problems and the alerts. Must not know requests, leaks, or how health is judged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use prometheus_client::metrics::histogram::Histogram;
use sixxs_core::{
    health::Health, history::Observation, program_poll::ProgramPoll,
    reconcile_limiter::ReconcileLimiter, tunnel::State, types::IfName,
};
use tokio::time::Instant;
use tracing::warn;

use super::{
    alerts::Alerts,
    deprecator::{Deprecator, Intended},
    endpoint_updates::EndpointUpdates,
    history::History,
    intent::Intent,
    listeners::Listeners,
    probes::Probes,
    problems::Problems,
    readings::reply_times,
    reconciler::{Goal, Reconciler, Round},
    tamper_log::{Correction, TamperLog},
    tunnels::Tunnels,
};
use crate::{
    control::api::About,
    host::clock::{after, processor_time},
    host::paths::Paths,
    metrics,
    netlink::{Change, ForeignRouteChange, Removed, Scope, Watcher},
};

/// Limit of netlink events taken in a round.
const EVENTS_AT_A_TIME: usize = 4096;

/// How soon another round has to follow the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// At the usual pace.
    Paced,
    /// At once: until then a new interface or exit is not guarded.
    AtOnce,
}

/// Keeps the host in the intended state.
pub(super) struct Enforcer {
    pub(super) paths: Paths,
    pub(super) started: Instant,
    pub(super) intent: Intent,
    pub(super) tunnels: Tunnels,
    pub(super) reconciler: Reconciler,
    pub(super) listeners: Listeners,
    pub(super) alerts: Alerts,
    pub(super) updates: EndpointUpdates,
    pub(super) probes: Probes,
    pub(super) history: History,
    pub(super) tamper_log: TamperLog,
    pub(super) deprecator: Deprecator,
    watcher: Arc<Watcher>,
    limiter: ReconcileLimiter,
    program_poll: ProgramPoll,
    problems: Problems,
    /// Urgency of the next round, if changes came during the last one.
    next_round: Option<Urgency>,
    /// How long repairs took.
    repair_times: Histogram,
    /// Rounds of this run.
    rounds: u64,
}

/// The parts of an [`Enforcer`].
pub(super) struct Parts {
    pub(super) intent: Intent,
    pub(super) tunnels: Tunnels,
    pub(super) reconciler: Reconciler,
    pub(super) listeners: Listeners,
    pub(super) alerts: Alerts,
    pub(super) updates: EndpointUpdates,
    pub(super) probes: Probes,
    pub(super) history: History,
    pub(super) watcher: Arc<Watcher>,
    pub(super) paths: Paths,
}

impl Enforcer {
    /// Nothing is scanned yet.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            intent,
            tunnels,
            reconciler,
            listeners,
            alerts,
            updates,
            probes,
            history,
            watcher,
            paths,
        } = parts;
        Self {
            deprecator: Deprecator::new(&paths.run_dir),
            paths,
            started: Instant::now(),
            intent,
            tunnels,
            reconciler,
            listeners,
            alerts,
            updates,
            probes,
            history,
            tamper_log: TamperLog::default(),
            watcher,
            limiter: ReconcileLimiter::default(),
            program_poll: ProgramPoll::default(),
            problems: Problems::default(),
            next_round: None,
            repair_times: metrics::repair_times(),
            rounds: 0,
        }
    }

    /// The names of all tunnels, started or not, and groups.
    pub(super) fn names(&self) -> BTreeSet<IfName> {
        names(&self.intent, &self.tunnels)
    }

    /// The names of the tunnels that are up.
    pub(super) fn up(&self) -> BTreeSet<IfName> {
        let links = self.reconciler.links();
        let mut names = self.tunnels.names();
        names.retain(|name| self.tunnels.view(name, links.by_name(name)).state == State::Up);
        names
    }

    /// The time since the start.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Number of rounds in this run. Health is evaluated again after each.
    pub(super) const fn rounds(&self) -> u64 {
        self.rounds
    }

    /// How long repairs took.
    pub(super) const fn repair_times(&self) -> &Histogram {
        &self.repair_times
    }

    /// When the next round is due, if one is requested.
    pub(super) fn round_due(&self) -> Option<Instant> {
        let due = self.limiter.due()?;
        Some(after(self.started, due))
    }

    /// When the next poll for detached programs is due.
    pub(super) fn poll_due(&self) -> Instant {
        after(self.started, self.program_poll.due())
    }

    /// Requests another round, if changes came during the last one.
    pub(super) fn schedule_next_round(&mut self) {
        if let Some(urgency) = self.next_round.take() {
            self.schedule(urgency);
        }
    }

    /// Requests a round.
    pub(super) fn schedule(&mut self, urgency: Urgency) {
        let now = self.now();
        match urgency {
            Urgency::Paced => self.limiter.record_change(now),
            Urgency::AtOnce => self.limiter.urgent(now),
        }
    }

    /// Raises alerts.
    pub(super) fn raise(&mut self, alerts: impl IntoIterator<Item = About>) {
        alerts
            .into_iter()
            .for_each(|about| self.alerts.raise(about));
    }

    /// The present problems, as messages.
    pub(super) fn problems(&self) -> &[String] {
        self.problems.present()
    }

    /// Replaces the present problems, and raises alerts of new ones.
    pub(super) fn set_problems(&mut self, problems: Vec<String>) {
        let new = self.problems.replace(problems);
        self.raise(new.into_iter().map(|problem| About::Problem { problem }));
    }

    /// Adds to the present problems, and raises alerts of new ones.
    pub(super) fn add_problems(&mut self, problems: Vec<String>) {
        let new = self.problems.add(problems);
        self.raise(new.into_iter().map(|problem| About::Problem { problem }));
    }

    /// Handles a change of the host, and requests a round.
    pub(super) fn host_changed(&mut self, change: &Change) {
        let urgency = self.record_change(change, false);
        self.schedule(urgency);
    }

    /// Records a change of the host. `is_late`: it may have come after the scan of this round.
    fn record_change(&mut self, change: &Change, is_late: bool) -> Urgency {
        if let Some(removal) = &change.removal {
            let now = self.now();
            let named = self.tamper_log.record_removal(removal, is_late, now);
            self.raise(named);
        }
        if change.foreign_routes != ForeignRouteChange::Same {
            self.reconciler.netlink().foreign_routes_changed();
        }
        match change.is_new_link || change.foreign_routes == ForeignRouteChange::More {
            true => Urgency::AtOnce,
            false => Urgency::Paced,
        }
    }

    /// Takes the waiting events, so that a missing object has a culprit. Some may be newer than the scan, so another
    /// round follows.
    fn drain_changes(&mut self) {
        for _ in 0..EVENTS_AT_A_TIME {
            let Some(change) = self.watcher.try_next() else {
                return;
            };
            let urgency = self.record_change(&change, true);
            self.next_round = self.next_round.max(Some(urgency));
        }
    }

    fn record(&mut self, corrections: Vec<Correction>) {
        for correction in corrections {
            self.history.corrected(correction.tunnel.as_ref());
            let now = self.now();
            let report = self.tamper_log.record_correction(correction, now);
            self.raise(report);
        }
    }

    /// Reports corrections whose removal event did not arrive in time.
    pub(super) fn report_unattributed(&mut self) {
        let unattributed = self.tamper_log.report_due(self.now());
        self.raise(unattributed);
    }

    /// Reports the suppressed corrections and alerts as summaries.
    pub(super) fn report_summaries(&mut self) {
        let summary = self.tamper_log.summary(self.now());
        self.raise(summary);
        self.alerts.report_summaries();
    }

    /// Runs a round: scans the host, and reconciles it with the intent. An error means that the scan failed.
    pub(super) async fn run_round(&mut self) -> anyhow::Result<()> {
        let mut problems = self.learn_and_scan().await?;
        let started = self.tunnels.started();
        self.updates.follow(self.intent.effective(), &started);
        let up = self.up();
        self.probes
            .follow(self.intent.effective(), |name| up.contains(name));
        problems.extend(self.repair().await);
        problems.extend(self.deprecate().await);
        problems.extend(self.lasting_problems());
        self.set_problems(problems);
        let changes = self.tunnels.take_changes(self.reconciler.links());
        self.raise(changes);
        self.rounds += 1;
        Ok(())
    }

    /// Takes the reports of drivers, then scans the host and passes the result on. Returns problems.
    async fn learn_and_scan(&mut self) -> anyhow::Result<Vec<String>> {
        self.alerts.set_config(self.intent.effective());
        let moved = self.intent.learn(self.tunnels.reports());
        self.raise(moved.into_iter().map(|problem| About::Problem { problem }));
        let scope = Scope::of(self.intent.wanted());
        self.reconciler.scan(&scope).await?;
        let problems = self
            .intent
            .observe(self.reconciler.observed(), self.started.elapsed());
        self.tunnels.set_conflicts(self.intent.conflicts());
        self.drain_changes();
        self.tunnels.observe(self.reconciler.links());
        Ok(problems)
    }

    /// Reconciles the scanned host and the listeners with the intent, and records corrections. Returns problems.
    async fn repair(&mut self) -> Vec<String> {
        let goal = goal(&self.intent, &self.tunnels);
        let now = self.now();
        let round = self.reconciler.run(&goal, &self.paths, now).await;
        let exported = self.listeners.export(self.intent.effective()).await;
        self.record(round.corrections);
        self.record(self.restored_by_drivers());
        self.tamper_log.end_round();
        let mut problems = round.problems;
        problems.extend(exported.err().map(|error| format!("{error:#}")));
        problems
    }

    /// Deprecates the addresses of links that fail, and restores the addresses of links that work. Returns problems.
    async fn deprecate(&mut self) -> Vec<String> {
        let (netlink, links) = self.reconciler.netlink_and_links();
        let intended = Intended {
            config: self.intent.effective(),
            started: &self.tunnels.started(),
        };
        let done = self.deprecator.run(netlink, intended, links).await;
        self.raise(done.alerts);
        done.problems
    }

    /// Takes the present health of all tunnels, and requests a round if other links fail than before. What is observed goes
    /// into the history.
    pub(super) fn judged(
        &mut self,
        health: &BTreeMap<IfName, Health>,
        observed: BTreeMap<IfName, Observation>,
    ) {
        let now = self.now();
        let programs = self.reconciler.programs();
        self.history
            .observe(now, observed, |name| reply_times(programs, name));
        let intended = Intended {
            config: self.intent.effective(),
            started: &self.tunnels.started(),
        };
        if self.deprecator.judge(now, intended, health) {
            self.schedule(Urgency::Paced);
        }
    }

    /// Restores the lifetimes of all addresses that are deprecated: nobody watches the links any more.
    pub(super) async fn undo_deprecation(&mut self) {
        let (netlink, _) = self.reconciler.netlink_and_links();
        let done = self.deprecator.undo(netlink).await;
        self.raise(done.alerts);
        for problem in done.problems {
            warn!("{problem}");
        }
    }

    /// What drivers have restored.
    fn restored_by_drivers(&self) -> Vec<Correction> {
        let restored = self.tunnels.take_restored().into_iter();
        let correction = |(tunnel, step)| Correction {
            tunnel: Some(tunnel),
            step,
            removed: Removed::WireGuard,
        };
        restored.map(correction).collect()
    }

    /// Problems that the parts keep between rounds.
    fn lasting_problems(&mut self) -> Vec<String> {
        let now = self.now();
        let removed_again = self.tamper_log.problem(now).into_iter();
        removed_again
            .chain(self.reconciler.unrestored().iter().cloned())
            .chain(self.listeners.problem().cloned())
            .chain(self.alerts.hook_problems())
            .chain(self.updates.problems())
            .chain(self.history.problem())
            .collect()
    }

    /// Like [`Enforcer::run_round`]. An error becomes a problem, and the next round uses a new netlink connection.
    pub(super) async fn run_round_or_report(&mut self) {
        if let Err(error) = self.run_round().await {
            let mut problems = vec![format!("{error:#}")];
            problems.extend(self.reconciler.reconnect().err().map(|e| format!("{e:#}")));
            // The problems of the last round may still be there.
            self.add_problems(problems);
        }
    }

    /// Runs a round, and counts its processor time for the rate limit.
    pub(super) async fn timed_round(&mut self) -> anyhow::Result<()> {
        let since = self.limiter.begin_round(self.now());
        let before = processor_time()?;
        let corrections = self.tamper_log.corrections();
        self.run_round_or_report().await;
        let now = self.now();
        if let Some(since) = since
            && self.tamper_log.corrections() > corrections
        {
            self.repair_times
                .observe(now.saturating_sub(since).as_secs_f64());
        }
        let took = processor_time()?.saturating_sub(before);
        self.limiter.end(now, took);
        Ok(())
    }

    /// Queries the kernel for detached programs, and attaches them again.
    pub(super) async fn poll_programs(&mut self) -> anyhow::Result<()> {
        let before = processor_time()?;
        let is_missing = self.reconciler.has_lost_a_program();
        let took = processor_time()?.saturating_sub(before);
        let now = self.now();
        self.program_poll.ended(now, took, is_missing);
        if is_missing {
            let goal = goal(&self.intent, &self.tunnels);
            // The next round reports the problems that are still there then.
            let Round {
                corrections,
                problems: _,
            } = self.reconciler.reattach(&goal, now).await;
            self.record(corrections);
            self.schedule(Urgency::Paced);
        }
        Ok(())
    }

    /// Reads pins and maps back, and requests a round.
    pub(super) fn read_back(&mut self) {
        let restored = self.reconciler.restore();
        self.record(restored);
        self.listeners.listen();
        self.schedule(Urgency::Paced);
    }
}

/// The names of all tunnels and groups.
fn names(intent: &Intent, tunnels: &Tunnels) -> BTreeSet<IfName> {
    let groups = intent.wanted().groups.iter();
    let mut names = tunnels.names();
    names.extend(groups.map(|group| group.name.clone()));
    names
}

/// The goal of the next round.
fn goal<'a>(intent: &'a Intent, tunnels: &Tunnels) -> Goal<'a> {
    let started = tunnels.started();
    Goal {
        config: intent.effective(),
        desired: intent.desired(&started),
        scope: Scope::of(intent.wanted()),
        names: names(intent, tunnels),
        started,
        outer: tunnels.outer_reports(),
        endpoints: tunnels.endpoints(),
        outer_ends: tunnels.outer_ends(),
    }
}
