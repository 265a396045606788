//! The inside tests that the daemon carries out by itself, and their last results.
//!
//! Must not know what a test does. Results come in as an event.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sixxs_core::{
    echo_health::EchoHealth, health::NoAnswer, inside_test::schedule::Schedule, types::IfName,
};
use tokio::sync::{mpsc, oneshot};

use crate::control::api::InsideTests;

/// Limit of results that wait.
pub(super) const WAITING: usize = 16;

/// The results of a tunnel's tests.
#[derive(Debug)]
pub(super) struct Tested {
    pub(super) tunnel: IfName,
    /// An error means that the tests were not possible.
    pub(super) results: anyhow::Result<InsideTests>,
}

/// All tests.
pub(super) struct InsideMonitor {
    schedule: Schedule,
    finished: mpsc::Sender<Tested>,
    /// The tunnels whose last test got no answer.
    failing: BTreeMap<IfName, NoAnswer>,
    /// The corrections that have made tests due.
    corrections_seen: u64,
    /// The tunnels with unanswered pings from outside, as of the last look.
    silent: BTreeSet<IfName>,
}

impl InsideMonitor {
    /// Nothing is tested yet. Results go to this channel.
    pub(super) fn new(finished: mpsc::Sender<Tested>) -> Self {
        Self {
            schedule: Schedule::new(None),
            finished,
            failing: BTreeMap::new(),
            corrections_seen: 0,
            silent: BTreeSet::new(),
        }
    }

    /// A round is over: these tunnels are up, and there have been this many corrections.
    pub(super) fn follow(
        &mut self,
        interval: Option<Duration>,
        up: &BTreeSet<IfName>,
        corrections: u64,
        now: Duration,
    ) {
        self.schedule.set_interval(interval);
        self.schedule.follow(up, now);
        if interval.is_none() {
            self.failing.clear();
        }
        self.failing.retain(|name, _| up.contains(name));
        // Something on the host has changed.
        let failing = &self.failing;
        self.schedule
            .trigger(now, |name| failing.contains_key(name));
        if corrections != self.corrections_seen {
            self.corrections_seen = corrections;
            self.schedule.trigger(now, |_| true);
        }
    }

    /// A packet filter has changed.
    pub(super) fn filter_changed(&mut self, now: Duration) {
        self.schedule.trigger(now, |_| true);
    }

    /// Tunnels with unanswered pings from outside are tested, once.
    pub(super) fn observe_echo<'a>(
        &mut self,
        tunnels: impl Iterator<Item = (&'a IfName, u64, EchoHealth)>,
        now: Duration,
    ) {
        let is_silent =
            |(_, row, health): &(&IfName, u64, EchoHealth)| *row > 0 || *health != EchoHealth::Fine;
        let silent: BTreeSet<_> = tunnels
            .filter(is_silent)
            .map(|(name, ..)| name.clone())
            .collect();
        let new = silent
            .difference(&self.silent)
            .cloned()
            .collect::<BTreeSet<_>>();
        self.schedule.trigger(now, |name| new.contains(name));
        self.silent = silent;
    }

    /// When the next test is due.
    pub(super) fn due(&self) -> Option<Duration> {
        self.schedule.due()
    }

    /// The tunnel to test now, and where its result goes.
    pub(super) fn take(
        &mut self,
        now: Duration,
    ) -> Option<(IfName, oneshot::Sender<anyhow::Result<InsideTests>>)> {
        let tunnel = self.schedule.take(now)?;
        let (answer, results) = oneshot::channel();
        let (finished, name) = (self.finished.clone(), tunnel.clone());
        tokio::spawn(async move {
            if let Ok(results) = results.await {
                let tested = Tested {
                    tunnel: name,
                    results,
                };
                // An error means that the daemon is ending.
                let _ending = finished.send(tested).await;
            }
        });
        Some((tunnel, answer))
    }

    /// Takes the results of a tunnel's tests. What could not be tested changes nothing.
    pub(super) fn add(&mut self, tested: &Tested, now: Duration) {
        let Ok(results) = &tested.results else {
            return;
        };
        let is_tested = |cause: Option<&str>| cause != Some(NOT_TESTED);
        let mut tests = results.tests.iter();
        let failed = tests.find(|test| !test.pass && is_tested(test.cause.as_deref()));
        match failed {
            Some(test) => {
                let no_answer = NoAnswer {
                    sentence: test.sentence.clone(),
                    cure: test.cure.clone(),
                };
                self.failing.insert(tested.tunnel.clone(), no_answer);
                self.schedule.failed(&tested.tunnel, now);
            }
            None => {
                self.failing.remove(&tested.tunnel);
            }
        }
    }

