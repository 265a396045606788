//! Operations: starts and stops tunnels, reloads the configuration, previews.
//!
//! Works on the rounds below it. Must not know leaks, health or the loop.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sixxs_core::{
    aiccu,
    config::{Account, Config, Tls, Tunnel},
    routing::diff,
    types::IfName,
};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::{
    enforcer::Enforcer,
    reload::{Changes, Trial},
    systemd,
    tunnels::{StoppedDrivers, stop_in_task},
};
use crate::{
    broker::connects::Connects,
    control::api::{self, About, ConfigText},
    control::{ActionError, Answer, Outcome, Verb},
    driver::DriverContext,
    host::config_file,
    host::paths::absolute,
    netlink::Scope,
    preview::{CurrentState, preview},
};

/// Carries out what clients and signals ask for.
pub(super) struct Operations {
    pub(super) enforcer: Enforcer,
    pub(super) context: DriverContext,
    /// Where tasks report that drivers have stopped.
    pub(super) stopped_sender: mpsc::Sender<StoppedDrivers>,
    pub(super) trial: Trial,
    /// Tunnels that start once other drivers have stopped.
    pub(super) pending: BTreeSet<IfName>,
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

    /// The tunnel of the account in this file, which is added if it is new.
    pub(super) fn add_account(&mut self, file: &api::AccountFile) -> Result<Tunnel, ActionError> {
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

    /// Starts, stops or restarts tunnels. Drivers may take their time to stop: a task waits for them, and
    /// [`Operations::drivers_stopped`] continues.
    pub(super) async fn control(
        &mut self,
        verb: Verb,
        chosen: Result<Vec<Tunnel>, ActionError>,
        refresh: bool,
        answer: Answer<Outcome>,
    ) {
        let chosen = match chosen {
            Ok(chosen) => self.check(verb, chosen, refresh).await,
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
        // A request overrides what an earlier one has left to do.
        self.pending.retain(|name| !names.contains(name));
        let stopped = StoppedDrivers {
            refresh,
            ..StoppedDrivers::new(names, start, answer)
        };
        self.stop_then(&stops, stopped).await;
    }

    async fn check(
        &self,
        verb: Verb,
        chosen: Vec<Tunnel>,
        refresh: bool,
    ) -> Result<Vec<Tunnel>, ActionError> {
        let names = chosen.iter().map(|tunnel| &tunnel.name);
        self.refuse_stopping(names)?;
        if verb == Verb::Restart {
            let state = (
                self.enforcer.intent.effective(),
                self.enforcer.reconciler.links(),
            );
            let check = self
                .enforcer
                .tunnels
                .check_restart(&chosen, refresh, state, &self.context);
            check.await.map_err(ActionError::NoConnectLeft)?;
        }
        Ok(chosen)
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
    async fn stop_then(&mut self, names: &[IfName], stopped: StoppedDrivers) {
        let drivers = self.enforcer.tunnels.take_drivers(names);
        if drivers.is_empty() {
            self.finish(stopped).await;
            return;
        }
        // Rules and sources go first, the interface after them.
        self.enforcer.reconcile_or_report().await;
        self.pending
            .extend(stopped.start.iter().map(|tunnel| tunnel.name.clone()));
        stop_in_task(drivers, stopped, self.stopped_sender.clone());
    }

    /// Drivers have stopped: does what is left to do.
    pub(super) async fn drivers_stopped(&mut self, mut stopped: StoppedDrivers) {
        let pending = &mut self.pending;
        stopped.start.retain(|tunnel| pending.remove(&tunnel.name));
        self.finish(stopped).await;
    }

    /// Starts the tunnels that are to be started, and answers.
    async fn finish(&mut self, stopped: StoppedDrivers) {
        let StoppedDrivers {
            names,
            start,
            refresh,
            answer,
            mut problems,
        } = stopped;
        for name in &names {
            if start.is_empty() {
                self.enforcer.intent.drop_runtime(name);
            }
            let mut wanted = self.enforcer.intent.wanted().tunnels.iter();
            let is_gone = wanted.all(|tunnel| tunnel.name != *name);
            self.enforcer.tunnels.has_stopped(name, is_gone);
        }
        if !start.is_empty() {
            self.enforcer.intent.record_start();
        }
        // A reload may have removed a tunnel that was to start here.
        let wanted: BTreeSet<_> = {
            let tunnels = self.enforcer.intent.wanted().tunnels.iter();
            tunnels.map(|tunnel| tunnel.name.clone()).collect()
        };
        for tunnel in start.iter().filter(|tunnel| wanted.contains(&tunnel.name)) {
            self.enforcer.tunnels.start(tunnel, &self.context, refresh);
        }
        if let Err(error) = self.enforcer.reconcile().await {
            problems.push(format!("{error:#}"));
        }
        let outcome = match problems.is_empty() {
            true => Ok(()),
            false => Err(ActionError::Problems(problems)),
        };
        let _gone = answer.send(outcome);
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
                let passes = matches!(refusal, ActionError::Stopping(_));
                let now = self.enforcer.now();
                let is_new = self.trial.retry(config, &refusal, now);
                if is_new && !passes {
                    let problem = format!(
                        "the new configuration was not confirmed, but it cannot be reverted yet: {refusal}"
                    );
                    self.enforcer.raise([About::Problem { problem }]);
                }
            }
        }
    }

    /// Makes a configuration the wanted one. Returns the tunnels to stop and to start for it.
    fn adopt(&mut self, mut config: Config) -> Result<Changes, ActionError> {
        self.enforcer.intent.add_runtime_tunnels(&mut config)?;
        let changes = Changes::between(self.enforcer.intent.wanted(), &config);
        self.refuse_stopping(changes.affected())?;
        self.context.connects.set_limit(config.connect_limit);
        self.enforcer.intent.replace(config, &changes.stop);
        Ok(changes)
    }

    /// Stops and starts what changed, and reconciles.
    async fn apply_changes(&mut self, changes: Changes, answer: Answer<Outcome>) {
        let Changes { stop, mut start } = changes;
        // A tunnel that a request has stopped stays stopped.
        start.retain(|tunnel| self.enforcer.tunnels.is_new_or_started(&tunnel.name));
        let stopped = StoppedDrivers::new(stop.clone(), start, answer);
        self.stop_then(&stop, stopped).await;
    }

    /// The changes that a reload would make.
    pub(super) async fn preview(
        &mut self,
        asked: api::CheckReload,
    ) -> anyhow::Result<api::Preview> {
        let faulty = |fault: String| api::Preview {
            faults: vec![fault],
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
        preview(before, &new, &learned, netlink, &connects, clock).await
    }
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
