//! Commands that show data.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::Serialize;
use sixxs_core::routing::{Desired, diff};

use super::{UNHEALTHY, broker_overlay};
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

pub(super) async fn status(socket: &Path, json: bool, watch: bool) -> anyhow::Result<ExitCode> {
    let draws = io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|kind| kind != "dumb");
    let mut is_first = true;
    loop {
        let status: Status = client::get(socket, "/v1/status").await?;
        let shown = if json {
            line(&status)?
        } else if io::stdout().is_terminal() {
            text::wrapped(&text::status(&status), COLUMNS)
        } else {
            text::status(&status)
        };
        if !watch {
            return print_result(&shown, status.healthy);
        }
        if json || is_first && !draws {
            print(&shown)?;
        } else if draws {
            redraw(&Plain::lines(&shown))?;
        } else {
            print(&format!("\n{shown}"))?;
        }
        is_first = false;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Redraws the screen: moves the cursor home, clears each line to its end, then clears the rest.
fn redraw(screen: &Plain) -> anyhow::Result<()> {
    let lines = screen.as_str().replace('\n', "\x1b[K\n");
    write(&format!("\x1b[H{lines}\x1b[J"))
}

pub(super) async fn counters(socket: &Path, json: bool, all: bool) -> anyhow::Result<ExitCode> {
    let counters: Counters = client::get(socket, "/v1/counters").await?;
    print(&if json {
        line(&counters)?
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
        Err(_) => {
            let config = config_file::read(&paths.config)?;
            let config = broker_overlay::with_broker_parameters(&config, paths, None).await;
            let observed = Netlink::open()?.observe(&Scope::of(&config)).await?;
            let config = broker_overlay::with_local_networks(config, &observed);
            Plan::from(&diff(&Desired::new(&config, |_| true), &observed))
        }
    };
    let asked = absolute(&paths.config);
    if let Some(file) = plan.config.as_ref().filter(|file| **file != asked) {
        note(&format!(
            "this is about {file}, which the daemon runs by; for {asked} there is \
             `sixxs reload --check --config {asked}`"
        ));
    }
    let shown = if json {
        line(&plan)?
    } else {
        let problems = plan.problems.iter().map(|problem| format!("# {problem}\n"));
        let commands = plan.commands.iter().map(|command| format!("{command}\n"));
        problems.chain(commands).collect()
    };
    print_result(&shown, plan.commands.is_empty() && plan.problems.is_empty())
}

/// Prints a note to stderr.
pub(super) fn note(text: &str) {
    // An error means that stderr is closed, which does not matter.
    let _unheard = writeln!(io::stderr(), "sixxs: note: {}", Plain::line(text));
}

pub(super) fn exit(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(UNHEALTHY)
    }
}

pub(super) fn line<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(format!("{}\n", Plain::json(&serde_json::to_string(value)?)))
}

/// The reader of the output has closed the pipe: `sixxs alerts | head`.
#[derive(Debug, thiserror::Error)]
#[error("the output is not read any more")]
pub(super) struct ReaderGone;

/// Prints a command's output: all output goes through here.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    write(Plain::lines(text).as_str())
}

/// Prints all output of a command and returns its exit status, which does not depend on the reader.
pub(super) fn print_result(text: &str, good: bool) -> anyhow::Result<ExitCode> {
    match print(text) {
        Err(error) if !error.is::<ReaderGone>() => Err(error),
        _ => Ok(exit(good)),
    }
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => bail!(ReaderGone),
        written => written.context("write to stdout"),
    }
}

/// Prints a message to stderr.
pub(super) fn print_error(text: &str) {
    // An error means that stderr is closed, which does not matter.
    let _unheard = writeln!(io::stderr(), "sixxs: {}", Plain::lines(text));
}
