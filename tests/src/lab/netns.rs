//! Network namespaces: makes named ones, runs code and programs inside, deletes them.
//!
//! `ip netns` names them in /run/netns, so that `ip netns exec` works for users. Programs enter by `setns`
//! alone: `ip netns exec` would also give them a mount namespace, and a bpffs that they mount would vanish
//! with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use crate::shell;

const NAMED: &str = "/run/netns";

/// A handle of a network namespace; clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
}

/// The kernel's counters, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// The counters that are higher in `later`, with the differences, as text.
    pub fn changes(&self, later: &Self) -> String {
        let changes = later.0.iter().filter_map(|(name, count)| {
            let more = count - self.0.get(name).copied().unwrap_or_default();
            (more > 0).then(|| format!("{name} {more}"))
        });
        changes.collect::<Vec<_>>().join(", ")
    }
}

impl Namespace {
    /// Makes namespaces with these names, by one command.
    pub fn create(names: &[String]) -> Result<Vec<Self>> {
        let batch: String = names.iter().map(|n| format!("netns add {n}\n")).collect();
        shell::capture_with_input(Command::new("ip").args(["-batch", "-"]), &batch)
            .context("make network namespaces")?;
        names.iter().map(|n| Self::open(n)).collect()
    }

    /// Opens an existing namespace by name.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(NAMED).join(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            file: Arc::new(file),
        })
    }

    /// The name in /run/netns.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its cookie in the kernel, which the program under test uses in the names of its pins.
    pub fn cookie(&self) -> Result<u64> {
        self.run(sixxs_user::host::namespace::cookie)
    }

    /// Runs `work` in a thread inside the namespace; sockets that it opens stay inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&*self.file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("enter network namespace {}", self.name))?;
                work()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command that runs inside, and dies with the thread that starts it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let file = Arc::clone(&self.file);
        let mut command = Command::new(program);
        let enter = move || {
            setns(&*file, CloneFlags::CLONE_NEWNET)?;
            // The lab's own process blocks the signals that it waits for; a child must not inherit that.
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        };
        // SAFETY: between fork and exec `enter` only makes system calls: no allocation, no lock.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `ip -batch` inside with these lines.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name, "-batch", "-"]);
        shell::capture_with_input(&mut ip, lines)
            .with_context(|| format!("in network namespace {}", self.name))?;
        Ok(())
    }

    /// Runs a command line inside, words separated by blanks, and returns its output.
    pub fn sh(&self, command_line: &str) -> Result<String> {
        let mut words = command_line.split_whitespace();
        let program = words.next().context("empty command line")?;
        shell::capture(self.command(program).args(words))
            .with_context(|| format!("in network namespace {}", self.name))
    }

    /// The kernel's IPv6 counters of this namespace (`/proc/net/snmp6`, RFC 4293).
    pub fn counts(&self) -> Result<Counts> {
        let text = self.run(|| {
            let text = std::fs::read_to_string("/proc/thread-self/net/snmp6");
            text.context("read what the kernel counted")
        })?;
        let lines = text.lines().filter_map(|line| {
            let (name, count) = line.split_once(char::is_whitespace)?;
            Some((name.to_owned(), count.trim().parse().ok()?))
        });
        Ok(Counts(lines.collect()))
    }

    /// Sets sysctls inside: names below /proc/sys/net with slashes, and values.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in settings {
                let path = Path::new("/proc/sys/net").join(name);
                std::fs::write(&path, value).with_context(|| {
                    format!("write {value} to {} in {}", path.display(), self.name)
                })?;
            }
            Ok(())
        })
    }

    /// Makes every interface of the namespace repeat neighbour requests after 20 ms instead of a second,
    /// since the link may not be up at the first one; the time until it gives up stays the same. The kernel
    /// has no such default for future interfaces.
    pub fn speed_up_neighbour_discovery(&self) -> Result<()> {
        const PATIENCE: [(&str, &str); 3] = [
            ("retrans_time_ms", "20"),
            ("mcast_solicit", "150"),
            ("ucast_solicit", "150"),
        ];
        self.run(|| {
            for tables in ["/proc/sys/net/ipv6/neigh", "/proc/sys/net/ipv4/neigh"] {
                for interface in std::fs::read_dir(tables).with_context(|| tables.to_owned())? {
                    let interface = interface.context("list interfaces")?.path();
                    for (name, value) in PATIENCE {
                        let path = interface.join(name);
                        std::fs::write(&path, value)
                            .with_context(|| format!("write to {}", path.display()))?;
                    }
                }
            }
            Ok(())
        })
    }
}

/// Deletes a namespace by name. A missing one is no error: this also cleans up after runs that died half-way.
pub fn delete(name: &str) -> Result<()> {
    let path = Path::new(NAMED).join(name);
    if !path.exists() {
        return Ok(());
    }
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: the file has no mount, since a run died between the two steps.
        Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
        Err(e) => return Err(e).with_context(|| format!("unmount {}", path.display())),
    }
    std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
}
