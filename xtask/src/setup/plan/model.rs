//! The plan's data: the facts of this machine, the missing parts, and the steps.

use std::collections::BTreeSet;

use super::needs::{Needs, Program, Source};
use crate::{
    privilege::Privilege,
    setup::toolchain::{self, Compiler, OLDEST_RUSTC_MINOR, Origin},
};

/// The licence and source checker of `lint`.
pub(crate) const CARGO_DENY_VERSION: &str = "0.20.2";

/// What makes the package.
pub(crate) const CARGO_DEB_VERSION: &str = "3.8.0";

/// What there is on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) privilege: Privilege,
    /// A compiler with library source, if any.
    pub(crate) compiler: Option<Compiler>,
    /// Whether bpf-linker for that compiler is there and runs.
    pub(crate) linker: bool,
    /// Whether that compiler has clippy.
    pub(crate) clippy: bool,
    /// LLVM majors whose development files are installed.
    pub(crate) llvm_installed: BTreeSet<u32>,
    /// Those of [`Needs::programs`] that are missing.
    pub(crate) missing_programs: Vec<&'static str>,
    /// Whether cargo-deny is there and runs.
    pub(crate) cargo_deny: bool,
    /// Whether cargo-deb is there and runs.
    pub(crate) cargo_deb: bool,
    /// Packages that apt-get refused to install in this run.
    pub(crate) refused: BTreeSet<String>,
    /// Whether rustup is there.
    pub(crate) rustup: bool,
    /// Debian or one of its children.
    pub(crate) debian: Option<Debian>,
}

/// What its package lists have; looked up only when something is missing.
#[derive(Debug, Clone)]
pub(crate) struct Debian {
    /// Whether the package lists were brought up to date by this run.
    pub(crate) lists_fresh: bool,
    /// Minor version (1.N) of the rustc-web that could be installed.
    pub(crate) rustc_web_minor: Option<u32>,
    /// LLVM majors whose `llvm-NN-dev` could be installed.
    pub(crate) llvm_available: BTreeSet<u32>,
}

impl Debian {
    /// Whether its compiler would do.
    pub(super) fn has_compiler(&self) -> bool {
        self.rustc_web_minor
            .is_some_and(|minor| minor >= OLDEST_RUSTC_MINOR)
    }
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing.
    Ready,
    /// These, in order; then look again.
    Steps(Vec<Step>),
    /// This cannot be done from here: what a person should type, a line each.
    Manual(Vec<String>),
}

/// One thing to do, and what to tell about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// What for, and about how long.
    pub(crate) why: String,
    pub(crate) action: Action,
}

/// How it is done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Bring the package lists up to date.
    AptUpdate,
    /// Install these packages.
    AptInstall(Vec<String>),
    /// Unpack this program's package into the target directory.
    Unpack(Program),
    /// Install the pinned nightly with source and clippy.
    RustupNightly,
    /// Build bpf-linker against the LLVM of major `against`, for a compiler with LLVM `compiler`.
    BpfLinker { compiler: u32, against: u32 },
    /// Build cargo-deny.
    CargoDeny,
    /// Build cargo-deb.
    CargoDeb,
}

impl Step {
    pub(super) fn new(why: impl Into<String>, action: Action) -> Self {
        Self {
            why: why.into(),
            action,
        }
    }

    /// Whether it would install one of these packages.
    pub(super) fn needs_any(&self, packages: &BTreeSet<String>) -> bool {
        match &self.action {
            Action::AptInstall(wanted) => wanted.iter().any(|package| packages.contains(package)),
            _ => false,
        }
    }
}

/// What is missing of what is needed.
pub(super) struct Wants {
    pub(super) compiler: bool,
    pub(super) linker: bool,
    /// Development files of an LLVM, to build the linker against.
    pub(super) llvm: bool,
    pub(super) system_clippy: bool,
    /// Missing programs.
    pub(super) programs: Vec<Program>,
    pub(super) cargo_deny: bool,
    pub(super) cargo_deb: bool,
}

impl Wants {
    pub(super) fn of(facts: &Facts, needs: Needs) -> Self {
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
            // Of a rustup nightly, clippy is welcome but not fetched: it may be somebody's own.
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

    /// Whether a package manager may have something of it.
    pub(super) fn packages(&self) -> bool {
        self.compiler || self.llvm || self.system_clippy || !self.programs.is_empty()
    }

    pub(super) fn program_names(&self) -> String {
        names(self.programs.iter().map(|program| program.name))
    }

    pub(super) fn program_packages(&self) -> String {
        names(self.programs.iter().map(|program| program.package))
    }

    /// Missing programs that have to be installed.
    pub(super) fn to_install(&self) -> impl Iterator<Item = &Program> {
        let installed = |program: &&Program| program.source == Source::Installed;
        self.programs.iter().filter(installed)
    }

    pub(super) fn nothing(&self) -> bool {
        !(self.packages() || self.linker || self.cargo_deny || self.cargo_deb)
    }
}

pub(super) fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// The best installed LLVM for this compiler's linker.
pub(super) fn llvm_for(facts: &Facts, compiler: &Compiler) -> Option<u32> {
    toolchain::linker_llvms(compiler.llvm).find(|llvm| facts.llvm_installed.contains(llvm))
}
