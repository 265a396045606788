//! Owns the sandbox on the lab's host in which a real network manager runs, with its default settings: a
//! mount namespace with /run, /etc, /var/lib and a D-Bus of its own.
//!
//! The sandbox's files are in the lab's directory, where a test reads and writes them. The lab's directory
//! is mounted at its own path inside too, so that the program under test finds its files.

pub mod dhcpcd;
pub mod network_manager;
pub mod networkd;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Lab;
use crate::lab::mounts::Mounts;
use crate::lab::netns::Namespace;
use crate::{shell, wait};

/// Limit for each action of a manager: start, stop, configuration of an interface. Duplicate address
/// detection takes a second or two.
const LIMIT: Duration = Duration::from_secs(20);

/// Range of the indices of the lab's interfaces.
const INDICES: std::ops::Range<u32> = 1..1100;

/// Files copied from the machine's /etc.
const COPIED: [&str; 3] = ["passwd", "group", "machine-id"];

/// Name of the sandbox's directory in the lab's.
pub const DIRECTORY: &str = "network-manager";

/// Configuration of a bus without access control.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

/// The sandbox. Processes in it end with it.
#[derive(Debug)]
pub struct Sandbox {
    host: Namespace,
    mounts: Mounts,
    directory: PathBuf,
    _bus: Process,
}

impl Sandbox {
    fn new(lab: &Lab) -> Result<Self> {
        let base = lab.paths().base();
        let directory = base.join(DIRECTORY);
        let inside = directory.join(base.strip_prefix("/").context("a lab is in /run")?);
        for path in ["run/dbus", "run/udev/data", "etc", "lib/dhcpcd"] {
            make_directory(&directory.join(path))?;
        }
        make_directory(&inside)?;
        for name in COPIED {
            fs::copy(
                Path::new("/etc").join(name),
                directory.join("etc").join(name),
            )
            .with_context(|| format!("copy /etc/{name}"))?;
        }
        // The lab has no udev, which marks interfaces as initialized.
        for index in INDICES {
            let path = directory.join(format!("run/udev/data/n{index}"));
            fs::write(&path, "I:1\n").with_context(|| format!("write {}", path.display()))?;
        }
        fs::write(directory.join("run/bus.conf"), BUS).context("write the bus's configuration")?;
        // /run is last, because it hides the lab's directory.
        let binds = [
            (base.to_owned(), inside),
            (directory.join("etc"), PathBuf::from("/etc")),
            (directory.join("lib"), PathBuf::from("/var/lib")),
            (directory.join("run"), PathBuf::from("/run")),
        ];
        let mounts = Mounts::new(lab.host(), &binds)?;
        let mut bus = lab.host().command("dbus-daemon");
        bus.args(["--nofork", "--nopidfile", "--config-file=/run/bus.conf"]);
        mounts.enter(&mut bus);
        let bus = Process::start(bus, &directory.join("bus.log"))?;
        let socket = directory.join("run/dbus/system_bus_socket");
        let there = || Ok(socket.exists());
        wait::until("the bus is there", LIMIT, there, |there| *there)?;
        Ok(Self {
            host: lab.host().clone(),
            mounts,
            directory,
            _bus: bus,
        })
    }

    /// A command that runs in the sandbox.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.host.command(program);
        self.mounts.enter(&mut command);
        command
    }

    /// Runs a command in the sandbox and returns its output.
    fn sh(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Result<String> {
        shell::capture(self.command(program).args(arguments))
    }

    /// The path outside of a file below the sandbox's /etc.
    fn etc(&self, path: &str) -> PathBuf {
        self.directory.join("etc").join(path)
    }

    /// The path outside of a file below the sandbox's /run.
    fn run(&self, path: &str) -> PathBuf {
        self.directory.join("run").join(path)
    }
}

fn make_directory(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))
}

/// A background process; killed when dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Appends its output to `log`.
    fn start(mut command: Command, log: &Path) -> Result<Self> {
        let open = || File::options().create(true).append(true).open(log);
        let file = open().with_context(|| format!("open {}", log.display()))?;
        let also = file.try_clone().context("open the log once more")?;
        command.stdin(Stdio::null()).stdout(file).stderr(also);
        let name = command.get_program().to_string_lossy().into_owned();
        Ok(Self {
            child: command.spawn().with_context(|| format!("start {name}"))?,
            log: log.to_owned(),
        })
    }

    /// Ends it by SIGTERM, as an init system does.
    fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).context("a pid fits")?);
        kill(pid, Signal::SIGTERM).context("end a network manager")?;
        let ended = || Ok(self.child.try_wait()?.is_some());
        wait::until("a network manager ends", LIMIT, ended, |ended| *ended)?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let ended = self.child.kill().and_then(|()| self.child.wait());
            if let Err(e) = ended {
                eprintln!("kill a network manager: {e}");
            }
        }
        if std::thread::panicking() {
            let printed = fs::read_to_string(&self.log).unwrap_or_default();
            println!("---- {} ----\n{printed}", self.log.display());
        }
    }
}
