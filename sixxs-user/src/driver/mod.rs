//! Drivers: a driver makes the interface of a tunnel, and keeps it there.
//!
//! A driver gets its part of the configuration, and after each scan the tunnel's interface. It reports
//! a [`DriverState`]; whether the interface exists, netlink reports. [`Driver::stop`] and [`Driver::detach`]
//! end it and wait; a dropped driver is killed. A new kind of tunnel is added here, and nowhere else in the
//! daemon.
//!
//! Tasks:
//! * one per driver with a command, which ends when the driver is stopped, detached or dropped;
//! * one per running command, which reads its standard error output ([`stderr_tail`]) and ends with the last
//!   writer;
//! * on the I/O thread ([`native`]) one per native tunnel, which ends with its driver;
//! * there, one per setup script of AICCU, which ends with the script;
//! * there, one that watches for changes of the network path and one that removes interfaces. Both end with the
//!   thread.

mod backoff;
mod command;
mod native;
pub(crate) mod process;
mod stderr_tail;

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use sixxs_core::{
    broker::ayiya::wire::DropReason,
    config::{self, Config, Learned, Tunnel},
    endpoint::Endpoint,
    link::Link,
    tunnel::{CarrierKind, DriverState, OuterReport},
    types::IfName,
    wireguard::handshakes::View,
};
use tokio::sync::{Notify, watch};

pub(crate) use self::native::session_store::SessionStore;

use self::native::io_thread::IoThread;
use crate::{
    broker::{
        cache::Cache,
        connects::Connects,
        endpoint_update::{UpdateContext, UpdateStore},
    },
    host::clock::Clock,
    host::fd_store::FdStore,
    host::paths::Paths,
};

/// Wakes the daemon when any driver reports something new.
pub type ChangeNotifier = Arc<Notify>;

/// What drivers share.
pub struct DriverContext {
    /// Notified of each new report.
    pub notifier: ChangeNotifier,
    /// The clock.
    pub clock: Clock,
    /// The connect limit of brokers.
    pub connects: Connects,
    /// The stored parameters from brokers.
    pub cache: Cache,
    /// The records of endpoint updates.
    pub updates: UpdateStore,
    /// Sessions with brokers.
    pub(crate) sessions: SessionStore,
    /// Descriptors that systemd holds.
    pub(crate) fd_store: FdStore,
    /// Started with the first native tunnel.
    io_thread: OnceLock<IoThread>,
}

/// Clones for the thread of a native tunnel.
struct SharedContext {
    clock: Clock,
    connects: Connects,
    cache: Cache,
    sessions: SessionStore,
    fd_store: FdStore,
}

impl DriverContext {
    /// Nothing is started yet.
    #[must_use]
    pub(crate) fn new(
        notifier: ChangeNotifier,
        clock: Clock,
        connects: Connects,
        paths: &Paths,
        fd_store: FdStore,
    ) -> Self {
        Self {
            notifier,
            clock,
            cache: Cache::new(&paths.state_dir),
            updates: UpdateStore::new(&paths.state_dir),
            sessions: SessionStore::new(&paths.run_dir),
            fd_store,
            connects,
            io_thread: OnceLock::new(),
        }
    }

    /// The stored parameters of these tunnels.
    pub async fn stored_parameters(&self, config: &Config) -> BTreeMap<IfName, Learned> {
        stored_parameters(&self.cache, config).await
    }

    fn clone_shared(&self) -> SharedContext {
        SharedContext {
            clock: self.clock.clone(),
            connects: self.connects.clone(),
            cache: self.cache.clone(),
            sessions: self.sessions.clone(),
            fd_store: self.fd_store.clone(),
        }
    }

    /// What endpoint updates need.
    pub(crate) fn for_updates(&self) -> UpdateContext {
        UpdateContext {
            clock: self.clock.clone(),
            connects: self.connects.clone(),
            store: self.updates.clone(),
            notifier: Arc::clone(&self.notifier),
        }
    }

