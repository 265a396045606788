//! The queue of alerts for a hook: it has a maximum length, and drops the oldest alert when it is full.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Maximum number of waiting alerts.
pub(super) const LENGTH: usize = 256;

/// A queue that always accepts another alert.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inside: Mutex<Inside>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    /// JSON, one line each.
    waiting: VecDeque<String>,
    /// Whether an alert is being sent.
    busy: bool,
    /// Dropped or failed alerts that the hook was not notified of yet.
    untold: u64,
    dropped: u64,
    /// Why the last attempt failed.
    failure: Option<String>,
}

/// What to send next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The number of alerts that did not arrive.
    Dropped(u64),
    /// An alert.
    Alert(String),
}

impl Queue {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an alert; returns whether it begins a series of dropped alerts.
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

    /// Waits for the next message to send.
    pub(super) async fn next(&self) -> Next {
        loop {
            {
                let mut inside = self.inside();
                inside.busy = true;
                // While the hook fails, this number waits: the next alert shows whether it works again.
                if inside.untold > 0 && inside.failure.is_none() {
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

    /// Records the result of sending.
    pub(super) fn ended(&self, what: &Next, failure: Option<String>) {
        let mut inside = self.inside();
        if failure.is_some() {
            match what {
                Next::Dropped(alerts) => inside.untold += alerts,
                Next::Alert(_) => {
                    inside.untold += 1;
                    inside.dropped += 1;
                }
            }
        }
        inside.failure = failure;
    }

    /// Whether all alerts were sent or dropped.
    pub(super) fn is_idle(&self) -> bool {
        let inside = self.inside();
        inside.waiting.is_empty() && !inside.busy
    }

    /// Total number of dropped and failed alerts.
    pub(super) fn dropped(&self) -> u64 {
        self.inside().dropped
    }

    /// Why the last alert was not sent, if it was not.
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

    #[tokio::test]
    async fn what_was_given_up_is_said_when_something_arrives_again() {
        let queue = Queue::default();
        for line in ["one", "two", "three"] {
            queue.push(line.to_owned());
        }
        let failed = || Some("it is away".to_owned());
        let one = queue.next().await;
        queue.ended(&one, failed());
        // The next alert tries the hook, and counts as lost as well.
        let two = queue.next().await;
        assert_eq!(two, Next::Alert("two".to_owned()));
        queue.ended(&two, failed());
        assert_eq!((queue.dropped(), queue.failure()), (2, failed()));
        let three = queue.next().await;
        queue.ended(&three, None);
        let told = queue.next().await;
        assert_eq!(told, Next::Dropped(2));
        // If this notification fails, it does not count as another lost alert.
        queue.ended(&told, failed());
        queue.push("four".to_owned());
        let four = queue.next().await;
        queue.ended(&four, None);
        assert_eq!(queue.next().await, Next::Dropped(2));
        assert_eq!(queue.dropped(), 2);
    }
}
