//! Inside tests on request of `sixxs check`: puts packets into the tunnels' ingress, and finds out why one is not answered.
//!
//! Knows the configuration, the interfaces and the programs' tester, and no other part of the daemon. Neither the loop nor
//! its state waits for a test: it runs in a thread of its own, and a task gathers the facts about a failure (`facts`).

mod facts;

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use sixxs_common::inside_test::{Answer as Kind, InsideTest as Recorded, Way};
use sixxs_core::{
    config::{Config, Tunnel},
    inside_test::{
        DEFAULT_SOURCE, Probe, Reply, Subject,
        cause::{Cause, cause},
        drops::{self, Trace},
        judge,
        request::{FRAME_BYTES, Message, Number, PACKET_BYTES, Ports},
    },
    link::{Link, LinkLayer, Links},
    types::{IfIndex, IfName},
};
use tokio::task::spawn_blocking;

use super::readings::monotonic_ns;
use crate::{
    bpf::{InsideTester, TestRequest, Testers},
    control::{Answer, api},
    host::drop_trace::DropTrace,
    netlink::Netlink,
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

/// What all tests share: numbers for packets, so that two tests at a time have different ones, and the programs' switch.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    last: Arc<AtomicU16>,
    pub(super) testers: Testers,
}

impl Shared {
    fn message(&self, probe: Probe) -> Message {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let ports = |local| Ports {
            local,
            remote: number | FIRST_PORT,
        };
        match probe {
            Probe::Ping => {
                let [_, _, high, low] = std::process::id().to_be_bytes();
                Message::Echo(Number {
                    identifier: u16::from_be_bytes([high, low]) ^ IDENTIFIER,
                    sequence: number,
                })
            }
            Probe::Tcp(port) => Message::Syn(ports(port)),
            Probe::Udp(port) => Message::Datagram(ports(port)),
        }
    }
}

/// The ports that clients use begin here (RFC 6335 §6).
const FIRST_PORT: u16 = 0xc000;

/// Distinguishes the requests from those of ping programs, which also use their process number.
const IDENTIFIER: u16 = 0x6978;

/// The tests of a request.
pub(super) struct Plan {
    tests: Vec<Planned>,
    /// The names of interfaces, for where replies leave.
    names: BTreeMap<u32, IfName>,
}

/// The test of an address.
#[derive(Clone, Debug)]
struct Planned {
    subject: Subject,
    /// The interface's name in the kernel.
    device: IfName,
    index: IfIndex,
    mac: Option<[u8; 6]>,
    /// The tunnel that the source of the request belongs to; it should be none.
    owner: Option<IfName>,
}

impl Plan {
    /// Tests of the addresses of the tunnels that a client names, or of all if it names none. Tunnels whose interface is not up are left
    /// out, and those without programs, since nothing would record the reply.
    pub(super) fn new(
        config: &Config,
        links: &Links,
        has_program: impl Fn(&IfName) -> bool,
        asked: &api::InsideRequest,
    ) -> Self {
        let names = &asked.tunnels;
        let is_wanted = |tunnel: &&Tunnel| {
            names.is_empty() || names.iter().any(|name| name == tunnel.name.as_str())
        };
        let tcp = asked.tcp.iter().copied().map(Probe::Tcp);
        let udp = asked.udp.iter().copied().map(Probe::Udp);
        let probes: Vec<_> = [Probe::Ping].into_iter().chain(tcp).chain(udp).collect();
        let mut tests = Vec::new();
        for tunnel in config.tunnels.iter().filter(is_wanted) {
            let link = links.by_name(&tunnel.name).filter(|link| link.up);
            if let Some(link) = link
                && has_program(&tunnel.name)
            {
                tests.extend(planned(config, tunnel, link, &probes));
            }
        }
        let names = links
            .iter()
            .map(|link| (link.index.0, link.kernel_name().clone()));
        Self {
            tests,
            names: names.collect(),
        }
    }

    fn name(&self, index: u32) -> String {
        let known = self.names.get(&index);
        known.map_or_else(|| format!("interface {index}"), ToString::to_string)
    }
}

