//! Owns a place in the lab's host where paths are those that people have: a mount namespace with /etc,
//! /run, /var/lib and /sys of its own, and the program in PATH. The machine's stay untouched, and what
//! is pinned or written there goes with it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sixxs_tests::lab::Lab;
use sixxs_tests::lab::mounts::Mounts;
use sixxs_tests::lab::netns::Namespace;

/// Of the machine's /etc; programs want to know users, and to find names in files only.
const KEPT: [&str; 2] = ["passwd", "group"];
/// What programs take for the system's authorities.
const AUTHORITIES: &str = "ssl/certs/ca-certificates.crt";

#[derive(Debug)]
pub(crate) struct Place {
    mounts: Mounts,
    directory: PathBuf,
}

impl Place {
    /// With this program as `sixxs` and `aiccu`. Where a network manager of the lab is at work,
    /// `beside` is its directory: /run is the same in both places then.
    pub(crate) fn new(lab: &Lab, program: &Path, beside: Option<&Path>) -> Result<Self> {
        let directory = lab.paths().base().join("guide");
        let run = beside.map_or(directory.join("run"), |beside| beside.join("run"));
        let (etc, lib) = (directory.join("etc"), directory.join("lib"));
        let programs = run.join("bin");
        for path in [&etc.join("ssl/certs"), &lib, &programs] {
            fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        }
        for name in KEPT {
            fs::copy(Path::new("/etc").join(name), etc.join(name))
                .with_context(|| format!("copy /etc/{name}"))?;
        }
        // As the package makes it.
        let group = etc.join("group");
        let groups = fs::read_to_string(&group).context("read group")?;
        if !groups.lines().any(|line| line.starts_with("sixxs:")) {
            fs::write(&group, groups + "sixxs:x:990:\n").context("write group")?;
        }
        fs::write(etc.join("hosts"), "127.0.0.1 localhost\n").context("write hosts")?;
        if let Ok(tic) = lab.tic() {
            fs::write(etc.join(AUTHORITIES), tic.authority_pem()).context("write authorities")?;
        }
        for name in ["sixxs", "aiccu"] {
            symlink(program, programs.join(name)).with_context(|| format!("link {name}"))?;
        }
        // The last hides where the lab's directory is.
        let binds = [(lib, "/var/lib"), (etc, "/etc"), (run, "/run")];
        let binds = binds.map(|(from, to)| (from, PathBuf::from(to)));
        Ok(Self {
            mounts: Mounts::new(lab.host(), &binds)?,
            directory,
        })
    }

    /// A command that will run there, in this namespace of the lab's.
    pub(crate) fn command(&self, node: &Namespace, program: &str) -> Command {
        let mut command = node.command(program);
        self.mounts.enter(&mut command);
        let path = std::env::var("PATH").unwrap_or_default();
        // Of the caller nothing else: people have none of it.
        command
            .env_clear()
            .env("PATH", format!("/run/bin:{path}"))
            .env("LC_ALL", "C");
        command
    }

    /// The path outside of a file that is below /etc inside.
    pub(crate) fn etc(&self, path: &str) -> PathBuf {
        self.directory.join("etc").join(path)
    }
}
