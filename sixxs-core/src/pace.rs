//! When to look again after something changed: soon, but not more often than is good for anybody.

use std::time::Duration;

/// Changes come in bursts: this long after the first one is waited for more.
const GATHER: Duration = Duration::from_millis(1);

/// Rounds that may follow each other closely before they are spaced out.
const BURST: u32 = 20;

/// Once the burst is used up: one round in this time. Also the longest that any change waits.
const SPACED: Duration = Duration::from_millis(100);

/// One pending flag, a short delay, and a rate limit. No event can postpone a round that is due.
#[derive(Debug)]
pub struct Pacer {
    due: Option<Duration>,
    credit: u32,
    refilled: Duration,
}

impl Default for Pacer {
    fn default() -> Self {
        Self {
            due: None,
            credit: BURST,
            refilled: Duration::ZERO,
        }
    }
}

impl Pacer {
    /// Something changed.
    pub fn changed(&mut self, now: Duration) {
        self.refill(now);
        if self.due.is_none() {
            let delay = if self.credit > 0 { GATHER } else { SPACED };
            self.due = Some(now + delay);
        }
    }

    /// When the next round is due, if anything changed.
    #[must_use]
    pub const fn due(&self) -> Option<Duration> {
        self.due
    }

    /// A round begins.
    pub fn begin(&mut self, now: Duration) {
        self.refill(now);
        self.due = None;
        self.credit = self.credit.saturating_sub(1);
    }

    /// One round of credit per [`SPACED`], up to [`BURST`].
    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.refilled);
        let earned = u32::try_from(passed.as_millis() / SPACED.as_millis()).unwrap_or(BURST);
        if earned > 0 {
            self.credit = (self.credit + earned.min(BURST)).min(BURST);
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_looked_at_within_a_millisecond() {
        let mut pacer = Pacer::default();
        assert_eq!(pacer.due(), None);
        pacer.changed(Duration::from_secs(1));
        pacer.changed(Duration::from_millis(1001));
        assert_eq!(pacer.due(), Some(Duration::from_millis(1001)));
    }

    #[test]
    fn an_endless_stream_of_changes_is_looked_at_ten_times_a_second() {
        let mut pacer = Pacer::default();
        let mut rounds = 0;
        for millisecond in 0..10_000 {
            let now = Duration::from_millis(millisecond);
            pacer.changed(now);
            if pacer.due().is_some_and(|due| due <= now) {
                pacer.begin(now);
                rounds += 1;
            }
        }
        assert!((100..=125).contains(&rounds), "{rounds}");
    }
}
