//! Operations: starts and stops tunnels, reloads the configuration, previews.
//!
//! Works on the rounds below it. Must not know leaks, health or the loop.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use sixxs_core::{
    aiccu,
    config::{Account, Config, Kind, Tls, Tunnel},
    enforce::endpoints::endpoints,
    inside_test::request::Number,
    routing::diff,
    tunnel::State,
    types::IfName,
};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::{
    enforcer::Enforcer,
    inside_test::{self, Shared},
    outside_test,
    reload::{Changes, Trial},
    systemd,
    tunnels::{AfterStop, stop_in_task},
};
use crate::{
    bpf::LiveTest,
    broker::connects::Connects,
    control::api::{self, About, ConfigText},
    control::{ActionError, Answer, Outcome, Verb},
    driver::DriverContext,
    host::clock::time_of_day,
    host::config_file,
    host::paths::absolute,
    netlink::Scope,
    preview::{CurrentState, Ledgers, preview},
};

/// Carries out what clients and signals ask for.
pub(super) struct Operations {
    pub(super) enforcer: Enforcer,
    pub(super) context: DriverContext,
    /// Where tasks report that drivers have stopped.
    pub(super) stopped_sender: mpsc::Sender<AfterStop>,
    pub(super) trial: Trial,
    /// Tunnels that start once other drivers have stopped.
    pub(super) pending: BTreeSet<IfName>,
    /// What all inside tests share.
    pub(super) inside: Shared,
    /// What all outside tests share.
    pub(super) outside: outside_test::Shared,
}

impl Operations {
    /// The remaining steps and problems, by a scan that changes nothing.
    pub(super) async fn plan(&mut self) -> anyhow::Result<api::Plan> {
        let scope = Scope::of(self.enforcer.intent.wanted());
        let observed = self.enforcer.reconciler.netlink().observe(&scope).await?;
        let desired = self
            .enforcer
            .intent
            .desired(&self.enforcer.tunnels.started());
        Ok(api::Plan {
            config: Some(absolute(&self.enforcer.paths.config)),
            ..api::Plan::from(&diff(&desired, &observed))
        })
    }

    /// Tests whether the tunnels would answer. A task answers.
    pub(super) fn test_inside(
        &self,
        asked: &api::InsideRequest,
        answer: Answer<anyhow::Result<api::InsideTests>>,
    ) {
        let Enforcer {
            intent, reconciler, ..
        } = &self.enforcer;
        let hooks = reconciler.hooks();
        let plan = inside_test::Plan::new(
            intent.effective(),
            reconciler.links(),
            |name| hooks.contains_key(name),
            asked,
        );
        let answer = self.enforcer.history.counting(answer);
        let tester = reconciler.programs().inside_tester(&self.inside.testers);
        inside_test::start(tester, plan, self.inside.clone(), answer);
    }

    /// Begins a live test of a packet that a client is about to send.
    pub(super) fn live_test(&self, asked: api::LiveRequest) -> anyhow::Result<(Number, LiveTest)> {
        let programs = self.enforcer.reconciler.programs();
        self.inside.live_test(programs, asked)
    }

    /// Tests paths between links. A task answers.
    pub(super) fn test_outside(
        &self,
        asked: &api::OutsideRequest,
        answer: Answer<anyhow::Result<api::OutsideTests>>,
    ) {
        let Enforcer {
            intent,
            reconciler,
            tunnels,
            ..
        } = &self.enforcer;
        let hooks = reconciler.hooks();
        let programs = reconciler.programs();
        let (config, links) = (intent.effective(), reconciler.links());
        let host = outside_test::Host {
            config,
            links,
            enforcement: reconciler.enforcement(),
            endpoints: endpoints(config, links, &tunnels.endpoints(), &BTreeMap::new()),
            has_program: &|name| hooks.contains_key(name),
            listens: &|index| programs.listens(index),
        };
        let prepared = outside_test::Plan::new(&host, asked).and_then(|plan| {
            let tester = programs.outside_tester(&self.inside.testers)?;
            Ok(outside_test::prepare(programs, &self.outside, tester, plan))
        });
        outside_test::start(prepared, self.outside.clone(), answer);
    }

