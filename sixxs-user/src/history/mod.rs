//! The history of tunnels on disk: a file per tunnel in `STATE_DIR/history`.
//!
//! * `ring` – writes and reads the records of a file
//! * `writer` – the thread that writes for the daemon
//! * [`report`] – what the records show, as JSON
//! * [`time`] – periods, and times of UTC
//!
//! What a record is, and what records show, is decided in [`sixxs_core::history`].

#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod report;
mod ring;
pub(crate) mod time;
mod writer;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use sixxs_core::{history::file_name, types::IfName};

pub(crate) use ring::read;
pub(crate) use writer::{Batch, Writer};

/// The directory of the files.
pub(crate) fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("history")
}

/// The files in a directory, by tunnel. A directory that does not exist has none.
pub(crate) fn files(directory: &Path) -> anyhow::Result<BTreeMap<IfName, PathBuf>> {
    let what = || format!("list {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(what),
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry.with_context(what)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(tunnel) = name.and_then(file_name::tunnel) {
            files.insert(tunnel, path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_tunnels_are_listed() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["sixxs0.ring", "ppp%2a.ring", "sixxs0.ring.old", "other"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let files = files(directory.path()).unwrap();
        let names: Vec<_> = files.keys().map(IfName::as_str).collect();
        assert_eq!(names, ["ppp*", "sixxs0"]);
        let missing = directory.path().join("missing");
        assert!(super::files(&missing).unwrap().is_empty());
        assert!(super::files(&directory.path().join("other")).is_err());
    }
}
