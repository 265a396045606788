//! The queue of alerts for a hook: it has a maximum length, and drops the oldest alert when it is full.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Maximum number of waiting alerts.
pub(super) const MAX_LENGTH: usize = 256;

/// A queue that always accepts another alert.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// JSON, one line each.
    waiting: VecDeque<String>,
    /// Whether an alert is being sent.
    busy: bool,
    /// Number of dropped and failed alerts that were not yet reported to the hook.
    unreported: u64,
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
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an alert; returns whether it is the first to displace an alert since the last report.
    pub(super) fn push(&self, line: String) -> bool {
        let mut state = self.state();
        let mut begins = false;
        if state.waiting.len() == MAX_LENGTH {
            state.waiting.pop_front();
            begins = state.unreported == 0;
            state.unreported += 1;
            state.dropped += 1;
        }
        state.waiting.push_back(line);
        self.notify.notify_one();
        begins
    }

    /// Waits for the next message to send.
    pub(super) async fn next(&self) -> Next {
        loop {
            {
                let mut state = self.state();
                state.busy = true;
                // While the hook fails, the report waits: the next alert shows whether it works again.
                if state.unreported > 0 && state.failure.is_none() {
                    return Next::Dropped(std::mem::take(&mut state.unreported));
                }
                if let Some(line) = state.waiting.pop_front() {
                    return Next::Alert(line);
                }
                state.busy = false;
            }
            self.notify.notified().await;
        }
    }

    /// Records the result of sending.
    pub(super) fn record_result(&self, what: &Next, failure: Option<String>) {
        let mut state = self.state();
        if failure.is_some() {
            match what {
                Next::Dropped(alerts) => state.unreported += alerts,
                Next::Alert(_) => {
                    state.unreported += 1;
                    state.dropped += 1;
                }
            }
        }
        state.failure = failure;
    }

    /// Whether all alerts were sent or dropped.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state();
        state.waiting.is_empty() && !state.busy
    }

    /// Total number of dropped and failed alerts.
    pub(super) fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Why the last alert was not sent, if it was not.
    pub(super) fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_drops_the_oldest_alerts_and_reports_the_number_first() {
        let queue = Queue::default();
        let pushed: Vec<bool> = (0..MAX_LENGTH + 3)
            .map(|number| queue.push(number.to_string()))
            .collect();
        assert_eq!(pushed.iter().filter(|begins| **begins).count(), 1);
        assert!(pushed[MAX_LENGTH] && queue.dropped() == 3);
        assert_eq!(queue.next().await, Next::Dropped(3));
        assert_eq!(queue.next().await, Next::Alert("3".to_owned()));
        for _ in 4..MAX_LENGTH + 3 {
            assert!(matches!(queue.next().await, Next::Alert(_)));
        }
        assert!(!queue.is_idle(), "the last alert is being sent");
        let none = tokio::time::timeout(std::time::Duration::from_millis(10), queue.next());
        assert!(none.await.is_err() && queue.is_idle());
        assert_eq!(queue.dropped(), 3);
    }

    #[tokio::test]
    async fn failed_alerts_are_reported_after_the_next_success() {
        let queue = Queue::default();
        for line in ["one", "two", "three"] {
            queue.push(line.to_owned());
        }
        let failed = || Some("it is away".to_owned());
        let one = queue.next().await;
        queue.record_result(&one, failed());
        // The next alert tries the hook, and counts as lost as well.
        let two = queue.next().await;
        assert_eq!(two, Next::Alert("two".to_owned()));
        queue.record_result(&two, failed());
        assert_eq!((queue.dropped(), queue.failure()), (2, failed()));
        let three = queue.next().await;
        queue.record_result(&three, None);
        let report = queue.next().await;
        assert_eq!(report, Next::Dropped(2));
        // If this notification fails, it does not count as another lost alert.
        queue.record_result(&report, failed());
        queue.push("four".to_owned());
        let four = queue.next().await;
        queue.record_result(&four, None);
        assert_eq!(queue.next().await, Next::Dropped(2));
        assert_eq!(queue.dropped(), 2);
    }
}
