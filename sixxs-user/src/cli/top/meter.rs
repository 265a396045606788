//! The rate of a counter: now, and over the last minutes. Pure; time is an argument.

use std::{collections::VecDeque, time::Duration};

/// Length of one bucket of the history: long enough to spare slow terminals, short enough to show a burst.
pub(super) const BUCKET: Duration = Duration::from_secs(5);

/// Number of buckets to keep, as many as the widest sparkline shows.
const KEPT: usize = 120;

/// The rate of a counter that is read repeatedly.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    last: Option<(Duration, u64)>,
    rate: Option<f64>,
    history: VecDeque<Bucket>,
}

/// Growth within one [`BUCKET`] of time, and how much of that time it covers.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    number: u128,
    growth: u64,
    over: Duration,
}

impl Meter {
    /// Adds the counter's value at a time. After a pause longer than `stale_after`, or a reset of the counter,
    /// the time between is unknown.
    pub(super) fn add(&mut self, at: Duration, value: u64, stale_after: Duration) {
        let before = self.last.replace((at, value));
        self.rate = None;
        let Some((then, old)) = before else { return };
        let (Some(growth), Some(over)) = (value.checked_sub(old), at.checked_sub(then)) else {
            return;
        };
        if over.is_zero() || over > stale_after {
            return;
        }
        self.rate = Some(growth as f64 / over.as_secs_f64());
        let number = bucket_number(at);
        match self.history.back_mut() {
            Some(bucket) if bucket.number == number => {
                bucket.growth = bucket.growth.saturating_add(growth);
                bucket.over = bucket.over.saturating_add(over);
            }
            _ => self.history.push_back(Bucket {
                number,
                growth,
                over,
            }),
        }
        while self.history.len() > KEPT {
            self.history.pop_front();
        }
    }

    /// Forgets the last value, after losing the daemon: the next value starts over.
    pub(super) fn forget_last(&mut self) {
        self.last = None;
        self.rate = None;
    }

    /// The rate per second; `None` if unknown.
    pub(super) fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// The growth per second in each of the last `places` buckets, up to that of `at`; `None` for unknown ones.
    pub(super) fn history(&self, at: Duration, places: usize) -> Vec<Option<u64>> {
        let mut history = vec![None; places];
        let newest = bucket_number(at);
        for bucket in &self.history {
            let age = newest.checked_sub(bucket.number);
            let age = age.and_then(|age| usize::try_from(age).ok());
            let place = age.and_then(|age| places.checked_sub(age + 1));
            if let Some(place) = place {
                history[place] = Some(bucket.per_second());
            }
        }
        history
    }
}

impl Bucket {
    fn per_second(&self) -> u64 {
        let micros = self.over.as_micros().max(1);
        u64::try_from(u128::from(self.growth) * 1_000_000 / micros).unwrap_or(u64::MAX)
    }
}

fn bucket_number(at: Duration) -> u128 {
    at.as_millis() / BUCKET.as_millis()
}

/// The sum of two histories of the same length.
pub(super) fn sum(one: Vec<Option<u64>>, other: &[Option<u64>]) -> Vec<Option<u64>> {
    let both = one.into_iter().zip(other);
    both.map(|(one, other)| match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(*other)),
        (one, other) => one.or(*other),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE_AFTER: Duration = Duration::from_secs(5);

    fn after(samples: &[(u64, u64)]) -> Meter {
        let mut meter = Meter::default();
        for (seconds, value) in samples {
            meter.add(Duration::from_secs(*seconds), *value, STALE_AFTER);
        }
        meter
    }

    #[test]
    fn rates_are_by_the_time_that_passed() {
        for (what, samples, expected) in [
            ("one look says nothing", &[(0, 7)][..], None),
            ("growth", &[(0, 7), (1, 107)], Some(100.0)),
            ("two seconds", &[(0, 0), (2, 100)], Some(50.0)),
            ("nothing", &[(0, 7), (1, 7)], Some(0.0)),
            ("restarted", &[(0, 700), (1, 7)], None),
            ("and on from there", &[(0, 700), (1, 7), (2, 9)], Some(2.0)),
            ("a long pause", &[(0, 0), (60, 6000)], None),
            (
                "and on from there",
                &[(0, 0), (60, 6000), (61, 6001)],
                Some(1.0),
            ),
            ("a clock that goes back", &[(9, 0), (8, 10)], None),
            ("the same moment", &[(9, 0), (9, 10)], None),
            (
                "as large as can be",
                &[(0, 0), (1, u64::MAX)],
                Some(u64::MAX as f64),
            ),
        ] {
            assert_eq!(after(samples).rate(), expected, "{what}");
        }
    }

    #[test]
    fn history_is_by_buckets_and_has_holes() {
        let mut meter = after(&[(0, 0), (1, 10), (2, 20), (6, 100), (7, 100)]);
        let at = |seconds| Duration::from_secs(seconds);
        assert_eq!(meter.history(at(7), 3), [None, Some(10), Some(16)]);
        // A time without values.
        meter.add(at(27), 1000, STALE_AFTER);
        meter.add(at(28), 1003, STALE_AFTER);
        let expected = [Some(10), Some(16), None, None, None, Some(3)];
        assert_eq!(meter.history(at(28), 6), expected);
        // Time passes even without new values.
        assert_eq!(meter.history(at(33), 2), [Some(3), None]);
        assert_eq!(meter.history(at(33), 0), []);
    }

    #[test]
    fn the_rate_restarts_after_a_loss() {
        let mut meter = after(&[(0, 0), (1, 10)]);
        meter.forget_last();
        assert_eq!(meter.rate(), None);
        meter.add(Duration::from_secs(2), 1000, STALE_AFTER);
        assert_eq!(meter.rate(), None);
        assert_eq!(
            meter.history(Duration::from_secs(2), 1),
            [Some(10)],
            "what was known stays"
        );
    }

    #[test]
    fn history_does_not_grow_for_ever() {
        let mut meter = Meter::default();
        for second in 0..100_000 {
            meter.add(Duration::from_secs(second), second, STALE_AFTER);
        }
        assert_eq!(meter.history.len(), KEPT);
    }

    #[test]
    fn unknown_and_known_are_known() {
        assert_eq!(
            sum(vec![None, Some(1), Some(1)], &[None, None, Some(2)]),
            [None, Some(1), Some(3)]
        );
    }
}
