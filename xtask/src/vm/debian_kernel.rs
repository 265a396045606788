//! Gets Debian's kernel for virtual machines from its package, without an installation.
//!
//! Owns the package's name and the directory of the unpacked kernel, which has the version in its name.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    process,
    setup::{apt, deb},
};

/// Depends on the newest kernel for virtual machines in this Debian: 6.1 in Debian 12.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// The variable that names the package of another kernel, of this Debian.
const CHOICE: &str = "SIXXS_VM_KERNEL";

/// A kernel and its modules.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The release, as `uname -r` prints it.
    pub(crate) release: String,
    /// The image to boot.
    pub(crate) image: PathBuf,
    /// Its `/lib/modules/RELEASE`.
    pub(crate) modules: PathBuf,
}

/// Downloads it (27 MB), unless it is below `directory` already.
pub(crate) fn get(directory: &Path) -> Result<Kernel> {
    let package = match env::var(CHOICE) {
        Ok(package) => package,
        Err(_) => newest()?,
    };
    let version =
        apt::candidate(&package).with_context(|| format!("find the kernel {package}: {LISTS}"))?;
    let tree = directory.join(format!("{package}_{version}"));
    if !tree.exists() {
        fetch(directory, &package, &version, &tree)?;
    }
    let release = release(&package).to_owned();
    Ok(Kernel {
        image: tree.join(format!("boot/vmlinuz-{release}")),
        modules: tree.join("lib/modules").join(&release),
        release,
    })
}

const LISTS: &str = "the package lists have none; run `apt-get update` as root, on Debian";

/// The package of the newest kernel.
fn newest() -> Result<String> {
    let depends = process::capture(
        "find Debian's kernel",
        Command::new("apt-cache")
            .args(["depends", PACKAGE])
            .env("LC_ALL", "C"),
        LISTS,
    )?;
    let package = dependency(&depends)
        .with_context(|| format!("find Debian's kernel: {PACKAGE} depends on no image; {LISTS}"))?;
    Ok(package.to_owned())
}

/// The release of the kernel in a package.
fn release(package: &str) -> &str {
    let release = package.trim_start_matches("linux-image-");
    release.trim_end_matches("-unsigned")
}

/// The first kernel image in the output of `apt-cache depends`.
fn dependency(depends: &str) -> Option<&str> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
}

fn fetch(directory: &Path, package: &str, version: &str, tree: &Path) -> Result<()> {
    println!("getting {package} {version} (27 MB, some seconds)");
    // Unpacked elsewhere first, so that an existing tree is complete.
    let aside = directory.join("unpacking");
    let unpacked = deb::unpack(
        "get Debian's kernel",
        &[format!("{package}={version}")],
        &aside,
    )?;
    process::run(
        "find out which modules need which",
        Command::new("busybox")
            .args(["depmod", "-b"])
            .arg(&unpacked)
            .arg(release(package)),
        "it takes Debian's busybox-static",
    )?;
    fs::rename(&unpacked, tree).with_context(|| format!("make {}", tree.display()))?;
    fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_what_the_package_depends_on() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(
            dependency(depends),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(dependency("linux-image-cloud-amd64\n"), None);
    }

    #[test]
    fn a_package_names_its_release() {
        for (package, expected) in [
            ("linux-image-6.1.0-56-cloud-amd64", "6.1.0-56-cloud-amd64"),
            (
                "linux-image-6.12.107+deb12-cloud-amd64-unsigned",
                "6.12.107+deb12-cloud-amd64",
            ),
        ] {
            assert_eq!(release(package), expected);
        }
    }
}
