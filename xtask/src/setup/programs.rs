//! Owns the search for programs on the path.

use std::{env, path::PathBuf};

/// Whether a program is installed, or has a wrapper on the path.
pub(crate) fn on_path(program: &str) -> bool {
    find_program(program).is_some()
}

/// Path of a program. An absolute path stands for itself.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        // The PATH of other users may lack root's directories.
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}
