//! Tunnels that this program makes and carries by itself.
//!
//! The daemon's part here is small: it starts a tunnel on the [`engine`]'s thread, tells it what was
//! seen of its interface, and ends it. The tunnel says how it is getting on by its [`Report`].

pub(crate) mod account;
mod ayiya;
mod beating;
pub(crate) mod engine;
pub(crate) mod kept;
mod outside;
mod remover;
mod sit;
mod six_in_four;
mod way;

use std::{cell::RefCell, rc::Rc, time::Duration};

use anyhow::bail;
use sixxs_core::{
    config::{Kind, Tunnel},
    link::Link,
    tunnel::Driver as State,
    types::{IfIndex, IfName},
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep},
};
use tracing::debug;

use self::{
    engine::{Buffers, Shared},
    kept::Ways,
    remover::Remover,
};
use super::{Report, Services, backoff::Backoff};
use crate::{
    broker::{cache::Cache, connects::Connects},
    clock::Clock,
    fd_store::{FdStore, What},
    netlink::{Netlink, marked::There},
    wire::Device,
};

/// Batches in one direction before the other one, and other tunnels, get their turn.
const TURN: usize = 4;

/// The machine may have slept: look at the time at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(15);

/// After a socket could not be opened, or broke.
const AGAIN: Duration = Duration::from_secs(5);

/// What carries a tunnel, in status.
const TUN: &str = "tun";

/// A native tunnel at work. Dropped, it ends at its next await.
pub(super) struct Native {
    seen: watch::Sender<Option<IfIndex>>,
    order: oneshot::Sender<Order>,
    ended: oneshot::Receiver<anyhow::Result<()>>,
}

/// How a tunnel is to end. What this process carries itself ends either way.
enum Order {
    /// With its interface.
    Stop,
    /// Its interface stays, where the kernel carries it.
    Leave,
}

impl Native {
    pub(super) fn start(
        tunnel: &Tunnel,
        report: Report,
        services: &Services,
        refresh: bool,
    ) -> Self {
        let (seen, seen_by) = watch::channel(None);
        let (order, ordered) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let tunnel = tunnel.clone();
        let clock = services.clock.clone();
        let connects = services.connects.clone();
        let cache = services.cache.clone();
        let ways = services.ways.clone();
        let fd_store = services.fd_store.clone();
        let refused = report.clone();
        let work = move |shared: &Shared| {
            let mut work = Work {
                name: tunnel.name.clone(),
                report,
                seen: seen_by,
                clock,
                connects,
                cache,
                ways,
                fd_store,
                stale_after: None,
                interface: None,
                device: None,
                buffers: Rc::clone(&shared.buffers),
                outside: shared.outside.clone(),
                remover: shared.remover.clone(),
            };
            async move {
                let keep = async {
                    match &tunnel.kind {
                        Kind::Account(account) => {
                            work.keep_account(&tunnel, account, refresh).await;
                        }
                        _ => work.keep(&tunnel).await,
                    }
                };
                let order = tokio::select! {
                    () = keep => Order::Stop,
                    // Given up without an order: nobody knows what is to become of it.
                    order = ordered => order.unwrap_or(Order::Leave),
                };
                let outcome = match order {
                    Order::Stop => {
                        work.ways.remove(&work.name);
                        work.fd_store.forget(&work.name);
                        work.remove_interface().await
                    }
                    Order::Leave => Ok(()),
                };
                // Nobody may be left to hear it.
                let _unheard = end.send(outcome);
            }
        };
        if let Err(error) = services.engine().and_then(|engine| engine.run(work)) {
            refused.say(State::Failed(format!("{error:#}")));
        }
        Self { seen, order, ended }
    }

    pub(super) fn saw(&self, link: Option<&Link>) {
        let index = link.map(|link| link.index);
        self.seen.send_if_modified(|seen| {
            let is_new = *seen != index;
            *seen = index;
            is_new
        });
    }

    /// Ends it, and with it its interface.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.end(Order::Stop).await
    }

    /// Ends it; what the kernel carries stays.
    pub(super) async fn leave(self) -> anyhow::Result<()> {
        self.end(Order::Leave).await
    }

    async fn end(self, order: Order) -> anyhow::Result<()> {
        // Both errors mean that it never began.
        let _began = self.order.send(order);
        self.ended.await.unwrap_or(Ok(()))
    }
}

