//! The daemon: composes the parts, and carries out what an event asks for.
//!
//! The only file that knows all parts. A part gets what it needs as arguments.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use anyhow::Context as _;
use prometheus_client::metrics::histogram::Histogram;
use sixxs_core::{
    aiccu,
    config::{Account, Config, Tls, Tunnel},
    pace::{Pacer, Patrol},
    routing::diff,
    types::IfName,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tracing::{info, warn};

use super::{
    alerts::Alerts,
    control_groups::{ControlGroups, add_sender},
    echo_health::EchoMonitors,
    endpoints::Endpoints,
    event::{Deadlines, Event, Sources},
    health::HealthMonitor,
    intent::Intent,
    leak_details::{Evidence, recursion},
    leak_reports::{self, LeakReports},
    metrics_snapshot,
    readings::{Readings, echo_times},
    reconciler::{Goal, Reconciler},
    reload::{Changes, Trial},
    snapshot::{Snapshot, TunnelState},
    status, systemd,
    tamper_log::{Correction, TamperLog},
    tunnels::{Stopped, Tunnels, detach_all, stop_all, stop_in_task},
};
use crate::{
    api::{self, About, ConfigText},
    broker::connects::Connects,
    clock::{after, processor_time},
    config_file,
    control::{Answer, Outcome, Quit, Request, Verb},
    driver::DriverContext,
    netlink::{Change, OthersChange, Scope, Watcher},
    paths::{Paths, absolute},
    preview::{Before, preview},
};

/// Grace period of a daemon that was started on demand and has no tunnel yet. It is checked at each resync.
const GRACE: Duration = Duration::from_secs(20);

/// Limit of netlink events taken before a scan.
const EVENTS_AT_A_TIME: usize = 4096;

/// At the end, hooks have this long to hand on the last alerts.
const HOOKS_FINISH: Duration = Duration::from_secs(3);

/// How soon another scan has to follow the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// At the usual pace.
    Paced,
    /// At once: something new is not guarded until then.
    AtOnce,
}

/// Why the daemon ends.
pub(super) struct Ending {
    /// Whether to stop the tunnels.
    stop_tunnels: bool,
    /// Whether nothing was left to do.
    pub(super) is_idle: bool,
    /// The client that waits for the end.
    done: Option<Answer<()>>,
}

impl Ending {
    const fn ordered(stop_tunnels: bool, done: Option<Answer<()>>) -> Self {
        Self {
            stop_tunnels,
            is_idle: false,
            done,
        }
    }
}

/// All parts.
pub(super) struct Daemon {
    pub(super) paths: Paths,
    /// Whether it ends with the last tunnel that was added at run time.
    pub(super) is_on_demand: bool,
    pub(super) started: Instant,
    pub(super) services: DriverContext,
    pub(super) intent: Intent,
    pub(super) tunnels: Tunnels,
    pub(super) reconciler: Reconciler,
    pub(super) endpoints: Endpoints,
    pub(super) alerts: Alerts,
    pub(super) watcher: Arc<Watcher>,
    /// Where tasks report that drivers have stopped.
    pub(super) stopped_to: mpsc::Sender<Stopped>,
    /// Keeps the record of connects short.
    pub(super) pruning: JoinHandle<()>,
    pub(super) parts: Parts,
}

/// Parts that start empty.
#[derive(Default)]
pub(super) struct Parts {
    tamper_log: TamperLog,
    leak_reports: LeakReports,
    control_groups: ControlGroups,
    echo: EchoMonitors,
    health: HealthMonitor,
    trial: Trial,
    pacer: Pacer,
    program_poll: Patrol,
    /// Changes that came during the last scan.
    rescan: Option<Urgency>,
    is_ready: bool,
}

impl Daemon {
    /// The time since the start.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Handles events until one ends the daemon.
    pub(super) async fn work(
        &mut self,
        sources: &mut Sources,
        repairs: &Histogram,
    ) -> anyhow::Result<Ending> {
        loop {
            if self.is_on_demand && self.intent.is_idle(self.now() > GRACE) {
                return Ok(Ending {
                    stop_tunnels: true,
                    is_idle: true,
                    done: None,
                });
            }
            if !self.parts.is_ready && self.reconciler.is_ready() {
                systemd::ready()?;
                self.parts.is_ready = true;
            }
            if let Some(urgency) = self.parts.rescan.take() {
                self.schedule(urgency);
            }
            let event = sources.next(&self.deadlines()).await?;
            if let ControlFlow::Break(ending) = self.handle(event, repairs).await? {
                return Ok(ending);
            }
        }
    }