fn planned(config: &Config, tunnel: &Tunnel, link: &Link, probes: &[Probe]) -> Vec<Planned> {
    let mac = match link.layer {
        LinkLayer::None => None,
        LinkLayer::Ethernet(mac) => Some(mac),
        // The programs cannot read its packets.
        LinkLayer::Unsupported(_) => return Vec::new(),
    };
    let source = tunnel.check_source.unwrap_or(DEFAULT_SOURCE);
    let has_it = |other: &&Tunnel| other.sources().any(|own| own.contains(source));
    let owner = config.tunnels.iter().find(has_it);
    let test = |address: Ipv6Addr, probe: Probe| Planned {
        subject: Subject {
            tunnel: tunnel.name.clone(),
            address,
            source,
            probe,
            on_leak: config.on_leak,
            can_redirect: mac.is_none() || tunnel.gateway.is_some(),
        },
        device: link.kernel_name().clone(),
        index: link.index,
        mac,
        owner: owner.map(|owner| owner.name.clone()),
    };
    let addresses = tunnel.addresses.iter().map(|own| own.address);
    let all = |address| probes.iter().map(move |probe| (address, *probe));
    let both = addresses.flat_map(all);
    both.map(|(address, probe)| test(address, probe)).collect()
}

/// The result of a test.
#[derive(Debug)]
enum Outcome {
    /// There is a reply.
    Reply(Recorded),
    /// There is none.
    Lost(Lost),
    /// The test was not possible, with the reason.
    Impossible(String),
}

/// What is known about a lost request or reply.
#[derive(Debug, Default)]
struct Lost {
    /// Whether it reached our program at the tunnel's ingress.
    arrived: bool,
    /// Whether the request reached the host's ICMPv6.
    reached_icmp: Option<bool>,
    /// What the kernel did each time.
    trace: Trace,
    /// Why that is not known, as a message.
    untraced: Option<String>,
}

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
        let outcomes = Run { tester, shared }.all(&plan.tests);
        (plan, outcomes)
    };
    let (plan, outcomes) = spawn_blocking(work).await.context("run the tests")?;
    let netlink = Netlink::open()?;
    let mut tests = Vec::new();
    for (test, outcome) in plan.tests.iter().zip(outcomes) {
        tests.push(match outcome {
            Outcome::Reply(recorded) => answered(&plan, test, &recorded),
            Outcome::Impossible(reason) => impossible(test, &reason),
            Outcome::Lost(lost) => unanswered(test, &lost, &netlink).await,
        });
    }
    Ok(api::InsideTests { tests })
}

/// A thread's tests.
struct Run {
    tester: InsideTester,
    shared: Shared,
}

impl Run {
    /// Carries out all tests, then traces those without reply. Outcomes are in the order of the tests.
    fn all(mut self, tests: &[Planned]) -> Vec<Outcome> {
        let chunks = tests.chunks(AT_A_TIME);
        let mut outcomes: Vec<_> = chunks.flat_map(|chunk| self.together(chunk)).collect();
        let both = tests.iter().zip(&mut outcomes);
        let lost = both.filter(|(_, outcome)| matches!(outcome, Outcome::Lost(_)));
        let mut trace = None;
        for (test, outcome) in lost.take(MOST_TRACED) {
            let start = || DropTrace::start([PACKET_BYTES, FRAME_BYTES]);
            *outcome = self.traced(test, trace.get_or_insert_with(start));
        }
        outcomes
    }

