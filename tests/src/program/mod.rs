//! Runs the program under test: the binary `sixxs` in the lab's host, by its command line. All files that it
//! may write are in the lab's directory.

mod daemon;
pub mod fd_store;
pub mod owned_state;
pub mod snapshot;
pub mod status;

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

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

pub use crate::program::daemon::Daemon;

/// Limit until `sixxs run` is ready, until its status is as expected, and for any other command as a whole. It
/// is generous; a test that measures has its own limit.
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
pub struct Output {
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
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        finish(&mut self.command(arguments))
    }

    /// Runs a command that has to succeed.
    pub fn run_ok(&self, arguments: &[&str]) -> Result<Output> {
        self.run_ok_within(LIMIT, arguments)
    }

    /// The same for a command that may take longer.
    pub fn run_ok_within(&self, limit: Duration, arguments: &[&str]) -> Result<Output> {
        let printed = finish_within(limit, &mut self.command(arguments))?;
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
        self.json_within(LIMIT, arguments)
    }

    /// The same for a command that may take longer.
    pub fn json_within(&self, limit: Duration, arguments: &[&str]) -> Result<(i32, Vec<Value>)> {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let printed = finish_within(limit, &mut self.command(&arguments))?;
        let values = serde_json::Deserializer::from_str(&printed.stdout).into_iter();
        let values = values.collect::<Result<Vec<Value>, _>>();
        let values = values.with_context(|| format!("{}: {printed:#?}", arguments.join(" ")))?;
        ensure!(!values.is_empty(), "{}: {printed:#?}", arguments.join(" "));
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
        wait::until(what, LIMIT, || self.status(), good)
    }

    /// Waits until all tunnels are whole and have this carrier.
    pub fn wait_until_carried_by(&self, carrier: &str) -> Result<()> {
        self.status_until(&format!("the carrier is {carrier}"), |status| {
            let mut tunnels = status.tunnels.iter();
            tunnels.all(|tunnel| tunnel.is_whole() && tunnel.carrier.as_deref() == Some(carrier))
        })?;
        Ok(())
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
    pub fn spawn_as(&self, command: Command) -> Result<Daemon> {
        Daemon::spawn(command)
    }
}

/// Runs a command to its end within [`LIMIT`]; kills it and fails if it takes longer.
pub fn finish(command: &mut Command) -> Result<Output> {
    finish_within(LIMIT, command)
}

fn finish_within(limit: Duration, command: &mut Command) -> Result<Output> {
    let limit = limit * wait::patience();
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
        let output = match receiver.recv_timeout(limit) {
            Ok(output) => output.with_context(|| format!("wait for {name}"))?,
            Err(_) => {
                kill(pid, Signal::SIGKILL).with_context(|| format!("kill {name}"))?;
                bail!("{name} {:?}: not done within {limit:?}", command.get_args());
            }
        };
        Ok(Output {
            code: exit_code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    })
}

fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn pid_of(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(
        i32::try_from(child.id()).context("a pid fits")?,
    ))
}
