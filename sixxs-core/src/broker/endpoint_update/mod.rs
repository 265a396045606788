//! Endpoint updates: a tunnel's broker gets this host's IPv4 address by the dyndns2 protocol (Dyn's Remote Access
//! API), as Hurricane Electric does. Without IO.
//!
//! ```text
//!              ┌───────────── the address changes ◄────────────┐
//!              ▼                                               │
//! start ─► settle ─► slot ─► request ─► accepted ──────────────┤
//!              ▲                │                              │
//!              └──── pause ◄────┴─► failed ──► (fatal: until a person acts)
//! ```
//!
//! An address that the server has is not sent again: not after a restart, and not before a day is over. So an
//! unneeded update, which brokers count as abuse, happens only where nobody can know better: after a request
//! without an answer, and behind a NAT, whose address only the server knows.
//!
//! The caller carries out [`EndpointUpdate::next`], and saves the [`Record`] before and after each request.

mod outcome;
mod record;

use std::{fmt, net::Ipv4Addr, time::Duration};

pub use outcome::{Failure, Outcome};
pub use record::Record;

use record::{DAY, Trouble};

use super::age::Age;

/// An address has to stay for this time: an interface that gets a new one has none in between.
pub const SETTLE_TIME: Duration = Duration::from_millis(200);

/// The pause before the second return to an address within a day. It doubles with each return.
const RETURN_PAUSE: Duration = Duration::from_secs(10 * 60);

/// The longest pause before a return.
const LONGEST_RETURN_PAUSE: Duration = Duration::from_secs(6 * 3600);

/// What the broker is to send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// This address of this host.
    Public(Ipv4Addr),
    /// The source address of the request at the server: this host is behind a NAT.
    BehindNat {
        /// This host's private address.
        source: Ipv4Addr,
        /// Its router, if it is known. A change means another network.
        gateway: Option<Ipv4Addr>,
    },
}

impl Subject {
    /// The subject for the source address of packets to the broker.
    #[must_use]
    pub const fn of(source: Ipv4Addr, gateway: Option<Ipv4Addr>) -> Self {
        match is_private(source) {
            true => Self::BehindNat { source, gateway },
            false => Self::Public(source),
        }
    }

    /// The address to send; `None`: the server takes the source address of the request.
    #[must_use]
    pub const fn address(self) -> Option<Ipv4Addr> {
        match self {
            Self::Public(address) => Some(address),
            Self::BehindNat { .. } => None,
        }
    }

    /// As a word of a file.
    fn word(self) -> String {
        match self {
            Self::Public(address) => address.to_string(),
            Self::BehindNat {
                source,
                gateway: Some(gateway),
            } => format!("{source}/{gateway}"),
            Self::BehindNat {
                source,
                gateway: None,
            } => format!("{source}/-"),
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        let Some((source, gateway)) = word.split_once('/') else {
            return word.parse().ok().map(Self::Public);
        };
        Some(Self::BehindNat {
            source: source.parse().ok()?,
            gateway: match gateway {
                "-" => None,
                gateway => Some(gateway.parse().ok()?),
            },
        })
    }
}

/// Whether packets from this address need a NAT: private networks (RFC 1918), carrier-grade NAT (RFC 6598),
/// DS-Lite (RFC 6333), link-local and loopback.
#[must_use]
pub const fn is_private(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_private()
        || address.is_link_local()
        || address.is_loopback()
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
}

/// The next action of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for another path; and for this time, if it has a limit. Then look at the path again.
    Wait(Option<Duration>),
    /// Take a slot of the connect limit, then [`EndpointUpdate::begin`], send the request, and
    /// [`EndpointUpdate::end`]. Without a slot: [`EndpointUpdate::hold`].
    Send(Subject),
}

/// The state of an update, for users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The broker has the address.
    Current,
    /// A request is in progress.
    Sending,
    /// It waits for a path, for a slot, or for the end of a pause.
    Waiting,
    /// It has failed, and is tried again.
    Retrying,
    /// It has failed, and nothing is sent until a person acts.
    Failed,
}

