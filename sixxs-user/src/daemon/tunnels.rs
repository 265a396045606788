//! The tunnels and their drivers: which are started, and in which state each is.
//!
//! Must not know the intent, nor rules, routes and programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::atomic::Ordering,
};

use futures_util::future::join_all;
use sixxs_core::{
    broker::ayiya::wire::DropReason,
    config::{Config, Conflict, Tunnel},
    endpoint::Endpoint,
    link::{Link, Links},
    tunnel::{self, CarrierKind, DriverState, OuterReport},
    types::IfName,
    wireguard::handshakes::View,
};
use tokio::sync::mpsc;

use super::intent::DriverReport;
use crate::{
    control::{
        Answer, Outcome,
        api::{self, About},
    },
    driver::{Driver, DriverContext, DriverStatus},
};

/// What to do once drivers have stopped, or at once if none has to stop.
#[derive(Debug)]
pub(super) struct AfterStop {
    /// The tunnels that are stopped, restarted or started.
    pub(super) names: Vec<IfName>,
    /// Whether to drop those of them that were added at run time: a request has stopped them for good.
    pub(super) drop_runtime: bool,
    /// Tunnels to start.
    pub(super) start: Vec<Tunnel>,
    /// Whether to query brokers again, although their parameters are stored.
    pub(super) refresh: bool,
    /// The receiver of the outcome.
    pub(super) answer: Answer<Outcome>,
    /// Errors of the drivers, as messages.
    pub(super) problems: Vec<String>,
}

impl AfterStop {
    /// No driver has reported an error yet; nothing is dropped, and no broker is queried again.
    pub(super) const fn new(
        names: Vec<IfName>,
        start: Vec<Tunnel>,
        answer: Answer<Outcome>,
    ) -> Self {
        Self {
            names,
            drop_runtime: false,
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
    pub(super) endpoint: Option<Endpoint>,
    /// Its carrier.
    pub(super) carrier: Option<CarrierKind>,
    /// Packets of its broker that the driver has refused, by reason.
    pub(super) refused: BTreeMap<String, u64>,
    /// Its interface and peers, if it is by WireGuard.
    pub(super) wireguard: Option<View>,
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
        let Some(driver) = &self.driver else {
            return BTreeMap::new();
        };
        let reasons = DropReason::ALL
            .iter()
            .map(|reason| reason.name().to_owned());
        let counts = driver.refused().iter();
        reasons
            .zip(counts.map(|count| count.load(Ordering::Relaxed)))
            .collect()
    }
}

impl Tunnels {
    /// Starts the drivers of all tunnels.
    pub(super) fn start_all(config: &Config, context: &DriverContext) -> Self {
        let start = |tunnel: &Tunnel| {
            let started = ManagedTunnel::start(tunnel, context, false);
            (tunnel.name.clone(), started)
        };
        Self(config.tunnels.iter().map(start).collect())
    }

