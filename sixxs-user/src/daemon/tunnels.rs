//! The tunnels and their drivers: which are started, and in which state each is.
//!
//! Must not know the intent, nor rules, routes and programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
};

use futures_util::future::join_all;
use sixxs_core::{
    broker::ayiya::wire::DropReason,
    config::{Config, Conflict, Kind, Tunnel},
    link::{Link, Links},
    tunnel::{self, CarrierKind, DriverState},
    types::IfName,
};
use tokio::sync::mpsc;

use super::intent::DriverReport;
use crate::{
    control::{
        Answer, Outcome,
        api::{self, About},
    },
    driver::{Driver, DriverContext, DriverStatus},
    host::clock::time_of_day,
};

/// A request to stop drivers, once they have stopped: the remaining work, and the client.
#[derive(Debug)]
pub(super) struct StoppedDrivers {
    /// The tunnels of these drivers.
    pub(super) names: Vec<IfName>,
    /// Tunnels to start now.
    pub(super) start: Vec<Tunnel>,
    /// Whether to query brokers again, although their parameters are stored.
    pub(super) refresh: bool,
    /// The receiver of the outcome.
    pub(super) answer: Answer<Outcome>,
    /// Errors of the drivers, as messages.
    pub(super) problems: Vec<String>,
}

impl StoppedDrivers {
    /// No driver has reported an error yet.
    pub(super) const fn new(
        names: Vec<IfName>,
        start: Vec<Tunnel>,
        answer: Answer<Outcome>,
    ) -> Self {
        Self {
            names,
            start,
            refresh: false,
            answer,
            problems: Vec::new(),
        }
    }
}

/// The state of a tunnel, without the kernel's counters.
#[derive(Clone, Debug)]
pub(super) struct TunnelView {
    /// Its state.
    pub(super) state: tunnel::State,
    /// The broker that its driver sends to.
    pub(super) endpoint: Option<String>,
    /// Its carrier.
    pub(super) carrier: Option<CarrierKind>,
    /// Packets of its broker that the driver has refused, by reason.
    pub(super) refused: BTreeMap<String, u64>,
}

/// All tunnels of the configuration.
#[derive(Default)]
pub(super) struct Tunnels(BTreeMap<IfName, ManagedTunnel>);

/// A tunnel, and its driver if it is started.
#[derive(Default)]
struct ManagedTunnel {
    driver: Option<Driver>,
    /// The state that the last alert reported.
    reported: Option<tunnel::State>,
    /// Whether a task is stopping its last driver.
    is_stopping: bool,
    /// Why the parameters from its broker are not used.
    conflict: Option<String>,
}

impl ManagedTunnel {
    fn start(tunnel: &Tunnel, context: &DriverContext, refresh: bool) -> Self {
        Self {
            driver: Some(Driver::start(tunnel, context, refresh)),
            ..Self::default()
        }
    }

    fn status(&self) -> Option<DriverStatus> {
        self.driver.as_ref().map(Driver::status)
    }

    fn state(&self, link: Option<&Link>) -> tunnel::State {
        let status = self.status();
        let state = status.map_or(DriverState::Idle, |status| status.state);
        let driver = self.conflict.clone().map_or(state, DriverState::Failed);
        tunnel::state(self.driver.is_some(), &driver, link)
    }

    fn refused(&self) -> BTreeMap<String, u64> {
        let counts = self.driver.as_ref().map(Driver::refusals);
        let counts = counts.into_iter().flatten();
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        let faults = DropReason::ALL.iter().map(|fault| fault.name().to_owned());
        faults.zip(counts).collect()
    }
}

impl Tunnels {
    /// Starts the drivers of all tunnels.
    pub(super) fn start_all(config: &Config, context: &DriverContext) -> Self {
        let start = |tunnel: &Tunnel| {
            let running = ManagedTunnel::start(tunnel, context, false);
            (tunnel.name.clone(), running)
        };
        Self(config.tunnels.iter().map(start).collect())
    }

    /// Starts a tunnel, unless it is started. `refresh`: queries its broker again.
    pub(super) fn start(&mut self, tunnel: &Tunnel, context: &DriverContext, refresh: bool) {
        let running = self.0.entry(tunnel.name.clone()).or_default();
        if running.driver.is_none() {
            let reported = running.reported.take();
            *running = ManagedTunnel {
                reported,
                ..ManagedTunnel::start(tunnel, context, refresh)
            };
        }
    }

    /// The names of all tunnels, started or not.
    pub(super) fn names(&self) -> BTreeSet<IfName> {
        self.0.keys().cloned().collect()
    }

    /// The names of the tunnels that are started.
    pub(super) fn started(&self) -> BTreeSet<IfName> {
        let running = self.0.iter();
        let started = running.filter(|(_, running)| running.driver.is_some());
        started.map(|(name, _)| name.clone()).collect()
    }

    /// The names of the tunnels that a request has stopped.
    pub(super) fn stopped(&self) -> BTreeSet<IfName> {
        let running = self.0.iter();
        let stopped = running.filter(|(_, running)| running.driver.is_none());
        stopped.map(|(name, _)| name.clone()).collect()
    }

    /// Whether a task is stopping the tunnel's driver.
    pub(super) fn is_stopping(&self, name: &IfName) -> bool {
        self.0.get(name).is_some_and(|running| running.is_stopping)
    }

    /// Whether a reload may start the tunnel: not if a request has stopped it.
    pub(super) fn is_new_or_started(&self, name: &IfName) -> bool {
        let running = self.0.get(name);
        running.is_none_or(|running| running.driver.is_some())
    }

