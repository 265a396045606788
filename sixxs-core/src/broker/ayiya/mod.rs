//! The client end of an AYIYA tunnel. Input: datagrams and time. Output: packets, keepalives and
//! doubts.
//!
//! The broker does not answer keepalives. A [`probe`] shows whether the tunnel works in
//! both directions: an echo request to the broker's inner address, sent with the first keepalives and
//! after each longer silence.
//!
//! ```text
//!            begin                 first good datagram
//!   Trying ─────────── keepalives, ─────────────────────▶ Answering
//!     ▲                probes                                 │
//!     └───────────────────────────────────────────────────────┘
//!        nothing received for SILENCE: probes; Doubt, at doubling intervals
//! ```

pub mod probe;
pub mod replay;
pub mod wire;

use std::{net::Ipv6Addr, time::Duration};

use self::{
    probe::Probe,
    replay::Replay,
    wire::{DropReason, HEADER_BYTES, Opener, Sealer},
};
use super::heartbeat_schedule::HeartbeatSchedule;
use crate::secret::Secret;

/// Number of keepalives at a start.
const BURST: u8 = 3;

/// Brokers ping every 60 s and treat 120 s of silence as failure. This end applies the same rule to
/// the broker.
pub const SILENCE: Duration = Duration::from_secs(130);

/// First interval between probes during silence; it doubles each time.
const FIRST_PROBE_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PROBE_PAUSE: Duration = Duration::from_secs(30);

/// First interval until [`Action::Doubt`]; it doubles each time.
const FIRST_DOUBT: Duration = Duration::from_secs(30);
const LONGEST_DOUBT: Duration = Duration::from_secs(600);

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Time since any fixed moment. It includes suspend.
    pub elapsed: Duration,
    /// Unix time in seconds; may jump.
    pub unix_seconds: u64,
}

/// Parameters of a tunnel.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The local inner address.
    pub address: Ipv6Addr,
    /// The broker's inner address.
    pub peer: Ipv6Addr,
    /// The secret shared with the broker.
    pub password: Secret,
    /// The interval between keepalives.
    pub interval: Duration,
}

/// An action for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this datagram to the broker.
    Send(Vec<u8>),
    /// The broker does not answer: its address may have changed, or a NAT between the ends may have
    /// dropped its mapping for the local port.
    Doubt,
}

/// A valid datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A packet for this host.
    Packet(&'a [u8]),
    /// A keepalive, or the answer to a probe.
    Alive,
}

/// The local end of the tunnel.
pub struct Session {
    address: Ipv6Addr,
    sealer: Sealer,
    opener: Opener,
    replay: Replay,
    beats: HeartbeatSchedule,
    probe: Probe,
    probe_due: Duration,
    probe_pause: Duration,
    doubt_due: Duration,
    doubt_pause: Duration,
    /// Time of the last start: of the session, or after an address change.
    began: Duration,
    /// Time of the last valid datagram; `None` before the first one, and during silence.
    heard: Option<Duration>,
    /// Time of the last valid datagram, or of the first attempt.
    silent_since: Duration,
    was_heard: bool,
    faults: [u64; DropReason::ALL.len()],
}

impl Session {
    /// Starts with an immediate keepalive.
    #[must_use]
    pub fn new(identity: &Identity, now: Duration) -> Self {
        let Identity {
            address,
            peer,
            password,
            interval,
        } = identity;
        let mut session = Self {
            address: *address,
            sealer: Sealer::new(*address, password),
            opener: Opener::new(*peer, password),
            replay: Replay::default(),
            beats: HeartbeatSchedule::new(BURST, *interval, now),
            probe: Probe::new(*address, *peer),
            probe_due: now,
            probe_pause: FIRST_PROBE_PAUSE,
            doubt_due: now.saturating_add(FIRST_DOUBT),
            doubt_pause: FIRST_DOUBT,
            began: now,
            heard: None,
            silent_since: now,
            was_heard: false,
            faults: [0; DropReason::ALL.len()],
        };
        session.begin_again(now);
        session
    }

    /// Sends keepalives at once, because the local or the broker's address has changed.
    pub fn begin_again(&mut self, now: Duration) {
        self.beats.begin_again(now);
        self.probe_due = now;
        self.probe_pause = FIRST_PROBE_PAUSE;
        self.doubt_due = now.saturating_add(FIRST_DOUBT);
        self.doubt_pause = FIRST_DOUBT;
        self.began = now;
    }

    /// Resumes a session that the broker still knows. `heard`: time of its last datagram; `due`:
    /// time when it expects the next keepalive.
    pub const fn go_on(&mut self, heard: Duration, due: Duration) {
        self.beats.go_on(due);
        self.began = heard;
        self.heard = Some(heard);
        self.silent_since = heard;
        self.was_heard = true;
    }

