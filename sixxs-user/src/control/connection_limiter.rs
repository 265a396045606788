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
pub(crate) struct ConnectionLimiter<C> {
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

impl<C: PartialEq> ConnectionLimiter<C> {
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
                () = self.clean_up_after_next() => continue,
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

    /// Waits until a connection has ended, and forgets it. Once the last of many has ended, returns the free memory
    /// to the kernel.
    async fn clean_up_after_next(&mut self) {
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

    /// Makes room for another connection of a class with the limit `most`: if there is none, closes the oldest one
    /// that has no unanswered request. Returns whether there is room now.
    pub(crate) fn make_room(&mut self, class: &C, most: usize) -> bool {
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

    /// Closes the oldest connection of this kind. Returns whether there was one.
    fn close(&mut self, which: impl Fn(&Open<C>) -> bool) -> bool {
        let position = self.open.iter().position(which);
        let Some(connection) = position.and_then(|position| self.open.remove(position)) else {
            return false;
        };
        connection.task.abort();
        true
    }

    /// Waits until all connections have ended.
    pub(crate) async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
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

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[test]
    fn only_idle_connections_make_room() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut connections = ConnectionLimiter::new();
            let has_request = SharedFlag::default();
            has_request.set();
            connections.serve("a", has_request.clone(), pending());
            assert!(
                connections.make_room(&"b", 1),
                "another class has its own limit"
            );
            assert!(!connections.make_room(&"a", 1), "the only one is busy");
            has_request.clear();
            assert!(connections.make_room(&"a", 1));
            has_request.set();
            connections.serve("a", has_request, pending());
            connections.close_oldest(&"a");
            assert!(connections.make_room(&"a", 1), "a busy one was closed");
        });
    }
}
