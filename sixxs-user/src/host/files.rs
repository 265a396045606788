//! Removes files. A file that does not exist is no error.

use std::{fs, io, path::Path};

use anyhow::Context as _;
use tracing::debug;

/// Removes a file or a pin, if it exists.
pub(crate) fn remove_if_exists(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a draft after a failed write, for instance on a full file system.
pub(crate) fn remove_draft_on_error<T, E>(draft: &Path, written: Result<T, E>) -> Result<T, E> {
    if written.is_err()
        && let Err(error) = remove_if_exists(draft)
    {
        debug!("{error:#}");
    }
    written
}
