//! Owns a lab's directory below /run/sixxs-lab: what the program under test may write, and the
//! list of what has to be cleaned up; and the sweep of labs whose process died.
//!
//! A lab lives as long as somebody holds the lock of its directory. A process that dies releases
//! it, whatever became of its pid since.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};

use crate::lab::netns;

const BASE: &str = "/run/sixxs-lab";
/// The namespaces of a lab, one a line; written before they are made.
const NAMESPACES: &str = "namespaces";
const LOCK: &str = "lock";

/// The lab for people; there is at most one.
pub const INTERACTIVE: &str = "interactive";

/// Where things are in a lab's directory.
#[derive(Clone, Debug)]
pub struct Paths {
    base: PathBuf,
}

impl Paths {
    /// Those of lab `id`, whether it exists or not.
    pub fn of(id: &str) -> Self {
        Self {
            base: Path::new(BASE).join(id),
        }
    }

    /// The directory itself.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// For `--config`.
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

    /// The certificate of the authority that the TIC server's certificate is by.
    pub fn tls_ca(&self) -> PathBuf {
        self.base.join("tls-ca.pem")
    }

    /// For `--run-dir`.
    pub fn run(&self) -> PathBuf {
        self.base.join("run")
    }

    /// For `--state-dir`.
    pub fn state(&self) -> PathBuf {
        self.base.join("state")
    }

    /// For `--pin-dir`: no bpffs until the program mounts one there.
    pub fn pins(&self) -> PathBuf {
        self.base.join("pins")
    }

    /// For `--rt-tables-dir`, in place of /etc/iproute2/rt_tables.d.
    pub fn rt_tables(&self) -> PathBuf {
        self.base.join("rt_tables.d")
    }
}

/// The directory of one lab, removed with everything in it, mounts and namespaces included, when
/// dropped.
#[derive(Debug)]
pub struct LabDir {
    paths: Paths,
    lock: Option<Flock<File>>,
}

impl LabDir {
    /// Makes the directory of lab `id`, which will make these namespaces. Sweeps up dead labs
    /// first; fails when a lab of this id is alive.
    pub fn create(id: &str, namespaces: &[String]) -> Result<Self> {
        let base = Path::new(BASE);
        fs::create_dir_all(base).with_context(|| format!("make {BASE}"))?;
        // Held until the new directory is locked, or else another process could sweep it up.
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
        // The others are the program's to make, as /run/sixxs is on a fresh machine.
        let tables = paths.rt_tables();
        fs::create_dir(&tables).with_context(|| format!("make {}", tables.display()))?;
        drop(sweeping);
        Ok(Self {
            paths,
            lock: Some(held),
        })
    }

    /// Where things are in it.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }
}

impl Drop for LabDir {
    fn drop(&mut self) {
        let path = self.paths.base();
        // No sweep meanwhile: it could find the directory without its lock.
        let cleaned = lock(&Path::new(BASE).join(LOCK), FlockArg::LockExclusive)
            .and_then(|_sweeping| clean(path));
        if let Err(e) = cleaned {
            eprintln!("lab left behind in {}: {e:#}", path.display());
        }
        self.lock.take();
    }
}

/// Cleans up what labs of dead processes left behind.
fn sweep(base: &Path) -> Result<()> {
    for entry in fs::read_dir(base).with_context(|| format!("list {}", base.display()))? {
        let path = entry.context("list labs")?.path();
        if !path.is_dir() {
            continue;
        }
        // Taken: the lab is alive. Held only to the end of this round: nobody else wants it,
        // since sweeps exclude each other.
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
        // Died before it wrote the list, so before it made any.
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

/// `None`: somebody else holds it and the call was not to wait.
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