/// What users see of an update. Times are as of [`EndpointUpdate::report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The state.
    pub state: State,
    /// The address that the server has confirmed last.
    pub address: Option<Ipv4Addr>,
    /// The state as a sentence.
    pub sentence: String,
    /// Time since the server has confirmed it.
    pub confirmed_ago: Option<Duration>,
    /// Time until the next request, if nothing changes.
    pub next_in: Option<Duration>,
    /// The broker certainly sends to this address, which is not this host's any more.
    pub sends_elsewhere: Option<Ipv4Addr>,
    /// Number of requests of this run.
    pub requests: u64,
}

impl Report {
    /// The failure, if there is one.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        matches!(self.state, State::Retrying | State::Failed).then_some(&self.sentence)
    }
}

/// The path to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Path {
    /// Nothing is known yet.
    Unknown,
    /// There is none, for this reason.
    Missing(String),
    /// By this subject, since this time.
    By(Subject, Duration),
}

/// A reason to send nothing for some time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    reason: String,
    until: Duration,
}

/// A request in progress.
#[derive(Clone, Copy, Debug)]
struct Sending {
    subject: Subject,
    /// [`record::Trouble::leaves_doubt`] before it.
    had_doubt: bool,
}

/// The updates of a tunnel. Times are since boot.
#[derive(Clone, Debug)]
pub struct EndpointUpdate {
    record: Record,
    path: Path,
    hold: Option<Hold>,
    sending: Option<Sending>,
    /// More about the last failure, in words.
    detail: Option<String>,
    requests: u64,
}

/// Why nothing is sent now.
enum Obstacle {
    NoPath(String),
    Fatal,
    /// The server has the address. Time until it is sent again, if ever.
    Current(Option<Duration>),
    /// The pause after a failure.
    Pause(Duration),
    /// The pause before a return to an address.
    Return(Duration),
    Settling(Duration),
    Hold(String, Duration),
}

impl EndpointUpdate {
    /// Continues with what an earlier run has left.
    #[must_use]
    pub const fn new(record: Record) -> Self {
        Self {
            record,
            path: Path::Unknown,
            hold: None,
            sending: None,
            detail: None,
            requests: 0,
        }
    }

    /// The record to save.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// The path to the broker, as it is now; or why there is none.
    pub fn observe(&mut self, path: Result<Subject, impl fmt::Display>, now: Duration) {
        let since = match (&self.path, &path) {
            (Path::By(before, since), Ok(subject)) if before == subject => *since,
            _ => now,
        };
        self.path = match path {
            Ok(subject) => Path::By(subject, since),
            Err(reason) => Path::Missing(reason.to_string()),
        };
    }

    /// A person has asked for another attempt. Failures are over; an address that the server has had for a day is
    /// sent again.
    pub fn retry(&mut self, now: Duration) {
        let latest = self.record.latest();
        if self.is_in_doubt() || latest.is_some_and(|latest| latest.age.at(now) >= DAY) {
            self.record.accepted.clear();
        }
        self.record.trouble = None;
        self.detail = None;
    }

    /// The next action.
    #[must_use]
    pub fn next(&self, now: Duration) -> Next {
        match self.obstacle(now) {
            Ok(subject) => Next::Send(subject),
            Err(obstacle) => Next::Wait(obstacle.remaining()),
        }
    }

    /// There is no slot of the connect limit, or another reason to send nothing for some time.
    pub fn hold(&mut self, reason: String, remaining: Duration, now: Duration) {
        self.hold = Some(Hold {
            reason,
            until: now.saturating_add(remaining),
        });
    }