    fn deadlines(&self) -> Deadlines {
        let parts = &self.parts;
        let at = |due: Option<Duration>| due.map(|due| after(self.started, due));
        let scan = at(parts.pacer.due());
        let retry = self.reconciler.retry_due(self.started);
        Deadlines {
            scan,
            retry: retry.filter(|_| scan.is_none()),
            poll: after(self.started, parts.program_poll.due()),
            trial: at(parts.trial.ends()),
            health: at(parts.health.due()),
            unnamed: at(parts.tamper_log.due()),
            has_lines: !parts.leak_reports.is_idle()
                || parts.tamper_log.has_more()
                || self.alerts.has_more(),
        }
    }

    async fn handle(
        &mut self,
        event: Event,
        repairs: &Histogram,
    ) -> anyhow::Result<ControlFlow<Ending>> {
        match event {
            Event::Terminate => return Ok(ControlFlow::Break(Ending::ordered(false, None))),
            Event::Quit(Quit { stop, done }) => {
                return Ok(ControlFlow::Break(Ending::ordered(stop, Some(done))));
            }
            Event::Hangup => self.reload_by_signal().await?,
            Event::Change(change) => {
                let urgency = self.take_change(&change, false);
                self.schedule(urgency);
            }
            Event::DriverReport | Event::RetryDue => self.schedule(Urgency::Paced),
            Event::ScanDue => self.scan_in_time(repairs).await?,
            Event::PollDue => self.poll_programs().await?,
            Event::Resync => self.resync(),
            Event::Stopped(stopped) => self.drivers_stopped(stopped).await,
            Event::Leaks(leaks) => {
                let now = self.now();
                let reports = &mut self.parts.leak_reports;
                leaks.iter().for_each(|leak| reports.event(leak, now));
            }
            Event::LeakLinesDue => {
                self.report_leaks();
                let summary = self.parts.tamper_log.summary(self.now());
                self.raise(summary);
                self.alerts.tell_together();
            }
            Event::UnnamedDue => {
                let unnamed = self.parts.tamper_log.report_due(self.now());
                self.raise(unnamed);
            }
            Event::EchoDue => warn_of(self.observe_echo().and_then(|()| self.report_health())),
            Event::HealthDue => warn_of(self.report_health()),
            Event::TrialEnds => self.revert().await,
            Event::Request(request) => self.answer(request, repairs).await,
        }
        Ok(ControlFlow::Continue(()))
    }

    fn schedule(&mut self, urgency: Urgency) {
        let now = self.now();
        match urgency {
            Urgency::Paced => self.parts.pacer.changed(now),
            Urgency::AtOnce => self.parts.pacer.urgent(now),
        }
    }

    fn raise(&mut self, alerts: impl IntoIterator<Item = About>) {
        alerts
            .into_iter()
            .for_each(|about| self.alerts.raise(about));
    }

    /// Takes a change of the host. `is_late`: a scan has begun already.
    fn take_change(&mut self, change: &Change, is_late: bool) -> Urgency {
        if let Some(removal) = &change.removal {
            let now = self.now();
            let named = self.parts.tamper_log.removed(removal, is_late, now);
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
            self.parts.rescan = self.parts.rescan.max(Some(urgency));
        }
    }

    fn record(&mut self, corrections: Vec<Correction>) {
        for correction in corrections {
            let now = self.now();
            let report = self.parts.tamper_log.corrected(correction, now);
            self.raise(report);
        }
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

        let (names, started) = (self.tunnels.names(), self.tunnels.started());
        let goal = Goal {
            config: self.intent.effective(),
            desired: &self.intent.desired(&started),
            scope: &scope,
            names: &names,
            started: &started,
        };
        let now = self.started.elapsed();
        let round = self.reconciler.run(&goal, &self.paths, now).await;
        let exported = self.endpoints.export(self.intent.effective()).await;
        self.record(round.corrections);
        self.parts.tamper_log.scanned();

        let now = self.now();
        problems.extend(round.problems);
        problems.extend(exported.err().map(|error| format!("{error:#}")));
        problems.extend(self.parts.tamper_log.problem(now));
        problems.extend(self.reconciler.unrestored().iter().cloned());
        problems.extend(self.endpoints.problem().cloned());
        problems.extend(self.alerts.hook_problems());
        self.alerts.set_problems(problems);
        let changes = self.tunnels.changes(self.reconciler.links());
        self.raise(changes);
        self.parts.health.schedule(now);
        Ok(())
    }

