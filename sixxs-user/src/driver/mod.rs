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
mod process;

use std::sync::Arc;

use sixxs_core::{
    config::{Kind, Tunnel},
    link::Link,
    tunnel::Driver as State,
};
use tokio::sync::{Notify, watch};

/// Rung when any driver has something new to say.
pub type Bell = Arc<Notify>;

/// The driver of a tunnel that was started.
pub struct Driver {
    kind: Driven,
    /// Its own, so that nothing an earlier driver said is taken for this one's word.
    state: watch::Receiver<State>,
}

enum Driven {
    /// Somebody else makes the interface: there is nothing to do.
    Interface,
    /// Commands of the user's.
    Command(command::Command),
}

impl Driver {
    /// Starts it. It does nothing until it is told what is there.
    #[must_use]
    pub fn start(tunnel: &Tunnel, bell: &Bell) -> Self {
        let report = |initial| Report::new(initial, bell);
        let (kind, state) = match &tunnel.kind {
            Kind::Interface => (Driven::Interface, report(State::Idle).1),
            Kind::Command { up, down } => {
                let (report, state) = report(State::Working);
                let command = command::Command::start(up.clone(), down.clone(), report);
                (Driven::Command(command), state)
            }
        };
        Self { kind, state }
    }

    /// What it last said.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Tells it what was just seen of its interface; `None`: there is none.
    pub fn saw(&self, link: Option<&Link>) {
        match &self.kind {
            Driven::Interface => {}
            Driven::Command(command) => command.saw(link),
        }
    }

    /// Takes the interface down, as far as that is the driver's part.
    pub async fn stop(self) -> anyhow::Result<()> {
        match self.kind {
            Driven::Interface => Ok(()),
            Driven::Command(command) => command.stop().await,
        }
    }

    /// Leaves the interface to itself, and nothing about it half-done.
    pub async fn leave(self) -> anyhow::Result<()> {
        match self.kind {
            Driven::Interface => Ok(()),
            Driven::Command(command) => command.leave().await,
        }
    }
}

/// How a driver says how it is getting on.
struct Report {
    state: watch::Sender<State>,
    bell: Bell,
}

impl Report {
    fn new(initial: State, bell: &Bell) -> (Self, watch::Receiver<State>) {
        let (state, said) = watch::channel(initial);
        let bell = Arc::clone(bell);
        (Self { state, bell }, said)
    }

    fn say(&self, state: State) {
        self.state.send_replace(state);
        self.bell.notify_one();
    }
}
