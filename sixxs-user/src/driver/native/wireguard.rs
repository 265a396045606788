//! Tunnels by WireGuard: makes the interface, configures it, and keeps it so. The kernel carries the packets.
//!
//! The kernel sends no events about the configuration of an interface. So it is compared with the settings after
//! each scan of the daemon, which follows every change of interfaces, addresses and routes, and every 10 s.
//! `sixxs_core::wireguard` decides what is changed, and which names are looked up.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sixxs_common::packet::UDP;
use sixxs_core::{
    config::{Kind, Tunnel},
    endpoint::Endpoint,
    link::Link,
    tunnel::DriverState,
    types::{IfIndex, IfName},
    wireguard::{
        Change, Device, Settings, diff,
        endpoints::{Endpoints, Lookup},
        handshakes::{Handshakes, View},
    },
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info};

use super::{
    Order,
    io_thread::Shared,
    remover::Remover,
    resolve::resolve_name,
    run::{interface_lost, is_lost},
};
use crate::{
    driver::{
        DriverContext, StatusSender,
        backoff::{Backoff, RemakePauses},
    },
    host::clock::{Clock, after},
    netlink::{
        Netlink,
        wireguard::{device::DeviceSocket, link::NoWireGuard},
    },
};

/// The configuration is read at least this often.
const LOOK: Duration = Duration::from_secs(10);

/// The configuration is read at most this often: scans may follow each other quickly.
const SHORTEST_LOOK: Duration = Duration::from_secs(1);

/// The maximum number of restored parts that wait for the daemon.
const MAX_RESTORED: usize = 64;

/// A failure after this time is not of the same kind as those before it.
const LASTING: Duration = Duration::from_secs(600);

/// The restored parts of an interface, for the daemon's log.
pub(in crate::driver) type Restored = Arc<Mutex<VecDeque<String>>>;

/// The daemon's handle to a tunnel. When it is dropped, the tunnel ends at its next await.
pub(in crate::driver) struct WireGuardHandle {
    observed: watch::Sender<Option<IfIndex>>,
    /// Counts scans.
    scans: watch::Sender<u64>,
    wanted: watch::Sender<Settings>,
    restored: Restored,
    order: oneshot::Sender<Order>,
    ended: oneshot::Receiver<anyhow::Result<()>>,
}

impl WireGuardHandle {
    pub(in crate::driver) fn start(
        name: &IfName,
        settings: &Settings,
        status: StatusSender,
        context: &DriverContext,
    ) -> Self {
        let (observed, observed_by) = watch::channel(None);
        let (scans, scanned) = watch::channel(0);
        let (wanted, wanted_by) = watch::channel(settings.clone());
        let (order, ordered) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let restored = Restored::default();
        let (name, failed) = (name.clone(), status.clone());
        let (clock, restored_by) = (context.clock.clone(), Arc::clone(&restored));
        let work = move |shared: &Shared| {
            let keeper = Keeper {
                name,
                status,
                clock,
                remover: shared.remover.clone(),
                observed: observed_by,
                scanned,
                wanted: wanted_by,
                restored: restored_by,
                interface: None,
                endpoints: Endpoints::default(),
                lookups: JoinSet::new(),
            };
            async move {
                let outcome = keeper.work(ordered).await;
                // The daemon may have ended.
                let _unread = end.send(outcome);
            }
        };
        if let Err(error) = context.io_thread().and_then(|thread| thread.run(work)) {
            failed.set(DriverState::Failed(format!("{error:#}")));
        }
        Self {
            observed,
            scans,
            wanted,
            restored,
            order,
            ended,
        }
    }

    /// Passes the tunnel its interface, as the last scan found it.
    pub(in crate::driver) fn observe_link(&self, link: Option<&Link>) {
        let index = link.map(|link| link.index);
        self.observed.send_if_modified(|observed| {
            let is_new = *observed != index;
            *observed = index;
            is_new
        });
        self.scans.send_modify(|scans| *scans += 1);
    }

    /// Passes it the settings of a new configuration.
    pub(in crate::driver) fn configure(&self, tunnel: &Tunnel) {
        let Kind::WireGuard(wireguard) = &tunnel.kind else {
            return;
        };
        self.wanted.send_if_modified(|wanted| {
            let is_new = *wanted != wireguard.settings;
            wanted.clone_from(&wireguard.settings);
            is_new
        });
    }

    /// Takes the parts that were restored since the last call.
    pub(in crate::driver) fn take_restored(&self) -> VecDeque<String> {
        std::mem::take(&mut *lock(&self.restored))
    }

    /// Ends it, and removes its interface.
    pub(in crate::driver) async fn stop(self) -> anyhow::Result<()> {
        self.end(Order::Stop).await
    }

