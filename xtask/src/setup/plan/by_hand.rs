//! Commands for the user, where setup may not install anything.

use std::path::PathBuf;

use super::model::{Action, Debian, Step, Wants};
use crate::setup::toolchain::{self, BPF_LINKER_VERSION, NIGHTLY};

/// Shell lines for a user who may use sudo, which replace the steps that setup would do as root.
pub(super) fn debian_by_hand(steps: &[Step], debian: &Debian, wants: &Wants) -> Vec<String> {
    const INSTALL: &str = "sudo apt-get install --no-remove";
    let packages: Vec<_> = steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::AptInstall(packages) => Some(packages.join(" ")),
            _ => None,
        })
        .collect();
    let mut lines = vec![
        "sudo apt-get update".to_owned(),
        format!("{INSTALL} {}", packages.join(" ")),
    ];
    if wants.compiler && debian.has_compiler() {
        lines.push(
            r"LLVM=$(/usr/bin/rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')".into(),
        );
        lines.push(format!(
            "{INSTALL} llvm-$LLVM-dev libpolly-$LLVM-dev zlib1g-dev g++"
        ));
    }
    lines.push("cargo xtask setup   # the rest needs no root".into());
    lines
}

pub(super) fn nightly_by_hand() -> String {
    format!(
        "rustup toolchain install {NIGHTLY} --profile minimal --component rust-src --component clippy"
    )
}

pub(super) fn linker_by_hand(llvm: u32) -> Vec<String> {
    let root = toolchain::linker_root(llvm).unwrap_or_else(|_| PathBuf::from("DIRECTORY"));
    vec![
        format!(
            "# bpf-linker needs LLVM {llvm} or newer with its development files, and it is not"
        ),
        format!(
            "# in {}. Either get it there (Debian: llvm-{llvm}-dev",
            llvm_directory(llvm)
        ),
        format!("# libpolly-{llvm}-dev zlib1g-dev g++) and run `cargo xtask setup` again,"),
        "# or say where LLVM is:".into(),
        format!(
            "LLVM_PREFIX=… cargo install bpf-linker --version {BPF_LINKER_VERSION} --locked \
             --no-default-features --features llvm-{llvm} --root {}",
            root.display()
        ),
        "# or name a bpf-linker that you have in the environment variable BPF_LINKER.".into(),
    ]
}

fn llvm_directory(llvm: u32) -> String {
    toolchain::llvm_prefix(llvm).display().to_string()
}
