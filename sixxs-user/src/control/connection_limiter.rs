//! Limits the number of open connections.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::sleep,
};
use tracing::debug;

use crate::host::memory;

/// After this many connections, the free memory is returned to the kernel.
const MANY_CONNECTIONS: usize = 64;

/// Pause after an error of `accept`, such as a lack of descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// A flag about a connection, which its task sets: for the limiter, whether it has an unanswered request. A server
/// that never calls `clear` makes a connection count as busy from its first request on.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedFlag(Arc<AtomicBool>);

impl SharedFlag {
    /// Sets it: a request has arrived.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Clears it: the request is answered.
    pub(crate) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether it is set.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Connections by class. Each class has its own limit, so that classes do not displace each other. The
/// connections end when this is dropped.
#[derive(Debug)]
pub(crate) struct Connections<C> {
    tasks: JoinSet<()>,
    open: VecDeque<Open<C>>,
    /// Connections since memory was last returned.
    served: usize,
}

#[derive(Debug)]
struct Open<C> {
    class: C,
    task: AbortHandle,
    has_request: SharedFlag,
}

impl<C: PartialEq> Connections<C> {
    /// No connections.
    pub(crate) fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            open: VecDeque::new(),
            served: 0,
        }
    }

    /// Waits for the next connection, while others end. `what` names the listener in the log.
    pub(crate) async fn accept<S, A>(
        &mut self,
        what: &str,
        mut poll_accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(S, A)>>,
    ) -> S {
        loop {
            let accepted = tokio::select! {
                accepted = poll_fn(&mut poll_accept) => accepted,
                () = self.ended() => continue,
            };
            match accepted {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    debug!("accept a connection {what}: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits until a connection has ended.
    async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            return std::future::pending().await;
        }
        self.open
            .retain(|connection| !connection.task.is_finished());
        if self.open.is_empty() && self.served >= MANY_CONNECTIONS {
            self.served = 0;
            memory::return_free_memory();
        }
    }

    /// Whether there is room for another connection of a class with the limit `most`. If not, closes the oldest
    /// one that has no unanswered request, if there is one.
    pub(crate) fn has_room(&mut self, class: &C, most: usize) -> bool {
        self.open
            .retain(|connection| !connection.task.is_finished());
        let of_class = |connection: &&Open<C>| connection.class == *class;
        if self.open.iter().filter(of_class).count() < most {
            return true;
        }
        self.close(|connection| connection.class == *class && !connection.has_request.is_set())
    }

    /// Closes the oldest connection of a class.
    pub(crate) fn close_oldest(&mut self, class: &C) {
        self.close(|connection| connection.class == *class);
    }

    fn close(&mut self, which: impl Fn(&Open<C>) -> bool) -> bool {
        let at = self.open.iter().position(which);
        let closed = at.and_then(|at| self.open.remove(at));
        if let Some(connection) = &closed {
            connection.task.abort();
        }
        closed.is_some()
    }

    /// Serves another connection.
    pub(crate) fn serve(
        &mut self,
        class: C,
        has_request: SharedFlag,
        conversation: impl Future<Output = ()> + Send + 'static,
    ) {
        self.served += 1;
        let task = self.tasks.spawn(conversation);
        self.open.push_back(Open {
            class,
            task,
            has_request,
        });
    }
}