    /// The request for this subject is sent now. Until [`Self::end`] the record has it as one without an answer, which
    /// is what it is for the next run if this one is killed.
    pub fn begin(&mut self, subject: Subject, now: Duration) {
        let before = self.record.trouble;
        let had_doubt = before.is_some_and(|trouble| trouble.leaves_doubt);
        let in_a_row =
            before.filter(|trouble| trouble.subject == subject || !trouble.failure.is_of_path());
        self.record.trouble = Some(Trouble {
            failure: Failure::NoAnswer,
            failures: in_a_row.map_or(1, |trouble| trouble.failures.saturating_add(1)),
            subject,
            age: Age::new(now),
            leaves_doubt: had_doubt || self.leaves_doubt(subject, Failure::NoAnswer),
        });
        self.hold = None;
        self.detail = None;
        self.sending = Some(Sending { subject, had_doubt });
        self.requests += 1;
    }

    /// Whether the server may have another address than the last accepted one, after a request for this subject
    /// has failed.
    fn leaves_doubt(&self, subject: Subject, failure: Failure) -> bool {
        let latest = self.record.latest();
        failure.leaves_doubt() && latest.is_some_and(|latest| latest.subject != subject)
    }

    /// The outcome of the request, with more about a failure in words.
    pub fn end(&mut self, outcome: Outcome, detail: Option<String>, now: Duration) {
        let Some(Sending { subject, had_doubt }) = self.sending.take() else {
            return;
        };
        let failure = match outcome {
            Outcome::Accepted { address } if fits(subject, address) => {
                let address = address.or(subject.address());
                self.record.accept(subject, address, now);
                return;
            }
            Outcome::Accepted { .. } => Failure::OtherAddress,
            Outcome::Failed(failure) => failure,
        };
        let failures = self.record.trouble.map_or(1, |trouble| trouble.failures);
        self.record.trouble = Some(Trouble {
            failure,
            failures,
            subject,
            age: Age::new(now),
            leaves_doubt: had_doubt || self.leaves_doubt(subject, failure),
        });
        self.detail = detail;
    }

    /// What users see.
    #[must_use]
    pub fn report(&self, now: Duration) -> Report {
        let latest = self.record.latest();
        let obstacle = self.obstacle(now).err();
        let (state, sentence) = match (&self.sending, &obstacle) {
            (Some(request), _) => (State::Sending, sending(request.subject)),
            (None, None) => (State::Waiting, "the address is about to be sent".to_owned()),
            (None, Some(obstacle)) => self.describe(obstacle),
        };
        Report {
            state,
            address: latest.and_then(|latest| latest.address),
            sentence,
            confirmed_ago: latest.map(|latest| latest.age.at(now)),
            next_in: obstacle.as_ref().and_then(Obstacle::remaining),
            sends_elsewhere: self.elsewhere(),
            requests: self.requests,
        }
    }

    fn describe(&self, obstacle: &Obstacle) -> (State, String) {
        match obstacle {
            Obstacle::NoPath(reason) | Obstacle::Hold(reason, _) => {
                (State::Waiting, reason.clone())
            }
            Obstacle::Fatal => (State::Failed, self.failure()),
            Obstacle::Pause(_) => (State::Retrying, self.failure()),
            Obstacle::Current(_) => {
                let address = self.record.latest().and_then(|latest| latest.address);
                let sentence = match (address, &self.path) {
                    (Some(address), Path::By(Subject::BehindNat { .. }, _)) => {
                        format!("the broker sends to {address}, the source address of the request")
                    }
                    (Some(address), _) => format!("the broker sends to {address}"),
                    (None, _) => "the broker sends to the source address of the request".to_owned(),
                };
                (State::Current, sentence)
            }
            Obstacle::Return(_) => (
                State::Waiting,
                "the address came back more than once within a day: the daemon waits before it sends it again".to_owned(),
            ),
            Obstacle::Settling(_) => (State::Waiting, "the address has just changed".to_owned()),
        }
    }

    /// The last failure as a sentence.
    fn failure(&self) -> String {
        let failure = self.record.trouble.map(|trouble| trouble.failure);
        let sentence = failure.map_or("", Failure::sentence);
        match &self.detail {
            Some(detail) => format!("{sentence}: {detail}"),
            None => sentence.to_owned(),
        }
    }

