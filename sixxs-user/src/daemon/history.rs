//! The history of tunnels: takes observations, corrections and inside tests, and hands the records of each minute to the
//! thread that writes them.
//!
//! Must not know the snapshot or the loop: observations come in as an argument.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sixxs_common::echo::Times;
use sixxs_core::{
    history::{LastDay, Minute, Observation, Recorder},
    types::IfName,
};
use tokio::sync::oneshot;

use crate::{
    control::{Answer, api},
    driver::ChangeNotifier,
    history::{Batch, Writer},
    host::clock::Clock,
};

/// The name of a tunnel, and whether its inside test passed.
type InsideResult = (String, bool);

/// Records the history.
pub(super) struct History {
    clock: Clock,
    recorder: Recorder,
    writer: Writer,
    /// Inside tests since the last observation. Tasks add them.
    inside: Arc<Mutex<Vec<InsideResult>>>,
}

impl History {
    /// Starts the thread that writes. When its problem has changed, it requests a round, as a driver does.
    pub(super) fn start(state_dir: &Path, clock: Clock, notifier: ChangeNotifier) -> Self {
        let on_change = move || notifier.notify_one();
        Self {
            clock,
            recorder: Recorder::default(),
            writer: Writer::start(state_dir, on_change),
            inside: Arc::default(),
        }
    }

    /// Takes an observation of all tunnels. If a minute has ended since the last one, it is recorded; `times` gives the reply
    /// times of a tunnel then.
    pub(super) fn observe(
        &mut self,
        now: Duration,
        observed: BTreeMap<IfName, Observation>,
        times: impl FnMut(&IfName) -> Option<Times>,
    ) {
        self.count_inside_tests();
        let minute = Minute::of_unix(self.clock.unix_seconds());
        let has_ended = self.recorder.ends_with(minute);
        let tunnels = observed.keys().cloned().collect();
        let ended = self.recorder.observe(now, minute, observed, times);
        if has_ended {
            self.writer.send(Batch {
                now: minute,
                tunnels,
                ended,
            });
        }
    }

    /// Counts a correction of a tunnel, or of all of them.
    pub(super) fn corrected(&mut self, tunnel: Option<&IfName>) {
        self.recorder.add_correction(tunnel);
    }

    /// The last day of each tunnel with records.
    pub(super) fn last_days(&self) -> BTreeMap<IfName, LastDay> {
        self.writer.last_days()
    }

    /// Why records are lost, as a message.
    pub(super) fn problem(&self) -> Option<String> {
        self.writer.problem()
    }

    /// A receiver for the results of inside tests, which counts them and passes them on.
    pub(super) fn counting(
        &self,
        answer: Answer<anyhow::Result<api::InsideTests>>,
    ) -> Answer<anyhow::Result<api::InsideTests>> {
        let (sender, results) = oneshot::channel();
        let inside = Arc::clone(&self.inside);
        tokio::spawn(async move {
            // An error means that the daemon is ending.
            if let Ok(results) = results.await {
                if let Ok(results) = &results {
                    let mut inside = inside.lock().unwrap_or_else(PoisonError::into_inner);
                    inside.extend(passed(results));
                }
                // A client that has gone misses the answer.
                let _gone = answer.send(results);
            }
        });
        sender
    }

    fn count_inside_tests(&mut self) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        for (tunnel, passed) in inside.drain(..) {
            if let Ok(tunnel) = tunnel.parse() {
                self.recorder.add_inside_test(&tunnel, passed);
            }
        }
    }
}

/// The tests of pings that were carried out, and whether they passed. A port may be closed on purpose.
fn passed(results: &api::InsideTests) -> impl Iterator<Item = InsideResult> {
    let is_tested = |test: &&api::InsideTest| {
        test.port.is_none() && test.cause.as_deref() != Some("not_tested")
    };
    let tests = results.tests.iter().filter(is_tested);
    tests.map(|test| (test.tunnel.clone(), test.pass))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn inside_tests_are_counted_and_passed_on() {
        let state = tempfile::tempdir().unwrap();
        let history = History::start(state.path(), Clock::default(), ChangeNotifier::default());
        let test = |pass, cause: Option<&str>| api::InsideTest {
            tunnel: "sixxs0".to_owned(),
            pass,
            cause: cause.map(str::to_owned),
            ..api::InsideTest::default()
        };
        let tests = vec![
            test(true, None),
            test(false, Some("no_route")),
            test(false, Some("not_tested")),
            api::InsideTest {
                port: Some(443),
                ..test(false, None)
            },
        ];
        let (client, answer) = oneshot::channel();
        let counting = history.counting(client);
        counting.send(Ok(api::InsideTests { tests })).unwrap();
        assert_eq!(answer.await.unwrap().unwrap().tests.len(), 4);
        let counted = history.inside.lock().unwrap().clone();
        let name = || "sixxs0".to_owned();
        assert_eq!(counted, [(name(), true), (name(), false)]);

        // An error is passed on too, and a client that has gone is no error.
        let (client, answer) = oneshot::channel();
        let failed = Err(anyhow::anyhow!("no tester"));
        history.counting(client).send(failed).unwrap();
        assert!(answer.await.unwrap().is_err());
        let (client, answer) = oneshot::channel();
        drop(answer);
        let none = Ok(api::InsideTests::default());
        history.counting(client).send(none).unwrap();
    }

    #[tokio::test]
    async fn a_minute_that_has_ended_is_written() {
        let state = tempfile::tempdir().unwrap();
        let (clock, notifier) = (Clock::default(), ChangeNotifier::default());
        let mut history = History::start(state.path(), clock.clone(), notifier.clone());
        // The thread reports that nothing can be written: a file is in the place of the directory.
        std::fs::write(crate::history::directory(state.path()), "").unwrap();
        let observation = Observation {
            state: sixxs_core::history::State::Up,
            level: sixxs_core::health::Level::Healthy,
            cause: None,
            echo: sixxs_core::echo_health::EchoCounts::default(),
            waiting: 0,
            leaks: 0,
        };
        let observed = || BTreeMap::from([("sixxs0".parse().unwrap(), observation)]);
        history.observe(Duration::ZERO, observed(), |_| None);
        clock.displace(60, 0);
        history.observe(Duration::from_secs(60), observed(), |_| None);
        notifier.notified().await;
        let problem = history.problem().unwrap();
        assert!(problem.starts_with("the history has a gap: "), "{problem}");
        assert!(history.last_days().is_empty());
    }
}
