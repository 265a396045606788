//! Decides when to run a reconcile round after a change: soon, but within a rate limit.

use std::time::Duration;

/// Changes come in bursts: after the first one, the round waits this long for more.
const GATHER_TIME: Duration = Duration::from_millis(1);

/// Processor time that rounds may use in a burst, before they are spaced out.
const BURST: Duration = Duration::from_millis(100);

/// In the long run, rounds use at most this fraction of a processor: 1 / `SHARE`.
const SHARE: u32 = 10;

/// After the burst, the shortest and the longest delay of a change.
const MIN_DELAY: Duration = Duration::from_millis(20);
const MAX_DELAY: Duration = Duration::from_secs(1);

/// One pending flag, a short delay, and a limit on the processor time of rounds. No event can postpone
/// a round that is due.
#[derive(Debug)]
pub struct ReconcileLimiter {
    due: Option<Duration>,
    /// Time of the first pending change.
    since: Option<Duration>,
    /// Processor time that rounds may still use.
    credit: Duration,
    /// Processor time that rounds used beyond the credit.
    debt: Duration,
    counted: Duration,
}

impl Default for ReconcileLimiter {
    fn default() -> Self {
        Self {
            due: None,
            since: None,
            credit: BURST,
            debt: Duration::ZERO,
            counted: Duration::ZERO,
        }
    }
}

impl ReconcileLimiter {
    /// Records a change.
    pub fn record_change(&mut self, now: Duration) {
        self.count(now);
        self.since.get_or_insert(now);
        if self.due.is_none() {
            let delay = if self.credit.is_zero() {
                self.debt.saturating_mul(SHARE).clamp(MIN_DELAY, MAX_DELAY)
            } else {
                GATHER_TIME
            };
            self.due = Some(now.saturating_add(delay));
        }
    }

    /// Records an urgent change, which ignores the debt: until the next round an interface is not
    /// guarded.
    pub fn urgent(&mut self, now: Duration) {
        self.since.get_or_insert(now);
        let soon = now.saturating_add(GATHER_TIME);
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// Time of the next round, if there was a change.
    #[must_use]
    pub const fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Starts a round. Returns the time of the first change that waited for it.
    pub fn begin_round(&mut self, now: Duration) -> Option<Duration> {
        self.count(now);
        self.due = None;
        self.since.take()
    }

    /// Ends a round; `took` is its processor time. Time spent waiting for a processor does not count.
    pub fn end(&mut self, now: Duration, took: Duration) {
        self.count(now);
        self.debt = self.debt.saturating_add(took.saturating_sub(self.credit));
        self.credit = self.credit.saturating_sub(took);
    }

    /// Elapsed time first repays the debt, and then increases the credit.
    fn count(&mut self, now: Duration) {
        let earned = now.saturating_sub(self.counted) / SHARE;
        let left = earned.saturating_sub(self.debt);
        self.debt = self.debt.saturating_sub(earned);
        self.credit = self.credit.saturating_add(left).min(BURST);
        self.counted = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_handled_within_a_millisecond() {
        let mut limiter = ReconcileLimiter::default();
        assert_eq!(limiter.due(), None);
        limiter.record_change(Duration::from_secs(1));
        limiter.record_change(Duration::from_millis(1001));
        assert_eq!(limiter.due(), Some(Duration::from_millis(1001)));
    }

    /// Ten seconds of continuous changes, with rounds of this duration: the number of rounds, and their
    /// share of the time.
    fn flood(round: Duration) -> (u32, f64) {
        let mut limiter = ReconcileLimiter::default();
        let (mut now, mut rounds) = (Duration::ZERO, 0);
        while now < Duration::from_secs(10) {
            limiter.record_change(now);
            if limiter.due().is_some_and(|due| due <= now) {
                limiter.begin_round(now);
                now += round;
                limiter.end(now, round);
                rounds += 1;
            } else {
                now += Duration::from_micros(100);
            }
        }
        (rounds, (round * rounds).as_secs_f64() / now.as_secs_f64())
    }

    #[test]
    fn an_urgent_change_ignores_the_debt() {
        let mut limiter = ReconcileLimiter::default();
        limiter.begin_round(Duration::ZERO);
        limiter.end(Duration::from_secs(1), Duration::from_secs(1));
        limiter.record_change(Duration::from_secs(1));
        assert!(limiter.due() > Some(Duration::from_millis(1500)));
        limiter.urgent(Duration::from_millis(1200));
        assert_eq!(limiter.due(), Some(Duration::from_millis(1201)));
    }

    #[test]
    fn a_busy_machine_makes_no_debt() {
        let mut limiter = ReconcileLimiter::default();
        let second = Duration::from_secs(1);
        limiter.begin_round(Duration::ZERO);
        limiter.end(second, Duration::from_millis(1));
        limiter.record_change(second);
        assert_eq!(limiter.due(), Some(second + GATHER_TIME));
    }

    #[test]
    fn an_endless_stream_of_changes_uses_a_limited_share() {
        for milliseconds in [1, 5, 100] {
            let (rounds, part) = flood(Duration::from_millis(milliseconds));
            assert!(
                rounds >= 8 && part < 0.15,
                "{milliseconds} ms: {rounds}, {part}"
            );
        }
        // If rounds are cheap, no change waits long.
        let (rounds, part) = flood(Duration::from_micros(300));
        assert!(rounds > 400 && part < 0.15, "{rounds}, {part}");
    }
}
