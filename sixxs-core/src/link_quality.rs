//! Evaluates the probes of a link: loss and reply time over a window, with hysteresis. Pure; time is an argument.
//!
//! ```text
//!        loss or time reaches its limit               loss at half the limit, time at three quarters
//! good ----------------------------------> failing ------------------------------------------------> good
//! ```

use std::{collections::VecDeque, fmt, time::Duration};

use crate::config::Probe;

/// The result of the evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quality {
    /// Nothing is known yet, or the limits are kept.
    #[default]
    Good,
    /// Too many probes got no reply.
    Lossy {
        /// The probes of the window without a reply.
        lost: u32,
        /// The probes of the window.
        sent: u32,
        /// The period.
        window: Duration,
    },
    /// The replies take too long.
    Slow {
        /// The median time from probe to reply.
        median: Duration,
        /// The limit.
        limit: Duration,
    },
}

/// A clause for users about a link that was named before.
impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str("its probes are answered"),
            Self::Lossy { lost, sent, window } => write!(
                f,
                "{lost} of its {sent} probes in {} s got no reply",
                window.as_secs()
            ),
            Self::Slow { median, limit } => write!(
                f,
                "its probes are answered after {} ms, the median; the limit is {} ms",
                median.as_millis(),
                limit.as_millis()
            ),
        }
    }
}

/// The probes of a link in the last window.
#[derive(Clone, Debug)]
pub struct ProbeWindow {
    limits: Probe,
    /// Finished probes, in the order in which they finished: when each was sent, and the time to its reply.
    probes: VecDeque<(Duration, Option<Duration>)>,
    quality: Quality,
}

/// What a window holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Probes without a reply.
    pub lost: u32,
    /// Finished probes.
    pub sent: u32,
    /// The median time from probe to reply; `None`: there was no reply.
    pub median: Option<Duration>,
}

impl Summary {
    /// Percentage of probes without a reply; `None`: there were no probes.
    #[must_use]
    pub fn loss_percent(&self) -> Option<f64> {
        (self.sent > 0).then(|| f64::from(self.lost) * 100.0 / f64::from(self.sent))
    }
}

impl ProbeWindow {
    /// No probe has finished yet.
    #[must_use]
    pub const fn new(limits: Probe) -> Self {
        Self {
            limits,
            probes: VecDeque::new(),
            quality: Quality::Good,
        }
    }

    /// The limits.
    #[must_use]
    pub const fn limits(&self) -> Probe {
        self.limits
    }

    /// Adds a finished probe that was sent at this time, with the time to its reply; `None`: no reply came. Returns whether the
    /// link fails now and did not before, or the other way round.
    pub fn add(&mut self, sent: Duration, reply: Option<Duration>) -> bool {
        self.probes.push_back((sent, reply));
        let window = self.limits.window;
        let newest = self.probes.iter().map(|(sent, _)| *sent).max();
        let is_old = |then: Duration| newest.is_some_and(|new| new.saturating_sub(then) >= window);
        self.probes.retain(|(sent, _)| !is_old(*sent));
        let was_failing = self.is_failing();
        self.quality = self.evaluate(was_failing);
        self.is_failing() != was_failing
    }

    /// The result.
    #[must_use]
    pub const fn quality(&self) -> Quality {
        self.quality
    }

