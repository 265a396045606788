//! The daemon: composes the parts, and handles events.
//!
//! The only file that knows all parts. A part gets what it needs as arguments.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use anyhow::Context as _;
use sixxs_core::{broker::connects::Standing, types::IfName};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::{info, warn};

use super::{
    control_groups::{ControlGroups, add_sender},
    echo_health::EchoMonitors,
    enforcer::{Enforcer, Urgency},
    event::{Deadlines, Event, Sources},
    health::HealthMonitor,
    leak_details::{Evidence, recursion},
    leak_reports::{self, LeakReports},
    metrics_snapshot,
    operations::Operations,
    readings::{Readings, echo_times},
    snapshot::{Snapshot, TunnelState},
    status, systemd,
    tunnels::{StoppedDrivers, detach_all, stop_all},
};
use crate::{
    control::api::{self, About},
    control::{Answer, Quit, Request, Verb},
    host::clock::after,
};

/// Grace period of a daemon that was started on demand and has no tunnel yet. It is checked at each resync.
const GRACE: Duration = Duration::from_secs(20);

/// At the end, hooks have this long to hand on the last alerts.
const HOOKS_FINISH: Duration = Duration::from_secs(3);

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
    operations: Operations,
    /// Whether it ends with the last tunnel that was added at run time.
    is_on_demand: bool,
    /// Keeps the record of connects short.
    pruning: JoinHandle<()>,
    leak_reports: LeakReports,
    control_groups: ControlGroups,
    echo: EchoMonitors,
    health: HealthMonitor,
    /// The rounds that the health of tunnels was scheduled for.
    rounds: u64,
    is_ready: bool,
}

impl Daemon {
    /// A daemon that has reconciled once. Leaks counted until now count as reported: an earlier run has
    /// reported them.
    pub(super) fn new(
        operations: Operations,
        is_on_demand: bool,
        pruning: JoinHandle<()>,
    ) -> anyhow::Result<Self> {
        let mut daemon = Self {
            operations,
            is_on_demand,
            pruning,
            leak_reports: LeakReports::default(),
            control_groups: ControlGroups::default(),
            echo: EchoMonitors::default(),
            health: HealthMonitor::default(),
            rounds: 0,
            is_ready: false,
        };
        let totals = daemon.leak_totals()?;
        daemon.leak_reports.start_at(totals);
        Ok(daemon)
    }

    const fn enforcer(&self) -> &Enforcer {
        &self.operations.enforcer
    }

    const fn enforcer_mut(&mut self) -> &mut Enforcer {
        &mut self.operations.enforcer
    }

    fn now(&self) -> Duration {
        self.enforcer().now()
    }

    /// Handles events until one ends the daemon.
    pub(super) async fn work(&mut self, sources: &mut Sources) -> anyhow::Result<Ending> {
        loop {
            let is_grace_over = self.now() > GRACE;
            let enforcer = &mut self.operations.enforcer;
            if self.is_on_demand && enforcer.intent.is_idle(is_grace_over) {
                return Ok(Ending {
                    stop_tunnels: true,
                    is_idle: true,
                    done: None,
                });
            }
            if !self.is_ready && enforcer.reconciler.is_ready() {
                systemd::notify_ready()?;
                self.is_ready = true;
            }
            enforcer.schedule_rescan();
            if enforcer.rounds() > self.rounds {
                self.rounds = enforcer.rounds();
                self.health.schedule(enforcer.now());
            }
            let event = sources.next(&self.deadlines()).await?;
            if let ControlFlow::Break(ending) = self.handle(event).await? {
                return Ok(ending);
            }
        }
    }

    fn deadlines(&self) -> Deadlines {
        let enforcer = self.enforcer();
        let at = |due: Option<Duration>| due.map(|due| after(enforcer.started, due));
        let scan = enforcer.scan_due();
        let retry = enforcer.reconciler.retry_due(enforcer.started);
        Deadlines {
            scan,
            retry: retry.filter(|_| scan.is_none()),
            poll: enforcer.poll_due(),
            trial: at(self.operations.trial.ends()),
            health: at(self.health.due()),
            unattributed: at(enforcer.tamper_log.due()),
            has_lines: !self.leak_reports.is_idle()
                || enforcer.tamper_log.has_more()
                || enforcer.alerts.has_more(),
        }
    }

