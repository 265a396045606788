//! The tests of a request in a thread: requests are put in, and replies are waited for.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use sixxs_common::inside_test::InsideTest as Recorded;
use sixxs_core::{
    inside_test::{
        Probe,
        drops::{self, DropEvent, Trace},
        request::{FRAME_BYTES, PACKET_BYTES},
    },
    types::IfName,
};

use super::{Shared, plan::Planned};
use crate::{
    bpf::{InsideTester, TestRequest},
    daemon::readings::monotonic_ns,
    host::drop_trace::DropTrace,
};

/// Number of tests that wait for a reply at a time, less than a quarter of the programs' slots: several checks may run at
/// the same time.
const AT_A_TIME: usize = 48;

/// Limit for a reply. The kernel most often sends it before the call that puts the request in returns; else a neighbour has to
/// be found, or the processor is busy.
const REPLY_LIMIT: Duration = Duration::from_millis(300);

/// The same for a request that had no reply before.
const TRACED_LIMIT: Duration = Duration::from_millis(20);

/// The packet that closes a connection arrives within this time.
const CLOSE_LIMIT: Duration = Duration::from_millis(100);

/// The time for which the programs expect the packets of a test: longer than the daemon waits for them.
const EXPECTED: Duration = Duration::from_secs(2);

/// How often a request without reply is traced.
const RUNS: usize = 2;

/// Number of tests that are traced. If more fail, they have the same cause.
const MOST_TRACED: usize = 32;

/// The time between two looks for a reply.
const INTERVAL: Duration = Duration::from_millis(1);

/// The result of a test.
#[derive(Debug)]
pub(super) enum Outcome {
    /// There is a reply.
    Reply(Recorded),
    /// There is one, and it was sent. Then a queue dropped it, or did not; or that is not known, as a message.
    LetGo(Recorded, Result<Option<DropEvent>, String>),
    /// There is none.
    Lost(Lost),
    /// The test was not possible, with the reason.
    Impossible(String),
}

/// What is known about a lost request or reply.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Whether it reached our program at the tunnel's ingress.
    pub(super) arrived: bool,
    /// Whether the request reached the host's ICMPv6.
    pub(super) reached_icmp: Option<bool>,
    /// What the kernel did each time.
    pub(super) trace: Trace,
    /// Why that is not known, as a message.
    pub(super) untraced: Option<String>,
}

/// A thread's tests.
pub(super) struct Run {
    tester: InsideTester,
    shared: Shared,
    /// Whether replies are sent.
    lets_go: bool,
}

impl Run {
    pub(super) const fn new(tester: InsideTester, shared: Shared, lets_go: bool) -> Self {
        Self {
            tester,
            shared,
            lets_go,
        }
    }

    /// Carries out all tests, and lets the replies go. Outcomes are in the order of the tests.
    pub(super) fn all_let_go(mut self, tests: &[Planned]) -> Vec<Outcome> {
        let mut trace = DropTrace::start(Some([PACKET_BYTES, FRAME_BYTES]));
        let mut lost = 0;
        let mut outcomes = Vec::new();
        for test in tests {
            let mut outcome = self.let_go(test, &mut trace);
            if matches!(outcome, Outcome::Lost(_)) {
                lost += 1;
                if lost <= MOST_TRACED {
                    outcome = self.traced(test, &mut trace);
                }
            }
            outcomes.push(outcome);
        }
        outcomes
    }

    fn let_go(&mut self, test: &Planned, trace: &mut anyhow::Result<DropTrace>) -> Outcome {
        if let Some(reason) = &test.refused {
            return Outcome::Impossible(reason.clone());
        }
        match self.traced_once(test, REPLY_LIMIT, trace) {
            Ok((Outcome::Reply(recorded), text)) => {
                let queue = match (text, trace) {
                    (Some(text), _) => Ok(drops::in_queue(&text)),
                    (None, Err(error)) => Err(format!("{error:#}")),
                    (None, Ok(_)) => Ok(None),
                };
                Outcome::LetGo(recorded, queue)
            }
            Ok((outcome, _)) => outcome,
            Err(error) => Outcome::Impossible(format!("{error:#}")),
        }
    }

    /// Carries out all tests, then traces those without reply. Outcomes are in the order of the tests.
    pub(super) fn all(mut self, tests: &[Planned]) -> Vec<Outcome> {
        let chunks = tests.chunks(AT_A_TIME);
        let mut outcomes: Vec<_> = chunks.flat_map(|chunk| self.together(chunk)).collect();
        let both = tests.iter().zip(&mut outcomes);
        let lost = both.filter(|(_, outcome)| matches!(outcome, Outcome::Lost(_)));
        let mut trace = None;
        for (test, outcome) in lost.take(MOST_TRACED) {
            let start = || DropTrace::start(Some([PACKET_BYTES, FRAME_BYTES]));
            *outcome = self.traced(test, trace.get_or_insert_with(start));
        }
        outcomes
    }

    /// Puts the requests of all tests in, then waits for the replies that are missing.
    fn together(&mut self, tests: &[Planned]) -> Vec<Outcome> {
        let begun: Vec<_> = tests
            .iter()
            .map(|test| match &test.refused {
                Some(reason) => Err(anyhow!(reason.clone())),
                None => self.begin(test),
            })
            .collect();
        let since = Instant::now();
        let ended = begun.into_iter().map(|request| match request {
            Ok(request) => self.end(&request, since, REPLY_LIMIT),
            Err(error) => Err(error),
        });
        ended
            .map(|outcome| {
                outcome.unwrap_or_else(|error| Outcome::Impossible(format!("{error:#}")))
            })
            .collect()
    }

