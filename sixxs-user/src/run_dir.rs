//! The run directory: whose it is, and who runs in it.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::{paths::Paths, removal};

/// Said in the lock file when the directory is ours as well, and goes with it.
const MADE_DIRECTORY: &str = "the directory was made by sixxs\n";

/// Sees that there is one daemon per run directory.
pub(crate) fn lock(paths: &Paths) -> anyhow::Result<Flock<File>> {
    use io::Write as _;
    let makes_directory = !paths.run_dir.exists();
    fs::create_dir_all(&paths.run_dir)
        .with_context(|| format!("create {}", paths.run_dir.display()))?;
    let path = paths.lock();
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    if makes_directory {
        file.write_all(MADE_DIRECTORY.as_bytes())
            .with_context(|| format!("write {}", path.display()))?;
    }
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
            "another sixxs runs with {}; stop it, or run this one in a network namespace of its own, \
             with a --run-dir of its own",
            paths.run_dir.display()
        ),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Removes the lock file, and the run directory if a daemon made it and nothing else is in it.
pub(crate) fn remove(paths: &Paths, lock: Flock<File>) -> anyhow::Result<()> {
    let path = paths.lock();
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    removal::file(&path)?;
    drop(lock);
    if text == MADE_DIRECTORY {
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