    /// As [`Daemon::reconcile`]; an error becomes a problem, and the daemon goes on with a new connection.
    async fn reconcile_or_report(&mut self) {
        if let Err(error) = self.reconcile().await {
            let mut problems = vec![format!("{error:#}")];
            problems.extend(self.reconciler.reconnect().err().map(|e| format!("{e:#}")));
            self.alerts.set_problems(problems);
        }
    }

    /// Reconciles, and has the pacer count the processor time.
    async fn scan_in_time(&mut self, repairs: &Histogram) -> anyhow::Result<()> {
        let since = self.parts.pacer.begin(self.started.elapsed());
        let before = processor_time()?;
        let corrections = self.parts.tamper_log.corrections();
        self.reconcile_or_report().await;
        let now = self.now();
        if let Some(since) = since
            && self.parts.tamper_log.corrections() > corrections
        {
            repairs.observe(now.saturating_sub(since).as_secs_f64());
        }
        let took = processor_time()?.saturating_sub(before);
        self.parts.pacer.end(now, took);
        Ok(())
    }

    /// Asks the kernel whether a program was detached, and attaches it again.
    async fn poll_programs(&mut self) -> anyhow::Result<()> {
        let before = processor_time()?;
        let is_missing = self.reconciler.has_lost_a_program();
        let took = processor_time()?.saturating_sub(before);
        let now = self.now();
        self.parts.program_poll.went(now, took, is_missing);
        if is_missing {
            let (names, started) = (self.tunnels.names(), self.tunnels.started());
            let goal = Goal {
                config: self.intent.effective(),
                desired: &self.intent.desired(&started),
                scope: &Scope::of(self.intent.wanted()),
                names: &names,
                started: &started,
            };
            let corrections = self.reconciler.attach_again(&goal, now).await;
            self.record(corrections);
            self.schedule(Urgency::Paced);
        }
        Ok(())
    }

    fn resync(&mut self) {
        let restored = self.reconciler.restore();
        self.record(restored);
        self.endpoints.listen();
        self.schedule(Urgency::Paced);
    }

    /// Takes the leaks counted until now as reported: an earlier run has reported them.
    pub(super) fn begin_leak_reports(&mut self) -> anyhow::Result<()> {
        let totals = self.leak_totals()?;
        self.parts.leak_reports.begin(totals);
        Ok(())
    }

    fn leak_totals(&self) -> anyhow::Result<Vec<(u32, u64)>> {
        let names = self.tunnels.names();
        let kernel = self.reconciler.kernel();
        let slots = names.iter().filter_map(|name| kernel.slot(name));
        slots
            .map(|slot| Ok((slot, leak_reports::total(&kernel.counters(slot)?))))
            .collect()
    }

    /// Reports the leaks since the last report.
    fn report_leaks(&mut self) {
        let totals = match self.leak_totals() {
            Ok(totals) => totals,
            Err(error) => {
                self.alerts.set_problems(vec![format!("{error:#}")]);
                return;
            }
        };
        let now = self.now();
        self.parts.health.schedule(now);
        let kernel = self.reconciler.kernel();
        let read = |flow: &_| kernel.flow(flow);
        let lines = self.parts.leak_reports.lines(read, totals, now);
        let evidence = Evidence {
            config: self.intent.effective(),
            started: &self.tunnels.started(),
            slots: kernel.slots(),
            plan: self.reconciler.plan(),
            others_rules: self.reconciler.others_rules(),
            links: self.reconciler.links(),
        };
        let recent = |tunnel: &IfName| self.parts.tamper_log.recent(tunnel, now);
        self.parts.control_groups.begin();
        for line in lines {
            let mut leak = evidence.leak(&line);
            add_sender(&mut self.parts.control_groups, &mut leak);
            if let Some(cause) = evidence.cause(&line, recent) {
                leak.cause = Some(cause.name().to_owned());
                leak.why = Some(cause.sentence());
                leak.cure = Some(cause.cure());
            }
            self.alerts.raise(About::Leak(Box::new(leak)));
        }
    }

