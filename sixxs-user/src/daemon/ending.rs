//! Why the daemon ends, and what that means for the tunnels.

use crate::control::Quit;

/// Why the daemon ends.
pub(super) enum Ending {
    /// No tunnel is left.
    Idle,
    /// A signal.
    Signal,
    /// A client, which waits for the end.
    Request(Quit),
}

impl Ending {
    /// Whether the tunnels are stopped too.
    pub(super) const fn stops_tunnels(&self) -> bool {
        match self {
            Self::Idle => true,
            Self::Signal => false,
            Self::Request(quit) => quit.stop,
        }
    }

    /// What happens now, for the log.
    pub(super) const fn words(&self) -> &'static str {
        match self {
            Self::Idle => "no tunnel is left: ending, and removing rules, routes and programs",
            Self::Request(Quit { stop: true, .. }) => {
                "stopping all tunnels and ending; `sixxs down` removes rules, routes and programs"
            }
            Self::Signal | Self::Request(_) => "ending; rules, routes and programs stay in place",
        }
    }
}
