//! Our end of an AYIYA tunnel: datagrams and time in; packets, beats and doubts out.
//!
//! The broker answers no beat. What tells that a tunnel works in both directions is a [`probe`]: an
//! echo request to the broker's address in the tunnel, sent with the first beats and whenever
//! nothing was heard for long.
//!
//! ```text
//!            begin                 first good datagram
//!   Trying ─────────── beats, ──────────────────────────▶ Answering
//!     ▲                probes                                 │
//!     └───────────────────────────────────────────────────────┘
//!        nothing heard for SILENCE: probes; the endpoint is looked for anew, ever more seldom
//! ```

pub mod probe;
pub mod replay;
pub mod wire;

use std::{net::Ipv6Addr, time::Duration};

use self::{
    probe::Probe,
    replay::Replay,
    wire::{Fault, HEADER_BYTES, Opener, Sealer},
};
use super::beats::Beats;
use crate::secret::Secret;

/// Beats at a start.
const BURST: u8 = 3;

/// Brokers ping every 60 s and take 120 s of silence for death; so do we, from their side.
pub const SILENCE: Duration = Duration::from_secs(130);

/// Between probes while nothing is heard, at first; doubled each time.
const FIRST_PROBE_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PROBE_PAUSE: Duration = Duration::from_secs(30);

/// Until the endpoint is looked for anew, at first; doubled each time.
const FIRST_DOUBT: Duration = Duration::from_secs(30);
const LONGEST_DOUBT: Duration = Duration::from_secs(600);

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since any fixed moment; goes on while the machine sleeps.
    pub elapsed: Duration,
    /// Unix time, in seconds; may jump.
    pub unix_seconds: u64,
}

/// What makes a tunnel.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Our address in the tunnel.
    pub address: Ipv6Addr,
    /// The broker's.
    pub peer: Ipv6Addr,
    /// Shared with the broker.
    pub password: Secret,
    /// Between beats.
    pub interval: Duration,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this datagram to the broker.
    Send(Vec<u8>),
    /// The broker does not answer: it may be somewhere else, or what is between us may have
    /// forgotten our port.
    Doubt,
}

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A packet for this host.
    Packet(&'a [u8]),
    /// A sign of life.
    Alive,
}

/// Our end.
pub struct Session {
    address: Ipv6Addr,
    sealer: Sealer,
    opener: Opener,
    replay: Replay,
    beats: Beats,
    probe: Probe,
    probe_due: Duration,
    probe_pause: Duration,
    doubt_due: Duration,
    doubt_pause: Duration,
    /// The last time that the broker was told of us anew.
    began: Duration,
    /// When it was last heard of, unless that is too long ago.
    heard: Option<Duration>,
    /// The same, or else when it was first tried.
    silent_since: Duration,
    was_heard: bool,
    faults: [u64; Fault::ALL.len()],
}

impl Session {
    /// Begins with a beat at once.
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
            beats: Beats::new(BURST, *interval, now),
            probe: Probe::new(*address, *peer),
            probe_due: now,
            probe_pause: FIRST_PROBE_PAUSE,
            doubt_due: now.saturating_add(FIRST_DOUBT),
            doubt_pause: FIRST_DOUBT,
            began: now,
            heard: None,
            silent_since: now,
            was_heard: false,
            faults: [0; Fault::ALL.len()],
        };
        session.begin_again(now);
        session
    }

    /// The broker is to hear of us at once: our address or its has changed.
    pub fn begin_again(&mut self, now: Duration) {
        self.beats.begin_again(now);
        self.probe_due = now;
        self.probe_pause = FIRST_PROBE_PAUSE;
        self.doubt_due = now.saturating_add(FIRST_DOUBT);
        self.doubt_pause = FIRST_DOUBT;
        self.began = now;
    }

    /// The broker takes us for the same as before: it was last `heard` of then, and expects a beat
    /// when it is `due`.
    pub const fn go_on(&mut self, heard: Duration, due: Duration) {
        self.beats.go_on(due);
        self.began = heard;
        self.heard = Some(heard);
        self.silent_since = heard;
        self.was_heard = true;
    }

    /// Our address in the tunnel.
    #[must_use]
    pub const fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// When the next beat is due.
    #[must_use]
    pub const fn beat_due(&self) -> Duration {
        self.beats.due()
    }

    /// Makes datagrams for the broker.
    #[must_use]
    pub const fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// A datagram came in.
    pub fn receive<'a>(&mut self, datagram: &'a [u8], now: Now) -> Result<Received<'a>, Fault> {
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

    fn check<'a>(&mut self, datagram: &'a [u8], now: Now) -> Result<Received<'a>, Fault> {
        let opened = self.opener.open(datagram, now.unix_seconds)?;
        if !self.replay.is_new(&opened.signature, opened.unix_seconds) {
            return Err(Fault::Repeat);
        }
        let Some(packet) = opened.packet else {
            return Ok(Received::Alive);
        };
        if source(packet) == Some(self.address) {
            return Err(Fault::OwnSource);
        }
        if self.probe.is_answer(packet) {
            return Ok(Received::Alive);
        }
        Ok(Received::Packet(packet))
    }

    /// Whether the broker was heard of lately.
    #[must_use]
    pub fn answers(&self, now: Duration) -> bool {
        self.heard
            .is_some_and(|heard| now < heard.saturating_add(SILENCE))
    }

    /// Whether it was ever heard of.
    #[must_use]
    pub const fn was_heard(&self) -> bool {
        self.was_heard
    }

    /// When it was last heard of, or else first tried.
    #[must_use]
    pub const fn silent_since(&self) -> Duration {
        self.silent_since
    }

    /// Datagrams refused, by [`Fault::ALL`].
    #[must_use]
    pub const fn faults(&self) -> &[u64; Fault::ALL.len()] {
        &self.faults
    }

    /// When [`Session::poll`] has something to do next.
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

    /// What is to be done now; to be asked until there is nothing.
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
            // Silence begins: as at a start, but for the beats, which go on.
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

/// The source of an IPv6 packet.
fn source(packet: &[u8]) -> Option<Ipv6Addr> {
    let octets = packet.get(8..24)?.first_chunk::<16>()?;
    Some(Ipv6Addr::from(*octets))
}

#[cfg(test)]
mod tests;
