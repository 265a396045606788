//! Removes interfaces in groups: the kernel takes as long for a group as for one interface.
//!
//! Tasks: one, which ends with the thread of the tunnels.

use std::{sync::Arc, time::Duration};

use sixxs_core::types::IfIndex;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use crate::netlink::Netlink;

/// Limit of interfaces that wait.
const WAITING: usize = 1024;

/// Pause in which others join a group.
const GATHER: Duration = Duration::from_millis(5);

/// An interface, and where the outcome goes.
type Doomed = (IfIndex, oneshot::Sender<Result<(), Arc<anyhow::Error>>>);

/// Removes interfaces.
#[derive(Clone)]
pub(super) struct Remover {
    doomed: mpsc::Sender<Doomed>,
}

impl Remover {
    /// Starts its task, on the thread of the tunnels.
    pub(super) fn begin() -> Self {
        let (doomed, waiting) = mpsc::channel(WAITING);
        tokio::task::spawn_local(remove_together(waiting));
        Self { doomed }
    }

    /// Removes an interface, which must be ours; it may be gone.
    pub(super) async fn remove(&self, index: IfIndex) -> anyhow::Result<()> {
        let (answer, outcome) = oneshot::channel();
        // Both fail only when the thread ends, and the process with it.
        if self.doomed.send((index, answer)).await.is_err() {
            return Ok(());
        }
        let outcome = outcome.await.unwrap_or(Ok(()));
        outcome.map_err(|shared| anyhow::anyhow!("{shared:#}"))
    }
}

async fn remove_together(mut waiting: mpsc::Receiver<Doomed>) {
    while let Some(first) = waiting.recv().await {
        sleep(GATHER).await;
        let mut doomed = vec![first];
        while let Ok(more) = waiting.try_recv() {
            doomed.push(more);
        }
        let indices: Vec<_> = doomed.iter().map(|(index, _)| *index).collect();
        let removed = async { Netlink::open()?.delete_links(&indices).await };
        let outcome = removed.await.map_err(Arc::new);
        for (_, answer) in doomed {
            // The tunnel may have ended.
            let _unread = answer.send(outcome.clone());
        }
    }
}
