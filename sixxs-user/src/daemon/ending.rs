//! The end of the daemon: why it ends, and what that means for the tunnels.

use tokio::sync::mpsc;

use super::tunnels::{AfterStop, Tunnels, detach_all, stop_all};
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

/// Ends all drivers, and waits for the tasks that are stopping others. Returns errors, as messages.
pub(super) async fn end_drivers(
    tunnels: Tunnels,
    stops_tunnels: bool,
    mut stopped: mpsc::Receiver<AfterStop>,
) -> Vec<String> {
    let drivers = tunnels.into_drivers();
    let ending = async {
        match stops_tunnels {
            true => stop_all(drivers).await,
            false => detach_all(drivers).await,
        }
    };
    let stopping = async {
        let mut problems = Vec::new();
        while let Some(after) = stopped.recv().await {
            problems.extend(after.problems);
        }
        problems
    };
    let (mut problems, more) = tokio::join!(stopping, ending);
    problems.extend(more);
    problems
}
