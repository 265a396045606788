//! Downloads and unpacks Debian packages without an installation. Needs no root.

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

/// Unpacks a package below `aside`, with the packages that it depends on and this machine does not have. Of
/// the dependencies it only takes libraries, and the packages in `with`.
pub(crate) fn fetch(package: &str, with: &[&str], size: &str, aside: &Path) -> Result<PathBuf> {
    let verb = format!("get {package}");
    let plan = process::capture(
        &verb,
        Command::new("apt-get")
            .args(["--simulate", "--no-install-recommends"])
            .args(["install", package])
            .env("LC_ALL", "C"),
        "some tests take it from Debian's archive; check the network, and `apt-get update`",
    )?;
    let packages = wanted(&plan, package, with);
    ensure!(
        !packages.is_empty(),
        "{verb}: apt-get would install nothing:\n{plan}"
    );
    println!("getting {} ({size}, some seconds)", packages.join(", "));
    unpack(&verb, &packages, aside)
}

/// From the output of `apt-get --simulate install`: the package and libraries that are not installed in any
/// version. Services that it would use are left out.
fn wanted(plan: &str, package: &str, with: &[&str]) -> Vec<String> {
    plan.lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_once(' '))
        // An upgrade has the old version first: `Inst NAME [OLD] (NEW …`.
        .filter(|(_, rest)| rest.starts_with('('))
        .map(|(name, _)| name)
        .filter(|name| *name == package || name.starts_with("lib") || with.contains(name))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn programs_and_libraries_are_taken() {
        let plan = "Reading package lists...\n\
                    Inst udev (252.39-1~deb12u2 Debian:12.13/oldstable [amd64])\n\
                    Inst libudev1 [252.38-1] (252.39-1~deb12u2 Debian:12.13/oldstable [amd64])\n\
                    Inst libndp0 (1.8-1+deb12u1 Debian:12.13/oldstable [amd64])\n\
                    Inst network-manager (1.42.4-1+deb12u1 Debian:12.13/oldstable [amd64])\n\
                    Conf libndp0 (1.8-1+deb12u1 Debian:12.13/oldstable [amd64])\n";
        let wanted = wanted(plan, "network-manager", &[]);
        assert_eq!(wanted, ["libndp0", "network-manager"]);
    }

    #[test]
    fn what_apt_would_remove_is_not_taken() {
        // From a machine with the qemu of backports.
        let plan = "The following packages will be REMOVED:\n  qemu-utils\n\
                    Remv qemu-utils [1:10.0.2+ds-2~bpo12+1]\n\
                    Remv libqemu0 [1:10.0.2+ds-2~bpo12+1]\n\
                    Inst seabios (1.16.2-1 Debian:12.13/oldstable [all])\n\
                    Inst libpixman-1-0 (0.42.2-1 Debian:12.13/oldstable [amd64])\n\
                    Inst qemu-system-x86 (1:7.2+dfsg-7+deb12u18 Debian:12.13/oldstable [amd64])\n\
                    Conf qemu-system-x86 (1:7.2+dfsg-7+deb12u18 Debian:12.13/oldstable [amd64])\n";
        assert_eq!(
            wanted(plan, "qemu-system-x86", &["seabios", "qemu-utils"]),
            ["seabios", "libpixman-1-0", "qemu-system-x86"]
        );
    }
}
