//! `sixxs reload`, and `sixxs reload --check`: shows the changes that a reload would make.

use std::{collections::BTreeSet, path::Path, process::ExitCode};

use sixxs_core::config::Config;

use super::{
    BAD_CONFIG,
    show::{line, note, print, print_result},
};
use crate::{
    broker::{cache::Cache, connects::Connects},
    control::api::{CheckReload, ConfigText, Preview, Reload},
    control::client,
    driver,
    host::clock::Clock,
    host::config_file,
    host::paths::{Paths, absolute},
    netlink::Netlink,
    preview::{CurrentState, preview},
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
pub(super) async fn check(paths: &Paths, json: bool, is_given: bool) -> anyhow::Result<ExitCode> {
    let mut asked = CheckReload::default();
    if is_given {
        let (_, text) = config_file::read_text(&paths.config)?;
        asked.instead = Some(ConfigText {
            file: absolute(&paths.config),
            text: text.to_string(),
        });
    }
    let outcome = client::ask(&paths.socket(), "/v1/reload/check", &asked).await;
    let found: Preview = match outcome {
        Err(error) if error.is::<client::NoDaemon>() => {
            note("there is no daemon: this is what its start would do");
            without_daemon(paths).await?
        }
        outcome => outcome?,
    };
    let shown = if json { line(&found)? } else { text(&found) };
    let is_nothing = found.is_nothing();
    let status = print_result(&shown, is_nothing)?;
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
    preview(before, &new, &learned, &mut netlink, &connects, &clock).await
}

/// Shell commands; everything else is in shell comments.
fn text(found: &Preview) -> String {
    let mut lines = Vec::new();
    let mut list = |names: &[String], what: &str, becomes: &str| {
        lines.extend(names.iter().map(|name| format!("# {what}{name}{becomes}")));
    };
    list(&found.faults, "", "");
    list(&found.tunnels.added, "tunnel ", " is added");
    list(&found.tunnels.removed, "tunnel ", " is removed");
    list(&found.tunnels.restarted, "tunnel ", " is restarted");
    list(&found.tunnels.altered, "tunnel ", " continues, changed");
    list(&found.settings, "setting `", "` has another value");
    list(&found.uplinks.guarded, "uplink ", " gets the program");
    list(&found.uplinks.released, "uplink ", " loses the program");
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
