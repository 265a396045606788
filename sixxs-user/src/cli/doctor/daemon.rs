//! Facts about the daemon.

use sixxs_core::{config::Config, doctor::daemon::Daemon};

use super::{has_native, managers};
use crate::{
    control::api::{LinkState, State, Status},
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

/// The daemon's problems, the health problems of tunnels that are up, and the links of groups that cannot take over.
fn problems(status: &Status) -> Vec<String> {
    let tunnels = status
        .tunnels
        .iter()
        .filter(|tunnel| tunnel.state == State::Up);
    let reasons = tunnels.flat_map(|tunnel| {
        let reasons = tunnel.health_reasons.iter();
        reasons.map(|reason| format!("{} is {}: {reason}", tunnel.name, tunnel.health))
    });
    let groups = status.groups.iter();
    let spare = groups.flat_map(|group| {
        let links = group.links.iter();
        let bad = links.filter(|link| link.name != group.active && link.state != LinkState::Good);
        bad.map(|link| {
            let (group, link, state) = (&group.name, &link.name, link.state);
            format!("{link} is {state}, so it cannot take over the prefixes of {group}")
        })
    });
    let problems = status.problems.iter().cloned();
    problems.chain(reasons).chain(spare).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// That the active link fails is among the daemon's problems.
    #[test]
    fn links_that_cannot_take_over_are_problems() {
        let link = |name: &str, state: &str| json!({"name": name, "state": state});
        let links = [
            link("he", "failing"),
            link("wg0", "down"),
            link("he2", "good"),
        ];
        let status = json!({"healthy": false, "corrections": 0, "tunnels": [], "uplinks": [],
            "brokers": [], "problems": ["lan: no link is good"],
            "groups": [{"name": "lan", "active": "he", "active_seconds": 7.0, "switches": 1,
                "links": links, "prefixes": [], "table": 202, "routing": "in_place",
                "leaks": {"redirected": 0, "dropped": 0, "observed": 0, "too_big": 0}}]});
        let status: Status = serde_json::from_value(status).unwrap();
        assert_eq!(
            problems(&status),
            [
                "lan: no link is good",
                "wg0 is down, so it cannot take over the prefixes of lan"
            ]
        );
    }
}
