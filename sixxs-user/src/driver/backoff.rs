//! How long to wait before a tunnel is tried again.

use std::time::Duration;

/// The first pause after an interface that was there went: programs that make their interface again
/// get the time for it, and a good tunnel is back soon.
const SOON: Duration = Duration::from_secs(1);

/// First pause after a failure; it doubles each time. Well within what any broker allows.
const FIRST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(600);

/// Pauses that grow until a tunnel has been there for long.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    last: Duration,
}

impl Backoff {
    /// The pause after a failure.
    pub(super) fn failed(&mut self) -> Duration {
        self.last = (self.last * 2).clamp(FIRST, LONGEST);
        self.last
    }

    /// The pause after the interface went, `lasted` after it had been made.
    pub(super) fn lost(&mut self, lasted: Duration) -> Duration {
        if lasted >= LONGEST || self.last.is_zero() {
            self.last = SOON;
            return SOON;
        }
        self.failed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_ever_more_seldom() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..7).map(|_| backoff.failed().as_secs()).collect();
        assert_eq!(pauses, [30, 60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn what_goes_is_made_again_soon_but_not_over_and_over() {
        let mut backoff = Backoff::default();
        let brief = Duration::from_secs(5);
        let pauses: Vec<_> = (0..4).map(|_| backoff.lost(brief).as_secs()).collect();
        assert_eq!(pauses, [1, 30, 60, 120]);
        assert_eq!(backoff.lost(LONGEST).as_secs(), 1);
        assert_eq!(backoff.failed().as_secs(), 30);
        assert_eq!(backoff.lost(brief).as_secs(), 60);
    }
}