    /// Puts the requests of all tests in, then waits for the replies that are missing.
    fn together(&mut self, tests: &[Planned]) -> Vec<Outcome> {
        let begun: Vec<_> = tests
            .iter()
            .map(|test| match &test.owner {
                Some(owner) => Err(anyhow::anyhow!(
                    "{} belongs to {owner}; set check_source to an address outside",
                    test.subject.source
                )),
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
            let outcome = self.traced_once(test, trace);
            match outcome {
                Ok((Outcome::Lost(seen), dropped)) => {
                    lost.arrived |= seen.arrived;
                    lost.reached_icmp = seen.reached_icmp;
                    runs.extend(dropped);
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

    fn traced_once(
        &mut self,
        test: &Planned,
        trace: &mut anyhow::Result<DropTrace>,
    ) -> anyhow::Result<(Outcome, Option<Trace>)> {
        if let Ok(trace) = trace {
            // Earlier events are not of this test.
            trace.text()?;
        }
        let before = match test.subject.probe {
            Probe::Ping => requests_in(&test.device),
            Probe::Tcp(_) | Probe::Udp(_) => None,
        };
        let request = self.begin(test)?;
        let recorded = self.wait(&request, Instant::now(), TRACED_LIMIT, has_left)?;
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
        let dropped = text.transpose()?.map(|text| drops::parse(&text));
        Ok((outcome, dropped))
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

/// The result of a test, without its outcome.
fn result(test: &Planned) -> api::InsideTest {
    api::InsideTest {
        tunnel: test.subject.tunnel.to_string(),
        device: test.device.to_string(),
        address: Some(test.subject.address),
        source: Some(test.subject.source),
        protocol: Some(test.subject.probe.protocol().to_owned()),
        port: test.subject.probe.port(),
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
        answer: Kind::try_from(recorded.answer).unwrap_or(Kind::Error),
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

async fn unanswered(test: &Planned, lost: &Lost, netlink: &Netlink) -> api::InsideTest {
    let facts = facts::facts(test, lost, netlink).await;
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
    use sixxs_core::{config, types::Mtu};

    use super::*;

    fn config(more: &str) -> Config {
        let text = format!(
            "[[tunnel]]\nname = \"sixxs0\"\nkind = \"interface\"\naddress = [\"2001:db8:a::2\", \"2001:db8:a::3\"]\n{more}\n\
             [[tunnel]]\nname = \"sixxs1\"\nkind = \"interface\"\naddress = \"2001:db8:b::2\"\ncheck_source = \"2001:db8:a::3\"\n"
        );
        config::parse("f", &text).unwrap()
    }

    fn links() -> Links {
        let link = |index, name: &str| Link::up(IfIndex(index), name.parse().unwrap(), Mtu(1280));
        let veth = Link {
            layer: LinkLayer::Ethernet([2, 0, 0, 0, 0, 1]),
            ..link(8, "sixxs1")
        };
        [link(7, "sixxs0"), veth].into_iter().collect()
    }

    #[test]
    fn each_address_of_a_tunnel_that_is_up_is_tested() {
        let addresses = |names: &[&str], program: &str| -> Vec<String> {
            let asked = api::InsideRequest {
                tunnels: names.iter().map(ToString::to_string).collect(),
                ..api::InsideRequest::default()
            };
            let has_program = |name: &IfName| program.contains(name.as_str());
            let plan = Plan::new(&config(""), &links(), has_program, &asked);
            let tests = plan.tests.iter();
            tests.map(|test| test.subject.address.to_string()).collect()
        };
        let both = "sixxs0 sixxs1";
        assert_eq!(addresses(&[], both).len(), 3);
        assert_eq!(addresses(&["sixxs1"], both), ["2001:db8:b::2"]);
        assert_eq!(addresses(&[], "sixxs0"), ["2001:db8:a::2", "2001:db8:a::3"]);
        assert!(addresses(&["sixxs1"], "sixxs0").is_empty());
    }

    #[test]
    fn the_source_and_the_way_of_leaks_are_those_of_the_configuration() {
        let outside = "check_source = \"2001:db8:ffff::9\"";
        let all = api::InsideRequest::default();
        let plan = Plan::new(&config(outside), &links(), |_| true, &all);
        let [first, _, last] = &plan.tests[..] else {
            panic!("{:?}", plan.tests)
        };
        assert_eq!(first.subject.source.to_string(), "2001:db8:ffff::9");
        assert!(first.subject.can_redirect && first.owner.is_none());
        // It has a link layer and no gateway, and a source that the other tunnel has.
        assert!(!last.subject.can_redirect);
        assert_eq!(last.owner.as_ref().map(IfName::as_str), Some("sixxs0"));
        assert_eq!(
            (plan.name(8), plan.name(9)),
            ("sixxs1".to_owned(), "interface 9".to_owned())
        );
        let plan = Plan::new(&config(""), &links(), |_| true, &all);
        assert_eq!(plan.tests[0].subject.source, DEFAULT_SOURCE);
        let ports = api::InsideRequest {
            tcp: vec![443],
            udp: vec![53, 123],
            ..all
        };
        let plan = Plan::new(&config(""), &links(), |_| true, &ports);
        let probes: Vec<_> = plan.tests[..4]
            .iter()
            .map(|test| test.subject.probe)
            .collect();
        let expected = [
            Probe::Ping,
            Probe::Tcp(443),
            Probe::Udp(53),
            Probe::Udp(123),
        ];
        assert_eq!(probes, expected);
        assert_eq!(plan.tests.len(), 3 * 4);
    }

    #[test]
    fn tests_at_a_time_have_different_numbers() {
        let shared = Shared::default();
        let other = shared.clone();
        for probe in [Probe::Ping, Probe::Tcp(443), Probe::Udp(443)] {
            assert_ne!(shared.message(probe).word(), other.message(probe).word());
        }
    }
}
