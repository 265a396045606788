//! Outside tests on request of `sixxs check --outside`: sends packets from one link to another, and finds out why none arrives.
//!
//! Knows the configuration, the interfaces and the programs' tester, and no other part of the daemon. Neither the loop nor
//! its state waits for a test: a task finds next hops and answers, and a thread sends and waits. The thread is not one of
//! tokio's, so that the end of the daemon does not wait for it.

mod plan;
mod run;

use std::{
    net::Ipv6Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use sixxs_core::{
    endpoint::Endpoint,
    inside_test::DEFAULT_SOURCE,
    outside_test::{
        cause::{Facts, cause},
        report::{Arrived, judge},
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub(super) use self::plan::{Host, Plan};
use self::{
    plan::{Planned, Port},
    run::{Outcome, Path, Run},
};
use crate::{
    bpf::{
        Kernel,
        outside_test::{Listeners, OutsideTester},
    },
    control::{Answer, api},
    host::ping::ping,
    netlink::{Netlink, RouteQuery, RouteResult, route_error},
};

/// Number of pairs that are tested at a time. A search for the path MTU sends some 40 requests in a second, and a request is
/// waited for one second: with both directions of each pair, less than half of the slots.
const AT_A_TIME: usize = 4;

/// The time after a test for which the programs still take late requests.
const LATE: Duration = Duration::from_secs(2);

/// What all tests share: the numbers of requests, the programs at uplinks, and the permission to test. One request at a time
/// has it.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    numbers: Arc<AtomicU16>,
    running: Arc<Semaphore>,
    listeners: Listeners,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            numbers: Arc::default(),
            listeners: Arc::default(),
            running: Arc::new(Semaphore::new(1)),
        }
    }
}

/// A plan, and what carries it out.
pub(super) struct Prepared {
    plan: Plan,
    tester: OutsideTester,
}

/// Adds programs where there is none at ingress. Where that is not possible, no request goes there.
pub(super) fn prepare(
    programs: &Kernel,
    shared: &Shared,
    mut tester: OutsideTester,
    mut plan: Plan,
) -> Prepared {
    for planned in &mut plan.ends {
        let Ok(port) = &mut planned.port else {
            continue;
        };
        if port.unheard.is_some() {
            let listening = programs.listen(&mut tester, &shared.listeners, port.index);
            port.unheard = listening.err().map(|error| format!("{error:#}"));
        }
    }
    Prepared { plan, tester }
}

/// Starts a task that carries out the tests, and answers.
pub(super) fn start(
    prepared: anyhow::Result<Prepared>,
    shared: Shared,
    mut answer: Answer<anyhow::Result<api::OutsideTests>>,
) {
    tokio::spawn(async move {
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let work = async {
            let permit = Arc::clone(&shared.running).try_acquire_owned();
            let permit = permit.map_err(|_| {
                anyhow!("another outside test is running; try again when it has ended")
            })?;
            carry_out(prepared?, &shared, permit, Arc::clone(&is_abandoned)).await
        };
        tokio::select! {
            tested = work => {
                // A client that has gone misses the answer.
                let _gone = answer.send(tested);
            }
            () = answer.closed() => is_abandoned.store(true, Ordering::Relaxed),
        }
    });
}

async fn carry_out(
    Prepared { plan, tester }: Prepared,
    shared: &Shared,
    permit: OwnedSemaphorePermit,
    is_abandoned: Arc<AtomicBool>,
) -> anyhow::Result<api::OutsideTests> {
    let netlink = Netlink::open()?;
    let mut directions = Vec::new();
    for (first, second) in &plan.pairs {
        let (first, second) = (&plan.ends[*first], &plan.ends[*second]);
        for (from, to) in [(first, second), (second, first)] {
            let path = path(&netlink, from, to).await;
            directions.push(Direction {
                from: from.clone(),
                to: to.clone(),
                path,
            });
        }
    }
    let left_out = plan.left_out.clone();
    let (sender, receiver) = oneshot::channel();
    let numbers = Arc::clone(&shared.numbers);
    thread::Builder::new()
        .name("outside-test".to_owned())
        .spawn(move || {
            let tests = all(&tester, &numbers, &plan, &directions, &is_abandoned);
            drop(permit);
            // A client that has gone misses the answer.
            let _gone = sender.send(tests);
            thread::sleep(LATE);
            drop(tester);
        })
        .context("start a thread")?;
    let tests = receiver.await.context("run the tests")?;
    Ok(api::OutsideTests { tests, left_out })
}