    fn io_thread(&self) -> anyhow::Result<&IoThread> {
        if let Some(thread) = self.io_thread.get() {
            return Ok(thread);
        }
        let thread = IoThread::start()?;
        Ok(self.io_thread.get_or_init(|| thread))
    }
}

/// The parameters of these tunnels from the last answers of their brokers.
pub async fn stored_parameters(cache: &Cache, config: &Config) -> BTreeMap<IfName, Learned> {
    let mut known = BTreeMap::new();
    for Tunnel { name, kind, .. } in &config.tunnels {
        if let config::Kind::Account(account) = kind
            && let Some(learned) = native::account::stored_parameters(cache, name, account).await
        {
            known.insert(name.clone(), learned);
        }
    }
    known
}

/// The last report of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverStatus {
    /// Its state.
    pub state: DriverState,
    /// Whether the interface exists and the driver has made it.
    pub has_made_interface: bool,
    /// The broker's endpoint.
    pub endpoint: Option<Endpoint>,
    /// This host's outer address.
    pub local: Option<IpAddr>,
    /// The carrier of the packets.
    pub carrier: Option<CarrierKind>,
    /// The path of its outer packets.
    pub outer: OuterReport,
    /// The parameters from the broker.
    pub learned: Option<Learned>,
    /// The interface and its peers, if the tunnel is by WireGuard and has been read.
    pub wireguard: Option<View>,
}

/// Counts of refused packets of a broker, by [`DropReason::ALL`]. The tunnel's thread writes them.
pub type RefusedCounts = [AtomicU64; DropReason::ALL.len()];

/// The driver of a started tunnel.
pub struct Driver {
    kind: Kind,
    refused: Arc<RefusedCounts>,
    /// A channel per driver, so that a late report of an earlier one is not taken for this one's.
    status: watch::Receiver<DriverStatus>,
}

enum Kind {
    /// Another program makes the interface: there is nothing to do.
    Interface,
    /// Commands of the user make it.
    Command(command::Command),
    /// This program makes it.
    Native(native::NativeHandle),
    /// This program makes it, and the kernel carries the packets.
    WireGuard(native::wireguard::WireGuardHandle),
}

impl Driver {
    /// Starts it. It waits for the first [`Driver::observe_link`]. With `refresh` it asks the broker again, even if
    /// there are stored parameters.
    #[must_use]
    pub fn start(tunnel: &Tunnel, context: &DriverContext, refresh: bool) -> Self {
        let initial = match tunnel.kind {
            config::Kind::Interface => DriverState::Idle,
            _ => DriverState::Working(None),
        };
        let (sender, status) = StatusSender::new(initial, &context.notifier);
        if !matches!(
            tunnel.kind,
            config::Kind::SixInFour(_) | config::Kind::Account(_)
        ) {
            sender.set_outer(OuterReport::NoPath);
        }
        let refused = Arc::clone(&sender.refused);
        let kind = match &tunnel.kind {
            config::Kind::Interface => Kind::Interface,
            config::Kind::Command { up, down } => {
                Kind::Command(command::Command::start(up.clone(), down.clone(), sender))
            }
            config::Kind::SixInFour(_) | config::Kind::Ayiya(_) | config::Kind::Account(_) => {
                Kind::Native(native::NativeHandle::start(
                    tunnel, sender, context, refresh,
                ))
            }
            config::Kind::WireGuard(wireguard) => {
                Kind::WireGuard(native::wireguard::WireGuardHandle::start(
                    &tunnel.name,
                    &wireguard.settings,
                    sender,
                    context,
                ))
            }
        };
        Self {
            kind,
            refused,
            status,
        }
    }

    /// Counts of refused packets of its broker.
    #[must_use]
    pub fn refused(&self) -> &RefusedCounts {
        &self.refused
    }