    /// The tunnel of the account in this file, which is added if it is new.
    fn add_account(&mut self, file: &api::AccountFile) -> Result<Tunnel, ActionError> {
        if let Ok(known) = self.enforcer.intent.tunnel_of(&file.file) {
            return Ok(known);
        }
        let bytes = config_file::read_secret(&file.file)?;
        let aiccu = aiccu::parse(&file.file, &bytes)?;
        self.enforcer.intent.add(Account {
            file: file.file.clone(),
            aiccu,
            tls: Tls {
                ca: file.tls_ca.clone(),
                verify: file.tls_verify,
            },
        })
    }

    /// Starts, stops or restarts tunnels by name.
    pub(super) async fn control_tunnels(
        &mut self,
        verb: Verb,
        names: api::Names,
        answer: Answer<Outcome>,
    ) {
        match self.enforcer.intent.select_tunnels(&names.tunnels) {
            Ok(chosen) => self.control(verb, chosen, names.refresh, answer).await,
            Err(error) => {
                let _gone = answer.send(Err(error));
            }
        }
    }

    /// Starts or stops the tunnel of an account.
    pub(super) async fn control_account(
        &mut self,
        verb: Verb,
        file: api::AccountFile,
        answer: Answer<Outcome>,
    ) {
        let tunnel = match verb {
            Verb::Stop => self.enforcer.intent.tunnel_of(&file.file),
            Verb::Start | Verb::Restart => self.add_account(&file),
        };
        match tunnel {
            Ok(tunnel) => self.control(verb, vec![tunnel], file.refresh, answer).await,
            Err(error) => {
                let _gone = answer.send(Err(error));
            }
        }
    }

    /// Starts, stops or restarts tunnels. Drivers may take their time to stop: a task waits for them, and
    /// [`Operations::drivers_stopped`] continues.
    async fn control(
        &mut self,
        verb: Verb,
        chosen: Vec<Tunnel>,
        refresh: bool,
        answer: Answer<Outcome>,
    ) {
        if let Err(error) = self.check(verb, &chosen, refresh).await {
            let _gone = answer.send(Err(error));
            return;
        }
        let names: Vec<_> = chosen.iter().map(|tunnel| tunnel.name.clone()).collect();
        // A request overrides what an earlier one has left to do.
        self.pending.retain(|name| !names.contains(name));
        if verb != Verb::Stop {
            self.enforcer.updates.retry(&names);
        }
        let (stop, start) = match verb {
            Verb::Start => (Vec::new(), chosen),
            Verb::Stop => (names.clone(), Vec::new()),
            Verb::Restart => (names.clone(), chosen),
        };
        let after = AfterStop {
            drop_runtime: verb == Verb::Stop,
            refresh,
            ..AfterStop::new(names, start, answer)
        };
        self.stop_and_continue(&stop, after).await;
    }

    async fn check(&self, verb: Verb, chosen: &[Tunnel], refresh: bool) -> Result<(), ActionError> {
        self.refuse_stopping(chosen.iter().map(|tunnel| &tunnel.name))?;
        if verb == Verb::Restart {
            let check = self.check_restart(chosen, refresh).await;
            check.map_err(ActionError::NoConnectLeft)?;
        }
        Ok(())
    }

    /// Refuses to restart a tunnel that is up if its broker allows no connect now: the tunnel would stay down.
    async fn check_restart(&self, chosen: &[Tunnel], refresh: bool) -> anyhow::Result<()> {
        let effective = self.enforcer.intent.effective();
        let mut needed: BTreeMap<String, u32> = BTreeMap::new();
        for tunnel in chosen.iter().filter(|tunnel| self.is_up(&tunnel.name)) {
            for broker in connects_of_start(tunnel, effective, refresh) {
                let standing = self.context.connects.standing(&broker).await?;
                let count = needed.entry(broker.clone()).or_default();
                *count += 1;
                if let Some(wait) = standing.wait_for(*count) {
                    let wait = wait.as_secs().saturating_add(1);
                    let seconds = self.context.clock.unix_seconds().saturating_add(wait);
                    let until = time_of_day(seconds).unwrap_or_else(|| "later".to_owned());
                    anyhow::bail!(
                        "{} is up, and no connect to {broker} is left for it until {until}: a restart \
                         would leave it down; wait, or stop and start it nevertheless",
                        tunnel.name
                    );
                }
            }
        }
        Ok(())
    }