/// One direction of a pair.
struct Direction {
    from: Planned,
    to: Planned,
    /// Its path; the reason, if there is no test.
    path: Result<Path, NotTested>,
}

/// Why a direction is not tested.
struct NotTested {
    reason: String,
    /// Whether that is a fault of the link, and not of this kernel.
    is_fault: bool,
}

async fn path(netlink: &Netlink, from: &Planned, to: &Planned) -> Result<Path, NotTested> {
    let fault = |planned: &Planned, reason: &str| NotTested {
        reason: format!("{}: {reason}", planned.end.name),
        is_fault: true,
    };
    let ports = [from, to].map(|planned| {
        let port = planned.port.as_ref();
        port.map_err(|reason| fault(planned, reason))
    });
    let [sends, receives] = ports;
    let (sends, receives) = (sends?, receives?);
    if let Some(reason) = &receives.unheard {
        return Err(NotTested {
            reason: format!("no program is at the ingress of {}: {reason}", to.end.name),
            is_fault: false,
        });
    }
    let next_hop = match (sends.has_link_layer, sends.gateway) {
        (false, _) => None,
        (true, Some(gateway)) => Some(gateway),
        (true, None) => {
            let found = router(netlink, from, sends).await;
            Some(found.map_err(|reason| fault(from, &reason))?)
        }
    };
    Ok(Path {
        source: from.end.address,
        destination: to.end.address,
        index: sends.index,
        next_hop,
        arrives_by: receives.index,
        mtu: sends.mtu,
    })
}

