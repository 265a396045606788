//! The client end of an AYIYA tunnel. Input: datagrams and time. Output: packets, keepalives and
//! requests to locate the broker again.
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
//!        nothing received for SILENCE: probes; LocateAgain, at doubling intervals
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

/// First interval until [`Action::LocateAgain`]; it doubles each time.
const FIRST_LOCATE_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_LOCATE_PAUSE: Duration = Duration::from_secs(600);

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
    /// Locate the broker again, and open a new socket. The broker does not answer: its address may have
    /// changed, or a NAT between the ends may have dropped its mapping for the local port.
    LocateAgain,
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
    keepalives: HeartbeatSchedule,
    probe: Probe,
    probe_due: Duration,
    probe_pause: Duration,
    locate_due: Duration,
    locate_pause: Duration,
    /// Time of the last start: of the session, or after an address change.
    began: Duration,
    /// Time of the last valid datagram; `None` before the first one, and during silence.
    last_received: Option<Duration>,
    /// Time of the last valid datagram, or of the first attempt.
    silent_since: Duration,
    has_received: bool,
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
            keepalives: HeartbeatSchedule::new(BURST, *interval, now),
            probe: Probe::new(*address, *peer),
            probe_due: now,
            probe_pause: FIRST_PROBE_PAUSE,
            locate_due: now.saturating_add(FIRST_LOCATE_PAUSE),
            locate_pause: FIRST_LOCATE_PAUSE,
            began: now,
            last_received: None,
            silent_since: now,
            has_received: false,
            faults: [0; DropReason::ALL.len()],
        };
        session.restart(now);
        session
    }

    /// Sends keepalives at once, because the local or the broker's address has changed.
    pub fn restart(&mut self, now: Duration) {
        self.keepalives.restart(now);
        self.probe_due = now;
        self.probe_pause = FIRST_PROBE_PAUSE;
        self.locate_due = now.saturating_add(FIRST_LOCATE_PAUSE);
        self.locate_pause = FIRST_LOCATE_PAUSE;
        self.began = now;
    }

    /// Resumes a session that the broker still knows. `last_received`: time of its last datagram; `due`:
    /// time when it expects the next keepalive.
    pub const fn resume(&mut self, last_received: Duration, due: Duration) {
        self.keepalives.resume(due);
        self.began = last_received;
        self.last_received = Some(last_received);
        self.silent_since = last_received;
        self.has_received = true;
    }

    /// The local inner address.
    #[must_use]
    pub const fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// Time of the next keepalive.
    #[must_use]
    pub const fn keepalive_due(&self) -> Duration {
        self.keepalives.due()
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
                self.last_received = Some(now.elapsed);
                self.silent_since = now.elapsed;
                self.has_received = true;
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
    pub fn is_answering(&self, now: Duration) -> bool {
        self.last_received
            .is_some_and(|last_received| now < last_received.saturating_add(SILENCE))
    }

    /// Whether a valid datagram ever arrived.
    #[must_use]
    pub const fn has_received(&self) -> bool {
        self.has_received
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
        let due = self.keepalives.due();
        let quiet = match self.last_received {
            Some(last_received)
                if last_received >= self.began && now < last_received.saturating_add(SILENCE) =>
            {
                last_received.saturating_add(SILENCE)
            }
            _ => self.probe_due.min(self.locate_due),
        };
        due.min(quiet)
    }

    /// Returns the next action; to be called until it returns `None`.
    pub fn poll(&mut self, now: Now) -> Option<Action> {
        let Now {
            elapsed,
            unix_seconds,
        } = now;
        if self.keepalives.take(elapsed) {
            return Some(Action::Send(self.sealer.keepalive(unix_seconds).to_vec()));
        }
        if let Some(last_received) = self.last_received
            && last_received >= self.began
        {
            if elapsed < last_received.saturating_add(SILENCE) {
                return None;
            }
            // Silence begins. Everything starts again, except the keepalives, which continue.
            self.last_received = None;
            self.probe_due = elapsed;
            self.probe_pause = FIRST_PROBE_PAUSE;
            self.locate_due = elapsed.saturating_add(FIRST_LOCATE_PAUSE);
            self.locate_pause = FIRST_LOCATE_PAUSE;
        }
        if elapsed >= self.locate_due {
            self.locate_pause = self
                .locate_pause
                .saturating_mul(2)
                .min(LONGEST_LOCATE_PAUSE);
            self.locate_due = elapsed.saturating_add(self.locate_pause);
            return Some(Action::LocateAgain);
        }
        if elapsed >= self.probe_due {
            self.probe_due = elapsed.saturating_add(self.probe_pause);
            self.probe_pause = self.probe_pause.saturating_mul(2).min(LONGEST_PROBE_PAUSE);
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
