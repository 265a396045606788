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

/// After the first request, the group waits this long for further requests.
const GATHER_TIME: Duration = Duration::from_millis(5);

/// An interface, and the receiver of the outcome.
type RemovalRequest = (IfIndex, oneshot::Sender<Result<(), Arc<anyhow::Error>>>);

/// Removes interfaces.
#[derive(Clone)]
pub(super) struct Remover {
    requests: mpsc::Sender<RemovalRequest>,
}

impl Remover {
    /// Starts its task, on the thread of the tunnels.
    pub(super) fn start() -> Self {
        let (requests, waiting) = mpsc::channel(WAITING);
        tokio::task::spawn_local(remove_in_groups(waiting));
        Self { requests }
    }

    /// Removes an interface that sixxs has made; it may be gone.
    pub(super) async fn remove(&self, index: IfIndex) -> anyhow::Result<()> {
        let (answer, outcome) = oneshot::channel();
        // Both fail only when the thread ends, and the process with it.
        if self.requests.send((index, answer)).await.is_err() {
            return Ok(());
        }
        let outcome = outcome.await.unwrap_or(Ok(()));
        outcome.map_err(|shared| anyhow::anyhow!("{shared:#}"))
    }
}

async fn remove_in_groups(mut waiting: mpsc::Receiver<RemovalRequest>) {
    while let Some(first) = waiting.recv().await {
        sleep(GATHER_TIME).await;
        let mut requests = vec![first];
        while let Ok(more) = waiting.try_recv() {
            requests.push(more);
        }
        let indices: Vec<_> = requests.iter().map(|(index, _)| *index).collect();
        let removed = async { Netlink::open()?.delete_links(&indices).await };
        let outcome = removed.await.map_err(Arc::new);
        for (_, answer) in requests {
            // The tunnel may have ended.
            let _unread = answer.send(outcome.clone());
        }
    }
}
