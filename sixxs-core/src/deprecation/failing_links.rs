//! Which links fail, without short changes.
//!
//! ```text
//!       fails for 1 s                 does not fail for 5 s
//! good ---------------> failing      failing ---------------> good
//! ```
//!
//! Health alerts have the same times ([`crate::health::Watch`]).

use std::{collections::BTreeMap, time::Duration};

use crate::{failure_tracker::REPAIR_TIME, health::STABLE_TIME, types::IfName};

/// The links with the option, and whether each fails.
#[derive(Clone, Debug, Default)]
pub struct FailingLinks(BTreeMap<IfName, LinkState>);

#[derive(Clone, Copy, Debug, Default)]
struct LinkState {
    is_failing: bool,
    /// When the opposite began, if it lasts.
    opposite_since: Option<Duration>,
}

impl LinkState {
    /// When the present opposite counts.
    fn due(self) -> Option<Duration> {
        let time = match self.is_failing {
            false => REPAIR_TIME,
            true => STABLE_TIME,
        };
        self.opposite_since.map(|since| since.saturating_add(time))
    }

    /// Returns whether it counts as the opposite from now on.
    fn observe(&mut self, now: Duration, is_failing: bool) -> bool {
        if is_failing == self.is_failing {
            self.opposite_since = None;
            return false;
        }
        self.opposite_since.get_or_insert(now);
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due {
            *self = Self {
                is_failing,
                opposite_since: None,
            };
        }
        is_due
    }
}

impl FailingLinks {
    /// The links that failed when an earlier run ended.
    pub fn resume(failing: impl IntoIterator<Item = IfName>) -> Self {
        let state = LinkState {
            is_failing: true,
            opposite_since: None,
        };
        let links = failing.into_iter().map(|name| (name, state));
        Self(links.collect())
    }

    /// Takes the present health of all links with the option: whether each fails. Other links are forgotten. Returns
    /// whether others fail than before.
    pub fn observe(
        &mut self,
        now: Duration,
        present: impl IntoIterator<Item = (IfName, bool)>,
    ) -> bool {
        let mut before = std::mem::take(&mut self.0);
        let mut has_changed = false;
        for (name, is_failing) in present {
            let mut state = before.remove(&name).unwrap_or_default();
            has_changed |= state.observe(now, is_failing);
            self.0.insert(name, state);
        }
        has_changed || before.values().any(|state| state.is_failing)
    }

    /// Whether a link fails.
    #[must_use]
    pub fn is_failing(&self, name: &IfName) -> bool {
        self.0.get(name).is_some_and(|state| state.is_failing)
    }

    /// When a change that lasts may count; `None`: there is none.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.0.values().copied().filter_map(LinkState::due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> IfName {
        text.parse().unwrap()
    }

    /// Whether it counts as failing, after each observation at its time in tenths of a second.
    fn failing(links: &mut FailingLinks, seen: &[(u64, bool)]) -> Vec<bool> {
        let observe = |(tenths, is_failing): &(u64, bool)| {
            let before = links.is_failing(&name("dsl0"));
            let now = Duration::from_millis(tenths * 100);
            let has_changed = links.observe(now, [(name("dsl0"), *is_failing)]);
            let after = links.is_failing(&name("dsl0"));
            assert_eq!(has_changed, before != after);
            after
        };
        seen.iter().map(observe).collect()
    }

    #[test]
    fn only_changes_that_last_count() {
        let mut links = FailingLinks::default();
        let seen = [
            (0, false),
            (10, true),
            (19, true),
            // A moment of health: the time begins again.
            (19, false),
            (20, true),
            (29, true),
            (30, true),
            (40, false),
            (89, false),
            (89, true),
            (90, false),
            (139, false),
            (140, false),
        ];
        let expected = [
            false, false, false, false, false, false, true, true, true, true, true, true, false,
        ];
        assert_eq!(failing(&mut links, &seen), expected);
        assert_eq!(links.due(), None);
    }

    #[test]
    fn it_is_due_when_a_change_may_count() {
        let mut links = FailingLinks::default();
        failing(&mut links, &[(30, true)]);
        assert_eq!(links.due(), Some(Duration::from_secs(4)));
        failing(&mut links, &[(40, true)]);
        assert_eq!(links.due(), None);
        failing(&mut links, &[(50, false)]);
        assert_eq!(links.due(), Some(Duration::from_secs(10)));
    }

    #[test]
    fn a_link_of_an_earlier_run_fails_until_it_is_good_for_long_enough() {
        let mut links = FailingLinks::resume([name("dsl0")]);
        assert!(links.is_failing(&name("dsl0")) && !links.is_failing(&name("cable0")));
        let seen = [(0, false), (49, false), (50, false)];
        assert_eq!(failing(&mut links, &seen), [true, true, false]);
        // Without the option it does not fail.
        let mut links = FailingLinks::resume([name("dsl0")]);
        assert!(links.observe(Duration::ZERO, [(name("cable0"), false)]));
        assert!(!links.is_failing(&name("dsl0")));
    }
}
