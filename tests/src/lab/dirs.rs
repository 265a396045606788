//! A lab's directory below /run/sixxs-lab: the files of the program under test, and the list of namespaces to
//! clean up. Also sweeps up labs whose process died.
//!
//! A lab is alive while a process holds the lock of its directory. The kernel releases the lock when the
//! process dies, even if its PID is in use again.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};

use crate::lab::netns;

const BASE: &str = "/run/sixxs-lab";
/// The namespaces of a lab, one per line; written before they are made.
const NAMESPACES: &str = "namespaces";
const LOCK: &str = "lock";

/// ID of the interactive lab; there is at most one.
pub const INTERACTIVE: &str = "interactive";

/// The paths in a lab's directory.
#[derive(Clone, Debug)]
pub struct Paths {
    base: PathBuf,
}

impl Paths {
    /// The paths of lab `id`, whether it exists or not.
    pub fn of(id: &str) -> Self {
        Self {
            base: Path::new(BASE).join(id),
        }
    }

    /// The paths of another host of the same lab, in a directory of this name.
    pub fn of_host(&self, name: &str) -> Self {
        Self {
            base: self.base.join(name),
        }
    }

    /// The directory itself.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Argument of `--config`.
    pub fn config(&self) -> PathBuf {
        self.base.join("sixxs.toml")
    }

    /// The aiccu.conf of a tunnel, by its interface.
    pub fn aiccu_conf(&self, interface: &str) -> PathBuf {
        self.base.join(format!("aiccu-{interface}.conf"))
    }

    /// The pid file that this aiccu.conf names.
    pub fn aiccu_pid(&self, interface: &str) -> PathBuf {
        self.base.join(format!("aiccu-{interface}.pid"))
    }

    /// The certificate of the authority that signed the TIC server's certificate.
    pub fn tls_ca(&self) -> PathBuf {
        self.base.join("tls-ca.pem")
    }

    /// Argument of `--run-dir`.
    pub fn run(&self) -> PathBuf {
        self.base.join("run")
    }

    /// Argument of `--state-dir`.
    pub fn state(&self) -> PathBuf {
        self.base.join("state")
    }

    /// Argument of `--pin-dir`; the program mounts a bpffs there.
    pub fn pins(&self) -> PathBuf {
        self.base.join("pins")
    }

    /// Argument of `--rt-tables-dir`, instead of /etc/iproute2/rt_tables.d.
    pub fn rt_tables(&self) -> PathBuf {
        self.base.join("rt_tables.d")
    }
}

/// The directory of one lab. Its drop removes it with everything in it, mounts and namespaces included.
#[derive(Debug)]
pub struct LabDir {
    paths: Paths,
    lock: Option<Flock<File>>,
}

impl LabDir {
    /// Makes the directory of lab `id`, and lists the namespaces that the lab will make. Sweeps up dead labs
    /// first. Fails if a lab with this ID is alive.
    pub fn create(id: &str, namespaces: &[String]) -> Result<Self> {
        let base = Path::new(BASE);
        fs::create_dir_all(base).with_context(|| format!("make {BASE}"))?;
        // Held until the new directory is locked; otherwise another process could sweep it up.
        let sweeping = lock(&base.join(LOCK), FlockArg::LockExclusive)?
            .context("a blocking lock is always taken")?;
        sweep(base)?;
        let paths = Paths::of(id);
        let path = paths.base();
        if path.exists() {
            let holder = fs::read_to_string(path.join(LOCK)).unwrap_or_default();
            bail!("lab {id} is in use by process {}", holder.trim());
        }
        fs::create_dir(path).with_context(|| format!("make {}", path.display()))?;
        let mut held = lock(&path.join(LOCK), FlockArg::LockExclusive)?
            .context("a blocking lock is always taken")?;
        writeln!(held, "{}", std::process::id()).context("write the lab's lock file")?;
        fs::write(path.join(NAMESPACES), namespaces.join("\n")).context("list namespaces")?;
        // The program makes the other directories, as it makes /run/sixxs on a new machine.
        let tables = paths.rt_tables();
        fs::create_dir(&tables).with_context(|| format!("make {}", tables.display()))?;
        drop(sweeping);
        Ok(Self {
            paths,
            lock: Some(held),
        })
    }

    /// Its paths.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }
}

impl Drop for LabDir {
    fn drop(&mut self) {
        let path = self.paths.base();
        // Prevent a sweep meanwhile, which could find the directory without its lock.
        let cleaned = lock(&Path::new(BASE).join(LOCK), FlockArg::LockExclusive)
            .and_then(|_sweeping| clean(path));
        if let Err(e) = cleaned {
            eprintln!("lab left behind in {}: {e:#}", path.display());
        }
        self.lock.take();
    }
}

/// Cleans up the labs of dead processes.
fn sweep(base: &Path) -> Result<()> {
    for entry in fs::read_dir(base).with_context(|| format!("list {}", base.display()))? {
        let path = entry.context("list labs")?.path();
        if !path.is_dir() {
            continue;
        }
        // Locked by its process: the lab is alive. We hold the lock only for this iteration. No other process
        // needs it, since sweeps exclude each other.
        if let Some(_dead) = lock(&path.join(LOCK), FlockArg::LockExclusiveNonblock)? {
            clean(&path).with_context(|| format!("sweep up {}", path.display()))?;
        }
    }
    Ok(())
}

fn clean(path: &Path) -> Result<()> {
    for mount in mounts_below(path)? {
        umount2(&mount, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmount {}", mount.display()))?;
    }
    match fs::read_to_string(path.join(NAMESPACES)) {
        Ok(names) => {
            for name in names.lines() {
                netns::delete(name)?;
            }
        }
        // The process died before it wrote the list, so it made no namespaces.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).context("read the lab's namespaces"),
    }
    fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()))
}

/// Mount points at or below `path`, the innermost first.
pub fn mounts_below(path: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|mount| mount.starts_with(path))
        .collect();
    mounts.reverse();
    Ok(mounts)
}

/// Locks a file; `None` if another process holds the lock and `how` does not wait.
fn lock(path: &Path, how: FlockArg) -> Result<Option<Flock<File>>> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    match Flock::lock(file, how) {
        Ok(held) => Ok(Some(held)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(e).with_context(|| format!("lock {}", path.display())),
    }
}
