//! Files of Debian packages without installing those: downloads and unpacks packages. Needs no root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{process, progress};

/// Unpacks packages, named as for apt-get, into one tree below `directory`, which it empties first. Returns
/// the tree.
pub(crate) fn unpack(verb: &str, packages: &[String], directory: &Path) -> Result<PathBuf> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    progress::run(
        &format!("downloading {}", packages.join(", ")),
        verb,
        Command::new("apt-get")
            // Otherwise apt-get warns root that its sandbox user cannot access the directory.
            .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
            .args(packages)
            .current_dir(directory),
        "check the network, and `apt-get update`",
    )?;
    let look = || format!("look into {}", directory.display());
    let mut archives = Vec::new();
    for entry in fs::read_dir(directory).with_context(look)? {
        archives.push(entry.with_context(look)?.path());
    }
    ensure!(
        archives.len() == packages.len(),
        "apt-get downloaded {} packages into {}, not {}",
        archives.len(),
        directory.display(),
        packages.len()
    );
    let tree = directory.join("tree");
    for archive in archives {
        process::run(
            verb,
            Command::new("dpkg-deb")
                .arg("--extract")
                .args([&archive, &tree]),
            "remove what is in the target directory of it, and try again",
        )?;
    }
    Ok(tree)
}