    /// Starts a tunnel, unless it is started. `refresh`: queries its broker again.
    pub(super) fn start(&mut self, tunnel: &Tunnel, context: &DriverContext, refresh: bool) {
        let entry = self.0.entry(tunnel.name.clone()).or_default();
        if entry.driver.is_none() {
            let reported = entry.reported.take();
            *entry = ManagedTunnel {
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
        self.names_where(|tunnel| tunnel.driver.is_some())
    }

    /// The names of the tunnels that a request has stopped.
    pub(super) fn stopped(&self) -> BTreeSet<IfName> {
        self.names_where(|tunnel| tunnel.driver.is_none())
    }

    fn names_where(&self, is_wanted: impl Fn(&ManagedTunnel) -> bool) -> BTreeSet<IfName> {
        let found = self.0.iter().filter(|(_, tunnel)| is_wanted(tunnel));
        found.map(|(name, _)| name.clone()).collect()
    }

    /// Whether a task is stopping the tunnel's driver.
    pub(super) fn is_stopping(&self, name: &IfName) -> bool {
        self.0.get(name).is_some_and(|tunnel| tunnel.is_stopping)
    }

    /// Whether a reload may start the tunnel: not if a request has stopped it.
    pub(super) fn may_start_on_reload(&self, name: &IfName) -> bool {
        let known = self.0.get(name);
        known.is_none_or(|tunnel| tunnel.driver.is_some())
    }

    /// The reports of all drivers.
    pub(super) fn reports(&self) -> impl Iterator<Item = (IfName, DriverReport)> {
        self.0.iter().filter_map(|(name, tunnel)| {
            let status = tunnel.status()?;
            let report = DriverReport {
                has_made_interface: status.has_made_interface,
                learned: status.learned,
            };
            Some((name.clone(), report))
        })
    }

    /// The reports of the drivers about outer paths. A tunnel that is not started has none.
    pub(super) fn outer_reports(&self) -> BTreeMap<IfName, OuterReport> {
        let reports = self.0.iter().map(|(name, tunnel)| {
            let status = tunnel.status();
            let report = status.map_or(OuterReport::NoPath, |status| status.outer);
            (name.clone(), report)
        });
        reports.collect()
    }

    /// The brokers that the drivers send to.
    pub(super) fn endpoints(&self) -> BTreeMap<IfName, Endpoint> {
        let endpoints = self.0.iter().filter_map(|(name, tunnel)| {
            let endpoint = tunnel.status()?.endpoint?;
            Some((name.clone(), endpoint))
        });
        endpoints.collect()
    }

    /// The brokers that the drivers send to, and this host's addresses for them.
    pub(super) fn outer_ends(&self) -> BTreeMap<IfName, (Endpoint, IpAddr)> {
        let ends = self.0.iter().filter_map(|(name, tunnel)| {
            let status = tunnel.status()?;
            Some((name.clone(), (status.endpoint?, status.local?)))
        });
        ends.collect()
    }

    /// Tunnels with a conflict count as failed.
    pub(super) fn set_conflicts(&mut self, conflicts: &[Conflict]) {
        for (name, tunnel) in &mut self.0 {
            let conflict = conflicts.iter().find(|conflict| conflict.tunnel == *name);
            tunnel.conflict = conflict.map(ToString::to_string);
        }
    }

    /// Passes each driver its interface.
    pub(super) fn observe(&self, links: &Links) {
        for (name, tunnel) in &self.0 {
            if let Some(driver) = &tunnel.driver {
                driver.observe_link(links.by_name(name));
            }
        }
    }

    /// Passes each driver its tunnel of a new configuration.
    pub(super) fn configure(&self, config: &Config) {
        for tunnel in &config.tunnels {
            let driver = self
                .0
                .get(&tunnel.name)
                .and_then(|known| known.driver.as_ref());
            if let Some(driver) = driver {
                driver.configure(tunnel);
            }
        }
    }

    /// What the drivers have restored since the last call.
    pub(super) fn take_restored(&self) -> Vec<(IfName, String)> {
        let drivers = self
            .0
            .iter()
            .filter_map(|(name, tunnel)| Some((name, tunnel.driver.as_ref()?)));
        let restored = drivers.flat_map(|(name, driver)| {
            let restored = driver.take_restored().into_iter();
            restored.map(|what| (name.clone(), what))
        });
        restored.collect()
    }

    /// The tunnels whose state has changed since the last call.
    pub(super) fn take_changes(&mut self, links: &Links) -> Vec<About> {
        let mut changes = Vec::new();
        for (name, tunnel) in &mut self.0 {
            let state = tunnel.state(links.by_name(name));
            if tunnel.reported.as_ref() == Some(&state) {
                continue;
            }
            changes.push(About::Tunnel {
                tunnel: name.to_string(),
                state: api::State::from(&state),
                reason: state.reason().map(str::to_owned),
            });
            tunnel.reported = Some(state);
        }
        changes
    }

    /// The state of a tunnel. An unknown tunnel is down.
    pub(super) fn view(&self, name: &IfName, link: Option<&Link>) -> TunnelView {
        let unknown = ManagedTunnel::default();
        let tunnel = self.0.get(name).unwrap_or(&unknown);
        let status = tunnel.status();
        TunnelView {
            state: tunnel.state(link),
            endpoint: status.as_ref().and_then(|status| status.endpoint),
            carrier: status.as_ref().and_then(|status| status.carrier),
            refused: tunnel.refused(),
            wireguard: status.and_then(|status| status.wireguard),
        }
    }

    /// Takes the drivers of these tunnels, to be stopped.
    pub(super) fn take_drivers(&mut self, names: &[IfName]) -> Vec<(IfName, Driver)> {
        let mut drivers = Vec::new();
        for name in names {
            if let Some(tunnel) = self.0.get_mut(name)
                && let Some(driver) = tunnel.driver.take()
            {
                tunnel.is_stopping = true;
                drivers.push((name.clone(), driver));
            }
        }
        drivers
    }

    /// Notes that no task is stopping the tunnel's driver any more. `is_gone`: the tunnel is not configured any more.
    pub(super) fn note_stopped(&mut self, name: &IfName, is_gone: bool) {
        if is_gone {
            self.0.remove(name);
        } else {
            self.0.entry(name.clone()).or_default().is_stopping = false;
        }
    }

    /// The drivers of all tunnels, at the end.
    fn into_drivers(self) -> Vec<(IfName, Driver)> {
        let tunnels = self.0.into_iter();
        let drivers = tunnels.filter_map(|(name, tunnel)| Some((name, tunnel.driver?)));
        drivers.collect()
    }
}

/// Starts a task that stops the drivers, and then sends what is left to do.
pub(super) fn stop_in_task(
    drivers: Vec<(IfName, Driver)>,
    mut after: AfterStop,
    to: mpsc::Sender<AfterStop>,
) {
    tokio::spawn(async move {
        after.problems = stop_all(drivers).await;
        // A closed channel: the daemon is ending, and so is the client.
        let _ending = to.send(after).await;
    });
}

/// Ends all drivers, and waits for the tasks that are stopping others. Returns errors, as messages.
pub(super) async fn end_drivers(
    tunnels: Tunnels,
    stops_tunnels: bool,
    mut stopped: mpsc::Receiver<AfterStop>,
) -> Vec<String> {
    let drivers = tunnels.into_drivers();
    let ending = async {
        match stops_tunnels {
            true => stop_all(drivers).await,
            false => detach_all(drivers).await,
        }
    };
    let stopping = async {
        let mut problems = Vec::new();
        while let Some(after) = stopped.recv().await {
            problems.extend(after.problems);
        }
        problems
    };
    let (mut problems, more) = tokio::join!(stopping, ending);
    problems.extend(more);
    problems
}

/// Stops drivers, all at once; returns errors.
async fn stop_all(drivers: Vec<(IfName, Driver)>) -> Vec<String> {
    end_all(drivers, "stop", Driver::stop).await
}

/// Lets drivers end without stopping their tunnels; returns errors.
async fn detach_all(drivers: Vec<(IfName, Driver)>) -> Vec<String> {
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
