//! systemd must accept the installed units without a warning, and they must have no more rights than decided
//! (docs/adr/0007-installation.md).

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{process, workspace::Workspace};

/// Files in deploy/.
const UNITS: &[&str] = &["sixxs.service", "sixxs-wait-online.service"];

/// The daemon's unit, and its highest tolerated exposure by `systemd-analyze security`, in tenths.
const DAEMON: &str = "sixxs.service";
const MOST_EXPOSED: u32 = 20;

/// Programs and targets that the units refer to.
const PROGRAMS: &[&str] = &["sh", "sixxs", "systemctl"];
const TARGETS: &[&str] = &["basic", "shutdown", "sysinit"];

/// Checks them in a separate tree, independent of this machine's units.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let root = workspace.target.join("units");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    }
    lay_out(workspace, &root).with_context(|| format!("lay out {}", root.display()))?;
    // systemd-analyze prints unknown lines as ignored and still succeeds, so any output is an error.
    let output = analyze(&root, "verify")
        .arg("--man=no")
        .args(UNITS)
        .output()
        .context("run systemd-analyze; it is in Debian's systemd")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !(output.status.success() && said.is_empty()) {
        bail!("systemd does not understand the units:\n{said}");
    }
    let exposure = process::capture(
        "ask how exposed the daemon is",
        analyze(&root, "security").args(["--offline=true", "--no-pager", DAEMON]),
        "it is in Debian's systemd, from 12 on",
    )?;
    let tenths = overall(&exposure)
        .with_context(|| format!("systemd-analyze security said nothing of it:\n{exposure}"))?;
    ensure!(
        tenths <= MOST_EXPOSED,
        "{exposure}\n{DAEMON} is exposed to {}.{}, more than {}.{}",
        tenths / 10,
        tenths % 10,
        MOST_EXPOSED / 10,
        MOST_EXPOSED % 10
    );
    Ok(())
}

fn analyze(root: &Path, verb: &str) -> Command {
    let mut command = Command::new("systemd-analyze");
    command.arg(verb).arg("--root").arg(root).env("LC_ALL", "C");
    command
}

fn lay_out(workspace: &Workspace, root: &Path) -> Result<()> {
    let units = root.join("usr/lib/systemd/system");
    let programs = root.join("usr/bin");
    fs::create_dir_all(&units)?;
    fs::create_dir_all(&programs)?;
    symlink("usr/bin", root.join("bin"))?;
    for unit in UNITS {
        fs::copy(workspace.root.join("deploy").join(unit), units.join(unit))?;
    }
    for target in TARGETS {
        let text = "[Unit]\nDefaultDependencies=no\n";
        fs::write(units.join(format!("{target}.target")), text)?;
    }
    for program in PROGRAMS {
        let path = programs.join(program);
        fs::write(&path, "#!")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The number in the last line, in tenths.
fn overall(exposure: &str) -> Option<u32> {
    let (_, behind) = exposure.split_once("Overall exposure level for ")?;
    let (_, number) = behind.split_once(": ")?;
    let (whole, tenths) = number.split_whitespace().next()?.split_once('.')?;
    Some(whole.parse::<u32>().ok()? * 10 + tenths.parse::<u32>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::overall;

    #[test]
    fn the_level_is_read() {
        let printed = "  NAME EXPOSURE\n→ Overall exposure level for a.service: 2.1 OK :-)\n";
        assert_eq!(overall(printed), Some(21));
        assert_eq!(overall("nothing"), None);
    }
}