    fn observe_echo(&mut self) -> anyhow::Result<()> {
        let names = self.tunnels.names();
        let readings = Readings::read(self.reconciler.kernel(), &names)?;
        self.parts
            .echo
            .observe(&names, &readings, self.started.elapsed());
        Ok(())
    }

    fn report_health(&mut self) -> anyhow::Result<()> {
        let mut health = std::mem::take(&mut self.parts.health);
        let reports = self.snapshot(false).map(|now| health.report(&now));
        self.parts.health = health;
        self.raise(reports?);
        Ok(())
    }

    /// The state at this moment. Echo times are read only where they are needed.
    fn snapshot(&self, with_echo_times: bool) -> anyhow::Result<Snapshot<'_>> {
        let kernel = self.reconciler.kernel();
        let (config, links) = (self.intent.effective(), self.reconciler.links());
        let names: Vec<_> = config.tunnels.iter().map(|t| t.name.clone()).collect();
        let uplinks = status::uplink_names(config, links);
        let readings = Readings::read(kernel, names.iter().chain(&uplinks))?;
        let now = self.now();
        let tunnel = |name: IfName| {
            let echo = &self.parts.echo;
            let slot = readings.slot(&name);
            let state = TunnelState {
                view: self.tunnels.view(&name, links.by_name(&name)),
                account: self.intent.account_file(&name),
                manner: echo.manner(&name),
                unanswered_in_a_row: echo.unanswered_in_a_row(&name, &readings),
                leaks: slot.and_then(|slot| self.parts.leak_reports.fate(slot, now)),
            };
            (name, state)
        };
        Ok(Snapshot {
            config,
            links,
            plan: self.reconciler.plan(),
            shadows: self.reconciler.shadows(),
            hooks: self.reconciler.hooks(),
            started: self.tunnels.started(),
            tunnels: names.into_iter().map(tunnel).collect(),
            echo_times: match with_echo_times {
                true => echo_times(kernel, &readings)?,
                false => Default::default(),
            },
            corrections: self.parts.tamper_log.corrections(),
            problems: self.alerts.problems().to_vec(),
            readings,
            now,
        })
    }

    /// Problems of the present that no scan finds: recursive packets.
    fn recursions(&self) -> impl Iterator<Item = String> {
        let now = self.now();
        let slots = self.reconciler.kernel().slots().iter();
        slots.filter_map(move |(name, slot)| {
            let flow = self.parts.leak_reports.recursion(*slot, now)?;
            let cause = recursion(name, flow);
            let (why, cure) = (cause.sentence(), cause.cure());
            Some(format!("{name}: packets are dropped: {why}; {cure}"))
        })
    }

    /// A snapshot for clients, with how each broker limits connects.
    async fn full_snapshot(
        &self,
    ) -> anyhow::Result<(
        Snapshot<'_>,
        std::collections::BTreeMap<String, sixxs_core::broker::connects::Standing>,
    )> {
        let standings = self.services.connects.standings().await;
        let mut snapshot = self.snapshot(true)?;
        let standings = standings.unwrap_or_else(|error| {
            snapshot.problems.push(format!("{error:#}"));
            Default::default()
        });
        snapshot.problems.extend(self.recursions());
        Ok((snapshot, standings))
    }

    async fn status(&self) -> anyhow::Result<api::Status> {
        let (snapshot, standings) = self.full_snapshot().await?;
        let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
        Ok(status::status(&snapshot, standings, now))
    }

    async fn metrics(&self, repairs: &Histogram) -> anyhow::Result<String> {
        let (snapshot, standings) = self.full_snapshot().await?;
        let others = metrics_snapshot::Others {
            standings,
            repairs: repairs.clone(),
            hooks_dropped: self.alerts.dropped(),
            now: jiff::Timestamp::now(),
        };
        Ok(metrics_snapshot::metrics(&snapshot, others).write()?)
    }

    fn counters(&self) -> anyhow::Result<api::Counters> {
        let kernel = self.reconciler.kernel();
        let readings = Readings::read(kernel, kernel.slots().keys())?;
        Ok(status::counters(&readings))
    }

    /// Answers a request.
    async fn answer(&mut self, request: Request, repairs: &Histogram) {
        // A client that has gone misses the answer.
        match request {
            Request::Status(answer) => {
                let _gone = answer.send(self.status().await);
            }
            Request::Counters(answer) => {
                let _gone = answer.send(self.counters());
            }
            Request::Metrics(answer) => {
                let _gone = answer.send(self.metrics(repairs).await);
            }
            Request::Alerts(answer) => {
                let _gone = answer.send(self.alerts.subscribe());
            }
            Request::Plan(answer) => {
                let _gone = answer.send(self.plan().await);
            }
            Request::Preview(asked, answer) => {
                let _gone = answer.send(self.preview(asked).await);
            }
            Request::Reload(confirm_within, answer) => self.reload(confirm_within, answer).await,
            Request::Confirm(answer) => {
                let _gone = answer.send(self.parts.trial.confirm());
            }
            Request::Account(verb, file, answer) => {
                let tunnel = match verb {
                    Verb::Stop => self.intent.tunnel_of(&file.file),
                    Verb::Start | Verb::Restart => self.add_account(&file),
                };
                let chosen = tunnel.map(|tunnel| vec![tunnel]);
                self.act(verb, chosen, file.refresh, answer).await;
            }
            Request::Tunnels(verb, names, answer) => {
                let chosen = self.intent.choose(&names.tunnels);
                self.act(verb, chosen, names.refresh, answer).await;
            }
        }
    }

    async fn plan(&mut self) -> anyhow::Result<api::Plan> {
        let scope = Scope::of(self.intent.wanted());
        let observed = self.reconciler.netlink().observe(&scope).await?;
        let desired = self.intent.desired(&self.tunnels.started());
        Ok(api::Plan {
            config: Some(absolute(&self.paths.config)),
            ..api::Plan::from(&diff(&desired, &observed))
        })
    }

    /// The tunnel of the account in this file, which is added if it is new.
    fn add_account(&mut self, file: &api::AccountFile) -> Result<Tunnel, String> {
        if let Ok(known) = self.intent.tunnel_of(&file.file) {
            return Ok(known);
        }
        let bytes = config_file::read_secret(&file.file)?;
        let aiccu = aiccu::parse(&file.file, &bytes).map_err(|invalid| invalid.to_string())?;
        self.intent.add(Account {
            file: file.file.clone(),
            aiccu,
            tls: Tls {
                ca: file.tls_ca.clone(),
                verify: file.tls_verify,
            },
        })
    }

    /// Starts, stops or restarts tunnels. Drivers may take their time to stop: a task waits for them, and
    /// [`Daemon::drivers_stopped`] goes on.
    async fn act(
        &mut self,
        verb: Verb,
        chosen: Result<Vec<Tunnel>, String>,
        refresh: bool,
        answer: Answer<Outcome>,
    ) {
        let chosen = match chosen {
            Ok(chosen) => self.check_act(verb, chosen, refresh).await,
            Err(error) => Err(error),
        };
        let chosen = match chosen {
            Ok(chosen) => chosen,
            Err(error) => {
                let _gone = answer.send(Err(error));
                return;
            }
        };
        let names: Vec<_> = chosen.iter().map(|tunnel| tunnel.name.clone()).collect();
        let stops: &[IfName] = match verb {
            Verb::Start => &[],
            Verb::Stop | Verb::Restart => &names,
        };
        let stops = stops.to_vec();
        let start = if verb == Verb::Stop { vec![] } else { chosen };
        let stopped = Stopped {
            refresh,
            ..Stopped::new(names, start, answer)
        };
        self.stop_then(&stops, stopped).await;
    }

    async fn check_act(
        &self,
        verb: Verb,
        chosen: Vec<Tunnel>,
        refresh: bool,
    ) -> Result<Vec<Tunnel>, String> {
        let names = chosen.iter().map(|tunnel| &tunnel.name);
        self.refuse_stopping(names)?;
        if verb == Verb::Restart {
            let state = (self.intent.effective(), self.reconciler.links());
            let check = self
                .tunnels
                .check_restart(&chosen, refresh, state, &self.services);
            check.await.map_err(|error| format!("{error:#}"))?;
        }
        Ok(chosen)
    }

    /// A tunnel whose driver is being stopped cannot be changed.
    fn refuse_stopping<'a>(
        &self,
        mut names: impl Iterator<Item = &'a IfName>,
    ) -> Result<(), String> {
        match names.find(|name| self.tunnels.is_stopping(name)) {
            Some(name) => Err(format!("{name} is being stopped; try again in a moment")),
            None => Ok(()),
        }
    }

    /// Stops the drivers of these tunnels, and then does the rest.
    async fn stop_then(&mut self, names: &[IfName], stopped: Stopped) {
        let drivers = self.tunnels.take_drivers(names);
        if drivers.is_empty() {
            self.drivers_stopped(stopped).await;
            return;
        }
        // Rules and sources go first, the interface after them.
        self.reconcile_or_report().await;
        stop_in_task(drivers, stopped, self.stopped_to.clone());
    }

    /// Drivers have stopped: starts the tunnels that are to be started, and answers.
    async fn drivers_stopped(&mut self, stopped: Stopped) {
        let Stopped {
            names,
            start,
            refresh,
            answer,
            mut problems,
        } = stopped;
        for name in &names {
            if start.is_empty() {
                self.intent.drop_runtime(name);
            }
            let mut wanted = self.intent.wanted().tunnels.iter();
            let is_gone = wanted.all(|tunnel| tunnel.name != *name);
            self.tunnels.has_stopped(name, is_gone);
        }
        if !start.is_empty() {
            self.intent.note_start();
        }
        for tunnel in &start {
            self.tunnels.start(tunnel, &self.services, refresh);
        }
        if let Err(error) = self.reconcile().await {
            problems.push(format!("{error:#}"));
        }
        let outcome = match problems.is_empty() {
            true => Ok(()),
            false => Err(problems.join("; ")),
        };
        let _gone = answer.send(outcome);
    }

    /// Reloads the configuration file. A wrong file changes nothing.
    async fn reload(&mut self, confirm_within: Option<Duration>, answer: Answer<Outcome>) {
        let config = match config_file::read(&self.paths.config) {
            Ok(config) => config,
            Err(error) => {
                let _gone = answer.send(Err(error.to_string()));
                return;
            }
        };
        for note in config.notes() {
            info!("{note}");
        }
        let before = self.intent.file();
        match self.take_over(config) {
            Ok(changes) => {
                let now = self.now();
                self.parts.trial.begin(before, confirm_within, now);
                self.follow(changes, answer).await;
            }
            Err(refusal) => {
                let _gone = answer.send(Err(refusal));
            }
        }
    }

    /// `systemctl reload` and `kill -HUP`.
    async fn reload_by_signal(&mut self) -> anyhow::Result<()> {
        systemd::reloading()?;
        self.reload(None, log_outcome("reload")).await;
        systemd::reloaded()
    }

    /// Nobody has confirmed the configuration: reverts to the one before.
    async fn revert(&mut self) {
        let Some(config) = self.parts.trial.end() else {
            return;
        };
        match self.take_over(config.clone()) {
            Ok(changes) => {
                let problem = format!(
                    "nobody confirmed the new configuration: back to the one before; {} is still the new one",
                    self.paths.config.display()
                );
                self.raise([About::Problem { problem }]);
                let answer = log_outcome("go back to the configuration before");
                self.follow(changes, answer).await;
            }
            Err(refusal) => {
                // A tunnel is being stopped: a moment later it can be done.
                info!("go back to the configuration before: {refusal}");
                let now = self.now();
                self.parts.trial.retry(config, now);
            }
        }
    }

    /// Makes a configuration the wanted one. Returns what has to be stopped and started for it.
    fn take_over(&mut self, mut config: Config) -> Result<Changes, String> {
        self.intent.keep_runtime(&mut config)?;
        let changes = Changes::between(self.intent.wanted(), &config);
        self.refuse_stopping(changes.touched())?;
        self.services.connects.set_limit(config.connect_limit);
        self.intent.replace(config, &changes.stop);
        Ok(changes)
    }

    /// Stops and starts what changed, and reconciles.
    async fn follow(&mut self, changes: Changes, answer: Answer<Outcome>) {
        let Changes { stop, mut start } = changes;
        // A tunnel that a request has stopped stays stopped.
        start.retain(|tunnel| self.tunnels.is_new_or_started(&tunnel.name));
        let stopped = Stopped::new(stop.clone(), start, answer);
        self.stop_then(&stop, stopped).await;
    }

    /// What a reload would change.
    async fn preview(&mut self, asked: api::CheckReload) -> anyhow::Result<api::Preview> {
        let faulty = |fault: String| api::Preview {
            faults: vec![fault],
            ..api::Preview::default()
        };
        let read = match asked.instead {
            Some(ConfigText { file, text }) => config_file::parse(&file, &text),
            None => config_file::read(&self.paths.config),
        };
        let mut new = match read {
            Ok(new) => new,
            Err(error) => return Ok(faulty(error.to_string())),
        };
        if let Err(refusal) = self.intent.keep_runtime(&mut new) {
            return Ok(faulty(refusal));
        }
        let stops = Changes::between(self.intent.wanted(), &new).stop;
        let mut learned = self.services.known(&new).await;
        let present = self.intent.learned().iter();
        let kept = present.filter(|(name, _)| !stops.contains(name));
        learned.extend(kept.map(|(name, assigned)| (name.clone(), assigned.clone())));
        let before = Before {
            config: self.intent.wanted(),
            in_force: self.intent.effective(),
            stopped: self.tunnels.stopped(),
        };
        let clock = &self.services.clock;
        let ledger_clock = Arc::new(clock.clone());
        let connects = Connects::with_clock(&self.paths.state_dir, new.connect_limit, ledger_clock);
        let netlink = self.reconciler.netlink();
        preview(before, &new, &learned, netlink, &connects, clock).await
    }

    /// Ends drivers and tasks. What is enforced stays in place.
    pub(super) async fn shut_down(self, sources: Sources, ending: Ending) -> anyhow::Result<()> {
        info!(
            "{}",
            match (ending.is_idle, ending.stop_tunnels) {
                (true, _) => "no tunnel is left: ending, and taking away what is enforced",
                (false, true) =>
                    "stopping all tunnels and ending; `sixxs down` takes away what is enforced",
                (false, false) => "ending; what is enforced stays in place",
            }
        );
        systemd::stopping()?;
        let Self {
            tunnels,
            alerts,
            stopped_to,
            ..
        } = self;
        let drivers = tunnels.into_drivers();
        // The remaining senders belong to tasks that stop drivers.
        drop(stopped_to);
        let end = async |mut stopped: mpsc::Receiver<Stopped>| {
            let stopping = async {
                let mut problems = Vec::new();
                while let Some(stopped) = stopped.recv().await {
                    problems.extend(stopped.problems);
                }
                problems
            };
            let ending = async {
                match ending.stop_tunnels {
                    true => stop_all(drivers).await,
                    false => detach_all(drivers).await,
                }
            };
            let (mut problems, more) = tokio::join!(stopping, ending);
            problems.extend(more);
            alerts.finish(HOOKS_FINISH).await;
            problems
        };
        let problems = sources.finish(end).await;
        let problems = problems.into_iter().flatten();
        problems.for_each(|problem| warn!("{problem}"));
        if let Some(done) = ending.done {
            // The client may have gone.
            let _gone = done.send(());
        }
        self.pruning.abort();
        self.endpoints.close().context("close the control socket")
    }
}

fn warn_of(outcome: anyhow::Result<()>) {
    if let Err(error) = outcome {
        warn!("{error:#}");
    }
}

/// Where an outcome goes for which no client waits.
fn log_outcome(what: &'static str) -> Answer<Outcome> {
    let (answer, outcome) = oneshot::channel::<Outcome>();
    tokio::spawn(async move {
        match outcome.await {
            Ok(Ok(())) => info!("{what}: done"),
            Ok(Err(error)) => warn!("{what}: {error}"),
            // The daemon is ending.
            Err(_) => {}
        }
    });
    answer
}
