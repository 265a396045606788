//! Decides when to run a reconcile round after a change: soon, but within a rate limit.

use std::time::Duration;

/// Changes come in bursts: after the first one, the round waits this long for more.
const GATHER: Duration = Duration::from_millis(1);

/// Processor time that rounds may use in a burst, before they are spaced out.
const BURST: Duration = Duration::from_millis(100);

/// In the long run, rounds use at most this fraction of a processor: 1 / `SHARE`.
const SHARE: u32 = 10;

/// After the burst, the shortest and the longest delay of a change.
const SPACED: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

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
    pub fn changed(&mut self, now: Duration) {
        self.count(now);
        self.since.get_or_insert(now);
        if self.due.is_none() {
            let delay = if self.credit.is_zero() {
                self.debt.saturating_mul(SHARE).clamp(SPACED, LONGEST)
            } else {
                GATHER
            };
            self.due = Some(now.saturating_add(delay));
        }
    }

    /// Records an urgent change, which ignores the debt: until the next round an interface is not
    /// guarded.
    pub fn urgent(&mut self, now: Duration) {
        self.since.get_or_insert(now);
        let soon = now.saturating_add(GATHER);
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// Time of the next round, if there was a change.
    #[must_use]
    pub const fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Starts a round. Returns the time of the first change that waited for it.
    pub fn begin(&mut self, now: Duration) -> Option<Duration> {
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

/// Intervals of polling for changes without a kernel event.
const CALM: Duration = Duration::from_millis(250);
const ALERT: Duration = Duration::from_millis(1);

/// After a missing object was found, more may follow within this time.
const WARY: Duration = Duration::from_secs(10);

/// Polls for changes without a kernel event: rarely, but often for a while after a missing object was
/// found.
#[derive(Debug, Default)]
pub struct ProgramPoll {
    went: Duration,
    took: Duration,
    wary_until: Duration,
}

impl ProgramPoll {
    /// Time of the next poll.
    #[must_use]
    pub fn due(&self) -> Duration {
        let pause = if self.went < self.wary_until {
            ALERT
        } else {
            CALM
        };
        // On hosts with many interfaces a poll takes long. It gets the same share of a processor as
        // rounds.
        self.went
            .saturating_add(pause.max(self.took.saturating_mul(SHARE)))
    }

    /// Ends a poll; `took` is its processor time; `found`: an object was missing.
    pub fn went(&mut self, now: Duration, took: Duration, found: bool) {
        self.went = now;
        self.took = took;
        if found {
            self.wary_until = now.saturating_add(WARY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patrols_are_frequent_only_while_there_is_reason() {
        let mut patrol = ProgramPoll::default();
        let mut rounds = 0;
        while patrol.due() < Duration::from_secs(100) {
            let due = patrol.due();
            rounds += 1;
            patrol.went(due, Duration::from_micros(20), rounds == 30);
        }
        assert!((10_300..10_500).contains(&rounds), "{rounds}");
        // A hundred interfaces are polled less often.
        let now = patrol.due();
        patrol.went(now, Duration::from_millis(3), true);
        assert_eq!(patrol.due(), now + Duration::from_millis(30));
    }

    #[test]
    fn a_change_is_looked_at_within_a_millisecond() {
        let mut pacer = ReconcileLimiter::default();
        assert_eq!(pacer.due(), None);
        pacer.changed(Duration::from_secs(1));
        pacer.changed(Duration::from_millis(1001));
        assert_eq!(pacer.due(), Some(Duration::from_millis(1001)));
    }

    /// Ten seconds of continuous changes, with rounds of this duration: the number of rounds, and their
    /// share of the time.
    fn flood(round: Duration) -> (u32, f64) {
        let mut pacer = ReconcileLimiter::default();
        let (mut now, mut rounds) = (Duration::ZERO, 0);
        while now < Duration::from_secs(10) {
            pacer.changed(now);
            if pacer.due().is_some_and(|due| due <= now) {
                pacer.begin(now);
                now += round;
                pacer.end(now, round);
                rounds += 1;
            } else {
                now += Duration::from_micros(100);
            }
        }
        (rounds, (round * rounds).as_secs_f64() / now.as_secs_f64())
    }

    #[test]
    fn what_is_urgent_waits_for_no_debt() {
        let mut pacer = ReconcileLimiter::default();
        pacer.begin(Duration::ZERO);
        pacer.end(Duration::from_secs(1), Duration::from_secs(1));
        pacer.changed(Duration::from_secs(1));
        assert!(pacer.due() > Some(Duration::from_millis(1500)));
        pacer.urgent(Duration::from_millis(1200));
        assert_eq!(pacer.due(), Some(Duration::from_millis(1201)));
    }

    #[test]
    fn a_busy_machine_makes_no_debt() {
        let mut pacer = ReconcileLimiter::default();
        let second = Duration::from_secs(1);
        pacer.begin(Duration::ZERO);
        pacer.end(second, Duration::from_millis(1));
        pacer.changed(second);
        assert_eq!(pacer.due(), Some(second + GATHER));
    }

    #[test]
    fn an_endless_stream_of_changes_takes_up_a_part_of_the_time() {
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
