//! Loss and times of several requests.

use std::time::Duration;

/// The share of lost requests from which a direction fails, in percent: the default of probes
/// ([`Probe`](crate::config::Probe)).
const LOSS_LIMIT_PERCENT: f64 = 30.0;

/// The results of several requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// The number of requests.
    pub sent: u32,
    /// The times of those that arrived, in ascending order.
    times: Vec<Duration>,
}

/// Times of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The shortest.
    pub least: Duration,
    /// The one in the middle; of an even number, the average of both.
    pub median: Duration,
    /// The longest.
    pub most: Duration,
}

impl Results {
    /// Of `sent` requests, of which these arrived.
    #[must_use]
    pub fn new(sent: u32, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { sent, times }
    }

    /// The number of requests that arrived.
    #[must_use]
    pub fn arrived(&self) -> u32 {
        u32::try_from(self.times.len()).unwrap_or(u32::MAX)
    }

    /// The percentage of lost requests; `None`: none was sent.
    #[must_use]
    pub fn loss_percent(&self) -> Option<f64> {
        let lost = self.sent.saturating_sub(self.arrived());
        (self.sent > 0).then(|| 100.0 * f64::from(lost) / f64::from(self.sent))
    }

    /// Whether few enough were lost.
    #[must_use]
    pub fn pass(&self) -> bool {
        self.loss_percent()
            .is_some_and(|percent| percent < LOSS_LIMIT_PERCENT)
    }

    /// The times; `None`: none arrived.
    #[must_use]
    pub fn times(&self) -> Option<Times> {
        let half = self.times.len() / 2;
        let upper = *self.times.get(half)?;
        let median = if self.times.len().is_multiple_of(2) {
            (self.times[half - 1] + upper) / 2
        } else {
            upper
        };
        Some(Times {
            least: *self.times.first()?,
            median,
            most: *self.times.last()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(sent: u32, times: &[u64]) -> Results {
        Results::new(
            sent,
            times.iter().copied().map(Duration::from_millis).collect(),
        )
    }

    #[test]
    fn times_are_sorted_and_halved() {
        for (times, expected) in [
            (&[][..], None),
            (&[7], Some((7, 7, 7))),
            (&[9, 1], Some((1, 5, 9))),
            (&[3, 1, 20], Some((1, 3, 20))),
            (&[4, 1, 20, 2], Some((1, 3, 20))),
        ] {
            let found = results(10, times).times();
            let expected = expected.map(|(least, median, most)| Times {
                least: Duration::from_millis(least),
                median: Duration::from_millis(median),
                most: Duration::from_millis(most),
            });
            assert_eq!(found, expected, "{times:?}");
        }
    }

    #[test]
    fn loss_fails_from_a_limit() {
        for (sent, arrived, percent, pass) in [
            (10, 10, Some(0.0), true),
            (10, 8, Some(20.0), true),
            (10, 7, Some(30.0), false),
            (10, 0, Some(100.0), false),
            (0, 0, None, false),
        ] {
            let found = results(sent, &vec![1; arrived]);
            assert_eq!(found.loss_percent(), percent);
            assert_eq!(found.pass(), pass, "{arrived} of {sent}");
            assert_eq!(usize::try_from(found.arrived()).unwrap(), arrived);
        }
    }
}
