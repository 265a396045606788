//! Owns the calls of Debian's package manager.

use std::process::Command;

use anyhow::Result;

use crate::{privilege, process, progress};

/// What to do when a download fails.
pub(crate) const NETWORK: &str = "check the network and try again";

/// The version that `apt-get install` would install.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let policy = process::ask(
        Command::new("apt-cache")
            .args(["policy", package])
            .env("LC_ALL", "C"),
    )?;
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// The command that updates the package lists.
pub(crate) fn update() -> Command {
    let mut command = apt_get();
    command.args(["-q", "update"]);
    command
}

/// Updates the package lists.
pub(crate) fn update_lists() -> Result<()> {
    let mut command = update();
    let why = "the package lists (some seconds)";
    eprintln!("setup: {why}:\n    {}", process::line(&command));
    progress::run("setting up", "set up this machine", &mut command, NETWORK)
}

/// The command that installs packages. It removes none of the user's packages (rustc-web conflicts with
/// Debian's own rustup and rustc packages).
pub(crate) fn install(packages: &[String]) -> Command {
    let mut command = apt_get();
    command
        .args([
            "-q",
            "install",
            "--yes",
            "--no-install-recommends",
            "--no-remove",
        ])
        .args(packages);
    command
}

fn apt_get() -> Command {
    // Wait if another package manager runs (boot-time updates) instead of failing at once.
    let mut command =
        privilege::as_root("apt-get", &[("DEBIAN_FRONTEND", "noninteractive".as_ref())]);
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// Explains a refusal to install: the installed packages that conflict, and the remedy.
pub(crate) fn refusal(packages: &[String]) -> String {
    let plan = process::ask(
        Command::new("apt-get")
            .args(["--simulate", "--no-install-recommends", "install"])
            .args(packages)
            .env("LC_ALL", "C"),
    );
    let in_the_way = plan.as_deref().map(removed).unwrap_or_default();
    let wanted = packages.join(" ");
    if in_the_way.is_empty() {
        return format!("help: see why with `apt-get --simulate install {wanted}`");
    }
    format!(
        "help: {names} excludes {wanted}. Setup removes nothing. If you can do without {names}, run \
         `apt-get remove {names}` and try again; else go on without {wanted}",
        names = in_the_way.join(" ")
    )
}

/// The packages that `apt-get --simulate install` would remove.
fn removed(plan: &str) -> Vec<&str> {
    let lines = plan.lines().filter_map(|line| line.strip_prefix("Remv "));
    lines
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_way_is_named() {
        let plan = "Remv qemu-utils [1:10.0.2+ds-2]\nInst seabios (1.16.2-1 Debian [all])\n";
        assert_eq!(removed(plan), ["qemu-utils"]);
        assert_eq!(removed("Inst a (1)\n"), [""; 0]);
    }
}
