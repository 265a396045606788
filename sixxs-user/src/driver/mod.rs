//! Who brings a tunnel's interface up.
//!
//! A driver is given its part of the configuration. It reports `Working`, `Done` (the interface is
//! there or about to appear) or `Failed`; whether the interface is there is for netlink to say. New
//! kinds of tunnel come in here, and nowhere else in the daemon.
//!
//! Tasks: at most one per driver; [`Driver::stop`] ends it, and so does dropping the driver.

mod command;

use sixxs_core::{
    config::{Kind, Tunnel},
    tunnel::Driver as State,
    types::IfName,
};
use tokio::sync::mpsc;

/// Where drivers report to.
pub type Reports = mpsc::Sender<(IfName, State)>;

/// The driver of a tunnel that was started.
pub enum Driver {
    /// Somebody else makes the interface: there is nothing to do.
    Interface,
    /// Commands of the user's.
    Command(command::Command),
}

impl Driver {
    /// Starts it. Where the interface exists already it is taken over as it is.
    #[must_use]
    pub fn start(tunnel: &Tunnel, exists: bool, reports: &Reports) -> Self {
        match &tunnel.kind {
            Kind::Interface => Self::Interface,
            Kind::Command { up, down } => Self::Command(command::Command::start(
                tunnel.name.clone(),
                (!exists).then(|| up.clone()),
                down.clone(),
                reports.clone(),
            )),
        }
    }

    /// The state that it starts in.
    #[must_use]
    pub const fn initial(&self) -> State {
        match self {
            Self::Interface => State::Idle,
            Self::Command(_) => State::Working,
        }
    }

    /// Takes the interface down, as far as that is the driver's part.
    pub async fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Interface => Ok(()),
            Self::Command(command) => command.stop().await,
        }
    }
}
