//! Builds the release binaries: the eBPF object first, then the binaries that embed it.

use anyhow::Result;

use crate::{
    process,
    product::ebpf,
    setup::{self, plan::Needs},
    workspace::Workspace,
};

/// Installs missing needs, and builds the eBPF object and `sixxs`.
pub(crate) fn build(workspace: &Workspace, needs: Needs) -> Result<()> {
    setup::ensure(workspace, needs)?;
    ebpf::build(workspace)?;
    release(workspace, &["--package", "sixxs-user"])
}

/// The same, and builds `tool`, a binary of the tests crate.
pub(crate) fn build_with_tool(workspace: &Workspace, tool: &str) -> Result<()> {
    build(workspace, Needs::TEST)?;
    // A separate build: in the same one, the tests would enable more features of shared dependencies, and
    // `sixxs` would not be the binary that is shipped.
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
