//! Programs for the tests, from unpacked packages. They are not installed: NetworkManager would start to
//! manage the machine, and other software uses ip6tables if it exists.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{package, process, setup, workspace::Workspace};

/// A program, its package, and the environment variable for the tests.
pub(crate) struct Unpacked {
    /// Variable with the directory for the tests.
    pub(crate) variable: &'static str,
    package: &'static str,
    program: &'static str,
    size: &'static str,
}

/// All of them.
pub(crate) const ALL: [Unpacked; 2] = [
    Unpacked {
        variable: "SIXXS_NETWORK_MANAGER",
        package: "network-manager",
        program: "usr/sbin/NetworkManager",
        size: "4 MB",
    },
    Unpacked {
        variable: "SIXXS_IP6TABLES",
        package: "iptables",
        program: "usr/sbin/ip6tables-legacy",
        size: "500 kB",
    },
];

impl Unpacked {
    /// The directory with the program: the tree of its package, or the root of the file system if it is
    /// installed.
    pub(crate) fn get(&self, workspace: &Workspace) -> Result<PathBuf> {
        let installed = Path::new("/");
        if installed.join(self.program).exists() {
            return Ok(installed.to_path_buf());
        }
        let tree = workspace.target.join(self.package);
        if tree.join(self.program).exists() {
            return Ok(tree);
        }
        let aside = workspace.target.join(format!("{}-unpacking", self.package));
        let unpacked = match self.fetch(&aside) {
            Ok(unpacked) => unpacked,
            Err(error) => {
                // Outdated package lists have packages that no longer exist.
                eprintln!("{error:#}");
                setup::update_lists(workspace)?;
                self.fetch(&aside)?
            }
        };
        fs::rename(&unpacked, &tree).with_context(|| format!("make {}", tree.display()))?;
        fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))?;
        Ok(tree)
    }

    fn fetch(&self, aside: &Path) -> Result<PathBuf> {
        fetch(self.package, &[], self.size, aside)
    }
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
    package::unpack(&verb, &packages, aside)
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
}
