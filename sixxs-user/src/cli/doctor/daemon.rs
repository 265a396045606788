//! Facts about the daemon.

use sixxs_core::{config::Config, doctor::daemon::Daemon};

use super::{has_native, managers};
use crate::{
    control::api::{State, Status},
    control::client,
    host::paths::Paths,
};

/// Facts about the daemon, by its status or the reason why there is none.
pub(super) async fn daemon(
    paths: &Paths,
    config: Option<&Config>,
    status: Result<&Status, &anyhow::Error>,
) -> Daemon {
    let (mut not_asked, mut silent) = (None, None);
    if let Err(error) = status {
        if error.is::<client::Silent>() {
            silent = Some(error.to_string());
        } else if !error.is::<client::NoDaemon>() {
            not_asked = Some(format!("{error:#}"));
        }
    }
    Daemon {
        problems: status.ok().map(problems),
        not_asked,
        silent,
        missing: 0,
        others: managers::other_daemons(paths).await,
        group: managers::group(&paths.group),
        not_writable: config
            .filter(|config| has_native(config))
            .and_then(|_| managers::not_writable(&paths.state_dir)),
    }
}

/// The daemon's problems, and the health problems of tunnels that are up.
fn problems(status: &Status) -> Vec<String> {
    let tunnels = status
        .tunnels
        .iter()
        .filter(|tunnel| tunnel.state == State::Up);
    let reasons = tunnels.flat_map(|tunnel| {
        let reasons = tunnel.health_reasons.iter();
        reasons.map(|reason| format!("{} is {}: {reason}", tunnel.name, tunnel.health))
    });
    status.problems.iter().cloned().chain(reasons).collect()
}
