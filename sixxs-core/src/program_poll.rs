//! Decides when to look for programs that were detached.

use std::time::Duration;

/// Intervals of polls: usually, and after a program was missing.
const CALM_INTERVAL: Duration = Duration::from_millis(250);
const ALERT_INTERVAL: Duration = Duration::from_millis(1);

/// After a program was missing, polls are frequent for this time.
const ALERT_TIME: Duration = Duration::from_secs(10);

/// In the long run, polls use at most this fraction of a processor: 1 / `SHARE`.
const SHARE: u32 = 10;

/// Polls for programs that were detached, for which the kernel sends no event: rarely, but often for a while after
/// a program was missing.
#[derive(Debug, Default)]
pub struct ProgramPoll {
    last_poll: Duration,
    /// Processor time of the last poll.
    last_took: Duration,
    alert_until: Duration,
}

impl ProgramPoll {
    /// Time of the next poll.
    #[must_use]
    pub fn due(&self) -> Duration {
        let pause = if self.last_poll < self.alert_until {
            ALERT_INTERVAL
        } else {
            CALM_INTERVAL
        };
        // On hosts with many interfaces a poll takes long.
        self.last_poll
            .saturating_add(pause.max(self.last_took.saturating_mul(SHARE)))
    }

    /// Records a poll; `took` is its processor time; `is_missing`: a program was missing.
    pub fn ended(&mut self, now: Duration, took: Duration, is_missing: bool) {
        self.last_poll = now;
        self.last_took = took;
        if is_missing {
            self.alert_until = now.saturating_add(ALERT_TIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_frequent_only_after_a_missing_object() {
        let mut poll = ProgramPoll::default();
        let mut rounds = 0;
        while poll.due() < Duration::from_secs(100) {
            let due = poll.due();
            rounds += 1;
            poll.ended(due, Duration::from_micros(20), rounds == 30);
        }
        assert!((10_300..10_500).contains(&rounds), "{rounds}");
        // A hundred interfaces are polled less often.
        let now = poll.due();
        poll.ended(now, Duration::from_millis(3), true);
        assert_eq!(poll.due(), now + Duration::from_millis(30));
    }
}
