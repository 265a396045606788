//! The daemon: composes the parts, and handles events.
//!
//! The only file that knows all parts. A part gets what it needs as arguments.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use anyhow::Context as _;
use sixxs_core::{active_link::LinkState, config::AnswerEcho, tunnel::CarrierKind, types::IfName};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::{info, warn};

mod answers;

use super::{
    End,
    control_groups::{ControlGroups, add_sender},
    echo_health::EchoMonitors,
    ending::Ending,
    enforcer::{Enforcer, Urgency},
    event::{Deadlines, Event, Sources},
    health::{self, HealthMonitor, judge_all},
    inside_monitor::InsideMonitor,
    leak_details::Evidence,
    leak_reports::{self, LeakReports},
    observations::observations,
    operations::Operations,
    outer_traffic::{OuterMonitors, Watched, silent_tunnel},
    readings::Readings,
    snapshot::{Snapshot, TunnelState},
    status, systemd,
    tunnels::{AfterStop, end_drivers},
};
use crate::{
    bpf::Kernel,
    control::api::{self, About},
    host::clock::after,
};

/// Grace period of a daemon that was started on demand and has no tunnel yet. It is checked before every event.
const GRACE: Duration = Duration::from_secs(20);

/// At the end, hooks have this long to hand on the last alerts.
const HOOKS_FINISH: Duration = Duration::from_secs(3);

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
    outer: OuterMonitors,
    health: HealthMonitor,
    inside: InsideMonitor,
    /// The rounds after which health was scheduled to be judged.
    rounds_seen: u64,
    is_ready: bool,
}