    fn is_up(&self, name: &IfName) -> bool {
        let link = self.enforcer.reconciler.links().by_name(name);
        self.enforcer.tunnels.view(name, link).state == State::Up
    }

    /// A tunnel whose driver is being stopped cannot be changed.
    fn refuse_stopping<'a>(
        &self,
        mut names: impl Iterator<Item = &'a IfName>,
    ) -> Result<(), ActionError> {
        match names.find(|name| self.enforcer.tunnels.is_stopping(name)) {
            Some(name) => Err(ActionError::Stopping(name.clone())),
            None => Ok(()),
        }
    }

    /// Stops the drivers of these tunnels, and then does the rest.
    async fn stop_and_continue(&mut self, names: &[IfName], after: AfterStop) {
        let drivers = self.enforcer.tunnels.take_drivers(names);
        if drivers.is_empty() {
            self.finish(after).await;
            return;
        }
        // Rules and sources go first, the interface after them.
        self.enforcer.run_round_or_report().await;
        self.pending
            .extend(after.start.iter().map(|tunnel| tunnel.name.clone()));
        stop_in_task(drivers, after, self.stopped_sender.clone());
    }

    /// Drivers have stopped: does what is left to do.
    pub(super) async fn drivers_stopped(&mut self, mut after: AfterStop) {
        let pending = &mut self.pending;
        after.start.retain(|tunnel| pending.remove(&tunnel.name));
        self.finish(after).await;
    }

    /// Starts the tunnels that are to be started, runs a round, and answers.
    async fn finish(&mut self, after: AfterStop) {
        self.note_stopped(&after.names, after.drop_runtime);
        self.start_tunnels(&after.start, after.refresh);
        let mut problems = after.problems;
        if let Err(error) = self.enforcer.run_round().await {
            problems.push(format!("{error:#}"));
        }
        let outcome = match problems.is_empty() {
            true => Ok(()),
            false => Err(ActionError::Problems(problems)),
        };
        let _gone = after.answer.send(outcome);
    }

    /// Notes that no task is stopping the drivers of these tunnels any more, and drops tunnels that are gone.
    /// `drop_runtime`: those that were added at run time are gone too.
    fn note_stopped(&mut self, names: &[IfName], drop_runtime: bool) {
        for name in names {
            if drop_runtime {
                self.enforcer.intent.drop_runtime(name);
            }
            let is_gone = !self.is_wanted(name);
            self.enforcer.tunnels.note_stopped(name, is_gone);
        }
    }

    /// Starts tunnels, except those that a reload has removed meanwhile.
    fn start_tunnels(&mut self, tunnels: &[Tunnel], refresh: bool) {
        if !tunnels.is_empty() {
            self.enforcer.intent.record_start();
        }
        for tunnel in tunnels {
            if self.is_wanted(&tunnel.name) {
                self.enforcer.tunnels.start(tunnel, &self.context, refresh);
            }
        }
    }

    fn is_wanted(&self, name: &IfName) -> bool {
        let mut wanted = self.enforcer.intent.wanted().tunnels.iter();
        wanted.any(|tunnel| tunnel.name == *name)
    }

    /// Reloads the configuration file. A wrong file changes nothing.
    pub(super) async fn reload(
        &mut self,
        confirm_within: Option<Duration>,
        answer: Answer<Outcome>,
    ) {
        let config = match config_file::read(&self.enforcer.paths.config) {
            Ok(config) => config,
            Err(error) => {
                let _gone = answer.send(Err(error.into()));
                return;
            }
        };
        for note in config.notes() {
            info!("{note}");
        }
        let before = self.enforcer.intent.file();
        match self.adopt(config) {
            Ok(changes) => {
                let now = self.enforcer.now();
                self.trial.begin(before, confirm_within, now);
                self.apply_changes(changes, answer).await;
            }
            Err(refusal) => {
                let _gone = answer.send(Err(refusal));
            }
        }
    }

    /// `systemctl reload` and `kill -HUP`.
    pub(super) async fn reload_by_signal(&mut self) -> anyhow::Result<()> {
        systemd::reloading()?;
        self.reload(None, log_outcome("reload")).await;
        systemd::reloaded()
    }

    /// The configuration was not confirmed: reverts to the one before.
    pub(super) async fn revert(&mut self) {
        let Some(config) = self.trial.end() else {
            return;
        };
        match self.adopt(config.clone()) {
            Ok(changes) => {
                let problem = format!(
                    "the new configuration was not confirmed: reverted to the one before; {} still has the new one",
                    self.enforcer.paths.config.display()
                );
                self.enforcer.raise([About::Problem { problem }]);
                let answer = log_outcome("revert to the configuration before");
                self.apply_changes(changes, answer).await;
            }
            Err(refusal) => {
                let is_transient = matches!(refusal, ActionError::Stopping(_));
                let now = self.enforcer.now();
                let is_new = self.trial.retry(config, &refusal, now);
                if is_new && !is_transient {
                    let problem = format!(
                        "the new configuration was not confirmed, but it cannot be reverted yet: {refusal}"
                    );
                    self.enforcer.raise([About::Problem { problem }]);
                }
            }
        }
    }

    /// Makes a configuration the wanted one, and sets its connect limit. Returns the tunnels to stop and to start
    /// for it.
    fn adopt(&mut self, mut config: Config) -> Result<Changes, ActionError> {
        self.enforcer.intent.add_runtime_tunnels(&mut config)?;
        let changes = Changes::between(self.enforcer.intent.wanted(), &config);
        self.refuse_stopping(changes.affected())?;
        self.context.connects.set_limit(config.connect_limit);
        self.enforcer.intent.replace(config, &changes.stop);
        let wanted = self.enforcer.intent.wanted();
        self.enforcer.tunnels.configure(wanted);
        Ok(changes)
    }

    /// Stops and starts what changed, and runs a round.
    async fn apply_changes(&mut self, changes: Changes, answer: Answer<Outcome>) {
        let Changes { stop, mut start } = changes;
        // A tunnel that a request has stopped stays stopped.
        start.retain(|tunnel| self.enforcer.tunnels.may_start_on_reload(&tunnel.name));
        let after = AfterStop::new(stop.clone(), start, answer);
        self.stop_and_continue(&stop, after).await;
    }

    /// The changes that a reload would make.
    pub(super) async fn preview(
        &mut self,
        asked: api::CheckReload,
    ) -> anyhow::Result<api::Preview> {
        let faulty = |fault: String| api::Preview {
            faults: fault.lines().map(str::to_owned).collect(),
            ..api::Preview::default()
        };
        let read = match asked.instead {
            Some(ConfigText { file, text }) => config_file::parse(&file, &text),
            None => config_file::read(&self.enforcer.paths.config),
        };
        let mut new = match read {
            Ok(new) => new,
            Err(error) => return Ok(faulty(error.to_string())),
        };
        if let Err(refusal) = self.enforcer.intent.add_runtime_tunnels(&mut new) {
            return Ok(faulty(refusal.to_string()));
        }
        let stops = Changes::between(self.enforcer.intent.wanted(), &new).stop;
        let mut learned = self.context.stored_parameters(&new).await;
        let present = self.enforcer.intent.learned().iter();
        let kept = present.filter(|(name, _)| !stops.contains(name));
        learned.extend(kept.map(|(name, assigned)| (name.clone(), assigned.clone())));
        let before = CurrentState {
            config: self.enforcer.intent.wanted(),
            in_force: self.enforcer.intent.effective(),
            stopped: self.enforcer.tunnels.stopped(),
        };
        let clock = &self.context.clock;
        let ledger_clock = Arc::new(clock.clone());
        let connects = Connects::with_clock(
            &self.enforcer.paths.state_dir,
            new.connect_limit,
            ledger_clock,
        );
        let netlink = self.enforcer.reconciler.netlink();
        let ledgers = Ledgers {
            connects: &connects,
            updates: &self.context.updates,
            clock,
        };
        preview(before, &new, &learned, netlink, ledgers).await
    }
}

/// The brokers to which the start of a tunnel connects, once each.
fn connects_of_start(tunnel: &Tunnel, effective: &Config, refresh: bool) -> Vec<String> {
    let mut tunnels = effective.tunnels.iter();
    let known = tunnels.find(|known| known.name == tunnel.name);
    let session = known.and_then(|known| known.kind.connects_to());
    let login = match &tunnel.kind {
        Kind::Account(account) if refresh => Some(account.aiccu.server.host.clone()),
        _ => None,
    };
    session.into_iter().chain(login).collect()
}

/// The receiver of an outcome for which no client waits: a task that logs it.
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
