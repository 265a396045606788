//! Inside tests on request of `sixxs check`: puts packets into the tunnels' ingress, and finds out why one is not answered.
//!
//! Knows the configuration, the interfaces and the programs' tester, and no other part of the daemon. Neither the loop nor
//! its state waits for a test: it runs in a thread of its own, and a task gathers the facts about a failure (`facts`).

mod facts;
mod plan;
mod run;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use sixxs_common::inside_test::{Answer as ReplyKind, InsideTest as Recorded, Way};
use sixxs_core::inside_test::{
    Probe, Reply, Subject,
    cause::{Cause, Facts, cause},
    drops::DropEvent,
    judge,
    request::{Message, Number, Ports},
};
use tokio::task::spawn_blocking;

pub(super) use self::plan::Plan;
use self::{
    plan::Planned,
    run::{Lost, Outcome, Run},
};
use super::readings::monotonic_ns;
use crate::{
    bpf::{InsideTester, Kernel, LiveTest, Testers},
    control::{
        Answer,
        api::{self, LiveRequest},
    },
    netlink::Netlink,
};

/// The time for which the programs expect the packet of a live test: longer than a neighbour may take.
const LIVE_EXPECTED: Duration = Duration::from_secs(5);

/// What all tests share: numbers for packets, so that two tests at a time have different ones, and the programs' switch.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    last: Arc<AtomicU16>,
    pub(super) testers: Testers,
}

impl Shared {
    fn message(&self, probe: Probe) -> Message {
        let ports = |local| Ports {
            local,
            remote: self.next() | FIRST_PORT,
        };
        match probe {
            Probe::Ping => Message::Echo(self.number()),
            Probe::Tcp(port) => Message::Syn(ports(port)),
            Probe::Udp(port) => Message::Datagram(ports(port)),
        }
    }

    /// The numbers of an echo request.
    fn number(&self) -> Number {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        Number {
            identifier: u16::from_be_bytes([high, low]) ^ IDENTIFIER,
            sequence: self.next(),
        }
    }

    fn next(&self) -> u16 {
        self.last.fetch_add(1, Ordering::Relaxed)
    }

    /// Begins a live test.
    pub(super) fn live_test(
        &self,
        programs: &Kernel,
        asked: LiveRequest,
    ) -> anyhow::Result<(Number, LiveTest)> {
        let number = self.number();
        let ends = [asked.source, asked.destination];
        let now_ns = monotonic_ns()?;
        let test = programs.live_test(&self.testers, ends, number, LIVE_EXPECTED, now_ns)?;
        Ok((number, test))
    }
}

/// The ports that clients use begin here (RFC 6335 §6).
const FIRST_PORT: u16 = 0xc000;

/// Distinguishes the requests from those of ping programs, which also use their process number.
const IDENTIFIER: u16 = 0x6978;

/// Starts a task that carries out the tests, and answers.
pub(super) fn start(
    tester: anyhow::Result<InsideTester>,
    plan: Plan,
    shared: Shared,
    answer: Answer<anyhow::Result<api::InsideTests>>,
) {
    tokio::spawn(async move {
        let tested = match tester {
            Ok(tester) => carry_out(tester, plan, shared).await,
            Err(error) => Err(error),
        };
        // A client that has gone misses the answer.
        let _gone = answer.send(tested);
    });
}

async fn carry_out(
    tester: InsideTester,
    plan: Plan,
    shared: Shared,
) -> anyhow::Result<api::InsideTests> {
    let work = move || {
        let run = Run::new(tester, shared, plan.lets_go);
        let outcomes = match plan.lets_go {
            true => run.all_let_go(&plan.tests),
            false => run.all(&plan.tests),
        };
        (plan, outcomes)
    };
    let (plan, outcomes) = spawn_blocking(work).await.context("run the tests")?;
    let netlink = Netlink::open()?;
    let mut tests = Vec::new();
    for (test, outcome) in plan.tests.iter().zip(outcomes) {
        tests.push(match outcome {
            Outcome::Reply(recorded) => answered(&plan, test, &recorded),
            Outcome::Impossible(reason) => impossible(test, &reason),
            Outcome::LetGo(recorded, queue) => let_go(&plan, test, &recorded, queue),
            Outcome::Lost(lost) => unanswered(&plan, test, &lost, &netlink).await,
        });
    }
    Ok(api::InsideTests { tests })
}