    /// The reports of all drivers.
    pub(super) fn reports(&self) -> impl Iterator<Item = (IfName, DriverReport)> {
        self.0.iter().filter_map(|(name, running)| {
            let status = running.status()?;
            let report = DriverReport {
                has_made_interface: status.has_made_interface,
                learned: status.learned,
            };
            Some((name.clone(), report))
        })
    }

    /// Tunnels with a conflict count as failed.
    pub(super) fn set_conflicts(&mut self, conflicts: &[Conflict]) {
        for (name, running) in &mut self.0 {
            let conflict = conflicts.iter().find(|conflict| conflict.tunnel == *name);
            running.conflict = conflict.map(ToString::to_string);
        }
    }

    /// Passes each driver its interface.
    pub(super) fn observe(&self, links: &Links) {
        for (name, running) in &self.0 {
            if let Some(driver) = &running.driver {
                driver.observe_link(links.by_name(name));
            }
        }
    }

    /// Reports the tunnels whose state has changed since the last report.
    pub(super) fn changes(&mut self, links: &Links) -> Vec<About> {
        let mut changes = Vec::new();
        for (name, running) in &mut self.0 {
            let state = running.state(links.by_name(name));
            if running.reported.as_ref() == Some(&state) {
                continue;
            }
            changes.push(About::Tunnel {
                tunnel: name.to_string(),
                state: api::State::from(&state),
                reason: state.reason().map(str::to_owned),
            });
            running.reported = Some(state);
        }
        changes
    }

    /// The state of a tunnel. An unknown tunnel is down.
    pub(super) fn view(&self, name: &IfName, link: Option<&Link>) -> TunnelView {
        let unknown = ManagedTunnel::default();
        let running = self.0.get(name).unwrap_or(&unknown);
        let status = running.status();
        TunnelView {
            state: running.state(link),
            endpoint: status.as_ref().and_then(|status| status.endpoint.clone()),
            carrier: status.and_then(|status| status.carrier),
            refused: running.refused(),
        }
    }

    /// Takes the drivers of these tunnels, to be stopped.
    pub(super) fn take_drivers(&mut self, names: &[IfName]) -> Vec<(IfName, Driver)> {
        let mut drivers = Vec::new();
        for name in names {
            if let Some(running) = self.0.get_mut(name)
                && let Some(driver) = running.driver.take()
            {
                running.is_stopping = true;
                drivers.push((name.clone(), driver));
            }
        }
        drivers
    }

    /// A tunnel's driver has stopped. `is_gone`: the tunnel is not configured any more.
    pub(super) fn has_stopped(&mut self, name: &IfName, is_gone: bool) {
        if is_gone {
            self.0.remove(name);
        } else {
            self.0.entry(name.clone()).or_default().is_stopping = false;
        }
    }

    /// Refuses to restart a tunnel that is up if its broker allows no connect now: the tunnel would stay down.
    pub(super) async fn check_restart(
        &self,
        chosen: &[Tunnel],
        refresh: bool,
        (effective, links): (&Config, &Links),
        context: &DriverContext,
    ) -> anyhow::Result<()> {
        let mut needed: BTreeMap<String, u32> = BTreeMap::new();
        let is_up = |tunnel: &&Tunnel| {
            let running = self.0.get(&tunnel.name);
            let link = links.by_name(&tunnel.name);
            running.is_some_and(|running| running.state(link) == tunnel::State::Up)
        };
        for tunnel in chosen.iter().filter(is_up) {
            for broker in connects_of_start(tunnel, effective, refresh) {
                let standing = context.connects.standing(&broker).await?;
                let count = needed.entry(broker.clone()).or_default();
                *count += 1;
                if let Some(wait) = standing.wait_for(*count) {
                    let wait = wait.as_secs().saturating_add(1);
                    let seconds = context.clock.unix_seconds().saturating_add(wait);
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

    /// The drivers of all tunnels, at the end.
    pub(super) fn into_drivers(self) -> Vec<(IfName, Driver)> {
        let drivers = self.0.into_iter();
        let drivers = drivers.filter_map(|(name, running)| Some((name, running.driver?)));
        drivers.collect()
    }
}

/// The brokers to which the start of a tunnel connects, once each.
fn connects_of_start(tunnel: &Tunnel, effective: &Config, refresh: bool) -> Vec<String> {
    let mut known = effective.tunnels.iter();
    let known = known.find(|known| known.name == tunnel.name);
    let session = known.and_then(|known| known.kind.connects_to());
    let login = match &tunnel.kind {
        Kind::Account(account) if refresh => Some(account.aiccu.server.host.clone()),
        _ => None,
    };
    session.into_iter().chain(login).collect()
}

/// Starts a task that stops the drivers and then sends `stopped`.
pub(super) fn stop_in_task(
    drivers: Vec<(IfName, Driver)>,
    mut stopped: StoppedDrivers,
    to: mpsc::Sender<StoppedDrivers>,
) {
    tokio::spawn(async move {
        stopped.problems = stop_all(drivers).await;
        // A closed channel: the daemon is ending, and so is the client.
        let _ending = to.send(stopped).await;
    });
}

/// Stops drivers, all at once; returns errors.
pub(super) async fn stop_all(drivers: Vec<(IfName, Driver)>) -> Vec<String> {
    end_all(drivers, "stop", Driver::stop).await
}

/// Lets drivers end without stopping their tunnels; returns errors.
pub(super) async fn detach_all(drivers: Vec<(IfName, Driver)>) -> Vec<String> {
    end_all(drivers, "leave", Driver::detach).await
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
