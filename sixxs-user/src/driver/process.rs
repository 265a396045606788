//! A running command of the user.
//!
//! It runs without a shell, in a process group of its own: it gets no signals to the daemon's group, and it can
//! be ended with everything that it started. Processes that it leaves behind when it ends by itself continue.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
    time::{self, Instant},
};
use tracing::warn;

use super::stderr_tail::{StderrTail, printable_line};
use crate::{host::clock::after, host::fd_store};

/// Time limit of a command.
const LIMIT: Duration = Duration::from_secs(60);

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// Interval of polls for the end of a group. The kernel sends no event for it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A started command. It is killed when this is dropped.
pub(crate) struct Process {
    /// The command, as it is printed.
    line: String,
    child: Child,
    /// The rest of its standard input.
    input: Vec<u8>,
    stderr_tail: StderrTail,
    limit: Duration,
    deadline: Instant,
    /// Its group, until it has ended.
    group: Option<Pid>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

impl Process {
    /// Starts a command without standard input, with the time limit [`LIMIT`].
    pub(super) fn start(command: &[String]) -> anyhow::Result<Self> {
        Self::start_with(command, Vec::new(), LIMIT)
    }

    /// Starts a command with this standard input.
    pub(crate) fn start_with(
        command: &[String],
        input: Vec<u8>,
        limit: Duration,
    ) -> anyhow::Result<Self> {
        let [program, arguments @ ..] = command else {
            bail!("an empty command");
        };
        let line = printable_line(&command.join(" "));
        let (stderr_tail, stderr) = StderrTail::new()?;
        let mut command = Command::new(program);
        for name in fd_store::ENVIRONMENT {
            command.env_remove(name);
        }
        let child = command
            .args(arguments)
            .stdin(if input.is_empty() {
                Stdio::null()
            } else {
                Stdio::piped()
            })
            .stdout(Stdio::null())
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .with_context(|| format!("run `{line}`"))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Self {
            line,
            child,
            input,
            stderr_tail,
            limit,
            deadline: after(Instant::now(), limit),
            group: group.map(Pid::from_raw),
        })
    }

    /// Waits until it has ended, and kills it after its limit. May be dropped and called again, unless there is
    /// standard input.
    pub(crate) async fn wait(&mut self) -> anyhow::Result<()> {
        let ended = async {
            if let Some(mut stdin) = self.child.stdin.take() {
                // A command may ignore its input: only its exit status counts.
                let _unread = stdin.write_all(&self.input).await;
            }
            self.child.wait().await
        };
        let Ok(status) = time::timeout_at(self.deadline, ended).await else {
            self.end().await;
            bail!(
                "`{}` did not end within {} s",
                self.line,
                self.limit.as_secs()
            );
        };
        self.group = None;
        let status = status.with_context(|| format!("wait for `{}`", self.line))?;
        if status.success() {
            return Ok(());
        }
        match self.stderr_tail.line().await {
            Some(last) => bail!("`{}` ended with {status}: {last}", self.line),
            None => bail!("`{}` ended with {status}", self.line),
        }
    }

    /// Ends its group by SIGTERM, and then by SIGKILL.
    pub(super) async fn end(&mut self) {
        self.signal(Signal::SIGTERM);
        let gone = async {
            self.reap().await;
            while self.is_there() {
                time::sleep(POLL_INTERVAL).await;
            }
        };
        if time::timeout(GRACE, gone).await.is_err() {
            self.signal(Signal::SIGKILL);
            self.reap().await;
        }
        self.group = None;
    }

    async fn reap(&mut self) {
        if let Err(error) = self.child.wait().await {
            warn!("wait for `{}`: {error}", self.line);
        }
    }

    /// Whether its group has processes. While it has, no other group gets its ID.
    fn is_there(&self) -> bool {
        self.group.is_some_and(|group| killpg(group, None).is_ok())
    }

    fn signal(&self, signal: Signal) {
        let Some(group) = self.group else { return };
        match killpg(group, signal) {
            // The group has ended already.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => warn!("send {signal} to `{}`: {error}", self.line),
        }
    }
}
