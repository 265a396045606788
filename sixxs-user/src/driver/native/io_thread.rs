//! The thread that carries packets, for all native tunnels together.
//!
//! It has a runtime of its own, so that a busy tunnel does not delay repairs, and one set of buffers, so
//! that idle tunnels take no memory.
//!
//! Tasks on that thread: one per tunnel, which ends with its driver; one per setup script (`account.rs`), which
//! ends with the script; one that waits for changes of addresses and routes, and that of `remover.rs`, which end
//! with the process.

use std::{cell::RefCell, future::Future, pin::Pin, rc::Rc, thread};

use anyhow::Context as _;
use sixxs_core::broker::ayiya::wire::HEADER_BYTES;
use tokio::{
    sync::{mpsc, watch},
    task::LocalSet,
};
use tracing::warn;

use super::remover::Remover;
use crate::{
    netlink::PathWatcher,
    wire::{Arrivals, Inbox, Messages, Outbox},
};

/// Limit of tunnels that wait for the thread.
const WAITING: usize = 1024;

/// Pause after a change, since many addresses change at once.
const SETTLE_TIME: std::time::Duration = std::time::Duration::from_millis(20);

type Work = Pin<Box<dyn Future<Output = ()>>>;
type Job = Box<dyn FnOnce(&Shared) -> Work + Send>;

/// The state that the tunnels of the thread share.
#[derive(Clone)]
pub(super) struct Shared {
    /// Empty between the turns of two tunnels.
    pub(super) buffers: Rc<RefCell<Buffers>>,
    /// Counts changes of addresses and routes.
    pub(super) path_changes: watch::Receiver<u64>,
    /// Removes interfaces.
    pub(super) remover: Remover,
}

/// Room for the batches of one tunnel at a time.
pub(super) struct Buffers {
    /// With room for AYIYA's header.
    pub(super) sealed: Outbox,
    /// Without any.
    pub(super) plain: Outbox,
    pub(super) arrivals: Arrivals,
    pub(super) inbox: Inbox,
    /// Packets in IPv4.
    pub(super) messages: Messages,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            sealed: Outbox::new(HEADER_BYTES),
            plain: Outbox::new(0),
            arrivals: Arrivals::default(),
            inbox: Inbox::default(),
            messages: Messages::default(),
        }
    }
}

/// The thread.
#[derive(Clone)]
pub(crate) struct IoThread {
    jobs: mpsc::Sender<Job>,
}

impl IoThread {
    /// Starts it, in the network namespace of the calling thread.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the tunnels' thread")?;
        thread::Builder::new()
            .name("tunnels".to_owned())
            .spawn(move || LocalSet::new().block_on(&runtime, run(waiting)))
            .context("start the tunnels' thread")?;
        Ok(Self { jobs })
    }

    /// Runs some work on the thread.
    pub(super) fn run<F, W>(&self, work: F) -> anyhow::Result<()>
    where
        F: FnOnce(&Shared) -> W + Send + 'static,
        W: Future<Output = ()> + 'static,
    {
        let job: Job = Box::new(move |shared| Box::pin(work(shared)));
        self.jobs
            .try_send(job)
            .map_err(|_| anyhow::anyhow!("the tunnels' thread accepts no more tunnels"))
    }
}

async fn run(mut jobs: mpsc::Receiver<Job>) {
    let (changes, path_changes) = watch::channel(0);
    tokio::task::spawn_local(async move {
        if let Err(error) = watch_path_changes(&changes).await {
            warn!("wait for changes of addresses: {error:#}");
        }
        // Tunnels continue without notice of changes.
        std::future::pending::<()>().await;
    });
    let shared = Shared {
        buffers: Rc::new(RefCell::new(Buffers::default())),
        path_changes,
        remover: Remover::start(),
    };
    while let Some(job) = jobs.recv().await {
        tokio::task::spawn_local(job(&shared));
    }
}

async fn watch_path_changes(changes: &watch::Sender<u64>) -> anyhow::Result<()> {
    let watcher = PathWatcher::subscribe()?;
    loop {
        watcher.changed().await?;
        changes.send_modify(|count| *count += 1);
        tokio::time::sleep(SETTLE_TIME).await;
        // A change during the pause is counted after it.
    }
}
