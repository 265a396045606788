//! The run directory: its lock, and the daemon that holds the lock.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use tracing::warn;

use crate::{host::files, host::namespace, host::paths::Paths};

/// Line in the lock file if sixxs made the directory, and `down` has to remove it.
const MADE_DIRECTORY: &str = "the directory was made by sixxs";

/// Prefixes in the lock file, before the daemon's process ID and the cookie of its network namespace.
const PROCESS: &str = "process ";
const NAMESPACE: &str = "network namespace ";

/// The daemon that holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Its process ID.
    pub(crate) process: u32,
    /// The cookie of its network namespace.
    pub(crate) namespace: u64,
}

/// The daemon named in a lock file; `None` if there is no name, as in those of earlier versions.
pub(crate) fn holder(lock: &Path) -> Option<Holder> {
    let text = fs::read_to_string(lock).ok()?;
    let after = |prefix| text.lines().find_map(|line| line.strip_prefix(prefix));
    Some(Holder {
        process: after(PROCESS)?.parse().ok()?,
        namespace: after(NAMESPACE)?.parse().ok()?,
    })
}

/// Locks the run directory, so that only one daemon uses it. `None`: the file system is full or read-only.
/// The daemon then works without this lock; there is still only one per network namespace.
pub(crate) fn lock(paths: &Paths) -> anyhow::Result<Option<Flock<File>>> {
    let makes_directory = !paths.run_dir.exists();
    let path = paths.lock();
    let file = match open(paths) {
        Ok(file) => file,
        Err(error) if has_no_room(&error) => {
            warn!("{error:#}; continuing without a lock");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            // The lock is valid even if the file cannot be written, for instance on a full file system.
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

/// Writes the daemon's process and network namespace to the lock file.
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
    // Overwrite the file in place, which needs no space on a full file system.
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
    files::remove_if_exists(&path)?;
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
