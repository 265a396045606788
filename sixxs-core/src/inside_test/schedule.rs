//! When the daemon tests which tunnel by itself. Pure; time is an argument.
//!
//! ```text
//! comes up, correction, changed packet filter,
//! pings without answer ─────────────────────────► now      ┐
//! passed ──► in the configured time, give or take a tenth  ├─► one test a second, the longest overdue first
//! failed ──► in ten seconds                                ┘
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use crate::types::IfName;

/// Over all tunnels, this is the time between two tests at least.
const PACE: Duration = Duration::from_secs(1);

/// A tunnel that does not answer is tested again after this time.
const RETRY: Duration = Duration::from_secs(10);

/// The tests to come.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The time between two tests of a tunnel that passes; `None`: the daemon tests nothing by itself.
    interval: Option<Duration>,
    tunnels: BTreeMap<IfName, Entry>,
    /// When the last test began.
    last: Option<Duration>,
}

/// A tunnel.
#[derive(Clone, Debug)]
struct Entry {
    due: Duration,
    /// Tests so far.
    count: u64,
}

impl Schedule {
    /// No tunnel is up yet.
    #[must_use]
    pub const fn new(interval: Option<Duration>) -> Self {
        Self {
            interval,
            tunnels: BTreeMap::new(),
            last: None,
        }
    }

    /// Takes the interval of a new configuration.
    pub fn set_interval(&mut self, interval: Option<Duration>) {
        if self.interval != interval {
            *self = Self::new(interval);
        }
    }

    /// These tunnels are up. Those that were not before are due now.
    pub fn follow(&mut self, up: &BTreeSet<IfName>, now: Duration) {
        if self.interval.is_none() {
            return;
        }
        self.tunnels.retain(|name, _| up.contains(name));
        for name in up {
            let new = || Entry { due: now, count: 0 };
            self.tunnels.entry(name.clone()).or_insert_with(new);
        }
    }

    /// Something may have changed the result of these tunnels.
    pub fn trigger(&mut self, now: Duration, is_concerned: impl Fn(&IfName) -> bool) {
        for (name, entry) in &mut self.tunnels {
            if is_concerned(name) {
                entry.due = entry.due.min(now);
            }
        }
    }

    /// When the next test is due.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        let due = self.tunnels.values().map(|entry| entry.due).min()?;
        let paced = self.last.map(|last| last.saturating_add(PACE));
        Some(paced.map_or(due, |paced| due.max(paced)))
    }

    /// The tunnel to test now, if there is one. It counts as passed until [`Schedule::failed`].
    pub fn take(&mut self, now: Duration) -> Option<IfName> {
        let interval = self.interval?;
        if self.due()? > now {
            return None;
        }
        let (name, entry) = self.tunnels.iter_mut().min_by_key(|(_, entry)| entry.due)?;
        entry.count += 1;
        entry.due = now.saturating_add(spread(interval, name, entry.count));
        self.last = Some(now);
        Some(name.clone())
    }

    /// A tunnel has not answered.
    pub fn failed(&mut self, name: &IfName, now: Duration) {
        if let Some(entry) = self.tunnels.get_mut(name) {
            entry.due = entry.due.min(now.saturating_add(RETRY));
        }
    }
}

/// The time, give or take a tenth of it: tunnels that came up together are not tested together for ever.
fn spread(time: Duration, name: &IfName, count: u64) -> Duration {
    let mut hasher = DefaultHasher::new();
    (name, count).hash(&mut hasher);
    let thousandths = u32::try_from(hasher.finish() % 200).unwrap_or(0);
    time.saturating_mul(900 + thousandths) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTES: u64 = 60;

    fn names(names: &[&str]) -> BTreeSet<IfName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn schedule(up: &[&str]) -> Schedule {
        let mut schedule = Schedule::new(Some(at(10 * MINUTES)));
        schedule.follow(&names(up), at(100));
        schedule
    }

    /// Takes all tests that are due until a time, in seconds: when, and of which tunnel.
    fn taken(schedule: &mut Schedule, until: u64) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        while let Some(due) = schedule.due().filter(|due| *due <= at(until)) {
            let name = schedule.take(due).unwrap();
            all.push((due.as_secs(), name.to_string()));
        }
        all
    }

    fn expected(all: &[(u64, &str)]) -> Vec<(u64, String)> {
        all.iter()
            .map(|(when, name)| (*when, (*name).to_owned()))
            .collect()
    }

    #[test]
    fn tunnels_that_come_up_are_tested_one_a_second() {
        let mut schedule = schedule(&["a", "b", "c"]);
        let first = expected(&[(100, "a"), (101, "b"), (102, "c")]);
        assert_eq!(taken(&mut schedule, 110), first);
        assert_eq!(schedule.take(at(110)), None);
        // One that comes up later, and one that comes up again.
        schedule.follow(&names(&["a", "b", "d"]), at(120));
        schedule.follow(&names(&["a", "b", "c", "d"]), at(121));
        assert_eq!(
            taken(&mut schedule, 130),
            expected(&[(120, "d"), (121, "c")])
        );
    }

    #[test]
    fn a_tunnel_that_passes_is_tested_again_later_at_varying_times() {
        let mut schedule = schedule(&["a"]);
        let times: Vec<_> = taken(&mut schedule, 100 + 60 * MINUTES)
            .into_iter()
            .map(|(at, _)| at)
            .collect();
        assert!((6..=7).contains(&times.len()), "{times:?}");
        let pauses: BTreeSet<_> = times.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses.len() > 1, "{pauses:?}");
        assert!(
            pauses.iter().all(|pause| (540..=660).contains(pause)),
            "{pauses:?}"
        );
    }

    #[test]
    fn what_may_change_the_result_makes_a_test_due() {
        let mut schedule = schedule(&["a", "b"]);
        taken(&mut schedule, 110);
        schedule.trigger(at(200), |name| name.as_str() == "b");
        assert_eq!(taken(&mut schedule, 300), expected(&[(200, "b")]));
        schedule.trigger(at(300), |_| true);
        schedule.trigger(at(300), |_| true);
        assert_eq!(
            taken(&mut schedule, 400),
            expected(&[(300, "a"), (301, "b")])
        );
    }

    #[test]
    fn a_tunnel_that_fails_is_tested_again_soon() {
        let mut schedule = schedule(&["a", "b"]);
        taken(&mut schedule, 110);
        let [a, gone] = ["a", "gone"].map(|name| name.parse().unwrap());
        schedule.failed(&a, at(110));
        schedule.failed(&gone, at(110));
        assert_eq!(taken(&mut schedule, 130), expected(&[(120, "a")]));
    }

    #[test]
    fn without_an_interval_nothing_is_tested() {
        let mut schedule = schedule(&["a"]);
        schedule.set_interval(Some(at(10 * MINUTES)));
        assert!(schedule.due().is_some(), "nothing has changed");
        schedule.set_interval(None);
        schedule.follow(&names(&["a"]), at(1));
        schedule.trigger(at(2), |_| true);
        assert_eq!((schedule.due(), schedule.take(at(1000))), (None, None));
        schedule.set_interval(Some(at(60)));
        schedule.follow(&names(&["a"]), at(3));
        assert_eq!(schedule.due(), Some(at(3)));
    }
}
