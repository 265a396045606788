//! Installs missing requirements: gathers facts, asks `plan` for steps, carries them out, and repeats that
//! until nothing is missing.
//!
//! Prints each step with its reason and rough duration before it starts. Without missing parts it is silent and
//! takes some tens of milliseconds.

pub(crate) mod apt;
pub(crate) mod cargo_tools;
pub(crate) mod deb;
pub(crate) mod deb_programs;
pub(crate) mod plan;
pub(crate) mod programs;
pub(crate) mod toolchain;
pub(crate) mod tools;

use std::{collections::BTreeSet, process::Command};

use anyhow::{Result, bail};

use self::{
    apt::{NETWORK, candidate, refusal},
    cargo_tools::{cargo_deb, cargo_deb_root, cargo_deny, cargo_deny_root, cargo_install},
    plan::{Action, CARGO_DEB_VERSION, CARGO_DENY_VERSION, Debian, Facts, Needs, Plan, Step},
    programs::on_path,
    toolchain::{BPF_LINKER_VERSION, Compiler, Linker, NIGHTLY},
};
use crate::{
    cargo_env, check::prose, privilege::Privilege, process, progress, workspace::Workspace,
};

/// Batches of the longest sequence (lists, compiler, LLVM, tools), and some to spare. More means that a step
/// does not have its effect.
const MOST_BATCHES: usize = 8;

/// Installs everything that `needs` names.
pub(crate) fn ensure(workspace: &Workspace, needs: Needs) -> Result<()> {
    let mut lists_fresh = false;
    let mut refused = BTreeSet::new();
    for _batch in 0..MOST_BATCHES {
        match plan::plan(&observe(workspace, needs, lists_fresh, &refused)?, needs) {
            Plan::Ready => return Ok(()),
            Plan::Manual(lines) => bail!("{}", by_hand(&lines)),
            Plan::Steps(steps) => {
                for step in &steps {
                    match (&step.action, carry_out(workspace, step)) {
                        (_, Ok(())) => lists_fresh |= step.action == Action::AptUpdate,
                        // The plan may have an alternative.
                        (Action::AptInstall(packages), Err(error)) => {
                            eprintln!("error: {error:#}\n{}", refusal(packages));
                            refused.extend(packages.iter().cloned());
                        }
                        (_, Err(error)) => return Err(error),
                    }
                }
            }
        }
    }
    bail!(
        "set up this machine: something is still missing after {MOST_BATCHES} batches of steps; \
         the last ones above did not do what they should have"
    )
}

fn by_hand(lines: &[String]) -> String {
    format!(
        "set up this machine: this needs root, or a package manager that is not known here; \
         by hand:\n\n    {}\n",
        lines.join("\n    ")
    )
}

fn observe(
    workspace: &Workspace,
    needs: Needs,
    lists_fresh: bool,
    refused: &BTreeSet<String>,
) -> Result<Facts> {
    let compiler = Compiler::find();
    let linker = match &compiler {
        Some(compiler) => Linker::find(compiler.llvm)?.usable,
        None => false,
    };
    let clippy = compiler
        .as_ref()
        .is_some_and(|compiler| compiler.clippy().is_some());
    let runs = |mut tool: Command| process::ask(tool.arg("--version")).is_some();
    let cargo_deny = !needs.lint || runs(cargo_deny()?);
    let cargo_deb = !needs.dist || runs(cargo_deb()?);
    let harper = !needs.lint || runs(Command::new(prose::harper(workspace)));
    let missing_programs: Vec<_> = needs
        .programs()
        .map(|program| program.name)
        .filter(|program| !(on_path(program) && new_enough(program)))
        .collect();
    let mut facts = Facts {
        privilege: Privilege::Root,
        compiler,
        linker,
        clippy,
        llvm_installed: BTreeSet::new(),
        missing_programs,
        cargo_deny,
        cargo_deb,
        harper,
        refused: refused.clone(),
        rustup: on_path("rustup"),
        debian: is_debian().then(|| Debian {
            lists_fresh,
            rustc_web_minor: None,
            llvm_available: BTreeSet::new(),
        }),
    };
    if plan::plan(&facts, needs) != Plan::Ready {
        complete(&mut facts);
    }
    Ok(facts)
}

/// Adds the facts that take longer to find, and matter only if something is missing.
fn complete(facts: &mut Facts) {
    facts.privilege = Privilege::find();
    let llvms = || toolchain::linker_llvms(0);
    facts.llvm_installed = llvms()
        .filter(|&llvm| {
            let prefix = toolchain::llvm_prefix(llvm);
            // The linker also links Polly, which Debian has in a separate package.
            prefix.join("bin/llvm-config").exists() && prefix.join("lib/libPolly.a").exists()
        })
        .collect();
    if let Some(debian) = &mut facts.debian {
        debian.rustc_web_minor = candidate("rustc-web").and_then(|version| rustc_minor(&version));
        debian.llvm_available = llvms()
            .filter(|llvm| candidate(&format!("llvm-{llvm}-dev")).is_some())
            .collect();
    }
}

/// Whether this is Debian or a derivative, with its package manager.
fn is_debian() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    names_debian(&release) && on_path("apt-get")
}

fn names_debian(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| {
            line.strip_prefix("ID=")
                .or_else(|| line.strip_prefix("ID_LIKE="))
        })
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .any(|id| id == "debian")
}

/// The N of a Debian version `1.N.…`.
fn rustc_minor(version: &str) -> Option<u32> {
    let (_epoch, version) = version.split_once(':').unwrap_or(("", version));
    version.strip_prefix("1.")?.split('.').next()?.parse().ok()
}

