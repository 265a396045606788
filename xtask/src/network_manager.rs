//! NetworkManager for the tests, out of its packages. It is not installed: it would start to manage
//! the machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{package, process, setup, workspace::Workspace};

const PROGRAM: &str = "usr/sbin/NetworkManager";
const VERB: &str = "get NetworkManager";

/// The directory below which it is: the root of the file system, where it is installed anyway.
pub(crate) fn get(workspace: &Workspace) -> Result<PathBuf> {
    let installed = Path::new("/");
    if installed.join(PROGRAM).is_file() {
        return Ok(installed.to_path_buf());
    }
    let tree = workspace.target.join("network-manager");
    if tree.join(PROGRAM).is_file() {
        return Ok(tree);
    }
    let aside = workspace.target.join("network-manager-unpacking");
    let unpacked = match fetch(&aside) {
        Ok(unpacked) => unpacked,
        Err(error) => {
            // Lists that are old name packages that are gone.
            eprintln!("{error:#}");
            setup::update_lists(workspace)?;
            fetch(&aside)?
        }
    };
    fs::rename(&unpacked, &tree).with_context(|| format!("make {}", tree.display()))?;
    fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))?;
    Ok(tree)
}

/// It and all that it needs and this machine has not, unpacked.
fn fetch(aside: &Path) -> Result<PathBuf> {
    let plan = process::capture(
        VERB,
        Command::new("apt-get")
            .args(["--simulate", "--no-install-recommends"])
            .args(["install", "network-manager"])
            .env("LC_ALL", "C"),
        "the tests beside NetworkManager take it from Debian's archive",
    )?;
    let packages = wanted(&plan);
    ensure!(
        !packages.is_empty(),
        "{VERB}: apt-get would install nothing:\n{plan}"
    );
    println!("getting {} (4 MB, some seconds)", packages.join(", "));
    package::unpack(VERB, &packages, aside)
}

/// Of what `apt-get --simulate install` would do, the program and libraries that are not there in
/// any version; services that it would ask are left out.
fn wanted(plan: &str) -> Vec<String> {
    plan.lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_once(' '))
        // An upgrade has the old version first: `Inst NAME [OLD] (NEW …`.
        .filter(|(_, rest)| rest.starts_with('('))
        .map(|(name, _)| name)
        .filter(|name| *name == "network-manager" || name.starts_with("lib"))
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
        assert_eq!(wanted(plan), ["libndp0", "network-manager"]);
    }
}
