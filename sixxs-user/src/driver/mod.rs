//! Who brings a tunnel's interface up, and keeps it there.
//!
//! A driver is given its part of the configuration, and after each of the daemon's looks at the
//! host what was seen of the interface. It says `Working`, `Done` (the interface is there or about
//! to appear) or `Failed`; whether the interface is there is for netlink to say. It ends by
//! [`Driver::stop`] or [`Driver::leave`], which wait for it; dropped, it ends by force. New kinds of
//! tunnel come in here, and nowhere else in the daemon.
//!
//! Tasks: at most one per driver, which ends with it, and one per command that it runs
//! ([`last_words`]).

mod backoff;
mod command;
mod last_words;
mod native;
pub(crate) mod process;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use sixxs_core::{
    broker::ayiya::wire::Fault,
    config::{Config, Kind, Learned, Tunnel},
    link::Link,
    tunnel::Driver as State,
    types::IfName,
};
use tokio::sync::{Notify, watch};

pub(crate) use self::native::kept::Ways;

use self::native::engine::Engine;
use crate::{
    broker::{cache::Cache, connects::Connects},
    clock::Clock,
    fd_store::FdStore,
    paths::Paths,
};

/// Rung when any driver has something new to say.
pub type Bell = Arc<Notify>;

/// What drivers share.
pub struct Services {
    /// Rung when any of them has something new to say.
    pub bell: Bell,
    /// What time it is.
    pub clock: Clock,
    /// Leave to connect to brokers.
    pub connects: Connects,
    /// What brokers said.
    pub cache: Cache,
    /// How brokers were reached.
    pub(crate) ways: Ways,
    /// What systemd holds.
    pub(crate) fd_store: FdStore,
    /// Started with the first native tunnel.
    engine: OnceLock<Engine>,
}

impl Services {
    /// Nothing is started yet.
    #[must_use]
    pub(crate) fn new(
        bell: Bell,
        clock: Clock,
        connects: Connects,
        paths: &Paths,
        fd_store: FdStore,
    ) -> Self {
        Self {
            bell,
            clock,
            cache: Cache::new(&paths.state_dir),
            ways: Ways::new(&paths.run_dir),
            fd_store,
            connects,
            engine: OnceLock::new(),
        }
    }

    /// What is known from before of tunnels that brokers were asked about.
    pub async fn known(&self, config: &Config) -> BTreeMap<IfName, Learned> {
        known(&self.cache, config).await
    }

    fn engine(&self) -> anyhow::Result<&Engine> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::start()?;
        Ok(self.engine.get_or_init(|| engine))
    }
}

/// What brokers said of tunnels when they were last asked.
pub async fn known(cache: &Cache, config: &Config) -> BTreeMap<IfName, Learned> {
    let mut known = BTreeMap::new();
    for Tunnel { name, kind, .. } in &config.tunnels {
        if let Kind::Account(account) = kind
            && let Some(learned) = native::account::known(cache, name, account).await
        {
            known.insert(name.clone(), learned);
        }
    }
    known
}

/// What a driver last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// How it is getting on.
    pub state: State,
    /// Whether the interface is there and of its making.
    pub has_made: bool,
    /// The broker that it sends to: an address, with a port where there is one.
    pub endpoint: Option<String>,
    /// What carries it: `tun` or `sit`.
    pub carrier: Option<&'static str>,
    /// What the broker said about the tunnel.
    pub learned: Option<Learned>,
}

/// What came from a broker and was refused, by [`Fault::ALL`]. Written by the tunnel's thread.
pub type Refusals = [AtomicU64; Fault::ALL.len()];

/// The driver of a tunnel that was started.
pub struct Driver {
    kind: Driven,
    refusals: Arc<Refusals>,
    /// Its own, so that nothing an earlier driver said is taken for this one's word.
    said: watch::Receiver<Said>,
}

enum Driven {
    /// Somebody else makes the interface: there is nothing to do.
    Interface,
    /// Commands of the user's.
    Command(command::Command),
    /// We do.
    Native(native::Native),
}

impl Driver {
    /// Starts it. It does nothing until it is told what is there. `refresh`: what a broker said
    /// before does not count.
    #[must_use]
    pub fn start(tunnel: &Tunnel, services: &Services, refresh: bool) -> Self {
        let initial = match tunnel.kind {
            Kind::Interface => State::Idle,
            _ => State::Working(None),
        };
        let (report, said) = Report::new(initial, &services.bell);
        let refusals = Arc::clone(&report.refusals);
        let kind = match &tunnel.kind {
            Kind::Interface => Driven::Interface,
            Kind::Command { up, down } => {
                Driven::Command(command::Command::start(up.clone(), down.clone(), report))
            }
            Kind::SixInFour(_) | Kind::Ayiya(_) | Kind::Account(_) => {
                Driven::Native(native::Native::start(tunnel, report, services, refresh))
            }
        };
        Self {
            kind,
            refusals,
            said,
        }
    }

    /// What came from its broker and was refused.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// What it last said.
    #[must_use]
    pub fn said(&self) -> Said {
        self.said.borrow().clone()
    }

    /// Tells it what was just seen of its interface; `None`: there is none.
    pub fn saw(&self, link: Option<&Link>) {
        match &self.kind {
            Driven::Interface => {}
            Driven::Command(command) => command.saw(link),
            Driven::Native(native) => native.saw(link),
        }
    }

    /// Takes the interface down, as far as that is the driver's part.
    pub async fn stop(self) -> anyhow::Result<()> {
        match self.kind {
            Driven::Interface => Ok(()),
            Driven::Command(command) => command.stop().await,
            Driven::Native(native) => native.stop().await,
        }
    }

    /// Leaves the interface to itself, and nothing about it half-done.
    pub async fn leave(self) -> anyhow::Result<()> {
        match self.kind {
            Driven::Interface => Ok(()),
            Driven::Command(command) => command.leave().await,
            Driven::Native(native) => native.leave().await,
        }
    }
}

/// How a driver says how it is getting on.
#[derive(Clone)]
struct Report {
    refusals: Arc<Refusals>,
    said: watch::Sender<Said>,
    bell: Bell,
}

impl Report {
    fn new(initial: State, bell: &Bell) -> (Self, watch::Receiver<Said>) {
        let (said, heard) = watch::channel(Said {
            state: initial,
            has_made: false,
            endpoint: None,
            carrier: None,
            learned: None,
        });
        let bell = Arc::clone(bell);
        let refusals = Arc::default();
        (
            Self {
                refusals,
                said,
                bell,
            },
            heard,
        )
    }

    fn say(&self, state: State) {
        self.change(|said| said.state = state);
    }

    /// The interface is there, and of our making, or is not.
    fn made(&self, has_made: bool) {
        self.change(|said| said.has_made = has_made);
    }

    fn endpoint(&self, endpoint: impl ToString, carrier: &'static str) {
        self.change(|said| {
            said.endpoint = Some(endpoint.to_string());
            said.carrier = Some(carrier);
        });
    }

    fn learned(&self, learned: Learned) {
        self.change(|said| said.learned = Some(learned));
    }

    /// Something was refused. No news: a flood of it must not keep the daemon busy.
    fn refused(&self, fault: Fault) {
        self.refusals[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The bell rings only for news.
    fn change(&self, change: impl FnOnce(&mut Said)) {
        let is_new = self.said.send_if_modified(|said| {
            let before = said.clone();
            change(said);
            *said != before
        });
        if is_new {
            self.bell.notify_one();
        }
    }
}