    /// Why a tunnel would not answer, by its last test.
    pub(super) fn no_answer(&self, tunnel: &IfName) -> Option<NoAnswer> {
        self.failing.get(tunnel).cloned()
    }
}

/// The cause of a test that was not possible.
const NOT_TESTED: &str = "not_tested";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::InsideTest;

    fn name(text: &str) -> IfName {
        text.parse().unwrap()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn tested(tunnel: &str, tests: &[(bool, Option<&str>)]) -> Tested {
        let test = |(pass, cause): &(bool, Option<&str>)| InsideTest {
            pass: *pass,
            cause: cause.map(str::to_owned),
            sentence: "a packet filter drops the request".to_owned(),
            cure: Some("accept it".to_owned()),
            ..InsideTest::default()
        };
        Tested {
            tunnel: name(tunnel),
            results: Ok(InsideTests {
                tests: tests.iter().map(test).collect(),
            }),
        }
    }

    fn monitor() -> InsideMonitor {
        let (finished, _receiver) = mpsc::channel(WAITING);
        let mut monitor = InsideMonitor::new(finished);
        monitor.follow(Some(at(600)), &[name("a"), name("b")].into(), 0, at(0));
        monitor
    }

    #[tokio::test]
    async fn a_failed_test_counts_until_one_passes() {
        let mut monitor = monitor();
        assert_eq!(
            monitor.take(at(0)).map(|(tunnel, _)| tunnel),
            Some(name("a"))
        );
        assert_eq!(monitor.no_answer(&name("a")), None);
        monitor.add(
            &tested("a", &[(true, None), (false, Some("packet_filter_in"))]),
            at(1),
        );
        let no_answer = monitor.no_answer(&name("a")).unwrap();
        assert_eq!(no_answer.cure.as_deref(), Some("accept it"));
        // Another tunnel is due, then this one again.
        assert_eq!(
            monitor.take(at(5)).map(|(tunnel, _)| tunnel),
            Some(name("b"))
        );
        assert_eq!(monitor.due(), Some(at(11)));
        assert_eq!(
            monitor.take(at(11)).map(|(tunnel, _)| tunnel),
            Some(name("a"))
        );
        // What could not be tested changes nothing.
        let error = Tested {
            tunnel: name("a"),
            results: Err(anyhow::anyhow!("no program")),
        };
        monitor.add(&error, at(12));
        assert!(monitor.no_answer(&name("a")).is_some());
        monitor.add(&tested("a", &[(true, None)]), at(12));
        assert_eq!(monitor.no_answer(&name("a")), None);
        monitor.add(&tested("a", &[(false, None)]), at(12));
        monitor.follow(Some(at(600)), &[name("a"), name("b")].into(), 0, at(13));
        assert_eq!(monitor.due(), Some(at(13)), "the host has changed");
        monitor.add(&tested("a", &[(true, None)]), at(13));
        monitor.add(&tested("a", &[(false, Some("not_tested"))]), at(13));
        assert_eq!(monitor.no_answer(&name("a")), None);
        // A tunnel that is not up has no result.
        monitor.add(&tested("b", &[(false, None)]), at(14));
        monitor.follow(Some(at(600)), &[name("a")].into(), 0, at(15));
        assert_eq!(monitor.no_answer(&name("b")), None);
    }

    #[tokio::test]
    async fn corrections_filters_and_silence_make_tests_due() {
        let up = BTreeSet::from([name("a"), name("b")]);
        let mut monitor = monitor();
        let tested = |monitor: &mut InsideMonitor, from: u64| {
            let tests = (from..from + 5).filter_map(|second| monitor.take(at(second)));
            tests
                .map(|(tunnel, _)| tunnel.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(tested(&mut monitor, 0), ["a", "b"]);
        monitor.follow(Some(at(600)), &up, 0, at(10));
        assert!(tested(&mut monitor, 10).is_empty());
        monitor.follow(Some(at(600)), &up, 1, at(20));
        assert_eq!(tested(&mut monitor, 20), ["a", "b"]);
        monitor.filter_changed(at(30));
        assert_eq!(tested(&mut monitor, 30), ["a", "b"]);
        let (a, b) = (name("a"), name("b"));
        let silent = EchoHealth::Silent {
            requests: 9,
            answered: 0,
        };
        for (from, row, expected) in [(40, 0, &["b"][..]), (50, 1, &["a"]), (60, 1, &[])] {
            let looks = [(&a, row, EchoHealth::Fine), (&b, 0, silent)];
            monitor.observe_echo(looks.into_iter(), at(from));
            assert_eq!(tested(&mut monitor, from), expected);
        }
    }
}
