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
    /// Dropped or given up since that was last said.
    untold: u64,
    dropped: u64,
    /// Why the last could not be handed on.
    failure: Option<String>,
}

/// What is to be handed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// So many did not arrive.
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
                // Whoever takes nothing is not told so: what comes next shows whether that is over.
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

    /// How handing on ended.
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

    /// Whether everything was handed on, or given up.
    pub(super) fn is_idle(&self) -> bool {
        let inside = self.inside();
        inside.waiting.is_empty() && !inside.busy
    }

    /// Alerts dropped or given up so far.
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

    #[tokio::test]
    async fn what_was_given_up_is_said_when_something_arrives_again() {
        let queue = Queue::default();
        for line in ["one", "two", "three"] {
            queue.push(line.to_owned());
        }
        let failed = || Some("it is away".to_owned());
        let one = queue.next().await;
        queue.ended(&one, failed());
        // It is tried by the next alert, which counts as well.
        let two = queue.next().await;
        assert_eq!(two, Next::Alert("two".to_owned()));
        queue.ended(&two, failed());
        assert_eq!((queue.dropped(), queue.failure()), (2, failed()));
        let three = queue.next().await;
        queue.ended(&three, None);
        let told = queue.next().await;
        assert_eq!(told, Next::Dropped(2));
        // That it could not be said is no third one.
        queue.ended(&told, failed());
        queue.push("four".to_owned());
        let four = queue.next().await;
        queue.ended(&four, None);
        assert_eq!(queue.next().await, Next::Dropped(2));
        assert_eq!(queue.dropped(), 2);
    }
}
