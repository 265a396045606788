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
    /// Packages that it depends on and that are no libraries.
    with: &'static [&'static str],
    program: &'static str,
    size: &'static str,
}

/// Those of the lab.
pub(crate) const ALL: [Unpacked; 2] = [
    Unpacked {
        variable: "SIXXS_NETWORK_MANAGER",
        package: "network-manager",
        with: &[],
        program: "usr/sbin/NetworkManager",
        size: "4 MB",
    },
    Unpacked {
        variable: "SIXXS_IP6TABLES",
        package: "iptables",
        with: &[],
        program: "usr/sbin/ip6tables-legacy",
        size: "500 kB",
    },
];

/// Those of the test of the page: a browser with its driver, and a font for the pictures.
pub(crate) const PAGE: [Unpacked; 2] = [
    Unpacked {
        variable: "SIXXS_CHROMIUM",
        package: "chromium-driver",
        with: &["chromium", "chromium-common"],
        program: "usr/bin/chromedriver",
        size: "130 MB",
    },
    Unpacked {
        variable: "SIXXS_FONT",
        package: "fonts-inter",
        with: &[],
        program: "usr/share/fonts/opentype/inter",
        size: "3 MB",
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
        deb::fetch(self.package, self.with, self.size, aside)
    }
}
