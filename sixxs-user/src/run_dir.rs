//! The run directory: whose it is, and who runs in it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use tracing::warn;

use crate::{namespace, paths::Paths, removal};

/// Said in the lock file when the directory is ours as well, and goes with it.
const MADE_DIRECTORY: &str = "the directory was made by sixxs";

/// Before the number of the daemon's process, and the cookie of its network namespace, in the lock file.
const PROCESS: &str = "process ";
const NAMESPACE: &str = "network namespace ";

/// The daemon that holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// The number of its process.
    pub(crate) process: u32,
    /// The cookie of its network namespace.
    pub(crate) namespace: u64,
}

/// The daemon that a lock file names; `None`: it names none, as those of earlier versions.
pub(crate) fn holder(lock: &Path) -> Option<Holder> {
    let text = fs::read_to_string(lock).ok()?;
    let after = |prefix| text.lines().find_map(|line| line.strip_prefix(prefix));
    Some(Holder {
        process: after(PROCESS)?.parse().ok()?,
        namespace: after(NAMESPACE)?.parse().ok()?,
    })
}

/// Sees that there is one daemon per run directory. `None`: the file system is full, or read-only; a daemon
/// keeps tunnels right without a lock, and another one is still kept away from the network namespace.
pub(crate) fn lock(paths: &Paths) -> anyhow::Result<Option<Flock<File>>> {
    let makes_directory = !paths.run_dir.exists();
    let path = paths.lock();
    let file = match open(paths) {
        Ok(file) => file,
        Err(error) if has_no_room(&error) => {
            warn!("{error:#}; going on without a lock");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            // The lock holds without it, on a file system that is full as well.
            if let Err(error) = name_holder(&lock, &path, makes_directory) {
                warn!(
                    "{error:#}; `sixxs down` will not know in which network namespace this daemon runs"
                );
            }
            Ok(Some(lock))
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
            "another sixxs runs with {}; stop it, or run this one in a network namespace of its own, \
             with a --run-dir of its own",
            paths.run_dir.display()
        ),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

fn open(paths: &Paths) -> anyhow::Result<File> {
    fs::create_dir_all(&paths.run_dir)
        .with_context(|| format!("create {}", paths.run_dir.display()))?;
    let path = paths.lock();
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))
}

fn has_no_room(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::ReadOnlyFilesystem
        )
    })
}

/// Writes to the lock file who holds it.
fn name_holder(file: &File, path: &Path, makes_directory: bool) -> anyhow::Result<()> {
    let what = || format!("write {}", path.display());
    let before = fs::read_to_string(path).with_context(what)?;
    let mut text = format!(
        "{PROCESS}{}\n{NAMESPACE}{}\n",
        std::process::id(),
        namespace::cookie()?
    );
    if makes_directory || made_directory(&before) {
        text = format!("{MADE_DIRECTORY}\n{text}");
    }
    // In its place: what stands there takes no room that a full file system does not have.
    file.write_all_at(text.as_bytes(), 0).with_context(what)?;
    file.set_len(u64::try_from(text.len())?).with_context(what)
}

fn made_directory(text: &str) -> bool {
    text.lines().any(|line| line == MADE_DIRECTORY)
}

/// Removes the lock file, and the run directory if a daemon made it and nothing else is in it.
pub(crate) fn remove(paths: &Paths, lock: Flock<File>) -> anyhow::Result<()> {
    let path = paths.lock();
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    removal::file(&path)?;
    drop(lock);
    if made_directory(&text) {
        remove_if_empty(&paths.run_dir)?;
    }
    Ok(())
}

fn remove_if_empty(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir(directory) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::ResourceBusy
            ) =>
        {
            Err(error).with_context(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
