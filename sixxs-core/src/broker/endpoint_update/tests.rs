use proptest::prelude::*;

use super::*;
use crate::{
    broker::{
        age::{BootId, Moment},
        connects::{Ledger, Limit},
    },
    config::{self, Url},
    secret::Secret,
};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

fn settings() -> config::EndpointUpdate {
    config::EndpointUpdate {
        url: Url::parse("https://broker.example.net/nic/update").unwrap(),
        user: "me".to_owned(),
        password: Secret::from("geheim"),
        hostname: "123".to_owned(),
        ca: None,
        remote: "198.51.100.1".parse().unwrap(),
        local4: None,
    }
}

fn boot(number: u32) -> BootId {
    format!("boot-{number}").parse().unwrap()
}

fn moment(number: u32, since_boot: Duration) -> Moment {
    Moment {
        boot: boot(number),
        since_boot,
    }
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

fn public(last: u8) -> Subject {
    Subject::Public(address(last))
}

fn behind(gateway: u8) -> Subject {
    Subject::of(
        "192.168.1.2".parse().unwrap(),
        Some(Ipv4Addr::new(192, 168, 1, gateway)),
    )
}

/// A machine with its clock.
struct Run {
    update: EndpointUpdate,
    now: Duration,
}

impl Run {
    fn new() -> Self {
        let now = Duration::from_secs(1000);
        Self {
            update: EndpointUpdate::new(Record::new(&settings(), &moment(1, now))),
            now,
        }
    }

    /// Shows a path, and lets it settle.
    fn at(&mut self, subject: Subject) -> &mut Self {
        self.update.observe(Ok::<_, String>(subject), self.now);
        self.pass(SETTLE_TIME)
    }

    fn pass(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn sends(&self) -> Option<Subject> {
        match self.update.next(self.now) {
            Next::Send(subject) => Some(subject),
            Next::Wait(_) => None,
        }
    }

    fn answer(&mut self, outcome: Outcome) -> &mut Self {
        let subject = self.sends().unwrap();
        self.update.begin(subject, self.now);
        self.update.end(outcome, None, self.now);
        self
    }

    fn good(&mut self) -> &mut Self {
        self.answer(Outcome::Accepted { address: None })
    }

    fn fail(&mut self, failure: Failure) -> &mut Self {
        self.answer(Outcome::Failed(failure))
    }

    fn state(&self) -> State {
        self.update.report(self.now).state
    }

    /// The next run, after a reboot if `boot` is another one.
    fn restart(&mut self, settings: &config::EndpointUpdate, boot: u32, now: Duration) {
        let text = self.update.record().text(self.now);
        let read = Record::read(text.as_bytes(), settings, &moment(boot, now)).unwrap();
        *self = Self {
            update: EndpointUpdate::new(read),
            now,
        };
    }
}

#[test]
#[rustfmt::skip] // one case per line
fn each_answer_has_its_outcome() {
    use Failure::*;
    let good = |address: Option<u8>| Outcome::Accepted { address: address.map(tests::address) };
    let failed = Outcome::Failed;
    for (status, body, expected) in [
        (200, "good 192.0.2.1\n", good(Some(1))),
        (200, "good", good(None)),
        (200, "GOOD 192.0.2.1", good(Some(1))),
        (200, "nochg 192.0.2.1\r\n", good(Some(1))),
        (200, "\n  nochg\n", good(None)),
        (200, "good 192.0.2.1\ngood 192.0.2.2", good(Some(1))),
        (200, "good 2001:db8::1", failed(NotUnderstood)),
        (200, "good192.0.2.1", failed(NotUnderstood)),
        (200, "badauth", failed(BadAuth)),
        (401, "badauth\n", failed(BadAuth)),
        (401, "<html>Authorization required</html>", failed(BadAuth)),
        (401, "", failed(BadAuth)),
        (200, "!donator", failed(NotPaid)),
        (200, "notfqdn", failed(NotFqdn)),
        (200, "nohost", failed(NoHost)),
        (200, "!yours", failed(NotYours)),
        (200, "numhost", failed(NumHost)),
        (200, "abuse", failed(Abuse)),
        (403, "abuse", failed(Abuse)),
        (200, "badagent", failed(BadAgent)),
        (200, "dnserr", failed(DnsError)),
        (200, "911", failed(ServerTrouble)),
        (500, "911", failed(ServerTrouble)),
        (403, "no", failed(Forbidden)),
        (404, "no", failed(NotFound)),
        (410, "", failed(NotFound)),
        (400, "", failed(Rejected)),
        (429, "slow down", failed(Busy)),
        (500, "", failed(ServerError)),
        (503, "<html>", failed(ServerError)),
        (301, "", failed(Redirected)),
        (302, "moved", failed(Redirected)),
        (200, "", failed(Empty)),
        (200, " \n", failed(Empty)),
        (204, "", failed(Empty)),
        (200, "<html>good</html>", failed(NotUnderstood)),
        (200, "\u{fffd}\u{fffd}", failed(NotUnderstood)),
        (200, "-ERROR: IP is not ICMP pingable. Please make sure ICMP is not blocked.", failed(NotPingable)),
        (200, "-ERROR: IP is blocked. (RFC1918 Private Address Space)", failed(AddressBlocked)),
        (200, "-ERROR: IP is not in a valid format", failed(AddressBlocked)),
        (200, "-ERROR: Invalid API key or password", failed(BadAuth)),
        (200, "-ERROR: Tunnel not found", failed(NoHost)),
        (200, "-ERROR: This tunnel is already associated with this IP address.", good(None)),
        (200, "-ERROR: Missing parameter(s).", failed(NotUnderstood)),
    ] {
        assert_eq!(Outcome::read(status, body.as_bytes(), false), expected, "{status} {body:?}");
    }
    assert_eq!(Outcome::read(200, b"\xff\xfe", false), failed(NotUnderstood));
    assert_eq!(Outcome::read(200, b"good 192.0.2.1", true), failed(TooLong));
}

#[test]
fn each_failure_has_a_name_and_a_sentence() {
    for failure in Failure::ALL {
        assert_eq!(Failure::from_name(failure.name()), Some(failure));
        let sentence = failure.sentence();
        assert!(sentence.starts_with("the "), "{sentence}");
        assert!(!failure.name().contains([' ', '\n']), "{}", failure.name());
        let again = Failure::ALL
            .iter()
            .filter(|other| other.sentence() == sentence);
        assert_eq!(again.count(), 1, "{sentence}");
    }
}

/// For each failure: when the same address is tried again, and when another one is tried.
#[test]
fn each_failure_has_its_pauses() {
    use Failure::*;
    for failure in Failure::ALL {
        let (first, longest, waits_elsewhere) = match failure {
            BadAuth | NotPaid | NotFqdn | NoHost | NotYours | NumHost | Abuse | BadAgent
            | Forbidden | NotFound | Rejected => (Duration::MAX, Duration::MAX, true),
            NotPingable | AddressBlocked | OtherAddress => (30 * MINUTE, 24 * HOUR, false),
            ServerTrouble | DnsError | Busy | ServerError => (30 * MINUTE, 6 * HOUR, true),
            Redirected | Empty | TooLong | NotUnderstood => (30 * MINUTE, 24 * HOUR, true),
            NoAnswer | Unreachable => (MINUTE, HOUR, false),
        };
        let mut run = Run::new();
        run.at(public(1)).fail(failure);
        let is_fatal = first == Duration::MAX;
        assert_eq!(failure.is_fatal(), is_fatal, "{failure:?}");
        let expected = if is_fatal {
            State::Failed
        } else {
            State::Retrying
        };
        assert_eq!(run.state(), expected, "{failure:?}");
        if is_fatal {
            run.pass(1000 * HOUR);
            assert_eq!(run.update.next(run.now), Next::Wait(None), "{failure:?}");
            run.at(public(2));
            assert_eq!(run.sends(), None, "{failure:?}");
            continue;
        }
        assert_eq!(
            run.update.next(run.now),
            Next::Wait(Some(first)),
            "{failure:?}"
        );
        let mut elsewhere = Run::new();
        elsewhere.at(public(1)).fail(failure).at(public(2));
        assert_eq!(elsewhere.sends().is_none(), waits_elsewhere, "{failure:?}");
        run.pass(first - Duration::from_secs(1));
        assert_eq!(run.sends(), None, "{failure:?}");
        run.pass(Duration::from_secs(1)).fail(failure);
        assert_eq!(
            run.update.next(run.now),
            Next::Wait(Some(first * 2)),
            "{failure:?}"
        );
        for _ in 0..20 {
            run.pass(longest).fail(failure);
        }
        assert_eq!(
            run.update.next(run.now),
            Next::Wait(Some(longest)),
            "{failure:?}"
        );
        // A success ends the row.
        run.pass(longest).good().at(public(2)).fail(failure);
        assert_eq!(
            run.update.next(run.now),
            Next::Wait(Some(first)),
            "{failure:?}"
        );
    }
}

#[test]
fn an_accepted_address_is_sent_once() {
    let mut run = Run::new();
    run.at(public(1)).good();
    assert_eq!(run.state(), State::Current);
    assert_eq!(run.update.next(run.now), Next::Wait(None));
    let report = run.update.report(run.now);
    assert_eq!((report.address, report.requests), (Some(address(1)), 1));
    assert_eq!(report.sentence, "the broker sends to 192.0.2.1");
    // A restart, a reboot and a long time change nothing.
    let later = run.now + HOUR;
    run.restart(&settings(), 1, later);
    assert_eq!(run.at(public(1)).sends(), None);
    run.restart(&settings(), 2, HOUR);
    assert_eq!(run.at(public(1)).pass(1000 * HOUR).sends(), None);
    // Another address is sent, and its failure leaves the old one in force.
    assert_eq!(run.at(public(2)).sends(), Some(public(2)));
    assert_eq!(run.update.report(run.now).sends_elsewhere, Some(address(1)));
    run.fail(Failure::ServerTrouble);
    assert_eq!(run.update.report(run.now).sends_elsewhere, Some(address(1)));
    assert_eq!(run.at(public(1)).state(), State::Current);
}

#[test]
fn an_address_settles_first() {
    let mut run = Run::new();
    run.update.observe(Ok::<_, String>(public(1)), run.now);
    assert_eq!(run.update.next(run.now), Next::Wait(Some(SETTLE_TIME)));
    run.pass(SETTLE_TIME / 2);
    run.update.observe(Ok::<_, String>(public(2)), run.now);
    assert_eq!(run.update.next(run.now), Next::Wait(Some(SETTLE_TIME)));
    run.update.observe(Err::<Subject, _>("no route"), run.now);
    assert_eq!(run.update.next(run.now), Next::Wait(None));
    assert_eq!(run.update.report(run.now).sentence, "no route");
    assert_eq!(run.at(public(2)).sends(), Some(public(2)));
}

#[test]
fn a_refused_slot_is_waited_for() {
    let mut run = Run::new();
    run.at(public(1));
    run.update.hold("no slot".to_owned(), MINUTE, run.now);
    assert_eq!(run.update.next(run.now), Next::Wait(Some(MINUTE)));
    let report = run.update.report(run.now);
    assert_eq!(
        (report.state, report.sentence.as_str()),
        (State::Waiting, "no slot")
    );
    assert_eq!(report.next_in, Some(MINUTE));
    assert_eq!(run.pass(MINUTE).sends(), Some(public(1)));
}

/// After a request without an answer, nobody knows which address the server has.
#[test]
fn a_request_without_an_answer_leaves_doubt() {
    for (failure, is_sent_again) in [
        (Failure::NoAnswer, true),
        (Failure::Unreachable, false),
        (Failure::NotPingable, false),
    ] {
        let mut run = Run::new();
        run.at(public(1))
            .good()
            .at(public(2))
            .fail(failure)
            .at(public(1));
        assert_eq!(run.sends().is_some(), is_sent_again, "{failure:?}");
        let mut run = Run::new();
        run.at(public(1)).good().at(public(2)).fail(failure);
        let elsewhere = run.update.report(run.now).sends_elsewhere;
        assert_eq!(elsewhere.is_none(), is_sent_again, "{failure:?}");
        // A later failure without a connection does not end the doubt, nor does a restart.
        run.at(public(3)).fail(Failure::Unreachable);
        let later = run.now + HOUR;
        run.restart(&settings(), 1, later);
        run.at(public(1));
        assert_eq!(run.sends().is_some(), is_sent_again, "{failure:?}");
    }
}

/// A run that is killed during a request counts as one without an answer.
#[test]
fn a_killed_run_does_not_hammer() {
    let mut run = Run::new();
    run.at(public(1));
    run.update.begin(public(1), run.now);
    assert_eq!(run.state(), State::Sending);
    let later = run.now + Duration::from_secs(1);
    run.restart(&settings(), 1, later);
    assert_eq!(run.at(public(1)).sends(), None);
    assert_eq!(run.pass(MINUTE).sends(), Some(public(1)));
}

#[test]
fn a_fatal_answer_lasts_until_a_person_acts() {
    let refused = || {
        let mut run = Run::new();
        run.at(public(1)).fail(Failure::BadAuth);
        run
    };
    let mut run = refused();
    let later = run.now + HOUR;
    run.restart(&settings(), 1, later);
    assert_eq!(run.at(public(1)).state(), State::Failed);
    run.update.retry(run.now);
    assert_eq!(run.sends(), Some(public(1)));
    // Another password, and another tunnel.
    for changed in [
        config::EndpointUpdate {
            password: Secret::from("better"),
            ..settings()
        },
        config::EndpointUpdate {
            hostname: "124".to_owned(),
            ..settings()
        },
    ] {
        let mut run = refused();
        let later = run.now + HOUR;
        run.restart(&changed, 1, later);
        assert_eq!(run.at(public(1)).sends(), Some(public(1)));
    }
}

/// With another password the server still has the address; with another tunnel it is not known.
#[test]
fn a_record_belongs_to_a_tunnel() {
    let changed = |change: fn(&mut config::EndpointUpdate)| {
        let mut run = Run::new();
        run.at(public(1)).good();
        let mut changed = settings();
        change(&mut changed);
        let later = run.now + HOUR;
        run.restart(&changed, 1, later);
        run.at(public(1)).sends().is_some()
    };
    assert!(!changed(|_| {}));
    assert!(!changed(
        |settings| settings.password = Secret::from("better")
    ));
    assert!(changed(|settings| settings.hostname = "124".to_owned()));
    assert!(changed(|settings| settings.user = "you".to_owned()));
    assert!(changed(
        |settings| settings.url.host = "other.example.net".to_owned()
    ));
    let text = Record::new(&settings(), &moment(1, HOUR)).text(HOUR);
    assert!(!text.contains("geheim") && !text.contains("me\n"), "{text}");
}

#[test]
fn a_person_gets_the_address_sent_again_after_a_day() {
    let mut run = Run::new();
    run.at(public(1)).good().pass(23 * HOUR);
    run.update.retry(run.now);
    assert_eq!(run.sends(), None);
    run.pass(HOUR);
    assert_eq!(run.sends(), None);
    run.update.retry(run.now);
    assert_eq!(run.sends(), Some(public(1)));
}

#[test]
fn an_address_that_comes_back_waits_longer_each_time() {
    let mut run = Run::new();
    run.at(public(1)).good().at(public(2)).good();
    assert_eq!(
        run.at(public(1)).sends(),
        Some(public(1)),
        "the first return"
    );
    run.good();
    assert_eq!(
        run.at(public(2)).sends(),
        Some(public(2)),
        "the first return"
    );
    run.good();
    assert_eq!(run.at(public(1)).sends(), None);
    assert_eq!(run.state(), State::Waiting);
    assert_eq!(run.pass(10 * MINUTE).sends(), Some(public(1)));
    run.good().at(public(2)).pass(10 * MINUTE).good();
    assert_eq!(run.at(public(1)).pass(10 * MINUTE).sends(), None);
    assert_eq!(run.pass(10 * MINUTE).sends(), Some(public(1)));
    // An address that is new today does not wait.
    assert_eq!(run.at(public(3)).sends(), Some(public(3)));
}

#[test]
fn behind_a_nat_the_server_is_asked_daily_and_in_each_network() {
    assert_eq!(behind(1).address(), None);
    let mut run = Run::new();
    let seen = "203.0.113.7".parse().unwrap();
    let accepted = Outcome::Accepted {
        address: Some(seen),
    };
    run.at(behind(1)).answer(accepted);
    let report = run.update.report(run.now);
    assert_eq!((report.state, report.address), (State::Current, Some(seen)));
    assert!(
        report.sentence.contains("203.0.113.7"),
        "{}",
        report.sentence
    );
    assert_eq!(run.update.next(run.now), Next::Wait(Some(DAY)));
    let later = run.now + HOUR;
    run.restart(&settings(), 1, later);
    assert_eq!(run.at(behind(1)).sends(), None);
    assert_eq!(run.at(behind(2)).sends(), Some(behind(2)), "another router");
    run.answer(accepted).pass(DAY);
    assert_eq!(run.sends(), Some(behind(2)), "a day later");
    run.answer(accepted);
    // After a reboot nobody knows: the router may have been started again too.
    run.restart(&settings(), 2, MINUTE);
    assert_eq!(run.at(behind(2)).sends(), Some(behind(2)));
    run.answer(accepted);
    let later = run.now;
    run.restart(&settings(), 2, later);
    assert_eq!(run.at(behind(2)).sends(), None);
    // A host that starts again and again waits.
    run.restart(&settings(), 3, MINUTE);
    assert_eq!(run.at(behind(2)).sends(), None);
}

#[test]
fn an_answer_with_another_address_is_a_failure() {
    let other = Outcome::Accepted {
        address: Some(address(9)),
    };
    let mut run = Run::new();
    run.at(public(1)).answer(other);
    assert_eq!(run.state(), State::Retrying);
    let ignored = Outcome::Accepted {
        address: Some(Ipv4Addr::LOCALHOST),
    };
    let mut run = Run::new();
    run.at(behind(1)).answer(ignored);
    assert_eq!(run.state(), State::Retrying);
}

#[test]
fn private_addresses() {
    for (address, expected) in [
        ("10.1.2.3", true),
        ("172.31.0.1", true),
        ("172.32.0.1", false),
        ("192.168.0.1", true),
        ("100.64.0.1", true),
        ("100.127.255.255", true),
        ("100.128.0.1", false),
        ("192.0.0.2", true),
        ("192.0.2.1", false),
        ("169.254.1.1", true),
        ("127.0.0.1", true),
        ("198.51.100.1", false),
    ] {
        assert_eq!(is_private(address.parse().unwrap()), expected, "{address}");
    }
}

#[test]
fn a_damaged_record_is_refused() {
    let mut run = Run::new();
    run.at(public(1)).good().at(behind(1)).fail(Failure::Busy);
    let text = run.update.record().text(run.now);
    let now = moment(1, run.now);
    let read = |text: &str| Record::read(text.as_bytes(), &settings(), &now);
    let same = read(&text).unwrap();
    assert_eq!(same.text(run.now), text);
    for damaged in [
        String::new(),
        text.replace("sixxs-endpoint-update 1", "sixxs-endpoint-update 2"),
        text[..text.len() / 2].to_owned(),
        text.replace("accepted 192.0.2.1", "accepted 192.0.2.300"),
        text.replace("busy", "nonsense"),
        text.replace("boot boot-1", "boot "),
    ] {
        assert!(read(&damaged).is_err(), "{damaged}");
    }
    assert!(Record::read(b"\xff", &settings(), &now).is_err());
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Op {
    Pass(Duration),
    Path(Subject),
    NoPath,
    /// Tries to send; the answer if it does.
    Send(Outcome),
    /// Is killed after a request was sent.
    Killed,
    Restart,
    Reboot,
}

fn op() -> impl Strategy<Value = Op> {
    let subject = prop_oneof![
        4 => (1..4_u8).prop_map(public),
        1 => (1..3_u8).prop_map(behind),
    ];
    let failure = (0..Failure::ALL.len()).prop_map(|at| Failure::ALL[at]);
    let answer = prop_oneof![
        4 => Just(Outcome::Accepted { address: None }),
        1 => Just(Outcome::Accepted { address: Some(address(9)) }),
        2 => failure.prop_filter("it would be the last", |f| !f.is_fatal()).prop_map(Outcome::Failed),
    ];
    prop_oneof![
        3 => (0..120_u64).prop_map(|s| Op::Pass(Duration::from_secs(s))),
        2 => (0..600_u64).prop_map(|m| Op::Pass(MINUTE * u32::try_from(m).unwrap())),
        4 => subject.prop_map(Op::Path),
        1 => Just(Op::NoPath),
        8 => answer.prop_map(Op::Send),
        1 => Just(Op::Killed),
        1 => Just(Op::Restart),
        1 => Just(Op::Reboot),
    ]
}

/// The server, and the requests to it.
#[derive(Default)]
struct World {
    /// The requests: the subject, the time, and whether the server confirmed it.
    requests: Vec<(Subject, Duration, bool)>,
    /// Time before the present boot.
    before: Duration,
    boot: u32,
}

impl World {
    fn check(&self, subject: Subject, now: Duration) {
        if let Subject::Public(_) = subject
            && let Some((last, _, true)) = self.requests.last()
        {
            assert_ne!(*last, subject, "the server has confirmed it, and has it");
        }
        let within = |time: Duration| {
            let recent = self.requests.iter().rev();
            recent.take_while(move |(_, at, _)| now.saturating_sub(*at) < time)
        };
        let confirmed = within(DAY).filter(|(_, _, is_confirmed)| *is_confirmed);
        let same = confirmed.filter(|(sent, ..)| *sent == subject).count();
        // Once, its first return, and returns with growing pauses: 10, 20, 40 … minutes, at most 6 hours.
        assert!(same < 12, "{subject:?} {same} times in a day");
        assert!(within(MINUTE).count() < 3, "more than the connect limit");
        // Never twice for the same one within a minute, unless another one came in between. Behind a NAT, a reboot makes
        // the address unknown.
        if let Some((last, at, _)) = self.requests.last()
            && *last == subject
            && (subject.address().is_some() || *at > self.before)
        {
            assert!(
                now.saturating_sub(*at) >= MINUTE,
                "{subject:?} within a minute"
            );
        }
    }
}

proptest! {
    #[test]
    fn no_sequence_hammers(ops in proptest::collection::vec(op(), 0..200)) {
        let limit = Limit::default();
        let mut run = Run::new();
        let mut world = World { boot: 1, ..World::default() };
        let mut ledger = Ledger::new(boot(1));
        for op in ops {
            match op {
                Op::Pass(time) => { run.pass(time); }
                Op::Path(subject) => { run.at(subject); }
                Op::NoPath => run.update.observe(Err::<Subject, _>("none"), run.now),
                Op::Restart => {
                    let now = run.now;
                    run.restart(&settings(), world.boot, now);
                }
                Op::Reboot => {
                    world.boot += 1;
                    world.before += run.now;
                    run.restart(&settings(), world.boot, Duration::ZERO);
                    let text = ledger.text();
                    ledger = Ledger::read(text.as_bytes(), &moment(world.boot, run.now)).0;
                }
                Op::Send(_) | Op::Killed => {
                    let Some(subject) = run.sends() else { continue };
                    let now = moment(world.boot, run.now);
                    if let Err(wait) = ledger.take(&["broker.example.net"], &limit, &now) {
                        run.update.hold("no slot".to_owned(), wait.remaining, run.now);
                        prop_assert_eq!(run.sends(), None);
                        continue;
                    }
                    let time = world.before + run.now;
                    world.check(subject, time);
                    run.update.begin(subject, run.now);
                    let is_confirmed = match op {
                        Op::Send(outcome) => {
                            run.update.end(outcome, None, run.now);
                            run.state() == State::Current
                        }
                        _ => {
                            let now = run.now;
                            run.restart(&settings(), world.boot, now);
                            false
                        }
                    };
                    world.requests.push((subject, time, is_confirmed));
                }
            }
        }
    }

    #[test]
    fn any_answer_has_an_outcome(status: u16, body: Vec<u8>) {
        let outcome = Outcome::read(status, &body, false);
        if let Outcome::Accepted { .. } = outcome {
            let text = String::from_utf8_lossy(&body).to_ascii_lowercase();
            prop_assert!(text.contains("good") || text.contains("nochg") || text.contains("already"));
        }
    }

    #[test]
    fn any_file_is_read_or_refused(bytes: Vec<u8>) {
        prop_assert!(Record::read(&bytes, &settings(), &moment(1, HOUR)).is_err());
    }
}