/// The result of a test, without its outcome.
fn result(test: &Planned) -> api::InsideTest {
    api::InsideTest {
        tunnel: test.subject.tunnel.to_string(),
        device: test.device.to_string(),
        address: Some(test.subject.address),
        source: Some(test.subject.source),
        protocol: Some(test.subject.probe.protocol().to_owned()),
        port: test.subject.probe.port(),
        behind: test.subject.is_behind,
        ..api::InsideTest::default()
    }
}

fn impossible(test: &Planned, reason: &str) -> api::InsideTest {
    api::InsideTest {
        cause: Some("not_tested".to_owned()),
        sentence: format!("{}: not tested: {reason}", test.subject.address),
        ..result(test)
    }
}

fn answered(plan: &Plan, test: &Planned, recorded: &Recorded) -> api::InsideTest {
    let took = Duration::from_nanos(recorded.left_ns.saturating_sub(recorded.arrived_ns));
    let reply = Reply {
        interface: plan.name(recorded.ifindex),
        answer: ReplyKind::try_from(recorded.answer).unwrap_or(ReplyKind::Error),
        way: Way::try_from(recorded.way).unwrap_or(Way::Unknown),
        by_programs: recorded.from_ifindex != 0,
        took,
    };
    let judged = judge(&test.subject, &reply);
    api::InsideTest {
        pass: judged.pass,
        cause: judged.refused.then(|| "refused".to_owned()),
        redirected: judged.redirected,
        by_programs: reply.by_programs,
        interface: Some(reply.interface),
        milliseconds: Some(took.as_secs_f64() * 1000.0),
        sentence: judged.sentence,
        cure: judged.cure,
        ..result(test)
    }
}

/// The result of a test whose answer was sent, if it left by the right way.
fn let_go(
    plan: &Plan,
    test: &Planned,
    recorded: &Recorded,
    queue: Result<Option<DropEvent>, String>,
) -> api::InsideTest {
    let answered = answered(plan, test, recorded);
    if !answered.pass || answered.redirected {
        return answered;
    }
    let sentence = &answered.sentence;
    match queue {
        Ok(None) => api::InsideTest {
            sentence: format!("{sentence}, to the peer"),
            let_go: true,
            ..answered
        },
        Ok(Some(drop)) => {
            let cause = Cause::Queue;
            let what = cause.sentence(&test.device, test.subject.address, &Facts::default());
            api::InsideTest {
                pass: false,
                cause: Some(cause.name().to_owned()),
                sentence: format!("{sentence}; {drop}: {what}"),
                cure: Some(cause.cure(&test.device, test.subject.address, test.subject.source)),
                reason: Some(drop.reason),
                location: drop.location,
                ..answered
            }
        }
        Err(reason) => api::InsideTest {
            sentence: format!(
                "{sentence}, to the peer (whether a queue drops it is not known: {reason})"
            ),
            let_go: true,
            ..answered
        },
    }
}

async fn unanswered(
    plan: &Plan,
    test: &Planned,
    lost: &Lost,
    netlink: &Netlink,
) -> api::InsideTest {
    let facts = facts::facts(plan, test, lost, netlink).await;
    let Subject {
        address,
        source,
        probe,
        ..
    } = test.subject;
    let cause = cause(&lost.trace, &facts);
    // Many services do not answer a datagram that they do not understand.
    if let (Probe::Udp(_), Cause::Silent, true, None) =
        (probe, &cause, lost.arrived, &lost.untraced)
    {
        return api::InsideTest {
            pass: true,
            sentence: format!("{address} takes {probe} from {source}, and sends no answer"),
            ..result(test)
        };
    }
    let drop = cause.shown_by(&lost.trace.drops);
    let mut sentence = format!("{address}: no answer to {probe} from {source}: ");
    if let Some(drop) = drop {
        sentence += &format!("{drop}: ");
    }
    sentence += &cause.sentence(&test.device, address, &facts);
    if let Some(reason) = &lost.untraced {
        sentence += &format!(" (the kernel's reasons are not known: {reason})");
    }
    api::InsideTest {
        cause: Some(cause.name().to_owned()),
        reason: drop.map(|drop| drop.reason.clone()),
        location: drop.and_then(|drop| drop.location.clone()),
        cure: Some(cause.cure(&test.device, address, source)),
        sentence,
        ..result(test)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_at_a_time_have_different_numbers() {
        let shared = Shared::default();
        let other = shared.clone();
        for probe in [Probe::Ping, Probe::Tcp(443), Probe::Udp(443)] {
            assert_ne!(shared.message(probe).word(), other.message(probe).word());
        }
    }
}