    /// Ends it; its interface stays, and carries packets.
    pub(in crate::driver) async fn detach(self) -> anyhow::Result<()> {
        self.end(Order::Detach).await
    }

    async fn end(self, order: Order) -> anyhow::Result<()> {
        // Both errors mean that it never started.
        let _started = self.order.send(order);
        self.ended.await.unwrap_or(Ok(()))
    }
}

fn lock(restored: &Restored) -> std::sync::MutexGuard<'_, VecDeque<String>> {
    restored.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a tunnel.
struct Keeper {
    name: IfName,
    status: StatusSender,
    clock: Clock,
    remover: Remover,
    /// Index of the interface with the tunnel's name, as of the daemon's last scan.
    observed: watch::Receiver<Option<IfIndex>>,
    scanned: watch::Receiver<u64>,
    wanted: watch::Receiver<Settings>,
    restored: Restored,
    /// The interface that this tunnel has made, while it exists.
    interface: Option<IfIndex>,
    endpoints: Endpoints,
    /// Lookups without a result yet.
    lookups: JoinSet<(Lookup, Result<Vec<IpAddr>, String>)>,
}

/// What is known about the present interface.
struct Known {
    index: IfIndex,
    socket: DeviceSocket,
    settings: Settings,
    handshakes: Handshakes,
    /// Whether the kernel has had all settings: what differs then was changed by other software.
    is_configured: bool,
}

impl Keeper {
    /// Keeps the tunnel up until an order ends it.
    async fn work(mut self, ordered: oneshot::Receiver<Order>) -> anyhow::Result<()> {
        let order = tokio::select! {
            () = self.keep_up() => Order::Stop,
            // A dropped handle gives no order: the interface may be needed.
            order = ordered => order.unwrap_or(Order::Detach),
        };
        match order {
            Order::Stop => {
                if self.interface.is_none() {
                    // It may have been made a moment ago.
                    self.interface = Netlink::open()?.link_by_name(&self.name).await?.ours();
                }
                self.remove_interface().await
            }
            Order::Detach => Ok(()),
        }
    }

    async fn keep_up(&mut self) {
        let mut backoff = Backoff::default();
        let mut remake = RemakePauses::default();
        loop {
            let index = match self.make().await {
                Ok(index) => index,
                Err(error) => {
                    let state = DriverState::Retrying(format!("{error:#}"));
                    self.status.set(state);
                    self.wait_to_retry(backoff.after_failure()).await;
                    continue;
                }
            };
            self.interface = Some(index);
            let made = Instant::now();
            let (mut observed, name) = (self.observed.clone(), self.name.clone());
            tokio::select! {
                () = interface_lost(&mut observed, &name, index) => {}
                error = self.keep(index) => if !is_lost(&name, index).await {
                    self.status.set(DriverState::Retrying(format!("{error:#}")));
                    if made.elapsed() > LASTING {
                        backoff = Backoff::default();
                    }
                    self.wait_to_retry(backoff.after_failure()).await;
                    continue;
                },
            }
            self.status.set_made_interface(false);
            self.status.set(DriverState::Working(None));
            if let Err(error) = self.remove_interface().await {
                debug!("{name}: {error:#}");
            }
            // Another program that removed it may remove the next one too.
            sleep(remake.next(made.elapsed())).await;
        }
    }

