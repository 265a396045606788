//! Tunnels that the user's commands bring up and down.
//!
//! Argument vectors are run as they are, without a shell. A command has a time limit, its output is
//! kept only for its last line, and one that fails is tried again ever more seldom.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use sixxs_core::{tunnel::Driver as State, types::IfName};
use tokio::{io::AsyncReadExt as _, task::JoinHandle, time};

use super::Reports;

/// No command takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// First pause after a failure; it doubles each time. Well within what any broker allows.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// How long after a command's end its output is still read.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// Output looked at for the last line.
const OUTPUT_BYTES: u64 = 16 * 1024;

/// A tunnel made by commands.
pub struct Command {
    down: Vec<String>,
    task: JoinHandle<()>,
}

impl Drop for Command {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Command {
    /// Runs `up` in the background; `None`: the interface is there already.
    pub(super) fn start(
        name: IfName,
        up: Option<Vec<String>>,
        down: Vec<String>,
        reports: Reports,
    ) -> Self {
        let task = tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            while let Some(up) = &up {
                let Err(error) = run(up).await else {
                    break;
                };
                let failed = State::Failed(format!("{error:#}"));
                // A closed channel: the daemon is going away, and this task with it.
                if reports.send((name.clone(), failed)).await.is_err() {
                    return;
                }
                time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            // As above.
            let _going_away = reports.send((name, State::Done)).await;
        });
        Self { down, task }
    }

    /// Runs `down`.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.task.abort();
        let down = std::mem::take(&mut self.down);
        if down.is_empty() {
            return Ok(());
        }
        run(&down).await
    }
}

/// Runs a command to its end.
async fn run(command: &[String]) -> anyhow::Result<()> {
    let [program, arguments @ ..] = command else {
        bail!("an empty command");
    };
    let line = command.join(" ");
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("run `{line}`"))?;
    let stderr = child.stderr.take();
    let mut output = Vec::new();
    let read = async {
        if let Some(stderr) = stderr {
            // A pipe that breaks leaves what was read until then.
            let _partial = stderr.take(OUTPUT_BYTES).read_to_end(&mut output).await;
        }
    };
    // A process that the command leaves behind may hold the pipe open: the command's own end is
    // what counts, and then a moment for its last words.
    let wait = async {
        let status = child.wait().await;
        time::sleep(LAST_WORDS).await;
        status
    };
    let ended = time::timeout(LIMIT, async {
        tokio::pin!(read, wait);
        tokio::select! {
            status = &mut wait => status,
            () = &mut read => wait.await,
        }
    })
    .await;
    let Ok(status) = ended else {
        bail!("`{line}` did not end within {} s", LIMIT.as_secs());
    };
    let status = status.with_context(|| format!("wait for `{line}`"))?;
    if status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&output);
    match output.lines().rfind(|line| !line.trim().is_empty()) {
        Some(last) => bail!("`{line}` ended with {status}: {last}"),
        None => bail!("`{line}` ended with {status}"),
    }
}
