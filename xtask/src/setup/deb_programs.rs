//! Owns the programs of tests that are unpacked from their packages. They are not installed: NetworkManager
//! would manage the machine, and other programs would call ip6tables.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    setup::{apt, deb},
    workspace::Workspace,
};

/// A program, its package, and the variable with its directory for the tests.
pub(crate) struct Unpacked {
    /// Environment variable with its directory.
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
    /// Root of the tree with the program. An installed program is used; its root is /.
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
                // Old package lists name packages that are gone from the archive.
                eprintln!("{error:#}");
                apt::update_lists()?;
                self.fetch(&aside)?
            }
        };
        fs::rename(&unpacked, &tree).with_context(|| format!("make {}", tree.display()))?;
        fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))?;
        Ok(tree)
    }

    fn fetch(&self, aside: &Path) -> Result<PathBuf> {
        deb::fetch(self.package, &[], self.size, aside)
    }
}
