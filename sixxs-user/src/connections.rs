//! Connections that are served: so many at a time, whatever the other side does.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::{AbortHandle, JoinSet};

use crate::memory;

/// So many connections leave memory behind that is worth giving back.
const STORM: usize = 64;

/// Whether a request has come by a connection, and is not answered yet where that is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked(Arc<AtomicBool>);

impl Asked {
    /// One has.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// It is answered.
    pub(crate) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether one has.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Connections by class: each class has a number of its own, so that none takes another's place. They end when
/// this is dropped.
#[derive(Debug)]
pub(crate) struct Connections<C> {
    tasks: JoinSet<()>,
    open: VecDeque<Open<C>>,
    /// Served since memory was last given back.
    served: usize,
}

#[derive(Debug)]
struct Open<C> {
    class: C,
    task: AbortHandle,
    asked: Asked,
}

impl<C: PartialEq> Connections<C> {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            open: VecDeque::new(),
            served: 0,
        }
    }

    /// Waits until one has ended.
    pub(crate) async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            return std::future::pending().await;
        }
        self.open
            .retain(|connection| !connection.task.is_finished());
        if self.open.is_empty() && self.served >= STORM {
            self.served = 0;
            memory::give_back();
        }
    }

    /// Whether there is room for one more of a class that may have `most`. Where there is none, the oldest is
    /// given up of those that wait for no answer.
    pub(crate) fn has_room(&mut self, class: &C, most: usize) -> bool {
        self.open
            .retain(|connection| !connection.task.is_finished());
        let of_class = |connection: &&Open<C>| connection.class == *class;
        if self.open.iter().filter(of_class).count() < most {
            return true;
        }
        self.give_up(|connection| connection.class == *class && !connection.asked.is_set())
    }

    /// Gives up the oldest of a class.
    pub(crate) fn give_up_oldest(&mut self, class: &C) {
        self.give_up(|connection| connection.class == *class);
    }

    fn give_up(&mut self, which: impl Fn(&Open<C>) -> bool) -> bool {
        let at = self.open.iter().position(which);
        let given_up = at.and_then(|at| self.open.remove(at));
        if let Some(connection) = &given_up {
            connection.task.abort();
        }
        given_up.is_some()
    }

    /// Serves one more.
    pub(crate) fn serve(
        &mut self,
        class: C,
        asked: Asked,
        conversation: impl Future<Output = ()> + Send + 'static,
    ) {
        self.served += 1;
        let task = self.tasks.spawn(conversation);
        self.open.push_back(Open { class, task, asked });
    }
}
