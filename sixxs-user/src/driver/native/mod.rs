//! Native tunnels: this program makes their interfaces and carries their packets, or has the kernel do so.
//!
//! The daemon's part is small: it starts a tunnel on the thread of [`io_thread`], passes it the index of
//! its interface, and ends it. The tunnel reports by its [`StatusSender`].
//!
//! [`interface`](self::interface) makes the interface, [`run`](self::run) keeps the link to the broker, a
//! [`carrier`] moves packets, and [`account`] asks a TIC server first.
//! [`wireguard`](self::wireguard) is apart: it has no broker, and the kernel carries its packets.

pub(crate) mod account;
mod broker_path;
mod carrier;
mod heartbeat_sender;
mod interface;
pub(crate) mod io_thread;
mod remover;
mod resolve;
mod run;
pub(crate) mod session_store;
pub(super) mod wireguard;

use std::{cell::RefCell, rc::Rc, time::Duration};

use sixxs_core::{
    config::{Kind, Tunnel},
    link::Link,
    tunnel::DriverState,
    types::{IfIndex, IfName},
};
use tokio::sync::{oneshot, watch};

use self::{
    io_thread::{Buffers, Shared},
    remover::Remover,
    session_store::SessionStore,
};
use super::{DriverContext, StatusSender};
use crate::{
    broker::{cache::Cache, connects::Connects},
    host::clock::Clock,
    host::fd_store::FdStore,
    wire::Device,
};

/// The daemon's handle to a native tunnel. When it is dropped, the tunnel ends at its next await.
pub(super) struct NativeHandle {
    observed: watch::Sender<Option<IfIndex>>,
    order: oneshot::Sender<Order>,
    ended: oneshot::Receiver<anyhow::Result<()>>,
}

/// How a tunnel is to end. Stop and detach both end its task, which carries its packets.
enum Order {
    /// Its interface is removed.
    Stop,
    /// Its interface stays. A `sit` interface still carries packets; a TUN device only
    /// if the programs carry them.
    Detach,
}

impl NativeHandle {
    pub(super) fn start(
        tunnel: &Tunnel,
        status: StatusSender,
        context: &DriverContext,
        refresh: bool,
    ) -> Self {
        let (observed, observed_by) = watch::channel(None);
        let (order, ordered) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let tunnel = tunnel.clone();
        let failed = status.clone();
        let shared_context = context.clone_shared();
        let work = move |shared: &Shared| {
            let native = NativeTunnel {
                context: Context {
                    name: tunnel.name.clone(),
                    status,
                    clock: shared_context.clock,
                    connects: shared_context.connects,
                    cache: shared_context.cache,
                    sessions: shared_context.sessions,
                    fd_store: shared_context.fd_store,
                    buffers: Rc::clone(&shared.buffers),
                },
                remover: shared.remover.clone(),
                observed: observed_by,
                path_changes: shared.path_changes.clone(),
                stale_after: None,
                interface: None,
                device: None,
            };
            async move {
                let outcome = native.work(&tunnel, refresh, ordered).await;
                // The daemon may have ended.
                let _unread = end.send(outcome);
            }
        };
        if let Err(error) = context.io_thread().and_then(|thread| thread.run(work)) {
            failed.set(DriverState::Failed(format!("{error:#}")));
        }
        Self {
            observed,
            order,
            ended,
        }
    }

    /// Passes the tunnel its interface, as the last scan found it.
    pub(super) fn observe_link(&self, link: Option<&Link>) {
        let index = link.map(|link| link.index);
        self.observed.send_if_modified(|observed| {
            let is_new = *observed != index;
            *observed = index;
            is_new
        });
    }

    /// Ends it, and removes its interface.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.end(Order::Stop).await
    }

    /// Ends it; its interface stays.
    pub(super) async fn detach(self) -> anyhow::Result<()> {
        self.end(Order::Detach).await
    }

    async fn end(self, order: Order) -> anyhow::Result<()> {
        // Both errors mean that it never started.
        let _started = self.order.send(order);
        self.ended.await.unwrap_or(Ok(()))
    }
}

/// What carriers and the link to the broker need of the program.
struct Context {
    name: IfName,
    status: StatusSender,
    clock: Clock,
    connects: Connects,
    cache: Cache,
    sessions: SessionStore,
    fd_store: FdStore,
    buffers: Rc<RefCell<Buffers>>,
}

/// A native tunnel.
struct NativeTunnel {
    context: Context,
    remover: Remover,
    /// Index of the interface with the tunnel's name, as of the daemon's last scan.
    observed: watch::Receiver<Option<IfIndex>>,
    /// Counts changes of addresses and routes.
    path_changes: watch::Receiver<u64>,
    /// Limit of the broker's silence, for a tunnel whose parameters may be outdated then.
    stale_after: Option<Duration>,
    /// The interface that this tunnel has made, while it exists.
    interface: Option<IfIndex>,
    /// The TUN device, between the end of one link and the start of the next.
    device: Option<Device>,
}

impl NativeTunnel {
    /// Keeps the tunnel up until an order ends it.
    async fn work(
        mut self,
        tunnel: &Tunnel,
        refresh: bool,
        ordered: oneshot::Receiver<Order>,
    ) -> anyhow::Result<()> {
        let keep_up = async {
            match &tunnel.kind {
                Kind::Account(account) => self.keep_up_account(tunnel, account, refresh).await,
                _ => self.keep_up(tunnel).await,
            }
        };
        let order = tokio::select! {
            () = keep_up => Order::Stop,
            // A dropped handle gives no order: the interface may be needed.
            order = ordered => order.unwrap_or(Order::Detach),
        };
        match order {
            Order::Stop => {
                self.context.sessions.remove(&self.context.name);
                self.context.fd_store.forget(&self.context.name);
                self.remove_interface().await
            }
            Order::Detach => Ok(()),
        }
    }
}
