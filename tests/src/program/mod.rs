//! Runs the program under test: the binary `sixxs` in the lab's host, by its command line. All files that it
//! may write are in the lab's directory.
//!
//! Tasks: a [`Daemon`] has one thread that collects its standard error; it ends with the daemon.

pub mod fd_store;
pub mod owned_state;
pub mod snapshot;
pub mod status;

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::Lab;
use crate::lab::dirs::Paths;
use crate::lab::mounts::Mounts;
use crate::lab::netns::Namespace;
use crate::program::status::Status;
use crate::{shell, wait};

/// Limit until `sixxs run` is ready, and for any other command as a whole. It is generous; a test that
/// measures has its own limit.
const LIMIT: Duration = Duration::from_secs(10);

/// The hook that kernel programs attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The program's own choice.
    Auto,
    /// TCX links, kernel 6.6 or later.
    Tcx,
    /// Filters of a clsact qdisc, as on older kernels.
    Clsact,
}

impl Hook {
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Runs `sixxs` in a lab.
#[derive(Clone, Debug)]
pub struct Program {
    binary: PathBuf,
    host: Namespace,
    environment: Vec<(&'static str, PathBuf)>,
    mounts: Option<Mounts>,
}

/// The output of a command, and its exit status.
#[derive(Clone, Debug)]
pub struct Printed {
    /// The exit status; 128 plus the signal number after a signal, as in a shell.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Program {
    /// Runs it in a lab, with the lab's configuration file and directories.
    pub fn new(lab: &Lab, hook: Hook) -> Result<Self> {
        Self::at(lab.host(), lab.paths(), hook)
    }

    /// Runs it in the host of a lab that another process may hold.
    pub fn at(host: &Namespace, paths: &Paths, hook: Hook) -> Result<Self> {
        let binary = match std::env::var_os("SIXXS_BIN") {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../target/release/sixxs"
            )),
        };
        ensure!(
            binary.is_file(),
            "no program at {}: build it with `cargo xtask build`, or set SIXXS_BIN",
            binary.display()
        );
        Ok(Self {
            binary,
            host: host.clone(),
            environment: vec![
                ("SIXXS_CONFIG", paths.config()),
                ("SIXXS_RUN_DIR", paths.run()),
                ("SIXXS_STATE_DIR", paths.state()),
                ("SIXXS_PIN_DIR", paths.pins()),
                ("SIXXS_RT_TABLES_DIR", paths.rt_tables()),
                ("SIXXS_HOOK", PathBuf::from(hook.name())),
            ],
            mounts: None,
        })
    }

    /// The binary's path.
    pub fn binary(&self) -> &PathBuf {
        &self.binary
    }

    /// Copies the binary. A separate process writes the copy: other tests' children could inherit a
    /// descriptor of this process, and then the copy could not be executed ("text file busy").
    pub fn copy_to(&self, path: &Path) -> Result<()> {
        let mut copy = Command::new("cp");
        shell::capture(copy.arg("--").arg(&self.binary).arg(path))?;
        Ok(())
    }

    /// Runs it in this mount namespace from now on.
    pub fn move_to(&mut self, mounts: Mounts) {
        self.mounts = Some(mounts);
    }

    /// Adds environment variables for all later commands.
    pub fn add_environment(&mut self, more: impl IntoIterator<Item = (&'static str, PathBuf)>) {
        self.environment.extend(more);
    }

    /// Environment variables that replace the command line's global options.
    pub fn environment(&self) -> &[(&'static str, PathBuf)] {
        &self.environment
    }

    /// A command on the host that is not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host_command(&self.binary);
        command.args(arguments);
        command
    }

    /// Like [`Program::command`], with the highest priority of the default scheduler, so that other load
    /// hardly slows it down.
    pub fn command_with_priority(&self, arguments: &[&str]) -> Command {
        let mut command = self.host_command("nice");
        command
            .args(["-n", "-20"])
            .arg(&self.binary)
            .args(arguments);
        command
    }

    /// Runs a shell script next to the program, like a user, and returns its output.
    pub fn shell(&self, lines: &str) -> Result<String> {
        shell::capture(self.host_command("sh").args(["-ec", lines]))
    }

    /// A command of another program on the same host, with the same environment.
    fn host_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.host.command(program);
        if let Some(mounts) = &self.mounts {
            mounts.enter(&mut command);
        }
        self.apply_environment(&mut command);
        command
    }

