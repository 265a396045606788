//! Owns the paths of programs that need no installation. `cargo xtask` unpacks their packages for the tests; an
//! installed program is used otherwise.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Root of the tree with this program: the path in `variable`, the unpacked package, or /.
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

/// Environment in which the programs in its `usr/DIRECTORY` can be run by name.
pub(crate) fn environment(root: &Path, directory: &str) -> [(&'static str, PathBuf); 2] {
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = root.join("usr").join(directory);
    [
        ("PATH", format!("{}:{path}", programs.display()).into()),
        ("LD_LIBRARY_PATH", libraries(root)),
    ]
}

/// Its directory of libraries.
pub(crate) fn libraries(root: &Path) -> PathBuf {
    root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH))
}
