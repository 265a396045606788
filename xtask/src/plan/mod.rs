//! Decides the next steps of setup: a pure function of the machine's state and the needs.
//!
//! It has the names of the packages, the reasons for them and the commands. It does no I/O: `setup` observes
//! the machine and runs the steps. It plans again after every batch, because only the installed compiler
//! determines the LLVM for bpf-linker.

mod by_hand;
mod needs;

use std::collections::BTreeSet;

use crate::{
    privilege::Privilege,
    toolchain::{self, BPF_LINKER_VERSION, Compiler, OLDEST_RUSTC_MINOR, Origin},
};

pub(crate) use self::needs::{Needs, Program, Source};

use self::by_hand::{debian_by_hand, linker_by_hand, nightly_by_hand};

/// The licence and source checker of `lint`.
pub(crate) const CARGO_DENY_VERSION: &str = "0.20.2";

/// The version of cargo-deb, which makes the package.
pub(crate) const CARGO_DEB_VERSION: &str = "3.8.0";

/// State of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) privilege: Privilege,
    /// A compiler with library source, if any.
    pub(crate) compiler: Option<Compiler>,
    /// Whether bpf-linker for that compiler exists and runs.
    pub(crate) linker: bool,
    /// Whether that compiler has clippy.
    pub(crate) clippy: bool,
    /// LLVM majors whose development files are installed.
    pub(crate) llvm_installed: BTreeSet<u32>,
    /// Those of [`Needs::programs`] that are missing.
    pub(crate) missing_programs: Vec<&'static str>,
    /// Whether cargo-deny exists and runs.
    pub(crate) cargo_deny: bool,
    /// Whether cargo-deb exists and runs.
    pub(crate) cargo_deb: bool,
    /// Packages that apt-get refused to install in this run.
    pub(crate) refused: BTreeSet<String>,
    /// Whether rustup exists.
    pub(crate) rustup: bool,
    /// Debian or a derivative.
    pub(crate) debian: Option<Debian>,
}

/// Contents of its package lists; read only if something is missing.
#[derive(Debug, Clone)]
pub(crate) struct Debian {
    /// Whether this run updated the package lists.
    pub(crate) lists_fresh: bool,
    /// Minor version (1.N) of the available rustc-web.
    pub(crate) rustc_web_minor: Option<u32>,
    /// LLVM major versions with an available `llvm-NN-dev`.
    pub(crate) llvm_available: BTreeSet<u32>,
}

impl Debian {
    /// Whether its compiler is new enough.
    fn has_compiler(&self) -> bool {
        self.rustc_web_minor
            .is_some_and(|minor| minor >= OLDEST_RUSTC_MINOR)
    }
}

/// The next steps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing is missing.
    Ready,
    /// Steps to run in this order; then plan again.
    Steps(Vec<Step>),
    /// Setup cannot do it; shell lines for the user.
    Manual(Vec<String>),
}

/// A step and its message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Purpose, and approximate duration.
    pub(crate) why: String,
    pub(crate) action: Action,
}

/// The action of a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Update the package lists.
    AptUpdate,
    /// Install these packages.
    AptInstall(Vec<String>),
    /// Unpack this program's package into the target directory.
    Unpack(Program),
    /// Install the pinned nightly with source and clippy.
    RustupNightly,
    /// Build bpf-linker with LLVM `against`, for a compiler with LLVM `compiler` (major versions).
    BpfLinker { compiler: u32, against: u32 },
    /// Build cargo-deny.
    CargoDeny,
    /// Build cargo-deb.
    CargoDeb,
}

impl Step {
    fn new(why: impl Into<String>, action: Action) -> Self {
        Self {
            why: why.into(),
            action,
        }
    }

    /// Whether it would install one of these packages.
    fn needs_any(&self, packages: &BTreeSet<String>) -> bool {
        match &self.action {
            Action::AptInstall(wanted) => wanted.iter().any(|package| packages.contains(package)),
            _ => false,
        }
    }
}

/// Decides the next steps.
pub(crate) fn plan(facts: &Facts, needs: Needs) -> Plan {
    let wants = Wants::of(facts, needs);
    if wants.nothing() {
        return Plan::Ready;
    }
    if let Some(debian) = &facts.debian {
        let mut packages = debian_packages(facts, debian, &wants);
        packages.retain(|step| !step.needs_any(&facts.refused));
        let unpacked = unpack_steps(&wants);
        if facts.privilege == Privilege::None {
            if !packages.is_empty() {
                return Plan::Manual(debian_by_hand(&packages, debian, &wants));
            }
        } else if wants.packages() && !debian.lists_fresh {
            let why = "what can be installed (some seconds)";
            return Plan::Steps(vec![Step::new(why, Action::AptUpdate)]);
        }
        packages.extend(unpacked);
        if !packages.is_empty() {
            return Plan::Steps(packages);
        }
    }
    match other_steps(facts, &wants) {
        Ok(steps) => Plan::Steps(steps),
        Err(lines) => Plan::Manual(lines),
    }
}

/// The needs that are missing.
struct Wants {
    compiler: bool,
    linker: bool,
    /// Development files of an LLVM, to build the linker with.
    llvm: bool,
    system_clippy: bool,
    /// Missing programs.
    programs: Vec<Program>,
    cargo_deny: bool,
    cargo_deb: bool,
}

