//! Commands that show data.

use std::{
    env,
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use sixxs_core::routing::{Desired, diff};

use super::{
    broker_overlay,
    output::{json_line, note, print, print_and_exit_code, redraw},
};
use crate::{
    control::api::{Alert, Counters, Plan, Status},
    control::client,
    control::text,
    host::config_file,
    host::paths::{Paths, absolute},
    host::plain::Plain,
    netlink::{Netlink, Scope},
};

/// Width for wrapping: terminals have at least this many columns.
const COLUMNS: usize = 80;

/// Interval of `status --watch`.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn status(socket: &Path, json: bool, watch: bool) -> anyhow::Result<ExitCode> {
    if watch {
        self::watch(socket, json).await
    } else {
        snapshot(socket, json).await
    }
}

/// Shows the status once.
async fn snapshot(socket: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let status: Status = client::get(socket, "/v1/status").await?;
    print_and_exit_code(&shown(&status, json)?, status.healthy)
}

/// Shows the status every second until an error: redraws a terminal, or prints one status below the other.
async fn watch(socket: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let is_dumb = || env::var_os("TERM").is_some_and(|kind| kind == "dumb");
    let redraws = !json && io::stdout().is_terminal() && !is_dumb();
    let mut separator = "";
    loop {
        let status: Status = client::get(socket, "/v1/status").await?;
        let shown = shown(&status, json)?;
        if redraws {
            redraw(&shown)?;
        } else {
            print(&format!("{separator}{shown}"))?;
        }
        if !json {
            separator = "\n";
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn shown(status: &Status, json: bool) -> anyhow::Result<String> {
    Ok(if json {
        json_line(status)?
    } else if io::stdout().is_terminal() {
        text::wrapped(&text::status(status), COLUMNS)
    } else {
        text::status(status)
    })
}

pub(super) async fn counters(socket: &Path, json: bool, all: bool) -> anyhow::Result<ExitCode> {
    let counters: Counters = client::get(socket, "/v1/counters").await?;
    print(&if json {
        json_line(&counters)?
    } else {
        text::counters(&counters, all)
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn alerts(socket: &Path, json: bool, follow: bool) -> anyhow::Result<ExitCode> {
    let path = if follow {
        "/v1/alerts?follow=true"
    } else {
        "/v1/alerts"
    };
    client::lines(socket, path, |line| {
        if json {
            return print(&format!("{}\n", Plain::json(line)));
        }
        let alert: Alert = serde_json::from_str(line)?;
        let shown = format!("{} {}", alert.time, text::alert(&alert));
        print(&format!("{}\n", Plain::line(&shown)))
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// Shows missing objects. The daemon determines them, since it knows which tunnels are stopped. Without a
/// daemon, they come from the configuration and the kernel's state.
pub(super) async fn plan(paths: &Paths, json: bool) -> anyhow::Result<ExitCode> {
    let plan: Plan = match client::get(&paths.socket(), "/v1/plan").await {
        Ok(plan) => plan,
        Err(error) if error.is::<client::NoDaemon>() => {
            let config = config_file::read(&paths.config)?;
            let config = broker_overlay::with_broker_parameters(&config, paths, None).await;
            let observed = Netlink::open()?.observe(&Scope::of(&config)).await?;
            let config = broker_overlay::with_host(config, &observed);
            Plan::from(&diff(&Desired::new(&config, |_| true), &observed))
        }
        Err(error) => return Err(error),
    };
    let asked = absolute(&paths.config);
    if let Some(file) = plan.config.as_ref().filter(|file| **file != asked) {
        note(&format!(
            "this is about {file}, which the daemon runs by; for {asked} there is \
             `sixxs reload --check --config {asked}`"
        ));
    }
    let shown = if json {
        json_line(&plan)?
    } else {
        let problems = plan.problems.iter().map(|problem| format!("# {problem}\n"));
        let commands = plan.commands.iter().map(|command| format!("{command}\n"));
        problems.chain(commands).collect()
    };
    print_and_exit_code(&shown, plan.commands.is_empty() && plan.problems.is_empty())
}
