//! A changed configuration, taken over by the running daemon: only what changed is touched.

use std::time::Duration;

use sixxs_core::{
    config::{Config, Tunnel},
    types::IfName,
};
use tokio::time::Instant;
use tracing::info;

use super::{
    state::State,
    tunnels::{Answer, Stopped, stop_in_task},
};
use crate::{api::About, clock::after, config_file};

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
        let added = self.wanted.tunnels.iter();
        let added = added
            .filter(|tunnel| self.added.contains(&tunnel.name))
            .cloned();
        for tunnel in added.collect::<Vec<_>>() {
            config.keep(tunnel).map_err(|refused| {
                format!("{refused}: it was started by its account; stop it first")
            })?;
        }
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
        let find = |config: &Config, name: &IfName| {
            let mut tunnels = config.tunnels.iter();
            tunnels.find(|tunnel| tunnel.name == *name).cloned()
        };
        let is_same = |a: &Tunnel, b: &Tunnel| !a.differs_to_driver(b);
        let stop = old
            .tunnels
            .iter()
            .filter(|tunnel| find(new, &tunnel.name).is_none_or(|now| !is_same(tunnel, &now)));
        let start = new
            .tunnels
            .iter()
            .filter(|tunnel| find(old, &tunnel.name).is_none_or(|was| !is_same(tunnel, &was)));
        Self {
            stop: stop.map(|tunnel| tunnel.name.clone()).collect(),
            start: start.cloned().collect(),
        }
    }
}