    /// The local inner address.
    #[must_use]
    pub const fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// Time of the next keepalive.
    #[must_use]
    pub const fn beat_due(&self) -> Duration {
        self.beats.due()
    }

    /// The sealer for datagrams to the broker.
    #[must_use]
    pub const fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// Handles a received datagram. A refused one is counted.
    pub fn receive<'a>(
        &mut self,
        datagram: &'a [u8],
        now: Now,
    ) -> Result<Received<'a>, DropReason> {
        let received = self.check(datagram, now);
        match received {
            Ok(_) => {
                self.heard = Some(now.elapsed);
                self.silent_since = now.elapsed;
                self.was_heard = true;
            }
            Err(fault) => self.faults[fault as usize] += 1,
        }
        received
    }

    fn check<'a>(&mut self, datagram: &'a [u8], now: Now) -> Result<Received<'a>, DropReason> {
        let opened = self.opener.open(datagram, now.unix_seconds)?;
        if !self.replay.is_new(&opened.signature, opened.unix_seconds) {
            return Err(DropReason::Repeat);
        }
        let Some(packet) = opened.packet else {
            return Ok(Received::Alive);
        };
        if source(packet) == Some(self.address) {
            return Err(DropReason::OwnSource);
        }
        if self.probe.is_answer(packet) {
            return Ok(Received::Alive);
        }
        Ok(Received::Packet(packet))
    }

    /// Whether a valid datagram arrived within [`SILENCE`].
    #[must_use]
    pub fn answers(&self, now: Duration) -> bool {
        self.heard
            .is_some_and(|heard| now < heard.saturating_add(SILENCE))
    }

    /// Whether a valid datagram ever arrived.
    #[must_use]
    pub const fn was_heard(&self) -> bool {
        self.was_heard
    }

    /// Time of the last valid datagram, or of the first attempt.
    #[must_use]
    pub const fn silent_since(&self) -> Duration {
        self.silent_since
    }

    /// Numbers of refused datagrams, in the order of [`DropReason::ALL`].
    #[must_use]
    pub const fn faults(&self) -> &[u64; DropReason::ALL.len()] {
        &self.faults
    }

    /// Time of the next necessary call to [`Session::poll`].
    #[must_use]
    pub fn due(&self, now: Duration) -> Duration {
        let due = self.beats.due();
        let quiet = match self.heard {
            Some(heard) if heard >= self.began && now < heard.saturating_add(SILENCE) => {
                heard.saturating_add(SILENCE)
            }
            _ => self.probe_due.min(self.doubt_due),
        };
        due.min(quiet)
    }

    /// Returns the next action; to be called until it returns `None`.
    pub fn poll(&mut self, now: Now) -> Option<Action> {
        let Now {
            elapsed,
            unix_seconds,
        } = now;
        if self.beats.take(elapsed) {
            return Some(Action::Send(self.sealer.beat(unix_seconds).to_vec()));
        }
        if let Some(heard) = self.heard
            && heard >= self.began
        {
            if elapsed < heard.saturating_add(SILENCE) {
                return None;
            }
            // Silence begins. Everything starts again, except the keepalives, which continue.
            self.heard = None;
            self.probe_due = elapsed;
            self.probe_pause = FIRST_PROBE_PAUSE;
            self.doubt_due = elapsed.saturating_add(FIRST_DOUBT);
            self.doubt_pause = FIRST_DOUBT;
        }
        if elapsed >= self.doubt_due {
            self.doubt_pause = (self.doubt_pause * 2).min(LONGEST_DOUBT);
            self.doubt_due = elapsed.saturating_add(self.doubt_pause);
            return Some(Action::Doubt);
        }
        if elapsed >= self.probe_due {
            self.probe_due = elapsed.saturating_add(self.probe_pause);
            self.probe_pause = (self.probe_pause * 2).min(LONGEST_PROBE_PAUSE);
            return Some(Action::Send(self.probe_datagram(unix_seconds)));
        }
        None
    }

    fn probe_datagram(&mut self, unix_seconds: u64) -> Vec<u8> {
        let mut datagram = vec![0; HEADER_BYTES];
        datagram.extend_from_slice(&self.probe.request());
        self.sealer.forward(&mut datagram, unix_seconds);
        datagram
    }
}

/// The source address of an IPv6 packet.
fn source(packet: &[u8]) -> Option<Ipv6Addr> {
    let octets = packet.get(8..24)?.first_chunk::<16>()?;
    Some(Ipv6Addr::from(*octets))
}

#[cfg(test)]
mod tests;
