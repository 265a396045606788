//! Finds programs that should not be installed: below directories into which `cargo xtask test` unpacks their
//! packages, or below /.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The directory of an unpacked package, which has to contain this program; the environment variable
/// `variable` may name the directory.
pub(crate) fn root(variable: &str, package: &str, program: &str) -> Result<PathBuf> {
    let unpacked = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")).join(package),
    };
    let mut places = [unpacked.clone(), PathBuf::from("/")].into_iter();
    let found = places.find(|root| root.join(program).exists());
    found.with_context(|| {
        format!(
            "no {program} in {}: `cargo xtask test` gets it",
            unpacked.display()
        )
    })
}

/// Environment variables with which its programs in `usr/DIRECTORY` run as ordinary commands.
pub(crate) fn environment(root: &Path, directory: &str) -> [(&'static str, PathBuf); 2] {
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = root.join("usr").join(directory);
    [
        ("PATH", format!("{}:{path}", programs.display()).into()),
        ("LD_LIBRARY_PATH", libraries(root)),
    ]
}

/// The directory of its libraries.
pub(crate) fn libraries(root: &Path) -> PathBuf {
    root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH))
}
