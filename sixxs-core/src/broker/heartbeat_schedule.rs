//! The schedule of keepalives: some at the start, then one per interval.

use std::{ops::RangeInclusive, time::Duration};

/// Interval between the first keepalives: long enough that one loss does not affect all of them.
const START_PAUSE: Duration = Duration::from_secs(1);

/// The interval that brokers request, and the default if they request none.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// Valid intervals in seconds, from the configuration or from a broker: neither a flood, nor too rare to be useful.
/// Brokers regard a tunnel as down after two minutes of silence.
pub const INTERVAL_SECONDS: RangeInclusive<u32> = 1..=3600;

/// A schedule of keepalives. Times are since any fixed moment.
#[derive(Clone, Copy, Debug)]
pub struct HeartbeatSchedule {
    /// Number of keepalives at a start.
    burst: u8,
    /// Number of these that are still to send.
    left: u8,
    interval: Duration,
    due: Duration,
}

impl HeartbeatSchedule {
    /// Starts with `burst` keepalives from `now` on. An interval of 0 means the default: a broker
    /// without an interval does not want a flood.
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

    /// Starts again: the next heartbeat is due at once.
    pub fn restart(&mut self, now: Duration) {
        self.left = self.burst;
        self.due = now;
    }

    /// Resumes after a restart: without a start burst, and with the next keepalive at its old time.
    pub const fn resume(&mut self, due: Duration) {
        self.left = 0;
        self.due = due;
    }

    /// Time of the next keepalive.
    #[must_use]
    pub const fn due(&self) -> Duration {
        self.due
    }

    /// The time between keepalives.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// Whether a keepalive is due; if so, it counts as sent.
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
        // Counted from now: after a suspend there is one keepalive, not all missed ones.
        self.due = now.saturating_add(pause);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beats_until(keepalives: &mut HeartbeatSchedule, from: u64, to: u64) -> Vec<u64> {
        (from..to)
            .filter(|second| keepalives.take(Duration::from_secs(*second)))
            .collect()
    }

    #[test]
    fn a_burst_and_then_one_per_interval() {
        let mut keepalives = HeartbeatSchedule::new(3, Duration::from_secs(60), Duration::ZERO);
        assert_eq!(
            beats_until(&mut keepalives, 0, 200),
            [0, 1, 2, 62, 122, 182]
        );
        keepalives.restart(Duration::from_secs(200));
        assert_eq!(beats_until(&mut keepalives, 200, 300), [200, 201, 202, 262]);
        // Suspended for an hour.
        assert_eq!(beats_until(&mut keepalives, 3900, 4000), [3900, 3960]);
    }

    #[test]
    fn resuming_sends_no_burst() {
        let mut keepalives = HeartbeatSchedule::new(3, Duration::from_secs(60), Duration::ZERO);
        keepalives.resume(Duration::from_secs(42));
        assert_eq!(beats_until(&mut keepalives, 0, 200), [42, 102, 162]);
    }

    #[test]
    fn an_interval_of_zero_means_the_default() {
        let mut keepalives = HeartbeatSchedule::new(2, Duration::ZERO, Duration::ZERO);
        assert_eq!(beats_until(&mut keepalives, 0, 100), [0, 1, 61]);
    }

    #[test]
    fn an_interval_is_kept_unless_it_is_none() {
        for (interval, expected) in [(1, 1), (60, 60), (0, 60)] {
            let interval = Duration::from_secs(interval);
            let beats = HeartbeatSchedule::new(3, interval, Duration::ZERO);
            assert_eq!(beats.interval(), Duration::from_secs(expected));
        }
    }
}