impl Wants {
    fn of(facts: &Facts, needs: Needs) -> Self {
        let system = |compiler: &Compiler| compiler.origin == Origin::System;
        let linker = !facts.linker;
        Self {
            compiler: facts.compiler.is_none(),
            linker,
            llvm: linker
                && facts
                    .compiler
                    .as_ref()
                    .is_some_and(|c| llvm_for(facts, c).is_none()),
            // Clippy of a rustup nightly is used, but not installed: the toolchain may be the user's own.
            system_clippy: needs.lint
                && !facts.clippy
                && facts.debian.is_some()
                && facts.compiler.as_ref().is_some_and(system),
            programs: needs
                .programs()
                .filter(|program| facts.missing_programs.contains(&program.name))
                .collect(),
            cargo_deny: needs.lint && !facts.cargo_deny,
            cargo_deb: needs.dist && !facts.cargo_deb,
        }
    }

    /// Whether a package manager may provide a part of it.
    fn packages(&self) -> bool {
        self.compiler || self.llvm || self.system_clippy || !self.programs.is_empty()
    }

    fn program_names(&self) -> String {
        names(self.programs.iter().map(|program| program.name))
    }

    fn program_packages(&self) -> String {
        names(self.programs.iter().map(|program| program.package))
    }

    /// Missing programs that have to be installed.
    fn to_install(&self) -> impl Iterator<Item = &Program> {
        let installed = |program: &&Program| program.source == Source::Installed;
        self.programs.iter().filter(installed)
    }

    fn nothing(&self) -> bool {
        !(self.packages() || self.linker || self.cargo_deny || self.cargo_deb)
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// Steps that need no root, and change nothing outside the target directory.
fn unpack_steps(wants: &Wants) -> Vec<Step> {
    let to_unpack = |program: &&Program| program.source != Source::Installed;
    let step = |program: &Program| {
        let Program { name, package, .. } = program;
        let why = format!("tests call {name}, out of {package}, which is not installed for it");
        Step::new(why, Action::Unpack(*program))
    };
    wants.programs.iter().filter(to_unpack).map(step).collect()
}

/// The best installed LLVM for this compiler's linker.
fn llvm_for(facts: &Facts, compiler: &Compiler) -> Option<u32> {
    toolchain::linker_llvms(compiler.llvm).find(|llvm| facts.llvm_installed.contains(llvm))
}

fn debian_packages(facts: &Facts, debian: &Debian, wants: &Wants) -> Vec<Step> {
    let mut steps = Vec::new();
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    if wants.compiler && debian.has_compiler() {
        steps.push(Step::new(
            "the eBPF build compiles Rust's core library for the kernel: a rustc with its source \
             (about 600 MB on disk, a minute)",
            Action::AptInstall(owned(&["rustc-web", "cargo-web", "rust-web-src"])),
        ));
    }
    if wants.llvm
        && let Some(compiler) = &facts.compiler
        && let Some(llvm) =
            toolchain::linker_llvms(compiler.llvm).find(|llvm| debian.llvm_available.contains(llvm))
    {
        let mut packages = vec![format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
        packages.extend(owned(&["zlib1g-dev", "g++"]));
        steps.push(Step::new(
            format!(
                "bpf-linker is built against LLVM {llvm}, that of the eBPF compiler being {} \
                 (about 700 MB on disk, a minute)",
                compiler.llvm
            ),
            Action::AptInstall(packages),
        ));
    }
    if wants.system_clippy {
        steps.push(Step::new(
            "lint checks the eBPF crate with its own compiler's clippy (some seconds)",
            Action::AptInstall(owned(&["rust-web-clippy"])),
        ));
    }
    let missing: Vec<_> = wants.to_install().collect();
    if !missing.is_empty() {
        let called = names(missing.iter().map(|program| program.name));
        let packages: Vec<_> = missing.iter().map(|program| program.package).collect();
        steps.push(Step::new(
            format!("the lab and the tests call {called} (some seconds)"),
            Action::AptInstall(owned(&packages)),
        ));
    }
    steps
}

/// Steps without a package manager. An error has lines for the user, if an unknown package manager is needed
/// first.
fn other_steps(facts: &Facts, wants: &Wants) -> Result<Vec<Step>, Vec<String>> {
    let mut steps = Vec::new();
    // On Debian, earlier steps unpacked the other programs.
    if wants.to_install().next().is_some() || facts.debian.is_none() && !wants.programs.is_empty() {
        return Err(vec![
            format!("# The lab needs the programs {}.", wants.program_names()),
            format!("# On Debian they are in {}.", wants.program_packages()),
        ]);
    }
    let Some(compiler) = &facts.compiler else {
        return if facts.rustup {
            let why = "the eBPF build compiles Rust's core library for the kernel: a nightly rustc \
                       with its source (about 300 MB, a minute)";
            Ok(vec![Step::new(why, Action::RustupNightly)])
        } else {
            Err(vec![
                "# The eBPF build needs a rustc with its library source. Get rustup, then:".into(),
                nightly_by_hand(),
            ])
        };
    };
    if wants.linker {
        let Some(against) = llvm_for(facts, compiler) else {
            return Err(linker_by_hand(compiler.llvm));
        };
        steps.push(Step::new(
            format!(
                "bpf-linker {BPF_LINKER_VERSION} makes the object that the kernel loads; built \
                 from source, kept for all checkouts (one to two minutes)"
            ),
            Action::BpfLinker {
                compiler: compiler.llvm,
                against,
            },
        ));
    }
    if wants.cargo_deny {
        steps.push(Step::new(
            format!(
                "cargo-deny {CARGO_DENY_VERSION} checks licences and sources for lint; built from \
                 source, kept for all checkouts (about five minutes on two cores)"
            ),
            Action::CargoDeny,
        ));
    }
    if wants.cargo_deb {
        steps.push(Step::new(
            format!(
                "cargo-deb {CARGO_DEB_VERSION} makes the package; built from source, kept for all \
                 checkouts (about two minutes on two cores)"
            ),
            Action::CargoDeb,
        ));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests;
