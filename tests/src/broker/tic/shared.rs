//! Owns the state that the TIC server shares with its connections: settings, injected faults, and the record of
//! connects.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use super::dialogue::Stage;
use super::lockout::{Lockout, Rule, Verdict};
use super::registry::Registry;
use crate::broker::clock::Clock;
use crate::broker::random::Random;

/// Connects to remember, and lines of each.
const MOST_REMEMBERED: usize = 10_000;
pub(super) const MOST_LINES: usize = 100;

/// A fault to inject instead of a valid answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Sends nothing until the client or the test closes.
    Stall,
    /// Sends some hundred random bytes and a newline; the dialogue continues.
    Garbage,
    /// Sends this number of bytes without a newline, then closes.
    Flood(u64),
    /// Closes the connection.
    Close,
    /// Sends this text; closes if it replaces the greeting.
    Say(String),
    /// Sends the valid answer, one byte at a time with this pause between them.
    Trickle(Duration),
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is still open.
    Open,
    /// The rate limit for connects refused it.
    Locked(Verdict),
    /// There were `MOST_CONNECTIONS` already.
    Busy,
    /// The client sent `QUIT`.
    Quit,
    /// The client closed without `QUIT`.
    Left,
    /// Ended by a [`Fault`].
    Misbehaved,
    /// Time-outs, TLS alerts, broken connections.
    Failed(String),
}

/// One connect to the server.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Time of the connect, by the machine's clock.
    pub at: Instant,
    /// Time of the connect, by the server's clock, since the Unix epoch.
    pub time: Duration,
    /// The client's address and port.
    pub from: SocketAddr,
    /// Name that the client sent.
    pub client: Option<String>,
    /// User name that it sent.
    pub user: Option<String>,
    /// Whether the password was correct.
    pub logged_in: bool,
    /// Whether the connection used TLS at its end.
    pub tls: bool,
    /// The client's lines, at most a hundred.
    pub lines: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) time_ahead: AtomicI64,
    pub(super) seed: AtomicU64,
    pub(super) settings: Mutex<Settings>,
    pub(super) lockout: Mutex<(Rule, Lockout)>,
    /// Connects by number.
    pub(super) connects: Mutex<BTreeMap<u64, Connect>>,
}

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) registry: Registry,
    pub(super) fault: Option<(Stage, Fault)>,
    pub(super) tls: Arc<ServerConfig>,
    pub(super) idle_limit: Duration,
}

impl Shared {
    pub(super) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fault_at(&self, stage: Stage) -> Option<Fault> {
        let settings = self.settings();
        let (at, fault) = settings.fault.as_ref()?;
        (*at == stage).then(|| fault.clone())
    }

    pub(super) fn connects(&self) -> MutexGuard<'_, BTreeMap<u64, Connect>> {
        self.connects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a connect and returns its number.
    pub(super) fn enter(&self, from: SocketAddr, outcome: Outcome) -> u64 {
        let mut connects = self.connects();
        let number = connects
            .last_key_value()
            .map_or(0, |(number, _)| number + 1);
        if connects.len() >= MOST_REMEMBERED {
            connects.pop_first();
        }
        connects.insert(
            number,
            Connect {
                at: Instant::now(),
                time: self.clock.now(),
                from,
                client: None,
                user: None,
                logged_in: false,
                tls: false,
                lines: Vec::new(),
                outcome,
            },
        );
        number
    }

    pub(super) fn note(&self, number: u64, change: impl FnOnce(&mut Connect)) {
        if let Some(connect) = self.connects().get_mut(&number) {
            change(connect);
        }
    }

    /// The time in the protocol: the clock's, plus the error that a test set.
    pub(super) fn unix_seconds(&self) -> u64 {
        let ahead = self.time_ahead.load(Ordering::Relaxed);
        self.clock.seconds().saturating_add_signed(ahead)
    }

    pub(super) fn challenge(&self) -> String {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        crate::broker::hex(&Random::new(seed ^ self.clock.seconds()).bytes(16))
    }
}
