//! systemd's file descriptor store: systemd holds devices and sockets of native tunnels between two runs of
//! the service, with the packets in their queues (`FDSTORE=1` of sd_notify(3), `FileDescriptorStoreMax=` of
//! systemd.service(5), systemd 219).
//!
//! Without systemd or without stored descriptors, the daemon takes tunnels over by the names of their devices
//! and by their port numbers, and packets are lost meanwhile.
//!
//! Tasks: a thread sends messages to systemd, which may be busy. It lives as long as the store, and does not
//! exist without systemd.

use std::{
    collections::{BTreeSet, HashMap},
    env, io,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use anyhow::Context as _;
use sd_notify::NotifyState;
use sixxs_core::types::IfName;
use tracing::{debug, warn};

/// Environment variables from systemd; removed from children.
pub(crate) const ENVIRONMENT: [&str; 7] = [
    "FDSTORE",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Maximum number of queued messages. More are dropped, which costs packets at the next restart.
const WAITING: usize = 1024;

/// The stored descriptors of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Descriptor {
    /// Its TUN device.
    Device,
    /// The socket to its broker.
    Socket,
}

/// Access to systemd's store.
#[derive(Clone, Debug, Default)]
pub(crate) struct FdStore {
    /// Descriptors that systemd passed at start, until they are taken.
    held: Arc<Mutex<HashMap<String, OwnedFd>>>,
    /// `None` without systemd.
    queue: Option<SyncSender<Order>>,
}

#[derive(Debug)]
enum Order {
    Hold(String, OwnedFd),
    Forget(String),
}

impl FdStore {
    /// Opens the store. Descriptors of tunnels that are not among `names` are closed.
    pub(crate) fn open(names: &BTreeSet<IfName>) -> Self {
        let mut held = passed_descriptors().unwrap_or_else(|error| {
            warn!("{error:#}");
            HashMap::new()
        });
        let queue = start_sender().unwrap_or_else(|error| {
            warn!("systemd holds nothing for the next run: {error:#}");
            None
        });
        let is_wanted = |key: &str| {
            let mut wanted = names.iter().flat_map(keys_of);
            wanted.any(|wanted| wanted == key)
        };
        let unwanted: Vec<_> = held.extract_if(|key, _| !is_wanted(key)).collect();
        let store = Self {
            held: Arc::new(Mutex::new(held)),
            queue,
        };
        for (key, _closed) in unwanted {
            store.order(Order::Forget(key));
        }
        store
    }

    /// Takes a descriptor of a tunnel that systemd passed at start; it can be taken once.
    pub(crate) fn take(&self, name: &IfName, kind: Descriptor) -> Option<OwnedFd> {
        self.held().remove(&key(name, kind))
    }

    /// The socket of a tunnel: the one from systemd, if `adopt` accepts it, or a new one. It is stored from now
    /// on.
    pub(crate) fn socket<T: AsFd>(
        &self,
        name: &IfName,
        adopt: impl FnOnce(OwnedFd) -> io::Result<T>,
        open: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let held = self.take(name, Descriptor::Socket);
        let socket = match held.and_then(|held| adopt(held).ok()) {
            Some(socket) => socket,
            None => open()?,
        };
        self.hold(name, Descriptor::Socket, &socket);
        Ok(socket)
    }

    /// Stores a descriptor, and replaces an earlier one.
    pub(crate) fn hold(&self, name: &IfName, kind: Descriptor, descriptor: &impl AsFd) {
        if self.queue.is_none() {
            return;
        }
        self.forget_descriptor(name, kind);
        match descriptor.as_fd().try_clone_to_owned() {
            Ok(copy) => self.order(Order::Hold(key(name, kind), copy)),
            Err(error) => debug!("{name}: is not held for the next run: {error}"),
        }
    }

    /// Removes the descriptors of a tunnel from the store.
    pub(crate) fn forget(&self, name: &IfName) {
        self.forget_descriptor(name, Descriptor::Device);
        self.forget_descriptor(name, Descriptor::Socket);
    }

    fn forget_descriptor(&self, name: &IfName, kind: Descriptor) {
        drop(self.take(name, kind));
        self.order(Order::Forget(key(name, kind)));
    }

    fn order(&self, order: Order) {
        if let Some(queue) = &self.queue
            && queue.try_send(order).is_err()
        {
            debug!("systemd accepts no more requests");
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, OwnedFd>> {
        // Each entry is complete, even if a panic interrupted a change.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name in systemd's store. It must be ASCII without `:`, which no interface name contains. systemd
/// ignores a name that is not ASCII.
fn key(name: &IfName, kind: Descriptor) -> String {
    match kind {
        Descriptor::Device => format!("device.{name}"),
        Descriptor::Socket => format!("socket.{name}"),
    }
}

fn keys_of(name: &IfName) -> [String; 2] {
    [Descriptor::Device, Descriptor::Socket].map(|kind| key(name, kind))
}

/// The descriptors from systemd; empty from the second call on.
fn passed_descriptors() -> anyhow::Result<HashMap<String, OwnedFd>> {
    static TAKEN: Once = Once::new();
    let mut passed = HashMap::new();
    let mut outcome = Ok(());
    TAKEN.call_once(|| match sd_notify::listen_fds_with_names() {
        // SAFETY: systemd opened them for this process (LISTEN_PID) before it started, so no other code owns
        // them; and `TAKEN` ensures that they are taken only once.
        Ok(all) => passed.extend(all.map(|(fd, key)| (key, unsafe { OwnedFd::from_raw_fd(fd) }))),
        Err(error) => outcome = Err(error),
    });
    outcome.context("take over the descriptors from systemd")?;
    Ok(passed)
}

/// Starts the thread that sends orders, and returns its queue; `None` without systemd.
fn start_sender() -> anyhow::Result<Option<SyncSender<Order>>> {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(None);
    }
    let (queue, waiting) = sync_channel(WAITING);
    thread::Builder::new()
        .name("fd-store".to_owned())
        .spawn(move || send_orders(&waiting))
        .context("start a thread")?;
    Ok(Some(queue))
}

fn send_orders(orders: &Receiver<Order>) {
    for order in orders {
        let sent = match &order {
            Order::Hold(key, descriptor) => sd_notify::notify_with_fds(
                &[
                    NotifyState::FdStore,
                    NotifyState::FdName(key),
                    // systemd must not poll the socket: a pending error in it is for the daemon.
                    NotifyState::Custom("FDPOLL=0"),
                ],
                &[descriptor.as_fd()],
            ),
            Order::Forget(key) => {
                sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(key)])
            }
        };
        if let Err(error) = sent {
            debug!("{order:?}: {error}");
        }
    }
}
