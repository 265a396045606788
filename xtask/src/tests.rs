//! Runs every test of the workspace, those of the lab included.
//!
//! The lab makes network namespaces and loads programs into the kernel, so test binaries run as
//! root; only they, never the compiler. cargo test's own summaries are the last thing printed.

use anyhow::Result;

use crate::{plan::Needs, privilege, process, product, vm, workspace::Workspace};

/// The packages whose tests run on the host. Wherever tests are built it is these together, so that
/// they share what they are built from.
pub(crate) const PACKAGES: &[&str] = &["--workspace", "--exclude", "sixxs-ebpf"];

/// All tests, or those whose name contains one of `filter` (which may hold test runner options); with
/// `vm` those that must hold on an old kernel, there.
pub(crate) fn run(workspace: &Workspace, filter: &[String]) -> Result<()> {
    match filter {
        [first, rest @ ..] if first == "vm" => vm::run(workspace, rest),
        _ => on_this_kernel(workspace, filter),
    }
}

fn on_this_kernel(workspace: &Workspace, filter: &[String]) -> Result<()> {
    product::build(workspace, Needs::TEST)?;
    let mut command = workspace.cargo();
    command
        .arg("test")
        .args(PACKAGES)
        .arg("--no-fail-fast")
        .env("SIXXS_BIN", workspace.release_binary("sixxs"));
    if !privilege::is_root() {
        // `cfg(all())` is true on every host. env(1) keeps the path, which sudo replaces.
        let path = std::env::var("PATH").unwrap_or_default();
        let runner = format!(r#"target."cfg(all())".runner=["sudo","-E","env","PATH={path}"]"#);
        command.args(["--config", &runner]);
    }
    if !filter.is_empty() {
        command.arg("--").args(filter);
    }
    process::run(
        "run the tests",
        &mut command,
        "the summaries above name the tests that failed",
    )
}
