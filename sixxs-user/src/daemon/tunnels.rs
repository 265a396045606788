//! Starting and stopping tunnels.

use std::{collections::BTreeMap, fs, time::Duration};

use futures_util::future::join_all;
use sixxs_core::{
    aiccu,
    config::{Account, Config, Kind, Tls, Tunnel},
    link::Link,
    tunnel::{self, Driver as DriverState},
    types::IfName,
};
use tokio::sync::{mpsc, oneshot};

use super::state::State;
use crate::{
    api,
    clock::time_of_day,
    config_file,
    driver::{Driver, Said, Services},
};

/// At the end, alerts that are still to be handed on are waited for so long.
const HOOKS_FINISH: Duration = Duration::from_secs(3);

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
pub(super) type Answer = oneshot::Sender<Result<(), String>>;

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

impl Stopped {
    /// Nothing went wrong yet.
    pub(super) const fn new(names: Vec<IfName>, start: Vec<Tunnel>, answer: Answer) -> Self {
        Self {
            names,
            start,
            refresh: false,
            answer,
            problems: Vec::new(),
        }
    }
}

/// Starts the drivers of all tunnels.
pub(super) fn start(config: &Config, services: &Services) -> BTreeMap<IfName, Running> {
    let start = |tunnel: &Tunnel| {
        let running = Running::start(tunnel, services, false);
        (tunnel.name.clone(), running)
    };
    config.tunnels.iter().map(start).collect()
}

/// Stops drivers in a task, which then reports back.
pub(super) fn stop_in_task(
    drivers: Vec<(IfName, Driver)>,
    mut stopped: Stopped,
    to: mpsc::Sender<Stopped>,
) {
    tokio::spawn(async move {
        stopped.problems = stop_all(drivers).await;
        // A closed channel: the daemon is ending, and so is whoever asked it.
        let _ending = to.send(stopped).await;
    });
}

/// A tunnel and its driver.
pub(super) struct Running {
    pub(super) driver: Option<Driver>,
    /// Last told of in an alert.
    pub(super) told: Option<tunnel::State>,
    /// Whether its last driver is still at work on stopping.
    stopping: bool,
    /// Why what its broker said is not taken over.
    pub(super) refused: Option<String>,
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
        let said = self.said().map_or(DriverState::Idle, |said| said.state);
        let driver = self.refused.clone().map_or(said, DriverState::Failed);
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
        if let Some(tunnel) = chosen.iter().find(|tunnel| self.is_stopping(&tunnel.name)) {
            let refusal = format!("{} is being stopped; try again in a moment", tunnel.name);
            let _gone = answer.send(Err(refusal));
            return;
        }
        if verb == Verb::Restart
            && let Err(error) = self.can_come_back(&chosen, refresh).await
        {
            let _gone = answer.send(Err(format!("{error:#}")));
            return;
        }
        let names: Vec<_> = chosen.iter().map(|tunnel| tunnel.name.clone()).collect();
        let drivers = match verb {
            Verb::Start => Vec::new(),
            Verb::Stop | Verb::Restart => self.take_drivers(&names),
        };
        let start = if verb == Verb::Stop { vec![] } else { chosen };
        let stopped = Stopped {
            refresh,
            ..Stopped::new(names, start, answer)
        };
        if drivers.is_empty() {
            self.stopped(stopped).await;
            return;
        }
        // Rules and sources go first, the interface after them.
        self.reconcile_or_report().await;
        stop_in_task(drivers, stopped, self.ways.stopped_to.clone());
    }

    /// Whether a restart would not leave tunnels that work without a connect to come back by.
    async fn can_come_back(&self, chosen: &[Tunnel], refresh: bool) -> anyhow::Result<()> {
        let mut needed: BTreeMap<String, u32> = BTreeMap::new();
        for (name, broker) in self.connects_of_restart(chosen, refresh) {
            let standing = self.services.connects.standing(&broker).await?;
            let count = needed.entry(broker.clone()).or_default();
            *count += 1;
            if let Some(wait) = standing.wait_for(*count) {
                let wait = wait.as_secs().saturating_add(1);
                let seconds = self.services.clock.unix_seconds().saturating_add(wait);
                let until = time_of_day(seconds).unwrap_or_else(|| "later".to_owned());
                anyhow::bail!(
                    "{name} is up, and no connect to {broker} is left for it until {until}: a restart \
                     would leave it down; wait, or stop it and start it all the same"
                );
            }
        }
        Ok(())
    }

    /// The connects that a restart of the tunnels among these that work costs: by whom, and with whom.
    fn connects_of_restart<'a>(
        &'a self,
        chosen: &'a [Tunnel],
        refresh: bool,
    ) -> impl Iterator<Item = (&'a IfName, String)> {
        let is_up = |tunnel: &&Tunnel| {
            let link = self.observed.links.by_name(&tunnel.name);
            let running = self.tunnels.get(&tunnel.name);
            running.is_some_and(|running| running.state(link) == tunnel::State::Up)
        };
        chosen.iter().filter(is_up).flat_map(move |tunnel| {
            let mut known = self.config.tunnels.iter();
            let known = known.find(|known| known.name == tunnel.name);
            let set_up = known.and_then(|known| known.kind.connects_to());
            let login = match &tunnel.kind {
                Kind::Account(account) if refresh => Some(account.aiccu.server.host.clone()),
                _ => None,
            };
            let brokers = set_up.into_iter().chain(login);
            brokers.map(|broker| (&tunnel.name, broker))
        })
    }

    pub(super) fn is_stopping(&self, name: &IfName) -> bool {
        self.tunnels
            .get(name)
            .is_some_and(|running| running.stopping)
    }

    /// Whether a tunnel is not known yet, or is to be up, or is just being stopped to be started.
    pub(super) fn is_new_or_wanted(&self, name: &IfName) -> bool {
        let running = self.tunnels.get(name);
        running.is_none_or(Running::is_wanted)
    }

    /// The drivers of these tunnels, to be stopped.
    pub(super) fn take_drivers(&mut self, names: &[IfName]) -> Vec<(IfName, Driver)> {
        let mut drivers = Vec::new();
        for name in names {
            if let Some(running) = self.tunnels.get_mut(name)
                && let Some(driver) = running.driver.take()
            {
                running.stopping = true;
                drivers.push((name.clone(), driver));
            }
        }
        drivers
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
            if self
                .wanted
                .tunnels
                .iter()
                .all(|tunnel| tunnel.name != *name)
            {
                self.tunnels.remove(name);
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
        let mut alerts = self.alerts;
        let drivers = self.tunnels.into_iter().filter_map(|(name, running)| {
            let driver = running.driver?;
            Some((name, driver))
        });
        let drivers = drivers.collect();
        // What is left of the channel's senders is held by the tasks that stop drivers.
        drop(self.ways.stopped_to);
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
        alerts.tell_rest();
        alerts.hooks.finish(HOOKS_FINISH).await;
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
            refused: None,
        }
    }
}
