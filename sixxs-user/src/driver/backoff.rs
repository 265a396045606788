//! How long to wait before a tunnel is tried again.

use std::time::Duration;

/// The first pause after a loss of the interface. It gives a program the time to make its interface again.
const AFTER_LOSS: Duration = Duration::from_secs(1);

/// First pause after a failure; it doubles each time. All brokers allow connects at this interval.
const FIRST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(600);

/// The longest pause before an interface is made again.
const LONGEST_REMAKE: Duration = Duration::from_secs(60);

/// Pauses that grow with each failure, until an interface has lasted for [`LONGEST`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    last: Duration,
}

impl Backoff {
    /// The pause after a failure.
    pub(super) fn after_failure(&mut self) -> Duration {
        self.last = self.last.saturating_mul(2).clamp(FIRST, LONGEST);
        self.last
    }

    /// The pause after the loss of an interface that existed for `lasted`.
    pub(super) fn after_loss(&mut self, lasted: Duration) -> Duration {
        if lasted >= LONGEST || self.last.is_zero() {
            self.last = AFTER_LOSS;
            return AFTER_LOSS;
        }
        self.after_failure()
    }
}

/// Pauses before an interface is made again that another program has removed. They double up to a minute: making
/// it costs little, and the record of connects protects the broker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RemakePauses {
    last: Duration,
}

impl RemakePauses {
    /// The pause after the loss of an interface that existed for `lasted`.
    pub(super) fn next(&mut self, lasted: Duration) -> Duration {
        self.last = match lasted >= LONGEST {
            true => AFTER_LOSS,
            false => self
                .last
                .saturating_mul(2)
                .clamp(AFTER_LOSS, LONGEST_REMAKE),
        };
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_made_again_within_a_minute() {
        let mut pauses = RemakePauses::default();
        let brief = Duration::from_secs(5);
        let seconds: Vec<_> = (0..8).map(|_| pauses.next(brief).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pauses.next(LONGEST).as_secs(), 1);
        assert_eq!(pauses.next(brief).as_secs(), 2);
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..7).map(|_| backoff.after_failure().as_secs()).collect();
        assert_eq!(pauses, [30, 60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn only_the_first_loss_has_a_short_pause() {
        let mut backoff = Backoff::default();
        let brief = Duration::from_secs(5);
        let pauses: Vec<_> = (0..4)
            .map(|_| backoff.after_loss(brief).as_secs())
            .collect();
        assert_eq!(pauses, [1, 30, 60, 120]);
        assert_eq!(backoff.after_loss(LONGEST).as_secs(), 1);
        assert_eq!(backoff.after_failure().as_secs(), 30);
        assert_eq!(backoff.after_loss(brief).as_secs(), 60);
    }
}