    /// The numbers.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let lost = self.probes.iter().filter(|(_, reply)| reply.is_none());
        let mut replies: Vec<_> = self.probes.iter().filter_map(|(_, reply)| *reply).collect();
        replies.sort_unstable();
        let count = |all: usize| u32::try_from(all).unwrap_or(u32::MAX);
        Summary {
            lost: count(lost.count()),
            sent: count(self.probes.len()),
            median: replies.get(replies.len() / 2).copied(),
        }
    }

    fn is_failing(&self) -> bool {
        self.quality != Quality::Good
    }

    /// Losses count against the probes of a whole window, also while it fills: one lost probe of the first two proves
    /// little.
    fn evaluate(&self, was_failing: bool) -> Quality {
        let Probe {
            interval,
            window,
            loss_percent,
            reply,
        } = self.limits;
        let whole = window.as_millis() / interval.as_millis().max(1);
        let whole = u32::try_from(whole).unwrap_or(u32::MAX);
        let Summary { lost, sent, median } = self.summary();
        let most_lost = whole.saturating_mul(loss_percent).div_ceil(100).max(1);
        let is_lossy = match was_failing {
            false => lost >= most_lost,
            true => lost > most_lost / 2,
        };
        if is_lossy {
            return Quality::Lossy { lost, sent, window };
        }
        let limit = match was_failing {
            false => reply,
            true => reply.saturating_mul(3) / 4,
        };
        let has_enough = sent.saturating_sub(lost) >= whole.div_ceil(4);
        match median {
            Some(median) if has_enough && median > limit => Quality::Slow {
                median,
                limit: reply,
            },
            _ => Quality::Good,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window of ten probes: one each second, two may be lost.
    const LIMITS: Probe = Probe {
        interval: Duration::from_secs(1),
        window: Duration::from_secs(10),
        loss_percent: 30,
        reply: Duration::from_millis(100),
    };

    const FAST: Option<Duration> = Some(Duration::from_millis(20));
    const SLOW: Option<Duration> = Some(Duration::from_millis(120));
    const MIDDLE: Option<Duration> = Some(Duration::from_millis(90));

    /// The seconds at which the result changes, with one probe each second.
    fn changes(replies: &[(usize, Option<Duration>)]) -> Vec<u64> {
        let mut window = ProbeWindow::new(LIMITS);
        let all = replies.iter();
        let all = all.flat_map(|(count, reply)| std::iter::repeat_n(*reply, *count));
        let seconds = (0..).zip(all);
        seconds
            .filter(|(second, reply)| window.add(Duration::from_secs(*second), *reply))
            .map(|(second, _)| second)
            .collect()
    }

    #[test]
    fn a_link_fails_with_its_losses_and_recovers_later() {
        // The third loss counts. Of the last ten probes, one may be lost when it recovers.
        assert_eq!(changes(&[(20, FAST), (5, None), (20, FAST)]), [22, 33]);
        // Also at the beginning.
        assert_eq!(changes(&[(5, None)]), [2]);
        assert_eq!(changes(&[(2, None), (20, FAST)]), Vec::<u64>::new());
    }

    #[test]
    fn losses_at_the_limit_do_not_flap() {
        let three_of_ten = [
            (1, None),
            (2, FAST),
            (1, None),
            (2, FAST),
            (1, None),
            (3, FAST),
        ];
        let often: Vec<_> = three_of_ten.iter().cycle().take(600).copied().collect();
        assert_eq!(changes(&often), [6]);
    }

    #[test]
    fn slow_replies_fail_too() {
        // Five of ten decide on the median.
        assert_eq!(changes(&[(10, FAST), (10, SLOW)]), [14]);
        // At 90 ms it stays failing; below 75 ms it recovers.
        let recovers = changes(&[(10, FAST), (10, SLOW), (20, MIDDLE), (10, FAST)]);
        assert_eq!(recovers, [14, 45]);
        // Too few replies prove nothing.
        assert_eq!(changes(&[(2, SLOW)]), Vec::<u64>::new());
    }

    #[test]
    fn the_numbers_are_those_of_the_window() {
        let mut window = ProbeWindow::new(LIMITS);
        assert_eq!(window.summary(), Summary::default());
        assert_eq!(window.summary().loss_percent(), None);
        for (second, reply) in (0..).zip([None, None, FAST, SLOW, FAST]) {
            window.add(Duration::from_secs(second), reply);
        }
        let summary = window.summary();
        assert_eq!((summary.lost, summary.sent, summary.median), (2, 5, FAST));
        assert_eq!(summary.loss_percent(), Some(40.0));
        // The first two are older than ten seconds. Replies come in any order.
        window.add(Duration::from_secs(11), SLOW);
        window.add(Duration::from_secs(10), SLOW);
        let summary = window.summary();
        assert_eq!((summary.lost, summary.sent, summary.median), (0, 5, SLOW));
    }
}