impl Daemon {
    /// A daemon that has run a round. Leaks counted until now count as reported: an earlier run has
    /// reported them.
    pub(super) fn new(
        operations: Operations,
        inside: InsideMonitor,
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
            outer: OuterMonitors::default(),
            health: HealthMonitor::default(),
            inside,
            rounds_seen: 0,
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

    const fn programs(&self) -> &Kernel {
        self.enforcer().reconciler.programs()
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
                return Ok(Ending::Idle);
            }
            if !self.is_ready && enforcer.reconciler.is_ready() {
                systemd::notify_ready()?;
                self.is_ready = true;
            }
            enforcer.schedule_next_round();
            if enforcer.rounds() > self.rounds_seen {
                self.rounds_seen = enforcer.rounds();
                self.health.schedule(enforcer.now());
                self.inside.follow(
                    enforcer.intent.effective().inside_test,
                    &enforcer.up(),
                    enforcer.tamper_log.corrections(),
                    enforcer.now(),
                );
                // A link that is down carries nothing from now on.
                if !enforcer.intent.wanted().groups.is_empty() {
                    log_error(self.judge_health().await);
                    continue;
                }
            }
            let event = sources.next(&self.deadlines()).await?;
            if let ControlFlow::Break(ending) = self.handle(event).await? {
                return Ok(ending);
            }
        }
    }

    /// When the parts need the loop.
    fn deadlines(&self) -> Deadlines {
        let enforcer = self.enforcer();
        let at = |due: Option<Duration>| due.map(|due| after(enforcer.started, due));
        let round = enforcer.round_due();
        let retry = enforcer.reconciler.retry_due(enforcer.started);
        let health = [
            self.health.due(),
            enforcer.intent.groups().due(),
            enforcer.deprecator.due(),
        ];
        Deadlines {
            round,
            // A round that is due anyway retries too.
            retry: retry.filter(|_| round.is_none()),
            poll: enforcer.poll_due(),
            trial: at(self.operations.trial.ends()),
            health: at(health.into_iter().flatten().min()),
            inside_test: at(self.inside.due()),
            unattributed: at(enforcer.tamper_log.due()),
            has_reports: !self.leak_reports.is_idle()
                || enforcer.tamper_log.has_more()
                || enforcer.alerts.has_more(),
        }
    }

    /// Handles an event; `Break`: the daemon ends.
    async fn handle(&mut self, event: Event) -> anyhow::Result<ControlFlow<Ending>> {
        let enforcer = &mut self.operations.enforcer;
        let now = enforcer.now();
        match event {
            Event::Terminate => return Ok(ControlFlow::Break(Ending::Signal)),
            Event::Quit(quit) => return Ok(ControlFlow::Break(Ending::Request(quit))),
            Event::Hangup => self.operations.reload_by_signal().await?,
            Event::Change(change) => enforcer.host_changed(&change),
            Event::DriverReport | Event::RetryDue => enforcer.schedule(Urgency::Paced),
            Event::RoundDue => enforcer.timed_round().await?,
            Event::PollDue => enforcer.poll_programs().await?,
            Event::ReadBackDue => enforcer.read_back(),
            Event::UnattributedDue => enforcer.report_unattributed(),
            Event::Stopped(after) => self.operations.drivers_stopped(after).await,
            Event::TrialEnds => self.operations.revert().await,
            Event::InsideTestDue => self.test_inside(),
            Event::InsideTested(tested) => {
                self.inside.add(&tested, now);
                log_error(self.judge_health().await);
            }
            Event::FilterChanged => self.inside.filter_changed(now),
            Event::Probed(probed) => {
                if enforcer.probes.add(&probed, enforcer.started) {
                    log_error(self.judge_health().await);
                }
            }
            Event::Leaks(leaks) => {
                let reports = &mut self.leak_reports;
                leaks.iter().for_each(|leak| reports.event(leak, now));
            }
            Event::ReportsDue => {
                self.report_leaks();
                self.enforcer_mut().report_summaries();
            }
            Event::EchoDue => {
                log_error(self.observe_echo());
                log_error(self.judge_health().await);
            }
            Event::HealthDue => log_error(self.judge_health().await),
            Event::Request(request) => self.answer(request).await,
        }
        Ok(ControlFlow::Continue(()))
    }

    /// All leaks that the kernel has counted, by slot of their tunnel.
    fn leak_totals(&self) -> anyhow::Result<Vec<(u32, u64)>> {
        let names = self.enforcer().names();
        let programs = self.programs();
        let slots = names.iter().filter_map(|name| programs.slot(name));
        slots
            .map(|slot| Ok((slot, leak_reports::total(&programs.counters(slot)?))))
            .collect()
    }

    /// Reports the leaks since the last report.
    fn report_leaks(&mut self) {
        match self.leak_alerts() {
            Ok(alerts) => {
                let now = self.now();
                self.health.schedule(now);
                self.enforcer_mut().raise(alerts);
            }
            Err(error) => self.enforcer_mut().add_problems(vec![format!("{error:#}")]),
        }
    }

    /// The leaks since the last call, with their senders and causes.
    fn leak_alerts(&mut self) -> anyhow::Result<Vec<About>> {
        let totals = self.leak_totals()?;
        let now = self.now();
        let enforcer = &self.operations.enforcer;
        let programs = enforcer.reconciler.programs();
        let read = |flow: &_| programs.flow(flow);
        let lines = self.leak_reports.lines(read, totals, now);
        let evidence = Evidence {
            config: enforcer.intent.effective(),
            started: &enforcer.tunnels.started(),
            slots: programs.slots(),
            plan: enforcer.reconciler.plan(),
            foreign_rules: enforcer.reconciler.foreign_rules(),
            links: enforcer.reconciler.links(),
        };
        let recent = |tunnel: &IfName| enforcer.tamper_log.recent(tunnel, now);
        self.control_groups.begin_report();
        let mut alerts = Vec::new();
        for line in lines {
            let mut leak = evidence.leak(&line);
            add_sender(&mut self.control_groups, &mut leak);
            if let Some(cause) = evidence.cause(&line, recent) {
                leak.cause = Some(cause.name().to_owned());
                leak.why = Some(cause.sentence());
                leak.cure = Some(cause.cure());
            }
            alerts.push(About::Leak(Box::new(leak)));
        }
        Ok(alerts)
    }

    fn observe_echo(&mut self) -> anyhow::Result<()> {
        let names = self.enforcer().tunnels.names();
        let readings = Readings::read(self.programs(), &names)?;
        self.echo.observe(&names, &readings, self.now());
        self.outer.observe(self.watched(), &readings, self.now());
        let now = self.now();
        let echo = &self.echo;
        let looks = names.iter().map(|name| {
            let row = echo.unanswered_in_a_row(name, &readings);
            (name, row, echo.health(name))
        });
        self.inside.observe_echo(looks, now);
        if self.enforcer().intent.effective().answer_echo == AnswerEcho::Kernel {
            // The programs answer: nothing is known about this host.
            self.echo = EchoMonitors::default();
        }
        Ok(())
    }

    /// The tunnels whose outer packets and deliveries are counted now.
    fn watched(&self) -> Watched {
        let reconciler = &self.enforcer().reconciler;
        let hooks = reconciler.hooks();
        let names = self.enforcer().tunnels.started().into_iter();
        names
            .filter(|name| hooks.contains_key(name))
            .map(|name| (reconciler.endpoints(&name), name))
            .filter(|(endpoints, _)| !endpoints.is_empty())
            .map(|(endpoints, name)| (name, endpoints))
            .collect()
    }

    /// Tests the tunnel that is due. The result comes as an event.
    fn test_inside(&mut self) {
        let now = self.now();
        if let Some((tunnel, answer)) = self.inside.take(now) {
            let tunnels = vec![tunnel.to_string()];
            let asked = api::InsideRequest {
                tunnels,
                ..api::InsideRequest::default()
            };
            self.operations.test_inside(&asked, answer);
        }
    }

    /// Judges the health of all tunnels: reports changes, and lets other links of groups take over.
    async fn judge_health(&mut self) -> anyhow::Result<()> {
        let now = self.now();
        let judged = self.snapshot().map(|snapshot| {
            let judged = judge_all(&snapshot);
            (observations(&snapshot, &judged), judged)
        });
        if judged.is_err() {
            self.health.postpone(now);
            self.enforcer_mut().deprecator.postpone(now);
        }
        let (observed, judged) = judged?;
        let links = judged.iter();
        let links = links.map(|(name, health)| (name.clone(), LinkState::of(health)));
        let links = links.collect();
        let enforcer = &mut self.operations.enforcer;
        let had_good_links = enforcer.intent.groups().have_good_links();
        let switches = enforcer.intent.choose_links(&links, now);
        if !switches.is_empty() {
            enforcer.run_round_or_report().await;
        } else if had_good_links != enforcer.intent.groups().have_good_links() {
            // The problems have changed.
            enforcer.schedule(Urgency::Paced);
        }
        enforcer.raise(switches.iter().map(health::switched));
        self.enforcer_mut().judged(&judged, observed);
        let reports = self.health.report(now, judged);
        self.enforcer_mut().raise(reports);
        Ok(())
    }

    /// The state at this moment, without echo times: few need them, and each takes a system call.
    fn snapshot(&self) -> anyhow::Result<Snapshot<'_>> {
        let enforcer = self.enforcer();
        let (config, links) = (enforcer.intent.effective(), enforcer.reconciler.links());
        let names: Vec<_> = config.tunnels.iter().map(|t| t.name.clone()).collect();
        let uplinks = status::uplink_names(config, links);
        let groups = config.groups.iter().map(|group| &group.name);
        let counted = names.iter().chain(&uplinks).chain(groups);
        let readings = Readings::read(self.programs(), counted)?;
        let now = self.now();
        let tunnel = |name: IfName| {
            let echo = &self.echo;
            let slot = readings.slot(&name);
            let mut view = enforcer.tunnels.view(&name, links.by_name(&name));
            if enforcer.reconciler.is_carried(&name) {
                view.carrier = Some(CarrierKind::Ebpf);
            }
            let endpoints = enforcer.reconciler.endpoints(&name);
            let silence = self.outer.silence(&name);
            let state = TunnelState {
                view,
                silent: silent_tunnel(&name, &readings, &endpoints, silence),
                endpoints,
                account: enforcer.intent.account_file(&name),
                update: enforcer.updates.report(&name),
                deprecated: enforcer.deprecator.deprecated(&name),
                echo_health: echo.health(&name),
                unanswered_in_a_row: echo.unanswered_in_a_row(&name, &readings),
                leaks: slot.and_then(|slot| self.leak_reports.treatment(slot, now)),
                no_answer: self.inside.no_answer(&name),
                quality: enforcer.probes.quality(&name),
                probes: enforcer.probes.summary(&name),
            };
            (name, state)
        };
        let groups = enforcer.intent.groups();
        let group = |name: IfName| Some((name.clone(), groups.view(config, &name)?));
        let of_groups = config.groups.iter().map(|group| group.name.clone());
        Ok(Snapshot {
            config,
            links,
            plan: enforcer.reconciler.plan(),
            shadows: enforcer.reconciler.shadows(),
            hooks: enforcer.reconciler.hooks(),
            xdp: enforcer.reconciler.xdp(),
            started: enforcer.tunnels.started(),
            tunnels: names.into_iter().map(tunnel).collect(),
            groups: of_groups.filter_map(group).collect(),
            echo_times: BTreeMap::new(),
            last_days: enforcer.history.last_days(),
            now,
            since_boot: self.operations.context.clock.now().elapsed,
            corrections: enforcer.tamper_log.corrections(),
            problems: enforcer.problems().to_vec(),
            readings,
        })
    }

    /// Ends drivers and tasks. Programs, rules and routes stay in place.
    pub(super) async fn shut_down(
        mut self,
        sources: Sources,
        ending: Ending,
    ) -> anyhow::Result<End> {
        info!("{}", ending.words());
        systemd::stopping()?;
        self.enforcer_mut().undo_deprecation().await;
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
        // The remaining senders belong to tasks that stop drivers.
        drop(stopped_sender);
        let end = async |stopped: mpsc::Receiver<AfterStop>| {
            let problems = end_drivers(tunnels, ending.stops_tunnels(), stopped).await;
            alerts.finish(HOOKS_FINISH).await;
            problems
        };
        let problems = sources.finish(end).await;
        for problem in problems.into_iter().flatten() {
            warn!("{problem}");
        }
        self.pruning.abort();
        let end = match ending {
            Ending::Idle => End::Idle,
            Ending::Signal => End::Ordered,
            Ending::Request(quit) => {
                // The client may have gone.
                let _gone = quit.done.send(());
                End::Ordered
            }
        };
        listeners
            .close()
            .await
            .context("close the control socket")?;
        Ok(end)
    }
}

fn log_error(outcome: anyhow::Result<()>) {
    if let Err(error) = outcome {
        warn!("{error:#}");
    }
}
