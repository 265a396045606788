//! `sixxs reload`, and `sixxs reload --check`: shows the changes that a reload would make.

use std::{collections::BTreeSet, path::Path, process::ExitCode};

use sixxs_core::config::Config;

use super::{
    BAD_CONFIG,
    output::{json_line, note, print, print_and_exit_code},
};
use crate::{
    broker::{cache::Cache, connects::Connects, endpoint_update::UpdateStore},
    control::api::{CheckReload, ConfigText, Preview, Reload},
    control::client,
    driver,
    host::clock::Clock,
    host::config_file,
    host::paths::{Paths, absolute},
    netlink::Netlink,
    preview::{CurrentState, Ledgers, preview},
};

/// Lets the daemon load the file. `confirm`: the number of seconds after which it reverts without a
/// confirmation.
pub(super) async fn reload(
    socket: &Path,
    json: bool,
    confirm: Option<u64>,
) -> anyhow::Result<ExitCode> {
    let reload = Reload {
        confirm_within_seconds: confirm,
    };
    client::post(socket, "/v1/reload", &reload).await?;
    if let Some(seconds) = confirm.filter(|_| !json) {
        print(&format!(
            "the new configuration is in force; in {seconds} s the one before is restored, unless \
             `sixxs confirm` comes first\n"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Queries the daemon; without a daemon, everything in the file is new. `is_given`: the file is named on the
/// command line or in the environment, and may differ from the daemon's.
pub(super) async fn preview_reload(
    paths: &Paths,
    json: bool,
    is_given: bool,
) -> anyhow::Result<ExitCode> {
    let mut request = CheckReload::default();
    if is_given {
        let (_, text) = config_file::read_text(&paths.config)?;
        request.instead = Some(ConfigText {
            file: absolute(&paths.config),
            text: text.to_string(),
        });
    }
    let outcome = client::ask(&paths.socket(), "/v1/reload/check", &request).await;
    let found: Preview = match outcome {
        Err(error) if error.is::<client::NoDaemon>() => {
            note("there is no daemon: this is what its start would do");
            without_daemon(paths).await?
        }
        outcome => outcome?,
    };
    let shown = if json {
        json_line(&found)?
    } else {
        text(&found)
    };
    let is_nothing = found.is_nothing();
    let status = print_and_exit_code(&shown, is_nothing)?;
    Ok(if found.faults.is_empty() {
        status
    } else {
        ExitCode::from(BAD_CONFIG)
    })
}

async fn without_daemon(paths: &Paths) -> anyhow::Result<Preview> {
    let new = config_file::read(&paths.config)?;
    let learned = driver::stored_parameters(&Cache::new(&paths.state_dir), &new).await;
    let connects = Connects::new(&paths.state_dir, new.connect_limit);
    let nothing = Config::default();
    let before = CurrentState {
        config: &nothing,
        in_force: &nothing,
        stopped: BTreeSet::new(),
    };
    let mut netlink = Netlink::open()?;
    let clock = Clock::default();
    let updates = UpdateStore::new(&paths.state_dir);
    let ledgers = Ledgers {
        connects: &connects,
        updates: &updates,
        clock: &clock,
    };
    preview(before, &new, &learned, &mut netlink, ledgers).await
}

/// Shell commands; everything else is in shell comments.
fn text(found: &Preview) -> String {
    let tunnels = &found.tunnels;
    let uplinks = &found.uplinks;
    let mut lines = Vec::new();
    for (names, line) in [
        (&found.faults, "# NAME"),
        (&tunnels.added, "# tunnel NAME is added"),
        (&tunnels.removed, "# tunnel NAME is removed"),
        (&tunnels.restarted, "# tunnel NAME is restarted"),
        (&tunnels.altered, "# tunnel NAME continues, changed"),
        (&found.settings, "# setting `NAME` has another value"),
        (&uplinks.guarded, "# uplink NAME gets the program"),
        (&uplinks.released, "# uplink NAME loses the program"),
    ] {
        lines.extend(names.iter().map(|name| line.replace("NAME", name)));
    }
    for needed in &found.connects {
        let next = needed.next.as_ref();
        let next = next.map_or_else(String::new, |next| format!("; the next one at {next}"));
        lines.push(format!(
            "# connects to {}: {} needed, {} left{next}",
            needed.broker, needed.connects, needed.left
        ));
    }
    lines.extend(
        found
            .problems
            .iter()
            .map(|problem| format!("# problem: {problem}")),
    );
    lines.extend(found.commands.iter().cloned());
    if lines.is_empty() {
        lines.push("# nothing changes".to_owned());
    }
    lines.join("\n") + "\n"
}