    /// The address that the broker certainly sends to, if it is not this host's any more.
    fn elsewhere(&self) -> Option<Ipv4Addr> {
        let Path::By(Subject::Public(own), _) = self.path else {
            return None;
        };
        let had = self.record.latest()?.address?;
        (had != own && !self.is_in_doubt()).then_some(had)
    }

    /// Whether the server may have another address than the last accepted one.
    fn is_in_doubt(&self) -> bool {
        self.record
            .trouble
            .is_some_and(|trouble| trouble.leaves_doubt)
    }

    /// Why nothing is sent now; or what is to be sent.
    fn obstacle(&self, now: Duration) -> Result<Subject, Obstacle> {
        let (subject, since) = match &self.path {
            Path::Unknown => return Err(Obstacle::NoPath("the path is not known yet".to_owned())),
            Path::Missing(reason) => return Err(Obstacle::NoPath(reason.clone())),
            Path::By(subject, since) => (*subject, *since),
        };
        let trouble = self.record.trouble;
        if trouble.is_some_and(|trouble| trouble.failure.is_fatal()) {
            return Err(Obstacle::Fatal);
        }
        if let Some(current) = self.current(subject, now) {
            return Err(Obstacle::Current(current));
        }
        if let Some(trouble) = trouble
            && (trouble.subject == subject || !trouble.failure.is_of_path())
            && let Some(left) = trouble
                .age
                .remaining(trouble.failure.pause(trouble.failures), now)
        {
            return Err(Obstacle::Pause(left));
        }
        if let Some(left) = self.return_pause(subject, now) {
            return Err(Obstacle::Return(left));
        }
        let settled = since.saturating_add(SETTLE_TIME).saturating_sub(now);
        if !settled.is_zero() {
            return Err(Obstacle::Settling(settled));
        }
        match &self.hold {
            Some(hold) if hold.until > now => Err(Obstacle::Hold(
                hold.reason.clone(),
                hold.until.saturating_sub(now),
            )),
            _ => Ok(subject),
        }
    }

    /// If the server has the address: the time until it is sent again all the same, if ever.
    fn current(&self, subject: Subject, now: Duration) -> Option<Option<Duration>> {
        let latest = self.record.latest()?;
        if latest.subject != subject || self.is_in_doubt() {
            return None;
        }
        match subject {
            Subject::Public(_) => Some(None),
            // The NAT's address may have changed. After a power failure, the router was started again too.
            Subject::BehindNat { .. } if latest.is_of_earlier_boot => None,
            Subject::BehindNat { .. } => latest.age.remaining(DAY, now).map(Some),
        }
    }

    /// An address that comes back has to be sent again. The first return is at once, others wait.
    fn return_pause(&self, subject: Subject, now: Duration) -> Option<Duration> {
        let returns = self.record.times_accepted(subject, now).checked_sub(2)?;
        let pause = RETURN_PAUSE.saturating_mul(1 << returns.min(16));
        let latest = self.record.latest()?;
        latest.age.remaining(pause.min(LONGEST_RETURN_PAUSE), now)
    }
}

impl Obstacle {
    const fn remaining(&self) -> Option<Duration> {
        match self {
            Self::NoPath(_) | Self::Fatal => None,
            Self::Current(left) => *left,
            Self::Pause(left) | Self::Return(left) | Self::Settling(left) | Self::Hold(_, left) => {
                Some(*left)
            }
        }
    }
}

/// Whether an answer confirms the sent address.
const fn fits(subject: Subject, address: Option<Ipv4Addr>) -> bool {
    match (subject, address) {
        (_, None) => true,
        (Subject::Public(own), Some(address)) => own.to_bits() == address.to_bits(),
        // Some servers answer `good 127.0.0.1` to a client that they ignore.
        (Subject::BehindNat { .. }, Some(address)) => !is_private(address),
    }
}

fn sending(subject: Subject) -> String {
    match subject {
        Subject::Public(address) => format!("sending {address} to the broker"),
        Subject::BehindNat { .. } => {
            "sending a request; the broker takes its source address".to_owned()
        }
    }
}

#[cfg(test)]
mod tests;
