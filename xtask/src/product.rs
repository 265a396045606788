//! Builds what is shipped and run: the eBPF object first, then the binaries that embed it.

use anyhow::Result;

use crate::{ebpf, plan::Needs, process, setup, workspace::Workspace};

const ADVICE: &str = "the compiler's messages above say why";

/// The eBPF object and `sixxs`.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    build_with(workspace, Needs::BUILD, &["--package", "sixxs-user"])
}

/// The same and, in the same go, a binary of the tests crate.
pub(crate) fn build_with_tool(workspace: &Workspace, tool: &str) -> Result<()> {
    let packages = ["--package", "sixxs-user", "--package", "sixxs-tests"];
    let mut arguments = packages.to_vec();
    arguments.extend(["--bin", "sixxs", "--bin", tool]);
    build_with(workspace, Needs::TEST, &arguments)
}

/// What `test` needs before cargo test.
pub(crate) fn build_for_tests(workspace: &Workspace) -> Result<()> {
    build_with(workspace, Needs::TEST, &["--package", "sixxs-user"])
}

fn build_with(workspace: &Workspace, needs: Needs, arguments: &[&str]) -> Result<()> {
    setup::ensure(workspace, needs)?;
    ebpf::build(workspace)?;
    process::run(
        "build the release binaries",
        workspace
            .cargo()
            .args(["build", "--release"])
            .args(arguments),
        ADVICE,
    )
}
