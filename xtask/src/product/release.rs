//! Builds the release binaries: the eBPF object first, then the binaries that embed it.

use anyhow::Result;

use crate::{
    process,
    product::ebpf,
    setup::{self, plan::Needs},
    workspace::Workspace,
};

/// The eBPF object and `sixxs`, after getting what that or the task it is for lacks.
pub(crate) fn build(workspace: &Workspace, needs: Needs) -> Result<()> {
    setup::ensure(workspace, needs)?;
    ebpf::build(workspace)?;
    release(workspace, &["--package", "sixxs-user"])
}

/// The same, and `tool`, a binary of the tests crate.
pub(crate) fn build_with_tool(workspace: &Workspace, tool: &str) -> Result<()> {
    build(workspace, Needs::TEST)?;
    // By itself: in one go, the features that the tests want of shared dependencies would get into
    // `sixxs`, which would then not be the binary that is shipped.
    release(workspace, &["--package", "sixxs-tests", "--bin", tool])
}

fn release(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    process::run(
        "build the release binaries",
        workspace
            .cargo()
            .args(["build", "--release"])
            .args(arguments),
        "the compiler's messages above say why",
    )
}
