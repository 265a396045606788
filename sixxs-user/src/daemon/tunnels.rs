//! Starting and stopping tunnels.

use std::fs;

use futures_util::future::join_all;
use sixxs_core::{
    aiccu,
    config::{Account, Kind, Tls, Tunnel},
    link::Link,
    tunnel::{self, Driver as DriverState},
    types::IfName,
};
use tokio::sync::{mpsc, oneshot};

use super::state::State;
use crate::{
    api, config_file,
    driver::{Driver, Said, Services},
};

/// What can be done to a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Starts it, if it is not.
    Start,
    /// Stops it, if it is not.
    Stop,
    /// Stops and starts it.
    Restart,
}

/// Where the outcome of starting or stopping tunnels goes.
type Answer = oneshot::Sender<Result<(), String>>;

/// Drivers have stopped.
pub(super) struct Stopped {
    /// Of these tunnels.
    names: Vec<IfName>,
    /// Tunnels to be started now.
    start: Vec<Tunnel>,
    /// Whether their brokers are asked anew.
    refresh: bool,
    /// Whoever wanted it.
    answer: Answer,
    /// What went wrong.
    problems: Vec<String>,
}

/// A tunnel and its driver.
pub(super) struct Running {
    pub(super) driver: Option<Driver>,
    /// Last told of in an alert.
    pub(super) told: Option<tunnel::State>,
    /// Whether its last driver is still at work on stopping.
    stopping: bool,
}

impl Running {
    /// Whether it is to be up.
    pub(super) const fn is_wanted(&self) -> bool {
        self.driver.is_some()
    }

    /// What its driver last said.
    pub(super) fn said(&self) -> Option<Said> {
        self.driver.as_ref().map(Driver::said)
    }

    /// Its state, given its interface.
    pub(super) fn state(&self, link: Option<&Link>) -> tunnel::State {
        let driver = self.said().map_or(DriverState::Idle, |said| said.state);
        tunnel::state(self.is_wanted(), &driver, link)
    }
}

impl State {
    /// The tunnels of these names; none named: all.
    pub(super) fn choose(&self, names: &[String]) -> Result<Vec<Tunnel>, String> {
        if names.is_empty() {
            return Ok(self.wanted.tunnels.clone());
        }
        let find = |name: &String| {
            let known = self.wanted.tunnels.iter().find(|t| t.name.as_str() == name);
            known.cloned().ok_or_else(|| {
                let names: Vec<_> = self.tunnels.keys().map(IfName::as_str).collect();
                format!("no tunnel {name:?}; there are {}", names.join(", "))
            })
        };
        names.iter().map(find).collect()
    }

    /// The tunnel of the account in this file.
    pub(super) fn account(&self, file: &str) -> Result<Tunnel, String> {
        let file = whole(file);
        let is_its = |tunnel: &&Tunnel| self.account_of(&tunnel.name).as_ref() == Some(&file);
        let found = self.wanted.tunnels.iter().find(is_its);
        found
            .cloned()
            .ok_or_else(|| format!("the tunnel of {file} is not running"))
    }

    /// The file with the account of the tunnel of this name, by its whole path.
    pub(super) fn account_of(&self, name: &IfName) -> Option<String> {
        let mut tunnels = self.wanted.tunnels.iter();
        match &tunnels.find(|tunnel| tunnel.name == *name)?.kind {
            Kind::Account(account) => Some(whole(&account.file)),
            _ => None,
        }
    }

    /// The tunnel of the account in this file, which is added if there is none.
    pub(super) fn add_account(&mut self, file: &api::AccountFile) -> Result<Tunnel, String> {
        if let Ok(known) = self.account(&file.file) {
            return Ok(known);
        }
        let bytes = config_file::read_secret(&file.file)?;
        let aiccu = aiccu::parse(&file.file, &bytes).map_err(|invalid| invalid.to_string())?;
        let account = Account {
            file: file.file.clone(),
            aiccu,
            tls: Tls {
                ca: file.tls_ca.clone(),
                verify: file.tls_verify,
            },
        };
        let tunnel = self.wanted.add(account).map_err(|e| e.to_string())?;
        self.added.insert(tunnel.name.clone());
        self.overlay();
        Ok(tunnel)
    }

    /// Forgets a tunnel that was added and is stopped now.
    fn forget(&mut self, name: &IfName) {
        if self.added.remove(name) {
            self.tunnels.remove(name);
            self.learned.remove(name);
            self.wanted.tunnels.retain(|tunnel| tunnel.name != *name);
            self.overlay();
        }
    }

    /// Whether there is nothing to do: no tunnel any more, or none at all for too long.
    pub(super) fn is_idle(&self, is_late: bool) -> bool {
        self.wanted.tunnels.is_empty() && (self.had_tunnels || is_late)
    }

