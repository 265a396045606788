//! Rounds: scans the host and makes it what is intended, at the pace that the pacer allows.
//!
//! Composes the intent, the drivers, the reconciler, the tamper log and the alerts. Must not know requests,
//! leaks or health.

use std::{sync::Arc, time::Duration};

use prometheus_client::metrics::histogram::Histogram;
use sixxs_core::reconcile_limiter::{ProgramPoll, ReconcileLimiter};
use tokio::time::Instant;

use super::{
    alerts::Alerts,
    endpoints::Endpoints,
    intent::Intent,
    reconciler::{Goal, Reconciler},
    tamper_log::{Correction, TamperLog},
    tunnels::Tunnels,
};
use crate::{
    control::api::About,
    host::clock::{after, processor_time},
    host::paths::Paths,
    metrics,
    netlink::{Change, OthersChange, Scope, Watcher},
};

/// Limit of netlink events taken before a scan.
const EVENTS_AT_A_TIME: usize = 4096;

/// How soon another scan has to follow the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// At the usual pace.
    Paced,
    /// At once: something new is not guarded until then.
    AtOnce,
}

/// Keeps the host as it is intended.
pub(super) struct Enforcer {
    pub(super) paths: Paths,
    pub(super) started: Instant,
    pub(super) intent: Intent,
    pub(super) tunnels: Tunnels,
    pub(super) reconciler: Reconciler,
    pub(super) endpoints: Endpoints,
    pub(super) alerts: Alerts,
    pub(super) tamper_log: TamperLog,
    watcher: Arc<Watcher>,
    pacer: ReconcileLimiter,
    program_poll: ProgramPoll,
    /// Changes that came during the last scan.
    rescan: Option<Urgency>,
    /// How long repairs took.
    repairs: Histogram,
    /// Rounds of this run.
    rounds: u64,
}

impl Enforcer {
    /// Nothing is scanned yet.
    pub(super) fn new(
        (intent, tunnels, reconciler): (Intent, Tunnels, Reconciler),
        (endpoints, alerts): (Endpoints, Alerts),
        watcher: Arc<Watcher>,
        paths: Paths,
    ) -> Self {
        Self {
            paths,
            started: Instant::now(),
            intent,
            tunnels,
            reconciler,
            endpoints,
            alerts,
            tamper_log: TamperLog::default(),
            watcher,
            pacer: ReconcileLimiter::default(),
            program_poll: ProgramPoll::default(),
            rescan: None,
            repairs: metrics::repairs(),
            rounds: 0,
        }
    }

    /// The time since the start.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Rounds of this run. Each may have changed what is to be reported.
    pub(super) const fn rounds(&self) -> u64 {
        self.rounds
    }

    /// How long repairs took.
    pub(super) const fn repairs(&self) -> &Histogram {
        &self.repairs
    }

    /// When the next scan is due, if one is requested.
    pub(super) fn scan_due(&self) -> Option<Instant> {
        let due = self.pacer.due()?;
        Some(after(self.started, due))
    }

    /// When the next poll for detached programs is due.
    pub(super) fn poll_due(&self) -> Instant {
        after(self.started, self.program_poll.due())
    }

    /// Asks for the scan that changes during the last one make necessary.
    pub(super) fn schedule_rescan(&mut self) {
        if let Some(urgency) = self.rescan.take() {
            self.schedule(urgency);
        }
    }

    /// Requests a scan.
    pub(super) fn schedule(&mut self, urgency: Urgency) {
        let now = self.now();
        match urgency {
            Urgency::Paced => self.pacer.changed(now),
            Urgency::AtOnce => self.pacer.urgent(now),
        }
    }

    /// Raises alerts.
    pub(super) fn raise(&mut self, alerts: impl IntoIterator<Item = About>) {
        alerts
            .into_iter()
            .for_each(|about| self.alerts.raise(about));
    }

    /// Takes a change of the host, and requests a scan.
    pub(super) fn host_changed(&mut self, change: &Change) {
        let urgency = self.take_change(change, false);
        self.schedule(urgency);
    }

    /// Takes a change of the host. `is_late`: a scan has begun already.
    fn take_change(&mut self, change: &Change, is_late: bool) -> Urgency {
        if let Some(removal) = &change.removal {
            let now = self.now();
            let named = self.tamper_log.removed(removal, is_late, now);
            self.raise(named);
        }
        if change.others != OthersChange::Same {
            self.reconciler.netlink().others_routes_changed();
        }
        match change.is_new_link || change.others == OthersChange::More {
            true => Urgency::AtOnce,
            false => Urgency::Paced,
        }
    }

