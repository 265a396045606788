//! Decides which changes of a tunnel's health cause an alert. Pure; time is an argument.
//!
//! ```text
//!             worse for 1 s                     better for 5 s
//! reported ---------------> reported again  reported ---------------> reported again
//! ```
//!
//! A change that ends before its time is never reported. So a repair causes no alert, and a
//! flapping tunnel causes at most one alert per six seconds.

use std::{collections::HashSet, mem::Discriminant, time::Duration};

use super::{Health, Level, Reason};
use crate::failure_tracker::REPAIR_TIME;

/// Better health is reported when it has lasted this long.
pub const STABLE_TIME: Duration = Duration::from_secs(5);

/// Watches the health of one tunnel.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    reported: ReportedHealth,
    /// A change that is not reported yet, and the time of its start.
    pending: Option<(Change, Duration)>,
}

/// The content of a report without its varying parts: numbers, addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ReportedHealth {
    level: Level,
    kinds: HashSet<Discriminant<Reason>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Worse,
    Better,
}

impl Change {
    const fn settles_in(self) -> Duration {
        match self {
            Self::Worse => REPAIR_TIME,
            Self::Better => STABLE_TIME,
        }
    }
}

impl Watch {
    /// Evaluates the current health. Returns whether to report it now.
    ///
    /// Another report covers the state of a tunnel that is not up; its health is evaluated again
    /// when it is up.
    pub fn observe(&mut self, now: Duration, health: &Health) -> bool {
        let is_up = |reason: &Reason| !matches!(reason, Reason::NotUp(_));
        let change = match health.reasons.iter().all(is_up) {
            true => self.change(health),
            false => None,
        };
        let Some(change) = change else {
            self.pending = None;
            return false;
        };
        let since = match self.pending {
            Some((pending, since)) if pending == change => since,
            _ => now,
        };
        if now.saturating_sub(since) < change.settles_in() {
            self.pending = Some((change, since));
            return false;
        }
        self.pending = None;
        self.reported = ReportedHealth::of(health);
        true
    }

    /// Time of the next evaluation, when a pending change may be due; `None`: no change is pending.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.pending
            .map(|(change, since)| since.saturating_add(change.settles_in()))
    }

    fn change(&self, health: &Health) -> Option<Change> {
        let present = ReportedHealth::of(health);
        if present.level > self.reported.level || !present.kinds.is_subset(&self.reported.kinds) {
            Some(Change::Worse)
        } else if present.level < self.reported.level {
            Some(Change::Better)
        } else {
            None
        }
    }
}

impl ReportedHealth {
    fn of(health: &Health) -> Self {
        Self {
            level: health.level,
            kinds: health.reasons.iter().map(std::mem::discriminant).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::State;

    fn health(reasons: &[Reason]) -> Health {
        Health {
            level: reasons
                .iter()
                .map(Reason::level)
                .max()
                .unwrap_or(Level::Healthy),
            reasons: reasons.to_vec(),
        }
    }

    /// Evaluates each health at its time, in tenths of a second; returns the times of reports.
    fn reported(watch: &mut Watch, looks: &[(u64, &[Reason])]) -> Vec<u64> {
        let mut all = Vec::new();
        for (tenths, reasons) in looks {
            let now = Duration::from_millis(tenths * 100);
            if watch.observe(now, &health(reasons)) {
                all.push(*tenths);
            }
        }
        all
    }

    #[test]
    fn a_lasting_change_is_reported_once() {
        let mut watch = Watch::default();
        let silent = |row| [Reason::Unanswered(row)];
        let times = reported(
            &mut watch,
            &[
                (0, &[]),
                (10, &silent(3)),
                (19, &silent(4)),
                (20, &silent(5)),
                (90, &silent(50)),
                (100, &[]),
                (149, &[]),
                (150, &[]),
                (300, &[]),
            ],
        );
        assert_eq!(times, [20, 150]);
        assert_eq!(watch.due(), None);
    }

    #[test]
    fn a_brief_change_is_not_reported() {
        let mut watch = Watch::default();
        for tenths in (0..1000).step_by(10) {
            let bad = (tenths, &[Reason::NotRouted][..]);
            let good = (tenths + 9, &[][..]);
            assert_eq!(reported(&mut watch, &[bad, good]), []);
        }
    }

    #[test]
    fn an_added_kind_of_reason_is_reported_and_a_removed_one_is_not() {
        let mut watch = Watch::default();
        let one: &[_] = &[Reason::NoCarrier];
        let both: &[_] = &[Reason::NoCarrier, Reason::NoProgram];
        let times = reported(
            &mut watch,
            &[
                (0, one),
                (10, one),
                (20, both),
                (30, both),
                (40, one),
                (200, one),
                (210, both),
                (300, both),
            ],
        );
        assert_eq!(times, [10, 30]);
    }

    #[test]
    fn a_change_is_reported_when_it_is_due() {
        let mut watch = Watch::default();
        let at = Duration::from_secs;
        assert!(!watch.observe(at(3), &health(&[Reason::NoCarrier])));
        assert_eq!(watch.due(), Some(at(4)));
        assert!(watch.observe(at(4), &health(&[Reason::NoCarrier])));
        assert!(!watch.observe(at(7), &health(&[])));
        assert_eq!(watch.due(), Some(at(12)));
    }

    #[test]
    fn a_tunnel_that_is_not_up_waits() {
        let mut watch = Watch::default();
        let down: &[_] = &[Reason::NotUp(State::Down), Reason::NotRouted];
        let times = reported(
            &mut watch,
            &[(0, down), (100, down), (110, &[]), (300, &[])],
        );
        assert_eq!(times, []);
    }
}