    fn begin(&mut self, test: &Planned) -> anyhow::Result<TestRequest> {
        let request = TestRequest {
            source: test.subject.source,
            address: test.subject.address,
            message: self.shared.message(test.subject.probe),
            index: test.index,
            mac: test.mac,
            lets_go: self.lets_go,
        };
        self.tester.begin(&request, EXPECTED, monotonic_ns()?)?;
        Ok(request)
    }

    /// Waits for the reply, for this time since the beginning, and ends the test.
    fn end(
        &mut self,
        request: &TestRequest,
        since: Instant,
        limit: Duration,
    ) -> anyhow::Result<Outcome> {
        let recorded = self.wait(request, since, limit, has_left)?;
        self.finish(request, &recorded)?;
        Ok(outcome(recorded))
    }

    /// Waits until the programs have recorded something, for this time since the beginning. Returns the last record.
    fn wait(
        &self,
        request: &TestRequest,
        since: Instant,
        limit: Duration,
        is_complete: impl Fn(&Recorded) -> bool,
    ) -> anyhow::Result<Recorded> {
        let mut recorded = self.tester.read(request)?;
        while !is_complete(&recorded) && since.elapsed() < limit {
            thread::sleep(INTERVAL);
            recorded = self.tester.read(request)?;
        }
        Ok(recorded)
    }

    /// Ends a test, after which no connection is left half open.
    fn finish(&mut self, request: &TestRequest, recorded: &Recorded) -> anyhow::Result<()> {
        let closed = self.close(request, recorded);
        self.tester.end(request)?;
        closed
    }

    /// Closes a connection. The packet may wait in a queue of the kernel: until it has arrived, the programs have to
    /// recognise it. It does not arrive where the request did not.
    fn close(&self, request: &TestRequest, recorded: &Recorded) -> anyhow::Result<()> {
        if self.tester.close(request)? && recorded.arrived_ns != 0 {
            let has_arrived = |recorded: &Recorded| recorded.closed_ns != 0;
            self.wait(request, Instant::now(), CLOSE_LIMIT, has_arrived)?;
        }
        Ok(())
    }

    /// Repeats a test without reply, and finds out what the kernel dropped.
    fn traced(&mut self, test: &Planned, trace: &mut anyhow::Result<DropTrace>) -> Outcome {
        let mut lost = Lost::default();
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            let outcome = self.traced_once(test, TRACED_LIMIT, trace);
            match outcome {
                Ok((Outcome::Lost(seen), text)) => {
                    lost.arrived |= seen.arrived;
                    lost.reached_icmp = seen.reached_icmp;
                    runs.extend(text.map(|text| drops::parse(&text)));
                }
                // It is answered after all.
                Ok((outcome, _)) => return outcome,
                Err(error) => lost.untraced = Some(format!("{error:#}")),
            }
        }
        if let Err(error) = trace {
            lost.untraced = Some(format!("{error:#}"));
        }
        lost.trace = drops::in_each(&runs);
        Outcome::Lost(lost)
    }

    /// Carries out a test for this time. Returns the text of the trace too.
    fn traced_once(
        &mut self,
        test: &Planned,
        limit: Duration,
        trace: &mut anyhow::Result<DropTrace>,
    ) -> anyhow::Result<(Outcome, Option<String>)> {
        if let Ok(trace) = trace {
            // Earlier events are not of this test.
            trace.text()?;
        }
        let before = match test.subject.probe {
            Probe::Ping if !test.subject.is_behind => requests_in(&test.device),
            Probe::Ping | Probe::Tcp(_) | Probe::Udp(_) => None,
        };
        let request = self.begin(test)?;
        let recorded = self.wait(&request, Instant::now(), limit, has_left)?;
        // The end of a test may put another packet in.
        let text = match trace {
            Ok(trace) => Some(trace.text()),
            Err(_) => None,
        };
        self.finish(&request, &recorded)?;
        let mut outcome = outcome(recorded);
        if let (Outcome::Lost(lost), Some(before)) = (&mut outcome, before) {
            lost.reached_icmp = requests_in(&test.device).map(|after| after > before);
        }
        Ok((outcome, text.transpose()?))
    }
}

/// Whether there is a reply.
const fn has_left(recorded: &Recorded) -> bool {
    recorded.left_ns != 0
}

fn outcome(recorded: Recorded) -> Outcome {
    match recorded.left_ns {
        0 => Outcome::Lost(Lost {
            arrived: recorded.arrived_ns != 0,
            untraced: Some("more tests failed than are traced".to_owned()),
            ..Lost::default()
        }),
        _ => Outcome::Reply(recorded),
    }
}

/// The echo requests that the host's ICMPv6 received by an interface (RFC 4293). The kernel shows none before the first one.
fn requests_in(device: &IfName) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/net/dev_snmp6/{device}")).ok()?;
    let mut lines = text
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace));
    let found = lines.find(|(name, _)| *name == "Icmp6InType128");
    found.map_or(Some(0), |(_, count)| count.trim().parse().ok())
}
