//! Installs missing needs: observes the machine, lets `plan` decide, runs the steps, and repeats this until
//! nothing is missing.
//!
//! It prints each step with its reason and approximate duration before it runs the step. If nothing is
//! missing it prints nothing, and takes some tens of milliseconds.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    clean,
    plan::{self, Action, CARGO_DEB_VERSION, CARGO_DENY_VERSION, Debian, Facts, Needs, Plan, Step},
    privilege::{self, Privilege},
    process, progress,
    toolchain::{self, BPF_LINKER_VERSION, Compiler, Linker, NIGHTLY},
    tools,
    workspace::{self, Workspace},
};

/// Batches of the longest sequence (lists, compiler, LLVM, tools), and some to spare. More means that a step
/// does not have its effect.
const MOST_BATCHES: usize = 8;

/// Installs everything that `needs` names.
pub(crate) fn ensure(workspace: &Workspace, needs: Needs) -> Result<()> {
    let mut lists_fresh = false;
    let mut refused = BTreeSet::new();
    for _batch in 0..MOST_BATCHES {
        match plan::plan(&observe(needs, lists_fresh, &refused)?, needs) {
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

fn observe(needs: Needs, lists_fresh: bool, refused: &BTreeSet<String>) -> Result<Facts> {
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

/// The version that `apt-get install` would install.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let policy = process::ask(
        Command::new("apt-cache")
            .args(["policy", package])
            .env("LC_ALL", "C"),
    )?;
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// The N of a Debian version `1.N.…`.
fn rustc_minor(version: &str) -> Option<u32> {
    let (_epoch, version) = version.split_once(':').unwrap_or(("", version));
    version.strip_prefix("1.")?.split('.').next()?.parse().ok()
}

pub(crate) fn on_path(program: &str) -> bool {
    find_program(program).is_some()
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

/// A message with the installed packages that conflict with these, and a remedy.
fn refusal(packages: &[String]) -> String {
    let plan = process::ask(
        Command::new("apt-get")
            .args(["--simulate", "--no-install-recommends", "install"])
            .args(packages)
            .env("LC_ALL", "C"),
    );
    let in_the_way = plan.as_deref().map(removed).unwrap_or_default();
    let wanted = packages.join(" ");
    if in_the_way.is_empty() {
        return format!("help: see why with `apt-get --simulate install {wanted}`");
    }
    format!(
        "help: {names} excludes {wanted}. Setup removes nothing. If you can do without {names}, run \
         `apt-get remove {names}` and try again; else go on without {wanted}",
        names = in_the_way.join(" ")
    )
}

/// The packages that `apt-get --simulate install` would remove.
fn removed(plan: &str) -> Vec<&str> {
    let lines = plan.lines().filter_map(|line| line.strip_prefix("Remv "));
    lines
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

/// The path of a program; an absolute path is checked as it is.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        // The PATH of other users may lack root's directories.
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// The cargo-deny of the tool cache.
pub(crate) fn cargo_deny() -> Result<Command> {
    Ok(Command::new(cargo_deny_root()?.join("bin/cargo-deny")))
}

fn cargo_deny_root() -> Result<PathBuf> {
    Ok(workspace::tool_cache()?.join(format!("cargo-deny-{CARGO_DENY_VERSION}")))
}

/// The cargo-deb of the tool cache.
pub(crate) fn cargo_deb() -> Result<Command> {
    Ok(Command::new(cargo_deb_root()?.join("bin/cargo-deb")))
}

fn cargo_deb_root() -> Result<PathBuf> {
    Ok(workspace::tool_cache()?.join(format!("cargo-deb-{CARGO_DEB_VERSION}")))
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

/// Updates the package lists.
pub(crate) fn update_lists(workspace: &Workspace) -> Result<()> {
    let why = "what can be had (some seconds)".to_owned();
    let action = Action::AptUpdate;
    carry_out(workspace, &Step { why, action })
}

fn command(workspace: &Workspace, action: &Action) -> Result<(Command, &'static str)> {
    const NETWORK: &str = "check the network and try again";
    Ok(match action {
        Action::AptUpdate => {
            let mut command = apt_get();
            command.args(["-q", "update"]);
            (command, NETWORK)
        }
        Action::AptInstall(packages) => {
            let mut command = apt_get();
            // Never remove the user's packages (rustc-web conflicts with Debian's own rustup and rustc
            // packages).
            command.args([
                "-q",
                "install",
                "--yes",
                "--no-install-recommends",
                "--no-remove",
            ]);
            command.args(packages);
            (
                command,
                "apt-get's own message above says what is in the way",
            )
        }
        Action::Unpack(program) => bail!("{} has no command of its own", program.package),
        Action::RustupNightly => {
            let mut command = Command::new("rustup");
            clean::environment(&mut command)
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
        Action::CargoDeb => {
            let root = cargo_deb_root()?;
            let mut command = cargo_install(workspace, "cargo-deb", CARGO_DEB_VERSION, &root)?;
            // It runs for a second or two; an optimized build would take minutes longer.
            command.arg("--debug");
            (command, NETWORK)
        }
    })
}

fn apt_get() -> Command {
    // Wait if another package manager runs (boot-time updates) instead of failing at once.
    let mut command =
        privilege::as_root("apt-get", &[("DEBIAN_FRONTEND", "noninteractive".as_ref())]);
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// `--force`, because cargo considers a tool installed even if it does not run.
fn cargo_install(workspace: &Workspace, name: &str, version: &str, root: &Path) -> Result<Command> {
    std::fs::create_dir_all(root)
        .with_context(|| format!("make the tool cache {}", root.display()))?;
    let mut command = workspace.bare_cargo();
    clean::environment(&mut command)
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
    fn what_stands_in_the_way_is_named() {
        let plan = "Remv qemu-utils [1:10.0.2+ds-2]\nInst seabios (1.16.2-1 Debian [all])\n";
        assert_eq!(removed(plan), ["qemu-utils"]);
        assert_eq!(removed("Inst a (1)\n"), [""; 0]);
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

    #[test]
    fn minor_versions_of_debian_packages() {
        assert_eq!(rustc_minor("1.96.0+dfsg1-1~deb12u2"), Some(96));
        assert_eq!(rustc_minor("2:1.85.0+dfsg3-1"), Some(85));
        assert_eq!(rustc_minor("0.1"), None);
    }
}
