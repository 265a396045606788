//! Owns a place in the lab's host where a network manager of the distribution's runs beside the
//! program, as it is and with its default settings: a mount namespace in which /run, /etc and a D-Bus
//! are its own. The machine's stay untouched.
//!
//! What would be there is in the lab's directory, where a test reads and writes it. That one is where it
//! was inside, too: the program under test finds its files.

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

/// For everything that a manager does: starting, stopping, setting up an interface. It waits for
/// duplicate address detection, a second or two each.
const LIMIT: Duration = Duration::from_secs(20);

/// The indices of the lab's interfaces, and some to spare.
const INDICES: std::ops::Range<u32> = 1..1100;

/// Of the machine's /etc.
const KEPT: [&str; 3] = ["passwd", "group", "machine-id"];

/// A bus on which everybody may do everything.
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

/// The place. Processes in it end with it.
#[derive(Debug)]
pub struct Place {
    host: Namespace,
    mounts: Mounts,
    directory: PathBuf,
    _bus: Process,
}

impl Place {
    fn new(lab: &Lab) -> Result<Self> {
        let base = lab.paths().base();
        let directory = base.join("beside");
        let inside = directory.join(base.strip_prefix("/").context("a lab is in /run")?);
        for path in ["run/dbus", "run/udev/data", "etc"] {
            make(&directory.join(path))?;
        }
        make(&inside)?;
        for name in KEPT {
            fs::copy(
                Path::new("/etc").join(name),
                directory.join("etc").join(name),
            )
            .with_context(|| format!("copy /etc/{name}"))?;
        }
        // There is no udev in the lab to say that interfaces are ready for use.
        for index in INDICES {
            let path = directory.join(format!("run/udev/data/n{index}"));
            fs::write(&path, "I:1\n").with_context(|| format!("write {}", path.display()))?;
        }
        fs::write(directory.join("run/bus.conf"), BUS).context("write the bus's configuration")?;
        // The last hides where the lab's directory is.
        let binds = [
            (base.to_owned(), inside),
            (directory.join("etc"), PathBuf::from("/etc")),
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

    /// A command that will run there.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.host.command(program);
        self.mounts.enter(&mut command);
        command
    }

    /// Runs a command there and returns what it printed.
    fn sh(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Result<String> {
        shell::capture(self.command(program).args(arguments))
    }

    /// A path that is below /etc there.
    fn etc(&self, path: &str) -> PathBuf {
        self.directory.join("etc").join(path)
    }

    /// A path that is below /run there.
    fn run(&self, path: &str) -> PathBuf {
        self.directory.join("run").join(path)
    }
}

fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))
}

/// A process that stays; killed when dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// What it prints goes to the end of `log`.
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

    /// Ends it as an init system does.
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
