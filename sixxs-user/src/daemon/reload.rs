//! A changed configuration, taken over by the running daemon: only what changed is touched.

use std::{sync::Arc, time::Duration};

use sixxs_core::{
    change::Change,
    config::{Config, Tunnel},
    types::IfName,
};
use tokio::time::Instant;
use tracing::info;

use super::{
    state::State,
    tunnels::{Answer, Stopped, stop_in_task},
};
use crate::{
    api::{self, About, ConfigText},
    broker::connects::Connects,
    clock::after,
    config_file,
    preview::{Before, preview},
};

/// What to go back to unless somebody says that the new configuration is good.
pub(super) struct Trial {
    config: Config,
    ends: Instant,
}

impl State {
    /// Takes the configuration file over as it is now. A wrong file changes nothing. With a time to
    /// confirm it goes back by itself unless [`State::confirm`] comes first.
    pub(super) async fn reload(&mut self, confirm_within: Option<Duration>, answer: Answer) {
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
        let before = self.in_file();
        if let Err(refusal) = self.take_over(config) {
            let _gone = answer.send(Err(refusal));
            return;
        }
        self.trial = confirm_within.map(|time| Trial {
            // A trial upon a trial goes back to what was good.
            config: self.trial.take().map_or(before, |trial| trial.config),
            ends: after(Instant::now(), time),
        });
        self.follow(answer).await;
    }

    /// What [`State::reload`] would change; with a text in place of the daemon's file if there is one.
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
            None => config_file::read(&self.paths.config),
        };
        let mut new = match read {
            Ok(new) => new,
            Err(error) => return Ok(faulty(error.to_string())),
        };
        if let Err(refusal) = self.keep_added(&mut new) {
            return Ok(faulty(refusal));
        }
        let stops = Change::between(&self.wanted, &new).stops();
        let mut learned = self.services.known(&new).await;
        let others = self
            .learned
            .iter()
            .filter(|(name, _)| !stops.contains(name));
        learned.extend(others.map(|(name, said)| (name.clone(), said.clone())));
        let running = self.tunnels.iter();
        let stopped = running.filter(|(_, running)| !running.is_wanted());
        let before = Before {
            config: &self.wanted,
            in_force: &self.config,
            stopped: stopped.map(|(name, _)| name.clone()).collect(),
        };
        let clock = &self.services.clock;
        let connects = Connects::with_clock(
            &self.paths.state_dir,
            new.connect_limit,
            Arc::new(clock.clone()),
        );
        preview(before, &new, &learned, &mut self.netlink, &connects, clock).await
    }

    /// When the trial ends, if there is one.
    pub(super) fn trial_ends(&self) -> Option<Instant> {
        self.trial.as_ref().map(|trial| trial.ends)
    }

    /// The configuration is good.
    pub(super) fn confirm(&mut self) -> Result<(), String> {
        match self.trial.take() {
            Some(_) => Ok(()),
            None => Err("there is nothing to confirm; has its time run out?".to_owned()),
        }
    }

    /// Nobody confirmed: goes back.
    pub(super) async fn go_back(&mut self, answer: Answer) {
        let Some(trial) = self.trial.take() else {
            return;
        };
        match self.take_over(trial.config.clone()) {
            Ok(()) => {
                let problem = format!(
                    "nobody confirmed the new configuration: back to the one before; {} is still the new one",
                    self.paths.config.display()
                );
                self.alerts.raise(About::Problem { problem });
                self.follow(answer).await;
            }
            Err(refusal) => {
                // A tunnel is just being stopped: a moment later it can be done.
                info!("go back to the configuration before: {refusal}");
                let ends = after(Instant::now(), Duration::from_secs(1));
                self.trial = Some(Trial { ends, ..trial });
            }
        }
    }

    /// What the file said: without the tunnels that were added by their accounts.
    fn in_file(&self) -> Config {
        let mut config = self.wanted.clone();
        config
            .tunnels
            .retain(|tunnel| !self.added.contains(&tunnel.name));
        config
    }

    /// Makes `config` what is wanted, and marks what has to be stopped and started for it.
    fn take_over(&mut self, mut config: Config) -> Result<(), String> {
        self.keep_added(&mut config)?;
        let changes = Changes::between(&self.wanted, &config);
        let touched = || {
            changes
                .stop
                .iter()
                .chain(changes.start.iter().map(|t| &t.name))
        };
        if let Some(name) = touched().find(|name| self.is_stopping(name)) {
            return Err(format!("{name} is being stopped; try again in a moment"));
        }
        self.services.connects.set_limit(config.connect_limit);
        // What was learned of a tunnel that is another one now does not hold.
        self.learned.retain(|name, _| !changes.stop.contains(name));
        self.wanted = config;
        self.overlay();
        self.changes = changes;
        Ok(())
    }

    /// Keeps the tunnels that were added by their accounts.
    fn keep_added(&self, config: &mut Config) -> Result<(), String> {
        let tunnels = self.wanted.tunnels.iter();
        for tunnel in tunnels.filter(|tunnel| self.added.contains(&tunnel.name)) {
            config.keep(tunnel.clone()).map_err(|refused| {
                format!("{refused}: it was started by its account; stop it first")
            })?;
        }
        Ok(())
    }

    /// Stops and starts what changed, and brings the host in line.
    async fn follow(&mut self, answer: Answer) {
        let Changes { stop, start } = std::mem::take(&mut self.changes);
        // What was stopped by order stays so.
        let start: Vec<Tunnel> = start
            .into_iter()
            .filter(|tunnel| self.is_new_or_wanted(&tunnel.name))
            .collect();
        let drivers = self.take_drivers(&stop);
        let stopped = Stopped::new(stop, start, answer);
        if drivers.is_empty() {
            self.stopped(stopped).await;
            return;
        }
        self.reconcile_or_report().await;
        stop_in_task(drivers, stopped, self.ways.stopped_to.clone());
    }
}

/// What a new configuration asks of drivers.
#[derive(Default)]
pub(super) struct Changes {
    /// Tunnels that are gone, or are others now.
    stop: Vec<IfName>,
    /// Those that are new, or are others now.
    start: Vec<Tunnel>,
}

impl Changes {
    fn between(old: &Config, new: &Config) -> Self {
        let change = Change::between(old, new);
        let starts = change.starts();
        let start = new
            .tunnels
            .iter()
            .filter(|tunnel| starts.contains(&tunnel.name));
        Self {
            stop: change.stops(),
            start: start.cloned().collect(),
        }
    }
}
