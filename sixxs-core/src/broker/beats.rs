//! When the broker is to hear from us: some beats at the start, then one per interval.

use std::time::Duration;

/// Between the first beats: far enough apart that one loss does not take them all.
const START_PAUSE: Duration = Duration::from_secs(1);

/// What brokers ask for, and what is used where they ask for nothing.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// A schedule of beats. Times are since any fixed moment.
#[derive(Clone, Copy, Debug)]
pub struct Beats {
    /// How many there are at a start.
    burst: u8,
    /// How many of them are still to come.
    left: u8,
    interval: Duration,
    due: Duration,
}

impl Beats {
    /// Begins with `burst` beats from `now` on. An interval of 0 stands for the default one: a
    /// broker that asks for none does not want a flood.
    #[must_use]
    pub fn new(burst: u8, interval: Duration, now: Duration) -> Self {
        let interval = if interval.is_zero() {
            DEFAULT_INTERVAL
        } else {
            interval
        };
        Self {
            burst,
            left: burst,
            interval,
            due: now,
        }
    }

    /// As at the start: the broker is to learn of us at once.
    pub fn begin_again(&mut self, now: Duration) {
        self.left = self.burst;
        self.due = now;
    }

    /// As if there had been no break: no start, and the next one when it would have been due.
    pub const fn go_on(&mut self, due: Duration) {
        self.left = 0;
        self.due = due;
    }

    /// When the next one is due.
    #[must_use]
    pub const fn due(&self) -> Duration {
        self.due
    }

    /// The time between beats.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// Whether one is due; it is then taken as sent.
    pub fn take(&mut self, now: Duration) -> bool {
        if now < self.due {
            return false;
        }
        self.left = self.left.saturating_sub(1);
        let pause = if self.left == 0 {
            self.interval
        } else {
            START_PAUSE.min(self.interval)
        };
        // From now on: after the machine slept there is one beat, not all that were missed.
        self.due = now.saturating_add(pause);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beats_until(beats: &mut Beats, from: u64, to: u64) -> Vec<u64> {
        (from..to)
            .filter(|second| beats.take(Duration::from_secs(*second)))
            .collect()
    }

    #[test]
    fn a_burst_and_then_one_per_interval() {
        let mut beats = Beats::new(3, Duration::from_secs(60), Duration::ZERO);
        assert_eq!(beats_until(&mut beats, 0, 200), [0, 1, 2, 62, 122, 182]);
        beats.begin_again(Duration::from_secs(200));
        assert_eq!(beats_until(&mut beats, 200, 300), [200, 201, 202, 262]);
        // Asleep for an hour.
        assert_eq!(beats_until(&mut beats, 3900, 4000), [3900, 3960]);
    }

    #[test]
    fn a_break_that_nobody_noticed() {
        let mut beats = Beats::new(3, Duration::from_secs(60), Duration::ZERO);
        beats.go_on(Duration::from_secs(42));
        assert_eq!(beats_until(&mut beats, 0, 200), [42, 102, 162]);
    }

    #[test]
    fn no_interval_is_no_flood() {
        let mut beats = Beats::new(2, Duration::ZERO, Duration::ZERO);
        assert_eq!(beats_until(&mut beats, 0, 100), [0, 1, 61]);
    }
}