    /// Its last report.
    #[must_use]
    pub fn status(&self) -> DriverStatus {
        self.status.borrow().clone()
    }

    /// Passes it the tunnel's interface, as the last scan found it; `None`: there is none.
    pub fn observe_link(&self, link: Option<&Link>) {
        match &self.kind {
            Kind::Interface => {}
            Kind::Command(command) => command.observe_link(link),
            Kind::Native(native) => native.observe_link(link),
            Kind::WireGuard(wireguard) => wireguard.observe_link(link),
        }
    }

    /// Passes it the tunnel of a new configuration that does not restart it.
    pub fn configure(&self, tunnel: &Tunnel) {
        match &self.kind {
            Kind::WireGuard(wireguard) => wireguard.configure(tunnel),
            Kind::Interface | Kind::Command(_) | Kind::Native(_) => {}
        }
    }

    /// Takes what the driver has restored since the last call, as messages.
    pub fn take_restored(&self) -> VecDeque<String> {
        match &self.kind {
            Kind::WireGuard(wireguard) => wireguard.take_restored(),
            Kind::Interface | Kind::Command(_) | Kind::Native(_) => VecDeque::new(),
        }
    }

    /// Takes the interface down, as far as that is the driver's part.
    pub async fn stop(self) -> anyhow::Result<()> {
        match self.kind {
            Kind::Interface => Ok(()),
            Kind::Command(command) => command.stop().await,
            Kind::Native(native) => native.stop().await,
            Kind::WireGuard(wireguard) => wireguard.stop().await,
        }
    }

    /// Ends the driver; its interface stays. Waits for a running command.
    pub async fn detach(self) -> anyhow::Result<()> {
        match self.kind {
            Kind::Interface => Ok(()),
            Kind::Command(command) => command.detach().await,
            Kind::Native(native) => native.detach().await,
            Kind::WireGuard(wireguard) => wireguard.detach().await,
        }
    }
}

/// Where a driver reports.
#[derive(Clone)]
struct StatusSender {
    refused: Arc<RefusedCounts>,
    status: watch::Sender<DriverStatus>,
    notifier: ChangeNotifier,
}

impl StatusSender {
    fn new(
        initial: DriverState,
        notifier: &ChangeNotifier,
    ) -> (Self, watch::Receiver<DriverStatus>) {
        let (status, receiver) = watch::channel(DriverStatus {
            state: initial,
            has_made_interface: false,
            endpoint: None,
            local: None,
            carrier: None,
            outer: OuterReport::Pending,
            learned: None,
            wireguard: None,
        });
        let sender = Self {
            refused: Arc::default(),
            status,
            notifier: Arc::clone(notifier),
        };
        (sender, receiver)
    }

    fn subscribe(&self) -> watch::Receiver<DriverStatus> {
        self.status.subscribe()
    }

    fn set(&self, state: DriverState) {
        self.change(|status| status.state = state);
    }

    fn set_made_interface(&self, has_made_interface: bool) {
        self.change(|status| status.has_made_interface = has_made_interface);
    }

    fn set_endpoint(&self, endpoint: Endpoint, local: IpAddr, carrier: CarrierKind) {
        self.change(|status| {
            status.endpoint = Some(endpoint);
            status.local = Some(local);
            status.carrier = Some(carrier);
        });
    }

    fn set_outer(&self, outer: OuterReport) {
        self.change(|status| status.outer = outer);
    }

    fn set_learned(&self, learned: Learned) {
        self.change(|status| status.learned = Some(learned));
    }

    /// Counts a refused packet, without notice: a flood must not keep the daemon busy.
    fn count_refused(&self, reason: DropReason) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Wakes the daemon.
    fn notify(&self) {
        self.notifier.notify_one();
    }

    /// Wakes the daemon if something has changed.
    fn change(&self, change: impl FnOnce(&mut DriverStatus)) {
        let is_new = self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
        if is_new {
            self.notifier.notify_one();
        }
    }
}
