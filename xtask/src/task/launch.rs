//! Builds a program and executes it as root in place of xtask: the daemon, the lab, a benchmark.
//!
//! After the exec, the terminal and ctrl-C belong to the program itself.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{privilege, process, product::release, setup::plan::Needs, workspace::Workspace};

/// The daemon's default configuration file.
const DEFAULT_CONFIG: &str = "/etc/sixxs/sixxs.toml";

/// Runs the daemon; without a configuration the lab's demonstration.
pub(crate) fn run(workspace: &Workspace, config: Option<PathBuf>, args: &[String]) -> Result<()> {
    let config = config.or_else(|| {
        let default = Path::new(DEFAULT_CONFIG);
        default.exists().then(|| default.to_path_buf())
    });
    let Some(config) = config else {
        println!("no configuration (neither --config nor {DEFAULT_CONFIG}): showing the lab");
        return lab_tool(workspace, "sixxs-lab", &["demo"], args);
    };
    release::build(workspace, Needs::BUILD)?;
    let mut command = privilege::as_root(workspace.release_binary("sixxs"), &[]);
    command.arg("--config").arg(config).arg("run").args(args);
    become_it("run the daemon", command)
}

/// Runs the lab, until the user ends it.
pub(crate) fn lab(workspace: &Workspace, args: &[String]) -> Result<()> {
    lab_tool(workspace, "sixxs-lab", &["up"], args)
}

/// Runs a benchmark; the arguments name it.
pub(crate) fn bench(workspace: &Workspace, args: &[String]) -> Result<()> {
    lab_tool(workspace, "sixxs-bench", &[], args)
}

/// Draws the pictures of the documentation, from a run in the lab.
pub(crate) fn pictures(workspace: &Workspace) -> Result<()> {
    lab_tool(workspace, "sixxs-pictures", &[], &[])
}

fn lab_tool(workspace: &Workspace, tool: &str, first: &[&str], args: &[String]) -> Result<()> {
    release::build_with_tool(workspace, tool)?;
    let sixxs = workspace.release_binary("sixxs");
    let variables: [(&str, &OsStr); 1] = [("SIXXS_BIN", sixxs.as_os_str())];
    let mut command = privilege::as_root(workspace.release_binary(tool), &variables);
    command.args(first).args(args);
    if matches!(tool, "sixxs-bench" | "sixxs-pictures") {
        // They write to docs in the checkout.
        command.current_dir(&workspace.root);
    }
    become_it(&format!("run {tool}"), command)
}

fn become_it(verb: &str, mut command: Command) -> Result<()> {
    match process::become_command(verb, &mut command)? {}
}
