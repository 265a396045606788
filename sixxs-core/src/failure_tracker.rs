//! Transient failures: other software works on the same objects, and its changes take a moment.
//!
//! Pure. A failure counts only if it still exists after the time that a repair may take.

use std::{collections::BTreeMap, time::Duration};

/// A failure that disappears within this time does not count.
pub const REPAIR_TIME: Duration = Duration::from_secs(1);

/// The current failures, and the start of each.
#[derive(Debug, Default)]
pub struct FailureTracker {
    since: BTreeMap<String, Duration>,
    last_update: Duration,
}

impl FailureTracker {
    /// Takes the failures of a round; returns those that count, in the same order.
    pub fn update(&mut self, now: Duration, failures: &[String]) -> Vec<String> {
        let before = std::mem::take(&mut self.since);
        for failure in failures {
            let since = before.get(failure).copied().unwrap_or(now);
            self.since.insert(failure.clone(), since);
        }
        self.last_update = now;
        failures
            .iter()
            .filter(|failure| now >= Self::ends(self.since[*failure]))
            .cloned()
            .collect()
    }

    /// Time of the next look, when a failure may start to count; `None`: none is pending.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        let ends = self.since.values().map(|since| Self::ends(*since));
        ends.filter(|end| *end > self.last_update).min()
    }

    const fn ends(since: Duration) -> Duration {
        since.saturating_add(REPAIR_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::{FailureTracker, REPAIR_TIME};
    use std::time::Duration;

    const START: Duration = Duration::from_secs(100);
    const MOMENT: Duration = Duration::from_millis(10);

    fn failures(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn short_failures_are_no_problem() {
        let mut tracker = FailureTracker::default();
        let both = failures(&["one", "other"]);
        assert!(tracker.update(START, &both).is_empty());
        assert_eq!(tracker.due(), Some(START + REPAIR_TIME));
        assert!(tracker.update(START + MOMENT, &both).is_empty());
        let other = failures(&["other"]);
        assert_eq!(tracker.update(START + REPAIR_TIME, &other), other);
        assert_eq!(
            tracker.due(),
            None,
            "it counts: the next round is soon enough"
        );
        assert!(tracker.update(START + REPAIR_TIME, &[]).is_empty());
        assert_eq!(tracker.due(), None);
    }

    #[test]
    fn a_failure_that_returns_starts_again() {
        let mut tracker = FailureTracker::default();
        let one = failures(&["one"]);
        assert!(tracker.update(START, &one).is_empty());
        assert!(tracker.update(START + MOMENT, &[]).is_empty());
        assert!(tracker.update(START + REPAIR_TIME, &one).is_empty());
        assert_eq!(tracker.due(), Some(START + REPAIR_TIME + REPAIR_TIME));
    }
}