/// The oldest qemu with which the tests were tried.
const OLDEST_QEMU: u32 = 7;

/// Whether an existing program is usable. Only qemu's version matters.
fn new_enough(program: &str) -> bool {
    if program != "qemu-system-x86_64" {
        return true;
    }
    let version = process::ask(Command::new(program).arg("--version"));
    version.is_some_and(|text| qemu_major(&text).is_some_and(|major| major >= OLDEST_QEMU))
}

/// The N of `QEMU emulator version N.…`.
fn qemu_major(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("version ")?;
    version.split('.').next()?.parse().ok()
}

fn carry_out(workspace: &Workspace, step: &Step) -> Result<()> {
    if let Action::Unpack(program) = &step.action {
        eprintln!("setup: {}", step.why);
        return tools::unpack(workspace, program);
    }
    let (mut command, advice) = command(workspace, &step.action)?;
    eprintln!("setup: {}:\n    {}", step.why, process::line(&command));
    progress::run("setting up", "set up this machine", &mut command, advice)
}

fn command(workspace: &Workspace, action: &Action) -> Result<(Command, &'static str)> {
    Ok(match action {
        Action::AptUpdate => (apt::update(), NETWORK),
        Action::AptInstall(packages) => (
            apt::install(packages),
            "apt-get's own message above says what is in the way",
        ),
        Action::Unpack(program) => bail!("{} has no command of its own", program.package),
        Action::RustupNightly => {
            let mut command = Command::new("rustup");
            cargo_env::clean(&mut command)
                .args(["toolchain", "install", NIGHTLY, "--profile", "minimal"])
                .args(["--component", "rust-src", "--component", "clippy"]);
            (
                command,
                "where rustup cannot download, install a nightly with rust-src by hand",
            )
        }
        Action::BpfLinker { compiler, against } => {
            let root = toolchain::linker_root(*compiler)?;
            let mut command = cargo_install(workspace, "bpf-linker", BPF_LINKER_VERSION, &root)?;
            command
                .arg("--no-default-features")
                .args(["--features", &format!("llvm-{against}")])
                .env("LLVM_PREFIX", toolchain::llvm_prefix(*against));
            (
                command,
                "if LLVM is not found, its development files are incomplete",
            )
        }
        Action::CargoDeny => {
            let root = cargo_deny_root()?;
            let mut command = cargo_install(workspace, "cargo-deny", CARGO_DENY_VERSION, &root)?;
            // It runs for a second or two; an optimized build would take minutes longer.
            command.arg("--debug");
            (command, NETWORK)
        }
        Action::Harper => (
            prose::install(workspace),
            "python3 with pip or venv is needed (Debian's package python3-venv)",
        ),
        Action::CargoDeb => {
            let root = cargo_deb_root()?;
            let mut command = cargo_install(workspace, "cargo-deb", CARGO_DEB_VERSION, &root)?;
            // It runs for a second or two; an optimized build would take minutes longer.
            command.arg("--debug");
            (command, NETWORK)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_children_are_known() {
        assert!(names_debian("NAME=x\nID=debian\n"));
        assert!(names_debian("ID=ubuntu\nID_LIKE=debian\n"));
        assert!(names_debian("ID=pop\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!names_debian("ID=fedora\nID_LIKE=\"rhel centos\"\n"));
    }

    #[test]
    fn versions_of_qemu() {
        assert_eq!(
            qemu_major("QEMU emulator version 7.2.17 (Debian 1:7.2)"),
            Some(7)
        );
        assert_eq!(
            qemu_major("QEMU emulator version 10.0.2 (Debian)"),
            Some(10)
        );
        assert_eq!(qemu_major("something else"), None);
    }

    /// The test calls itself, with a qemu that prints another version on its path.
    #[test]
    fn an_old_qemu_is_refused() {
        const EXPECTED: &str = "XTASK_TEST_QEMU_IS_NEW";
        if let Some(expected) = std::env::var_os(EXPECTED) {
            assert_eq!(new_enough("qemu-system-x86_64"), expected == "true");
            assert!(new_enough("mmdebstrap"));
            return;
        }
        // The shell makes the program: no other child may have it open for writing when it is executed.
        let script = "mkdir \"$1\" && cd \"$1\" && \
                      printf '#!/bin/sh\\necho \"%s\"\\n' \"$2\" >qemu-system-x86_64 && \
                      chmod 755 qemu-system-x86_64 && \
                      PATH=\"$1\" exec \"$0\" --exact setup::tests::an_old_qemu_is_refused";
        for (number, (version, expected)) in [
            ("QEMU emulator version 5.2.0 (Debian 1:5.2+dfsg-11)", false),
            ("QEMU emulator version 6.2.0", false),
            ("QEMU emulator version 7.2.17 (Debian 1:7.2)", true),
            ("QEMU emulator version 10.0.2 (Debian)", true),
            ("something else", false),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("xtask-qemu-{}-{number}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            let output = Command::new("sh")
                .args(["-c", script])
                .arg(std::env::current_exe().unwrap())
                .arg(&directory)
                .arg(version)
                .env(EXPECTED, expected.to_string())
                .output()
                .unwrap();
            std::fs::remove_dir_all(&directory).unwrap();
            let printed = String::from_utf8_lossy(&output.stdout);
            assert!(printed.contains("1 passed"), "{version}: {output:?}");
        }
    }

    #[test]
    fn minor_versions_of_debian_packages() {
        assert_eq!(rustc_minor("1.96.0+dfsg1-1~deb12u2"), Some(96));
        assert_eq!(rustc_minor("2:1.85.0+dfsg3-1"), Some(85));
        assert_eq!(rustc_minor("0.1"), None);
    }
}