    /// Does something to tunnels. Drivers may take their time to stop, which is not the daemon's:
    /// they do it in a task, which reports back through [`State::stopped`].
    pub(super) async fn act(
        &mut self,
        verb: Verb,
        chosen: Vec<Tunnel>,
        refresh: bool,
        answer: Answer,
    ) {
        let is_stopping = |t: &&Tunnel| self.tunnels.get(&t.name).is_some_and(|r| r.stopping);
        if let Some(tunnel) = chosen.iter().find(is_stopping) {
            let refusal = format!("{} is being stopped; try again in a moment", tunnel.name);
            let _gone = answer.send(Err(refusal));
            return;
        }
        let mut drivers = Vec::new();
        if verb != Verb::Start {
            for tunnel in &chosen {
                if let Some(running) = self.tunnels.get_mut(&tunnel.name)
                    && let Some(driver) = running.driver.take()
                {
                    running.stopping = true;
                    drivers.push((tunnel.name.clone(), driver));
                }
            }
        }
        let names = chosen.iter().map(|tunnel| tunnel.name.clone()).collect();
        let start = if verb == Verb::Stop { vec![] } else { chosen };
        if drivers.is_empty() {
            self.stopped(Stopped {
                names,
                start,
                refresh,
                answer,
                problems: Vec::new(),
            })
            .await;
            return;
        }
        // Rules and sources go first, the interface after them.
        self.reconcile_or_report().await;
        let stopped_to = self.stopped_to.clone();
        tokio::spawn(async move {
            let problems = stop_all(drivers).await;
            let stopped = Stopped {
                names,
                start,
                refresh,
                answer,
                problems,
            };
            // A closed channel: the daemon is ending, and so is whoever asked it.
            let _ending = stopped_to.send(stopped).await;
        });
    }

    /// Drivers have stopped: starts those that are to be started again, and answers.
    pub(super) async fn stopped(&mut self, stopped: Stopped) {
        let Stopped {
            names,
            start,
            refresh,
            answer,
            mut problems,
        } = stopped;
        for name in &names {
            if let Some(running) = self.tunnels.get_mut(name) {
                running.stopping = false;
            }
            if start.is_empty() {
                self.forget(name);
            }
        }
        self.had_tunnels |= !start.is_empty();
        for tunnel in &start {
            if self.is_wanted(tunnel) {
                continue;
            }
            let mut running = Running::start(tunnel, &self.services, refresh);
            running.told = self.tunnels.remove(&tunnel.name).and_then(|r| r.told);
            self.tunnels.insert(tunnel.name.clone(), running);
        }
        if let Err(error) = self.reconcile().await {
            problems.push(format!("{error:#}"));
        }
        let outcome = if problems.is_empty() {
            Ok(())
        } else {
            Err(problems.join("; "))
        };
        let _gone = answer.send(outcome);
    }

    /// The end: drivers stop, if so ordered, or leave their tunnels as they are; those that are
    /// stopping already do so. Returns what went wrong.
    pub(super) async fn end(
        self,
        stop_tunnels: bool,
        mut stopped: mpsc::Receiver<Stopped>,
    ) -> Vec<String> {
        let drivers = self.tunnels.into_iter().filter_map(|(name, running)| {
            let driver = running.driver?;
            Some((name, driver))
        });
        let drivers = drivers.collect();
        // What is left of the channel's senders is held by the tasks that stop drivers.
        drop(self.stopped_to);
        let stopping = async {
            let mut problems = Vec::new();
            while let Some(stopped) = stopped.recv().await {
                problems.extend(stopped.problems);
            }
            problems
        };
        let ending = async {
            if stop_tunnels {
                stop_all(drivers).await
            } else {
                end_all(drivers, "leave", Driver::leave).await
            }
        };
        let (mut problems, more) = tokio::join!(stopping, ending);
        problems.extend(more);
        problems
    }
}

/// The one path of a file that has several; as it is, where the file is gone.
fn whole(file: &str) -> String {
    fs::canonicalize(file).map_or_else(|_| file.to_owned(), |path| path.display().to_string())
}

/// Stops drivers, all at once; returns what went wrong.
async fn stop_all(drivers: Vec<(IfName, Driver)>) -> Vec<String> {
    end_all(drivers, "stop", Driver::stop).await
}

async fn end_all<F>(drivers: Vec<(IfName, Driver)>, verb: &str, end: fn(Driver) -> F) -> Vec<String>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let ends = drivers.into_iter().map(|(name, driver)| async move {
        let outcome = end(driver).await;
        outcome
            .err()
            .map(|error| format!("{verb} {name}: {error:#}"))
    });
    join_all(ends).await.into_iter().flatten().collect()
}

impl Running {
    pub(super) fn start(tunnel: &Tunnel, services: &Services, refresh: bool) -> Self {
        Self {
            driver: Some(Driver::start(tunnel, services, refresh)),
            told: None,
            stopping: false,
        }
    }
}