    async fn handle(&mut self, event: Event) -> anyhow::Result<ControlFlow<Ending>> {
        let enforcer = &mut self.operations.enforcer;
        let now = enforcer.now();
        match event {
            Event::Terminate => return Ok(ControlFlow::Break(Ending::ordered(false, None))),
            Event::Quit(Quit { stop, done }) => {
                return Ok(ControlFlow::Break(Ending::ordered(stop, Some(done))));
            }
            Event::Hangup => self.operations.reload_by_signal().await?,
            Event::Change(change) => enforcer.host_changed(&change),
            Event::DriverReport | Event::RetryDue => enforcer.schedule(Urgency::Paced),
            Event::ScanDue => enforcer.scan_within_limit().await?,
            Event::PollDue => enforcer.poll_programs().await?,
            Event::Resync => enforcer.resync(),
            Event::UnattributedDue => enforcer.report_unattributed(),
            Event::Stopped(stopped) => self.operations.drivers_stopped(stopped).await,
            Event::TrialEnds => self.operations.revert().await,
            Event::Leaks(leaks) => {
                let reports = &mut self.leak_reports;
                leaks.iter().for_each(|leak| reports.event(leak, now));
            }
            Event::LeakLinesDue => {
                self.report_leaks();
                self.enforcer_mut().report_summaries();
            }
            Event::EchoDue => log_error(self.observe_echo().and_then(|()| self.report_health())),
            Event::HealthDue => log_error(self.report_health()),
            Event::Request(request) => self.answer(request).await,
        }
        Ok(ControlFlow::Continue(()))
    }

