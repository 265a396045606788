//! Owns a place in the lab's host where a network manager of the distribution's runs beside the
//! program, as it is and with its default settings: a mount namespace in which /run, a directory of
//! its configuration and a D-Bus are its own. The machine's stay untouched.
//!
//! What would be in /run is in the lab's directory, where a test reads and writes it.

pub mod network_manager;
pub mod networkd;

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Lab;
use crate::netns::Namespace;
use crate::{shell, wait};

/// For everything that a manager does: starting, stopping, setting up an interface. It waits for
/// duplicate address detection, a second or two each.
const LIMIT: Duration = Duration::from_secs(20);

/// The indices of the lab's interfaces, and some to spare.
const INDICES: std::ops::Range<u32> = 1..1100;

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
    mounts: Arc<File>,
    directory: PathBuf,
    // Last: the mounts are its.
    _bus: Process,
}

impl Place {
    /// Makes it; with a directory of the lab's in the place of this one, where there is a
    /// configuration that cannot be elsewhere.
    fn new(lab: &Lab, configuration: Option<&str>) -> Result<Self> {
        let directory = lab.paths().base().join("beside");
        for path in ["run/dbus", "run/udev/data", "configuration"] {
            let path = directory.join(path);
            fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        // There is no udev in the lab to say that interfaces are ready for use.
        for index in INDICES {
            let path = directory.join(format!("run/udev/data/n{index}"));
            fs::write(&path, "I:1\n").with_context(|| format!("write {}", path.display()))?;
        }
        fs::write(directory.join("run/bus.conf"), BUS).context("write the bus's configuration")?;
        let mut bus = lab.host().command("dbus-daemon");
        bus.args(["--nofork", "--nopidfile", "--config-file=/run/bus.conf"]);
        let configuration = configuration.map(|to| (directory.join("configuration"), to));
        let run = (directory.join("run"), "/run");
        let mut on = Vec::new();
        // The last hides where the lab's directory is.
        for (from, to) in configuration.into_iter().chain([run]) {
            on.push((path_to_c(&from)?, path_to_c(Path::new(to))?));
        }
        // SAFETY: between fork and exec `furnish` only makes system calls: no allocation, no lock.
        unsafe { bus.pre_exec(move || furnish(&on)) };
        let bus = Process::start(bus, &directory.join("bus.log"))?;
        let socket = directory.join("run/dbus/system_bus_socket");
        let there = || Ok(socket.exists());
        wait::until("the bus is there", LIMIT, there, |there| *there)?;
        let mounts = format!("/proc/{}/ns/mnt", bus.child.id());
        let mounts = File::open(&mounts).with_context(|| format!("open {mounts}"))?;
        Ok(Self {
            host: lab.host().clone(),
            mounts: Arc::new(mounts),
            directory,
            _bus: bus,
        })
    }

    /// A command that will run there.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.host.command(program);
        let mounts = Arc::clone(&self.mounts);
        let enter = move || setns(&*mounts, CloneFlags::CLONE_NEWNS).map_err(io::Error::from);
        // SAFETY: between fork and exec `enter` only makes a system call.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs a command there and returns what it printed.
    fn sh(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Result<String> {
        shell::capture(self.command(program).args(arguments))
    }

    /// A file of the configuration.
    fn configuration(&self, name: &str) -> PathBuf {
        self.directory.join("configuration").join(name)
    }

    /// A path that is below /run there.
    fn run(&self, path: &str) -> PathBuf {
        self.directory.join("run").join(path)
    }
}

fn path_to_c(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).context("a path without zeroes")
}

/// Gives the process mounts of its own. /sys is that of its network namespace, and writable:
/// read-only, it would say that this is a container without udev.
fn furnish(binds: &[(CString, CString)]) -> io::Result<()> {
    const NONE: Option<&CStr> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, c"/", NONE, private, NONE)?;
    let sysfs = Some(c"sysfs");
    mount(sysfs, c"/sys", sysfs, MsFlags::empty(), NONE)?;
    for (from, to) in binds {
        let (from, to) = (from.as_c_str(), to.as_c_str());
        mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE)?;
    }
    Ok(())
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
