//! The daemon `sixxs run` as a process: its output, its resources and its end.
//!
//! Tasks: a [`Daemon`] has one thread that collects its standard error; it ends with the daemon.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::{LIMIT, exit_code, pid_of};
use crate::wait;

/// A running `sixxs run`; killed on drop.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    started: Instant,
    ready: Receiver<Instant>,
    ready_after: Option<Duration>,
    log: Arc<Mutex<Vec<String>>>,
    collector: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts the daemon by a command.
    pub(super) fn spawn(mut command: Command) -> Result<Self> {
        // A new process group: ctrl-C in a terminal goes only to the lab, which then stops the daemon.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let started = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        let stderr = child.stderr.take().context("standard error is piped")?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, ready) = channel();
        let collected = Arc::clone(&log);
        let collector = std::thread::Builder::new()
            .name("sixxs-stderr".to_owned())
            .spawn(move || collect(stderr, &collected, &sender))
            .context("collect standard error")?;
        Ok(Self {
            child,
            started,
            ready,
            ready_after: None,
            log,
            collector: Some(collector),
        })
    }

    /// Waits until it prints `ready`.
    pub(super) fn wait_ready(&mut self) -> Result<()> {
        let limit = LIMIT * wait::patience();
        match self.ready.recv_timeout(limit) {
            Ok(at) => {
                self.ready_after = Some(at.duration_since(self.started));
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("sixxs run: not ready within {limit:?}:\n{}", self.log())
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait().context("wait for sixxs run")?;
                bail!(
                    "sixxs run ended before it was ready: {status}\n{}",
                    self.log()
                )
            }
        }
    }

    /// Time from its start until it prints `ready`.
    pub fn ready_after(&self) -> Option<Duration> {
        self.ready_after
    }

    /// Its process ID.
    pub fn pid(&self) -> Result<Pid> {
        pid_of(&self.child)
    }

    /// Its output on standard error until now.
    pub fn log(&self) -> String {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .join("\n")
    }

    /// Its resident memory, with pages of its file that are in the page cache.
    pub fn resident_kib(&self) -> Result<u64> {
        self.memory_kib("VmRSS:")
    }

    /// Its anonymous memory.
    pub fn anonymous_kib(&self) -> Result<u64> {
        self.memory_kib("RssAnon:")
    }

    /// The number of its open file descriptors.
    pub fn descriptors(&self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.child.id());
        let open = std::fs::read_dir(&path).with_context(|| format!("list {path}"))?;
        Ok(open.count())
    }

    fn memory_kib(&self, key: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.split_whitespace().next());
        let number = number.with_context(|| format!("no {key} in {path}"))?;
        number.parse().with_context(|| format!("read {key}"))
    }

    /// Its processor time until now.
    pub fn processor_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        // proc_pid_stat(5): utime and stime are the 12th and 13th fields after the name in parentheses.
        let (_, fields) = text.rsplit_once(')').context("no name in brackets")?;
        let ticks = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<u64>);
        let ticks: u64 = ticks
            .sum::<Result<_, _>>()
            .context("read its processor time")?;
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
            .context("ask for the length of a tick")?
            .and_then(|ticks| u64::try_from(ticks).ok())
            .context("the length of a tick is unknown")?;
        Ok(Duration::from_millis(ticks * 1000 / per_second))
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self
            .child
            .try_wait()
            .context("look for sixxs run")?
            .is_none())
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("kill sixxs run")?;
        self.wait_end()?;
        Ok(())
    }

    /// Stops it with SIGTERM and returns its exit status.
    pub fn stop(self) -> Result<i32> {
        self.stop_within(LIMIT)
    }

    /// Like [`Daemon::stop`], for a daemon with much to remove.
    pub fn stop_within(mut self, limit: Duration) -> Result<i32> {
        self.signal(Signal::SIGTERM)?;
        let what = "sixxs run ends after SIGTERM";
        wait::until(what, limit, || self.is_running(), |running| !running)?;
        self.wait_end()
    }

    /// Waits until it ends by itself and returns its exit status.
    pub fn wait(mut self) -> Result<i32> {
        wait::until(
            "sixxs run ends",
            LIMIT,
            || self.is_running(),
            |running| !running,
        )?;
        self.wait_end()
    }

    /// Sends it a signal, for example SIGSTOP or SIGCONT.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("send {signal}"))
    }

    fn wait_end(&mut self) -> Result<i32> {
        let status = self.child.wait().context("wait for sixxs run")?;
        if let Some(collector) = self.collector.take() {
            ensure!(
                collector.join().is_ok(),
                "the collector of standard error panicked"
            );
        }
        Ok(exit_code(status))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let ended = self.child.kill().and_then(|()| self.child.wait());
            if let Err(e) = ended {
                eprintln!("kill sixxs run: {e}");
            }
        }
        // The test harness shows this only if the test fails.
        if std::thread::panicking() {
            println!("---- sixxs run printed ----\n{}", self.log());
        }
    }
}

fn collect(stderr: ChildStderr, log: &Mutex<Vec<String>>, ready: &Sender<Instant>) {
    for line in BufReader::new(stderr).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.trim() == "ready" {
            // An error means that the receiver is dropped: the daemon is ready after the limit.
            let _late = ready.send(Instant::now());
        }
        log.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }
}
