//! Alerts that wait to be handed on: so many, and then the oldest give way.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Alerts that wait at most.
pub(super) const LENGTH: usize = 256;

/// A queue that is never full.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inside: Mutex<Inside>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    /// JSON, a line each.
    waiting: VecDeque<String>,
    /// Whether one is being handed on.
    busy: bool,
    /// Dropped since that was last said.
    untold: u64,
    dropped: u64,
    /// Why the last could not be handed on.
    failure: Option<String>,
}

/// What is to be handed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// So many were dropped.
    Dropped(u64),
    /// An alert.
    Alert(String),
}

impl Queue {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an alert; says whether it is the first for which another had to give way.
    pub(super) fn push(&self, line: String) -> bool {
        let mut inside = self.inside();
        let mut begins = false;
        if inside.waiting.len() == LENGTH {
            inside.waiting.pop_front();
            begins = inside.untold == 0;
            inside.untold += 1;
            inside.dropped += 1;
        }
        inside.waiting.push_back(line);
        self.bell.notify_one();
        begins
    }

    /// Waits for something to hand on.
    pub(super) async fn next(&self) -> Next {
        loop {
            {
                let mut inside = self.inside();
                inside.busy = true;
                if inside.untold > 0 {
                    return Next::Dropped(std::mem::take(&mut inside.untold));
                }
                if let Some(line) = inside.waiting.pop_front() {
                    return Next::Alert(line);
                }
                inside.busy = false;
            }
            self.bell.notified().await;
        }
    }

    /// How handing on ended.
    pub(super) fn ended(&self, failure: Option<String>) {
        self.inside().failure = failure;
    }

    /// Whether everything was handed on, or given up.
    pub(super) fn is_idle(&self) -> bool {
        let inside = self.inside();
        inside.waiting.is_empty() && !inside.busy
    }

    /// Alerts dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.inside().dropped
    }

    /// Why the last could not be handed on, if that is so.
    pub(super) fn failure(&self) -> Option<String> {
        self.inside().failure.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_give_way_and_that_is_said_first() {
        let queue = Queue::default();
        let pushed: Vec<bool> = (0..LENGTH + 3)
            .map(|number| queue.push(number.to_string()))
            .collect();
        assert_eq!(pushed.iter().filter(|begins| **begins).count(), 1);
        assert!(pushed[LENGTH] && queue.dropped() == 3);
        assert_eq!(queue.next().await, Next::Dropped(3));
        assert_eq!(queue.next().await, Next::Alert("3".to_owned()));
        for _ in 4..LENGTH + 3 {
            assert!(matches!(queue.next().await, Next::Alert(_)));
        }
        assert!(!queue.is_idle(), "the last is being handed on");
        let none = tokio::time::timeout(std::time::Duration::from_millis(10), queue.next());
        assert!(none.await.is_err() && queue.is_idle());
        assert_eq!(queue.dropped(), 3);
    }
}
