//! Files in the state directory: readable only by their owner, replaced atomically, and on disk when the
//! function returns.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context as _, bail};

use crate::host::files;

/// Reads at most `max_bytes + 1` bytes of a file, so that the caller can detect a longer one. `None` if it
/// does not exist.
pub(super) fn read(path: &Path, max_bytes: u64) -> anyhow::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
    };
    let mut bytes = Vec::new();
    let mut file = file.take(max_bytes + 1);
    file.read_to_end(&mut bytes)
        .with_context(|| format!("read {}", path.display()))?;
    Ok(Some(bytes))
}

/// Replaces a file. Only one process may do so at a time.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let Some(directory) = path.parent() else {
        bail!("{} is in no directory", path.display());
    };
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = Path::new(&draft);
    // A process that was killed may have left it, perhaps with other permissions.
    files::remove_if_exists(draft)?;
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)
        .with_context(|| format!("create {}", draft.display()))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    files::remove_draft_on_error(draft, written)
        .with_context(|| format!("write {}", draft.display()))?;
    fs::rename(draft, path).with_context(|| format!("write {}", path.display()))?;
    sync_directory(directory)
}

/// Makes sure that a directory exists.
pub(super) fn directory(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("create {}", path.display()))?;
    // Sync the parents: otherwise a power failure could remove the new directory, with the file.
    path.ancestors().skip(1).take(2).try_for_each(|parent| {
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        sync_directory(parent)
    })
}

fn sync_directory(path: &Path) -> anyhow::Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("write {}", path.display()))
}
