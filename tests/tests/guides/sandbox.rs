//! Owns a sandbox on the lab's host with the paths of an installation: a mount namespace with /etc, /run,
//! /var/lib and /sys of its own, and the program in PATH. Files and pins in it end with it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sixxs_tests::lab::Lab;
use sixxs_tests::lab::mounts::Mounts;
use sixxs_tests::lab::netns::Namespace;

/// Files copied from the machine's /etc. Programs read users from them; other names are in files only.
const COPIED: [&str; 2] = ["passwd", "group"];
/// The system's certificate authorities, for TLS clients.
const AUTHORITIES: &str = "ssl/certs/ca-certificates.crt";

#[derive(Debug)]
pub(crate) struct Sandbox {
    mounts: Mounts,
    directory: PathBuf,
}

impl Sandbox {
    /// Installs this program as `sixxs` and `aiccu`. With a network manager in the lab, `manager` is its
    /// directory, and both share /run.
    pub(crate) fn new(lab: &Lab, program: &Path, manager: Option<&Path>) -> Result<Self> {
        let directory = lab.paths().base().join("guide");
        let run = manager.map_or(directory.join("run"), |manager| manager.join("run"));
        let (etc, lib) = (directory.join("etc"), directory.join("lib"));
        let programs = run.join("bin");
        for path in [&etc.join("ssl/certs"), &lib, &programs] {
            fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        }
        for name in COPIED {
            fs::copy(Path::new("/etc").join(name), etc.join(name))
                .with_context(|| format!("copy /etc/{name}"))?;
        }
        // The package makes this group.
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
        // /run is last, because it hides the lab's directory.
        let binds = [(lib, "/var/lib"), (etc, "/etc"), (run, "/run")];
        let binds = binds.map(|(from, to)| (from, PathBuf::from(to)));
        Ok(Self {
            mounts: Mounts::new(lab.host(), &binds)?,
            directory,
        })
    }

    /// A command that runs in the sandbox, in this network namespace of the lab.
    pub(crate) fn command(&self, node: &Namespace, program: &str) -> Command {
        let mut command = node.command(program);
        self.mounts.enter(&mut command);
        let path = std::env::var("PATH").unwrap_or_default();
        // Users have no other variable of this process.
        command
            .env_clear()
            .env("PATH", format!("/run/bin:{path}"))
            .env("LC_ALL", "C");
        command
    }

    /// The path outside the sandbox of a file below its /etc.
    pub(crate) fn etc(&self, path: &str) -> PathBuf {
        self.directory.join("etc").join(path)
    }
}