    /// Waits, at most until the name belongs to another interface, or to none, or there are other settings.
    async fn wait_to_retry(&mut self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            Ok(()) = self.observed.changed() => {}
            Ok(()) = self.wanted.changed() => {}
        }
    }

    async fn make(&self) -> Result<IfIndex, NoWireGuard> {
        Netlink::open()?.wireguard(&self.name).await
    }

    /// Keeps an interface configured, until that fails.
    async fn keep(&mut self, index: IfIndex) -> anyhow::Error {
        let socket = match DeviceSocket::open() {
            Ok(socket) => socket,
            Err(error) => return error,
        };
        let mut known = Known {
            index,
            socket,
            settings: self.wanted.borrow_and_update().clone(),
            handshakes: Handshakes::default(),
            is_configured: false,
        };
        self.endpoints.configure(&known.settings);
        loop {
            self.scanned.mark_unchanged();
            let looked = Instant::now();
            let device = match self.look(&mut known) {
                Ok(device) => device,
                Err(error) => return error,
            };
            self.report(&known, &device);
            self.start_lookups(&known.handshakes);
            self.wait(&mut known, looked).await;
        }
    }

    /// Reads the interface, and restores what differs. Returns what it has then.
    fn look(&mut self, known: &mut Known) -> anyhow::Result<Device> {
        let device = self.observe(known)?;
        self.endpoints.note_present(&device);
        let now = self.clock.now().elapsed;
        let endpoints = self.endpoints.to_set(now, &known.handshakes, &device);
        let changes = diff(&known.settings, &endpoints, &device);
        if changes.is_empty() {
            known.is_configured = true;
            return Ok(device);
        }
        known.socket.apply(known.index, &changes)?;
        for (peer, endpoint) in &endpoints {
            info!(
                "{}: the endpoint of peer {peer} is now {endpoint}",
                self.name
            );
        }
        if known.is_configured {
            self.note_restored(&changes);
        }
        known.is_configured = true;
        let device = self.observe(known)?;
        self.endpoints.note_present(&device);
        Ok(device)
    }

    fn observe(&self, known: &mut Known) -> anyhow::Result<Device> {
        let device = known.socket.read(known.index)?;
        let now = self.clock.now();
        let unix = Duration::from_secs(now.unix_seconds);
        known.handshakes.observe(now.elapsed, unix, &device);
        Ok(device)
    }

    /// Notes what other software has changed. An endpoint alone is no such change: peers move.
    fn note_restored(&self, changes: &[Change]) {
        let mut restored = lock(&self.restored);
        for change in changes.iter().filter(|change| !change.is_endpoint_alone()) {
            if restored.len() < MAX_RESTORED {
                restored.push_back(format!("wireguard {}: {change}", self.name));
            }
        }
        let has_any = !restored.is_empty();
        drop(restored);
        if has_any {
            self.status.notify();
        }
    }

    fn report(&self, known: &Known, device: &Device) {
        let view = known.handshakes.view(device);
        let has_endpoint = device.peers.values().any(|peer| peer.endpoint.is_some());
        let own = device.public_key;
        let own = own.filter(|key| known.settings.peers.contains_key(key));
        let state = match (own, self.endpoints.missing(device)) {
            (Some(key), _) => DriverState::Retrying(format!(
                "peer {key} has the public key of this end; write the other end's public key"
            )),
            (None, Some(reason)) if !has_endpoint => DriverState::Working(Some(reason.to_owned())),
            (None, _) => DriverState::Done,
        };
        let endpoint = endpoint(&view);
        self.status.change(|status| {
            status.has_made_interface = true;
            status.state = state;
            status.endpoint = endpoint;
            status.wireguard = Some(view);
        });
    }

    fn start_lookups(&mut self, handshakes: &Handshakes) {
        let now = self.clock.now().elapsed;
        for lookup in self.endpoints.take_lookups(now, handshakes) {
            self.lookups.spawn_local(async move {
                let result = resolve_name(&lookup.name).await;
                (lookup, result.map_err(|error| error.to_string()))
            });
        }
    }

    /// Waits until the next look is due, and takes results, settings and scans that come before.
    async fn wait(&mut self, known: &mut Known, looked: Instant) {
        let now = self.clock.now().elapsed;
        let next = self.endpoints.next_lookup();
        let pause = next.map_or(LOOK, |next| next.saturating_sub(now).min(LOOK));
        tokio::select! {
            () = sleep(pause.max(SHORTEST_LOOK)) => {}
            Some(found) = self.lookups.join_next() => {
                let now = self.clock.now().elapsed;
                match found {
                    Ok((lookup, result)) => {
                        self.endpoints.found(&lookup, result, now, &known.handshakes);
                    }
                    Err(error) => debug!("{}: {error}", self.name),
                }
            }
            Ok(()) = self.wanted.changed() => {
                known.settings = self.wanted.borrow_and_update().clone();
                self.endpoints.configure(&known.settings);
                // What differs now is no damage.
                known.is_configured = false;
            }
            Ok(()) = self.scanned.changed() => sleep_until(after(looked, SHORTEST_LOOK)).await,
        }
    }

    /// Removes the interface that this tunnel has made, if it exists, under any name.
    async fn remove_interface(&mut self) -> anyhow::Result<()> {
        let Some(index) = self.interface else {
            return Ok(());
        };
        if Netlink::open()?.is_ours(index).await? {
            self.remover.remove(index).await?;
        }
        // Only now: this may be dropped while it waits, and is called again then.
        self.interface = None;
        Ok(())
    }
}

/// The endpoint of the peer with the latest handshake.
fn endpoint(view: &View) -> Option<Endpoint> {
    let remote = view.latest()?.endpoint?;
    Some(Endpoint {
        remote: remote.ip().to_canonical(),
        protocol: Some(UDP),
        remote_port: Some(remote.port()),
        local_port: Some(view.listen_port).filter(|port| *port != 0),
    })
}