/// The router that a packet to the internet takes by a link. No host has the destination: the other link's address is
/// one of this host, to which no route leads.
async fn router(netlink: &Netlink, from: &Planned, port: &Port) -> Result<Ipv6Addr, String> {
    let query = RouteQuery {
        source: Some(from.end.address),
        destination: Some(DEFAULT_SOURCE),
        oif: Some(port.index),
        ..RouteQuery::default()
    };
    match netlink.query_route(query).await {
        Ok(RouteResult::By(found)) => found
            .gateway
            .filter(|_| found.index == Some(port.index))
            .ok_or_else(|| "its route to the internet has no router".to_owned()),
        Ok(RouteResult::Refused(error)) => Err(format!(
            "there is no route to the internet by it: {}",
            route_error(&error)
        )),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// Tests all directions, some pairs at a time. Ends early when nobody waits for the results.
fn all(
    tester: &OutsideTester,
    numbers: &Arc<AtomicU16>,
    plan: &Plan,
    directions: &[Direction],
    is_abandoned: &AtomicBool,
) -> Vec<api::OutsideTest> {
    let mut tests = Vec::new();
    for together in directions.chunks(2 * AT_A_TIME) {
        if is_abandoned.load(Ordering::Relaxed) {
            break;
        }
        thread::scope(|scope| {
            let running: Vec<_> = together
                .iter()
                .map(|direction| scope.spawn(|| one(tester, numbers, plan, direction)))
                .collect();
            for (thread, direction) in running.into_iter().zip(together) {
                let panicked = || NotTested {
                    reason: "the test panicked; this is a bug".to_owned(),
                    is_fault: true,
                };
                let test = thread.join();
                tests.push(test.unwrap_or_else(|_| impossible(direction, &panicked())));
            }
        });
    }
    tests
}

fn one(
    tester: &OutsideTester,
    numbers: &Arc<AtomicU16>,
    plan: &Plan,
    direction: &Direction,
) -> api::OutsideTest {
    let path = match &direction.path {
        Ok(path) => *path,
        Err(not_tested) => return impossible(direction, not_tested),
    };
    match Run::new(tester, numbers, path).all() {
        Ok(outcome) if outcome.results.arrived() > 0 => arrived(direction, &path, &outcome),
        Ok(outcome) => lost(plan, direction, &path, &outcome),
        Err(error) => {
            let not_tested = NotTested {
                reason: format!("{error:#}"),
                is_fault: true,
            };
            impossible(direction, &not_tested)
        }
    }
}

/// The result of a direction, without its outcome.
fn result(direction: &Direction) -> api::OutsideTest {
    let Direction { from, to, .. } = direction;
    api::OutsideTest {
        from: from.end.name.to_string(),
        to: to.end.name.to_string(),
        source: Some(from.end.address),
        destination: Some(to.end.address),
        ..api::OutsideTest::default()
    }
}

/// A sentence about a direction.
fn sentence(direction: &Direction, words: &str) -> String {
    let Direction { from, to, .. } = direction;
    format!(
        "{} > {} {}: {words}",
        from.end.address, to.end.name, to.end.address
    )
}

fn impossible(direction: &Direction, not_tested: &NotTested) -> api::OutsideTest {
    api::OutsideTest {
        pass: !not_tested.is_fault,
        cause: Some("not_tested".to_owned()),
        sentence: sentence(direction, &format!("not tested: {}", not_tested.reason)),
        ..result(direction)
    }
}

/// The result with the numbers of an outcome.
fn measured(direction: &Direction, path: &Path, outcome: &Outcome) -> api::OutsideTest {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let times = outcome.results.times();
    let largest = path.mtu;
    let path_mtu = outcome.path_mtu;
    api::OutsideTest {
        sent: outcome.results.sent,
        arrived: outcome.results.arrived(),
        loss_percent: outcome.results.loss_percent(),
        least_milliseconds: times.map(|times| ms(times.least)),
        median_milliseconds: times.map(|times| ms(times.median)),
        most_milliseconds: times.map(|times| ms(times.most)),
        path_mtu: path_mtu.and_then(|found| found.bytes()),
        too_big: path_mtu.and_then(|found| found.too_big()),
        mtu: Some(largest),
        router: outcome.too_big.map(|error| error.router),
        router_mtu: outcome.too_big.and_then(|error| error.mtu()),
        ..result(direction)
    }
}

fn arrived(direction: &Direction, path: &Path, outcome: &Outcome) -> api::OutsideTest {
    let judged = judge(&Arrived {
        results: &outcome.results,
        path_mtu: outcome.path_mtu,
        too_big: outcome.too_big,
        largest: path.mtu,
    });
    api::OutsideTest {
        pass: judged.pass(),
        cause: judged.cause.map(str::to_owned),
        sentence: sentence(direction, &judged.sentence),
        hint: judged.hint,
        ..measured(direction, path, outcome)
    }
}

fn lost(plan: &Plan, direction: &Direction, path: &Path, outcome: &Outcome) -> api::OutsideTest {
    let Direction { from, to, .. } = direction;
    let is_of_both = |first: &&Endpoint| {
        to.endpoints
            .iter()
            .any(|second| first.remote == second.remote)
    };
    let same = from.endpoints.iter().find(is_of_both);
    let mut facts = Facts {
        left: outcome.left,
        next_hop: path.next_hop,
        elsewhere: outcome.elsewhere.map(|index| plan.name(index)),
        error: outcome.error,
        same_broker: same.map(|endpoint| endpoint.remote),
        ..Facts::default()
    };
    if facts.left > 0 && facts.error.is_none() && facts.elsewhere.is_none() {
        facts.sender_answers = answers(from);
        facts.receiver_answers = answers(to);
    }
    let cause = cause(&facts);
    let why = cause.sentence(&from.end, &to.end, &facts);
    api::OutsideTest {
        cause: Some(cause.name().to_owned()),
        sentence: sentence(
            direction,
            &format!("none of {} arrived: {why}", outcome.results.sent),
        ),
        hint: Some(cause.hint(&from.end, &to.end, &facts)),
        ..measured(direction, path, outcome)
    }
}

/// Whether the far end of a link answers, as far as it is known.
fn answers(planned: &Planned) -> Option<(Ipv6Addr, bool)> {
    let target = planned.target?;
    match ping(planned.end.address, target) {
        Ok(answered) => Some((target, answered.is_some())),
        // The host cannot send: that shows nothing about the far end.
        Err(_) => None,
    }
}