    /// Sets the program's environment for a command that starts the program, such as `setpriv`.
    pub fn apply_environment(&self, command: &mut Command) {
        command
            .env_remove("RUST_LOG")
            .envs(self.environment.iter().cloned());
    }

    /// Runs a command to its end, with any exit status.
    pub fn run(&self, arguments: &[&str]) -> Result<Printed> {
        finish(&mut self.command(arguments))
    }

    /// Runs a command that has to succeed.
    pub fn ok(&self, arguments: &[&str]) -> Result<Printed> {
        let printed = self.run(arguments)?;
        ensure!(
            printed.code == 0,
            "sixxs {}: {printed:#?}",
            arguments.join(" ")
        );
        Ok(printed)
    }

    /// Runs a reporting command with `--json` and reads its output: any number of JSON objects, each on one
    /// or several lines. Returns the exit status, which is the command's verdict.
    pub fn json(&self, arguments: &[&str]) -> Result<(i32, Vec<Value>)> {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let printed = self.run(&arguments)?;
        let values = serde_json::Deserializer::from_str(&printed.stdout).into_iter();
        let values = values.collect::<Result<Vec<Value>, _>>();
        let values = values.with_context(|| format!("{}: {printed:#?}", arguments.join(" ")))?;
        Ok((printed.code, values))
    }

    /// `sixxs status --json`.
    pub fn status(&self) -> Result<Status> {
        let (code, mut values) = self.json(&["status"])?;
        ensure!(
            code == 0 || code == 3,
            "sixxs status: exit status {code}: {values:?}"
        );
        let value = values.pop().context("sixxs status printed nothing")?;
        serde_json::from_value(value.clone()).with_context(|| format!("status: {value:#}"))
    }

    /// Waits until the status satisfies `good`.
    pub fn status_until(&self, what: &str, good: impl Fn(&Status) -> bool) -> Result<Status> {
        wait::until(what, Duration::from_secs(10), || self.status(), good)
    }

    /// Starts `sixxs run` and waits until it is ready.
    pub fn start(&self) -> Result<Daemon> {
        self.start_as(self.command(&["run"]))
    }

    /// Starts the daemon by the caller's command and waits until it is ready.
    pub fn start_as(&self, command: Command) -> Result<Daemon> {
        let mut daemon = self.spawn_as(command)?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Starts `sixxs run` without waiting.
    pub fn spawn(&self) -> Result<Daemon> {
        self.spawn_as(self.command(&["run"]))
    }

    /// Like [`Program::spawn`], by the caller's command.
    pub fn spawn_as(&self, mut command: Command) -> Result<Daemon> {
        // A new process group: ctrl-C in a terminal goes only to the lab, which then stops the daemon.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let started = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        let stderr = child.stderr.take().context("standard error is piped")?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, ready) = channel();
        let collected = Arc::clone(&log);
        let collector = std::thread::Builder::new()
            .name("sixxs-stderr".to_owned())
            .spawn(move || collect(stderr, &collected, || sender.send(Instant::now()).is_ok()))
            .context("collect standard error")?;
        Ok(Daemon {
            child,
            started,
            ready,
            ready_after: None,
            log,
            collector: Some(collector),
        })
    }
}

/// Runs a command to its end within [`LIMIT`]; kills it and fails if it takes longer.
pub fn finish(command: &mut Command) -> Result<Printed> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let pid = pid_of(&child)?;
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.send(child.wait_with_output()).is_ok());
        let output = match receiver.recv_timeout(LIMIT) {
            Ok(output) => output.with_context(|| format!("wait for {name}"))?,
            Err(_) => {
                kill(pid, Signal::SIGKILL).with_context(|| format!("kill {name}"))?;
                bail!("{name} {:?}: not done within {LIMIT:?}", command.get_args());
            }
        };
        Ok(Printed {
            code: code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    })
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn pid_of(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(
        i32::try_from(child.id()).context("a pid fits")?,
    ))
}

fn collect(stderr: ChildStderr, log: &Mutex<Vec<String>>, ready: impl Fn() -> bool) {
    for line in BufReader::new(stderr).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line).into_owned();
        // The receiver may be dropped already, if the daemon becomes ready after the limit.
        let _heard = line.trim() == "ready" && ready();
        log.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }
}

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
    fn wait_ready(&mut self) -> Result<()> {
        match self.ready.recv_timeout(LIMIT) {
            Ok(at) => {
                self.ready_after = Some(at.duration_since(self.started));
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("sixxs run: not ready within {LIMIT:?}:\n{}", self.log())
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
        Ok(code(status))
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