    fn leak_totals(&self) -> anyhow::Result<Vec<(u32, u64)>> {
        let names = self.enforcer().tunnels.names();
        let kernel = self.enforcer().reconciler.kernel();
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
                self.operations
                    .enforcer
                    .alerts
                    .set_problems(vec![format!("{error:#}")]);
                return;
            }
        };
        let now = self.now();
        self.health.schedule(now);
        let enforcer = &mut self.operations.enforcer;
        let kernel = enforcer.reconciler.kernel();
        let read = |flow: &_| kernel.flow(flow);
        let lines = self.leak_reports.lines(read, totals, now);
        let evidence = Evidence {
            config: enforcer.intent.effective(),
            started: &enforcer.tunnels.started(),
            slots: kernel.slots(),
            plan: enforcer.reconciler.plan(),
            foreign_rules: enforcer.reconciler.foreign_rules(),
            links: enforcer.reconciler.links(),
        };
        let recent = |tunnel: &IfName| enforcer.tamper_log.recent(tunnel, now);
        self.control_groups.begin_report();
        for line in lines {
            let mut leak = evidence.leak(&line);
            add_sender(&mut self.control_groups, &mut leak);
            if let Some(cause) = evidence.cause(&line, recent) {
                leak.cause = Some(cause.name().to_owned());
                leak.why = Some(cause.sentence());
                leak.cure = Some(cause.cure());
            }
            enforcer.alerts.raise(About::Leak(Box::new(leak)));
        }
    }

    fn observe_echo(&mut self) -> anyhow::Result<()> {
        let names = self.enforcer().tunnels.names();
        let readings = Readings::read(self.enforcer().reconciler.kernel(), &names)?;
        self.echo.observe(&names, &readings, self.now());
        Ok(())
    }

    fn report_health(&mut self) -> anyhow::Result<()> {
        let mut health = std::mem::take(&mut self.health);
        let reports = self.snapshot(false).map(|now| health.report(&now));
        if reports.is_err() {
            health.postpone(self.now());
        }
        self.health = health;
        self.enforcer_mut().raise(reports?);
        Ok(())
    }

    /// The state at this moment. Echo times are read only where they are needed.
    fn snapshot(&self, with_echo_times: bool) -> anyhow::Result<Snapshot<'_>> {
        let enforcer = self.enforcer();
        let kernel = enforcer.reconciler.kernel();
        let (config, links) = (enforcer.intent.effective(), enforcer.reconciler.links());
        let names: Vec<_> = config.tunnels.iter().map(|t| t.name.clone()).collect();
        let uplinks = status::uplink_names(config, links);
        let readings = Readings::read(kernel, names.iter().chain(&uplinks))?;
        let now = self.now();
        let tunnel = |name: IfName| {
            let echo = &self.echo;
            let slot = readings.slot(&name);
            let state = TunnelState {
                view: enforcer.tunnels.view(&name, links.by_name(&name)),
                account: enforcer.intent.account_file(&name),
                echo_health: echo.health(&name),
                unanswered_in_a_row: echo.unanswered_in_a_row(&name, &readings),
                leaks: slot.and_then(|slot| self.leak_reports.treatment(slot, now)),
            };
            (name, state)
        };
        Ok(Snapshot {
            config,
            links,
            plan: enforcer.reconciler.plan(),
            shadows: enforcer.reconciler.shadows(),
            hooks: enforcer.reconciler.hooks(),
            started: enforcer.tunnels.started(),
            tunnels: names.into_iter().map(tunnel).collect(),
            echo_times: match with_echo_times {
                true => echo_times(kernel, &readings)?,
                false => Default::default(),
            },
            corrections: enforcer.tamper_log.corrections(),
            problems: enforcer.alerts.problems().to_vec(),
            readings,
            now,
        })
    }

    /// Problems of the present that no scan finds: recursive packets.
    fn recursions(&self) -> impl Iterator<Item = String> {
        let now = self.now();
        let slots = self.enforcer().reconciler.kernel().slots().iter();
        slots.filter_map(move |(name, slot)| {
            let flow = self.leak_reports.recursion(*slot, now)?;
            let cause = recursion(name, flow);
            let (why, cure) = (cause.sentence(), cause.cure());
            Some(format!("{name}: packets are dropped: {why}; {cure}"))
        })
    }

    /// A snapshot for clients, with how each broker limits connects.
    async fn full_snapshot(&self) -> anyhow::Result<(Snapshot<'_>, BTreeMap<String, Standing>)> {
        let standings = self.operations.context.connects.standings().await;
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

    async fn metrics(&self) -> anyhow::Result<String> {
        let (snapshot, standings) = self.full_snapshot().await?;
        let others = metrics_snapshot::Others {
            standings,
            repairs: self.enforcer().repair_times().clone(),
            hooks_dropped: self.enforcer().alerts.dropped(),
            now: jiff::Timestamp::now(),
        };
        Ok(metrics_snapshot::metrics(&snapshot, others).write()?)
    }

    fn counters(&self) -> anyhow::Result<api::Counters> {
        let kernel = self.enforcer().reconciler.kernel();
        let readings = Readings::read(kernel, kernel.slots().keys())?;
        Ok(status::counters(&readings))
    }

    /// Answers a request.
    async fn answer(&mut self, request: Request) {
        // A client that has gone misses the answer.
        match request {
            Request::Status(answer) => {
                let _gone = answer.send(self.status().await);
            }
            Request::Counters(answer) => {
                let _gone = answer.send(self.counters());
            }
            Request::Metrics(answer) => {
                let _gone = answer.send(self.metrics().await);
            }
            Request::Alerts(answer) => {
                let _gone = answer.send(self.operations.enforcer.alerts.subscribe());
            }
            Request::Plan(answer) => {
                let _gone = answer.send(self.operations.plan().await);
            }
            Request::Preview(asked, answer) => {
                let _gone = answer.send(self.operations.preview(asked).await);
            }
            Request::Reload(confirm_within, answer) => {
                self.operations.reload(confirm_within, answer).await
            }
            Request::Confirm(answer) => {
                let _gone = answer.send(self.operations.trial.confirm());
            }
            Request::Account(verb, file, answer) => {
                let tunnel = match verb {
                    Verb::Stop => self.operations.enforcer.intent.tunnel_of(&file.file),
                    Verb::Start | Verb::Restart => self.operations.add_account(&file),
                };
                let chosen = tunnel.map(|tunnel| vec![tunnel]);
                self.operations
                    .control(verb, chosen, file.refresh, answer)
                    .await;
            }
            Request::Tunnels(verb, names, answer) => {
                let chosen = self
                    .operations
                    .enforcer
                    .intent
                    .select_tunnels(&names.tunnels);
                self.operations
                    .control(verb, chosen, names.refresh, answer)
                    .await;
            }
        }
    }

    /// Ends drivers and tasks. Programs, rules and routes stay in place.
    pub(super) async fn shut_down(self, sources: Sources, ending: Ending) -> anyhow::Result<()> {
        info!(
            "{}",
            match (ending.is_idle, ending.stop_tunnels) {
                (true, _) => "no tunnel is left: ending, and removing rules, routes and programs",
                (false, true) =>
                    "stopping all tunnels and ending; `sixxs down` removes rules, routes and programs",
                (false, false) => "ending; rules, routes and programs stay in place",
            }
        );
        systemd::stopping()?;
        let Operations {
            enforcer,
            stopped_sender,
            ..
        } = self.operations;
        let Enforcer {
            tunnels,
            alerts,
            listeners,
            ..
        } = enforcer;
        let drivers = tunnels.into_drivers();
        // The remaining senders belong to tasks that stop drivers.
        drop(stopped_sender);
        let end = async |mut stopped: mpsc::Receiver<StoppedDrivers>| {
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
        listeners.close().context("close the control socket")
    }
}

fn log_error(outcome: anyhow::Result<()>) {
    if let Err(error) = outcome {
        warn!("{error:#}");
    }
}