    /// Takes the events that came before the scan, so that whatever it finds missing has a culprit. Events
    /// that came during the scan are among them, and ask for another one.
    fn drain_changes(&mut self) {
        for _ in 0..EVENTS_AT_A_TIME {
            let Some(change) = self.watcher.changed_already() else {
                return;
            };
            let urgency = self.take_change(&change, true);
            self.rescan = self.rescan.max(Some(urgency));
        }
    }

    fn record(&mut self, corrections: Vec<Correction>) {
        for correction in corrections {
            let now = self.now();
            let report = self.tamper_log.corrected(correction, now);
            self.raise(report);
        }
    }

    /// Reports corrections whose event has not come.
    pub(super) fn report_unnamed(&mut self) {
        let unnamed = self.tamper_log.report_due(self.now());
        self.raise(unnamed);
    }

    /// Reports the suppressed corrections and alerts as summaries.
    pub(super) fn report_summaries(&mut self) {
        let summary = self.tamper_log.summary(self.now());
        self.raise(summary);
        self.alerts.report_summaries();
    }

    /// Scans the host, and makes it what it should be. An error means that nothing could be scanned.
    pub(super) async fn reconcile(&mut self) -> anyhow::Result<()> {
        self.alerts.set(self.intent.effective());
        let moved = self.intent.learn(self.tunnels.reports());
        self.raise(moved.into_iter().map(|problem| About::Problem { problem }));
        let scope = Scope::of(self.intent.wanted());
        self.reconciler.scan(&scope).await?;
        let mut problems = self.intent.observe(self.reconciler.observed());
        self.tunnels.set_conflicts(self.intent.conflicts());
        self.drain_changes();
        self.tunnels.observe(self.reconciler.links());

        let goal = goal(&self.intent, &self.tunnels);
        let now = self.started.elapsed();
        let round = self.reconciler.run(&goal, &self.paths, now).await;
        let exported = self.endpoints.export(self.intent.effective()).await;
        self.record(round.corrections);
        self.tamper_log.scanned();

        let now = self.now();
        problems.extend(round.problems);
        problems.extend(exported.err().map(|error| format!("{error:#}")));
        problems.extend(self.tamper_log.problem(now));
        problems.extend(self.reconciler.unrestored().iter().cloned());
        problems.extend(self.endpoints.problem().cloned());
        problems.extend(self.alerts.hook_problems());
        self.alerts.set_problems(problems);
        let changes = self.tunnels.changes(self.reconciler.links());
        self.raise(changes);
        self.rounds += 1;
        Ok(())
    }

    /// As [`Enforcer::reconcile`]; an error becomes a problem, and the daemon continues with a new connection.
    pub(super) async fn reconcile_or_report(&mut self) {
        if let Err(error) = self.reconcile().await {
            let mut problems = vec![format!("{error:#}")];
            problems.extend(self.reconciler.reconnect().err().map(|e| format!("{e:#}")));
            // The problems of the last scan may still be there.
            self.alerts.add_problems(problems);
        }
    }

    /// Reconciles, and has the pacer count the processor time.
    pub(super) async fn scan_in_time(&mut self) -> anyhow::Result<()> {
        let since = self.pacer.begin(self.started.elapsed());
        let before = processor_time()?;
        let corrections = self.tamper_log.corrections();
        self.reconcile_or_report().await;
        let now = self.now();
        if let Some(since) = since
            && self.tamper_log.corrections() > corrections
        {
            self.repairs
                .observe(now.saturating_sub(since).as_secs_f64());
        }
        let took = processor_time()?.saturating_sub(before);
        self.pacer.end(now, took);
        Ok(())
    }

    /// Asks the kernel whether a program was detached, and attaches it again.
    pub(super) async fn poll_programs(&mut self) -> anyhow::Result<()> {
        let before = processor_time()?;
        let is_missing = self.reconciler.has_lost_a_program();
        let took = processor_time()?.saturating_sub(before);
        let now = self.now();
        self.program_poll.went(now, took, is_missing);
        if is_missing {
            let goal = goal(&self.intent, &self.tunnels);
            let corrections = self.reconciler.attach_again(&goal, now).await;
            self.record(corrections);
            self.schedule(Urgency::Paced);
        }
        Ok(())
    }

    /// Reads everything back, and requests a scan.
    pub(super) fn resync(&mut self) {
        let restored = self.reconciler.restore();
        self.record(restored);
        self.endpoints.listen();
        self.schedule(Urgency::Paced);
    }
}

/// The state that the next round brings about.
fn goal<'a>(intent: &'a Intent, tunnels: &Tunnels) -> Goal<'a> {
    let started = tunnels.started();
    Goal {
        config: intent.effective(),
        desired: intent.desired(&started),
        scope: Scope::of(intent.wanted()),
        names: tunnels.names(),
        started,
    }
}
