//! Reads the text files of the checkout, the input of the checks.

use std::{fs, io, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{process, workspace::Workspace};

/// A text file of the checkout.
pub(crate) struct File {
    /// Relative to the checkout.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// All text files that are committed or could be (so that lint checks a file before its commit).
pub(crate) fn tree(workspace: &Workspace) -> Result<Vec<File>> {
    let list = process::capture(
        "list the files of the checkout",
        Command::new("git").current_dir(&workspace.root).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]),
        "lint needs git and a clone",
    )?;
    let mut files = Vec::new();
    for path in list.split_terminator('\0').map(PathBuf::from) {
        match fs::read(workspace.root.join(&path)) {
            // Skip files that are not text: pictures, packet captures.
            Ok(bytes) => files.extend(
                String::from_utf8(bytes)
                    .ok()
                    .map(|text| File { path, text }),
            ),
            // A removed file that is not committed yet, or a link to a directory.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::IsADirectory
                ) => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
    Ok(files)
}
