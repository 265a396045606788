//! Tests the daemon's page in a headless Chromium.
//!
//! Chromium is Debian's. axe-core, which checks accessibility, comes from npm; `tests/browser/package-lock.json` has its version
//! and its hash.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{privilege, process, product::release, setup::deb_programs, workspace::Workspace};

/// The test, a binary of the tests crate.
const TOOL: &str = "sixxs-page";

/// Builds the daemon and the test, and runs it.
pub(crate) fn test(workspace: &Workspace) -> Result<()> {
    release::build_with_tool(workspace, TOOL)?;
    let mut variables = set_up(workspace)?;
    variables.push(("SIXXS_BIN", workspace.release_binary("sixxs").into()));
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (*name, value.as_os_str()))
        .collect();
    let mut command = privilege::as_root(workspace.release_binary(TOOL), &variables);
    // It writes to docs in the checkout.
    command.current_dir(&workspace.root);
    process::run(
        "test the page",
        &mut command,
        "its message above says what the page lacks",
    )
}

/// Gets what the test needs. Returns the variables by which it finds that.
pub(crate) fn set_up(workspace: &Workspace) -> Result<Vec<(&'static str, OsString)>> {
    let mut variables = vec![("SIXXS_AXE", axe(workspace)?.into())];
    for program in deb_programs::PAGE {
        variables.push((program.variable, program.get(workspace)?.into()));
    }
    Ok(variables)
}

/// The script of axe-core, which is installed into the target directory.
fn axe(workspace: &Workspace) -> Result<PathBuf> {
    const LOCK: &str = "package-lock.json";
    let source = workspace.root.join("tests/browser");
    let directory = workspace.target.join("page");
    let script = directory.join("node_modules/axe-core/axe.min.js");
    // An error means that nothing is installed yet.
    let installed = fs::read(directory.join(LOCK)).unwrap_or_default();
    if script.exists() && installed == read(&source.join(LOCK))? {
        return Ok(script);
    }
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    for file in ["package.json", LOCK] {
        let copy = directory.join(file);
        fs::write(&copy, read(&source.join(file))?)
            .with_context(|| format!("write {}", copy.display()))?;
    }
    process::run(
        "get axe-core",
        Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&directory),
        "npm is needed (Debian's package npm), and the network",
    )?;
    Ok(script)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}
