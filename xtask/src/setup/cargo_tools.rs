//! Owns the tools that cargo builds into the tool cache: cargo-deny and cargo-deb, at pinned versions.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    cargo_env,
    setup::plan::{CARGO_DEB_VERSION, CARGO_DENY_VERSION},
    workspace::{self, Workspace},
};

/// The cargo-deny of the tool cache.
pub(crate) fn cargo_deny() -> Result<Command> {
    Ok(Command::new(cargo_deny_root()?.join("bin/cargo-deny")))
}

pub(crate) fn cargo_deny_root() -> Result<PathBuf> {
    Ok(workspace::tool_cache()?.join(format!("cargo-deny-{CARGO_DENY_VERSION}")))
}

/// The cargo-deb of the tool cache.
pub(crate) fn cargo_deb() -> Result<Command> {
    Ok(Command::new(cargo_deb_root()?.join("bin/cargo-deb")))
}

pub(crate) fn cargo_deb_root() -> Result<PathBuf> {
    Ok(workspace::tool_cache()?.join(format!("cargo-deb-{CARGO_DEB_VERSION}")))
}

/// The command that builds a tool. `--force`, because cargo takes a tool that does not run for installed.
pub(crate) fn cargo_install(
    workspace: &Workspace,
    name: &str,
    version: &str,
    root: &Path,
) -> Result<Command> {
    fs::create_dir_all(root).with_context(|| format!("make the tool cache {}", root.display()))?;
    let mut command = workspace.bare_cargo();
    cargo_env::clean(&mut command)
        // Outside the checkout, whose cargo configuration is not for tools.
        .current_dir(root)
        .args([
            "install",
            name,
            "--version",
            version,
            "--locked",
            "--force",
            "--root",
        ])
        .arg(root);
    Ok(command)
}