/// What every native tunnel has.
struct Work {
    name: IfName,
    report: Report,
    /// Index of the interface of our name, as the daemon last saw it.
    seen: watch::Receiver<Option<IfIndex>>,
    clock: Clock,
    connects: Connects,
    cache: Cache,
    ways: Ways,
    fd_store: FdStore,
    /// Where what a broker said may not hold any more: given up after so long without an answer.
    stale_after: Option<Duration>,
    /// Our interface, while there is one.
    interface: Option<IfIndex>,
    /// Our device, while it carries nothing.
    device: Option<Device>,
    buffers: Rc<RefCell<Buffers>>,
    outside: watch::Receiver<u64>,
    remover: Remover,
}

/// Why packets are not carried any more.
enum Pause {
    /// The broker may be elsewhere, or we are.
    WayLost,
    /// The device is gone, or is not called what it should be any more.
    DeviceLost,
    /// Nothing was heard for [`Work::stale_after`].
    Stale,
}

/// Why a tunnel was given up.
enum End {
    DeviceLost,
    Stale,
}

impl Work {
    /// Keeps a tunnel up; ends only when it is stale.
    async fn keep(&mut self, tunnel: &Tunnel) {
        let mut backoff = Backoff::default();
        self.report.say(State::Working(None));
        if let Kind::SixInFour(outer) = &tunnel.kind {
            self.keep_sit(tunnel, outer).await;
        }
        loop {
            self.report.say(State::Working(None));
            let device = match self.device().await {
                Ok(device) => device,
                Err(error) => {
                    self.report.say(State::Retrying(format!("{error:#}")));
                    sleep(backoff.failed()).await;
                    continue;
                }
            };
            self.interface = Some(device.index());
            self.report.made(true);
            let made = Instant::now();
            let end = match &tunnel.kind {
                Kind::Ayiya(ayiya) => self.ayiya(&device, tunnel, ayiya).await,
                Kind::SixInFour(outer) => self.six_in_four(&device, tunnel, outer).await,
                // Made by others, or not known yet what it is.
                Kind::Interface | Kind::Command { .. } | Kind::Account(_) => {
                    std::future::pending().await
                }
            };
            self.report.made(false);
            match end {
                End::Stale => {
                    self.device = Some(device);
                    return;
                }
                End::DeviceLost => {
                    // It may be called something else by now.
                    if let Err(error) = self.remove_interface().await {
                        debug!("{}: {error:#}", self.name);
                    }
                    self.fd_store.forget(&self.name);
                    drop(device);
                    // Whoever took it away may take the next one away as well.
                    sleep(backoff.lost(made.elapsed())).await;
                }
            }
        }
    }

    /// Our device: the one that an earlier run left, or a new one. It outlives us, so that a restart
    /// finds it with its addresses, routes and rules.
    async fn device(&mut self) -> anyhow::Result<Device> {
        let netlink = Netlink::open()?;
        let there = netlink.there(&self.name).await?;
        let before = self.device.take();
        let device = match (there, before) {
            (There::OurTun(index), Some(device)) if index == device.index() => return Ok(device),
            (There::OurTun(_), _) => {
                let held = self.fd_store.take(&self.name, What::Device);
                Device::create(&self.name, held)?
            }
            (There::Nothing, _) => {
                let device = Device::create(&self.name, None)?;
                // Until it has its mark, it goes with us.
                netlink.mark(device.index()).await?;
                device.keep()?;
                device
            }
            (There::OurSit(index), _) => {
                netlink.delete_link(index).await?;
                bail!("a tunnel of the kernel's was in the place of {}", self.name);
            }
            (There::Others, _) => bail!(
                "make the TUN device {}: somebody else has an interface of that name",
                self.name
            ),
        };
        self.fd_store.hold(&self.name, What::Device, &device);
        Ok(device)
    }

    /// Removes our interface, if there is one.
    async fn remove_interface(&mut self) -> anyhow::Result<()> {
        let Some(index) = self.interface.take() else {
            return Ok(());
        };
        let netlink = Netlink::open()?;
        match netlink.there(&self.name).await? {
            There::OurSit(found) if found == index => self.remover.remove(index).await,
            _ if netlink.is_our_tun(index).await? => self.remover.remove(index).await,
            _ => Ok(()),
        }
    }

    /// Waits until our device is not called by its name any more, after it was.
    async fn lost(seen: &mut watch::Receiver<Option<IfIndex>>, index: IfIndex) {
        let ours = |seen: &Option<IfIndex>| *seen == Some(index);
        let lost = async {
            seen.wait_for(ours).await?;
            seen.wait_for(|seen| !ours(seen)).await
        };
        if lost.await.is_err() {
            // The daemon gave the tunnel up, and ends it by another way.
            std::future::pending::<()>().await;
        }
    }
}
