//! What setup has to do next: a pure function of what is there and what is needed.
//!
//! Owns the packages' names, the reasons for them and the commands; looks at nothing and runs
//! nothing (`setup` does both, and asks again after every batch, because the LLVM that bpf-linker
//! wants is known only once the compiler is there).

use std::{collections::BTreeSet, path::PathBuf};

use crate::{
    privilege::Privilege,
    toolchain::{self, BPF_LINKER_VERSION, Compiler, NIGHTLY, OLDEST_RUSTC_MINOR, Origin},
};

/// The licence and source checker of `lint`.
pub(crate) const CARGO_DENY_VERSION: &str = "0.20.2";

/// What makes the package.
pub(crate) const CARGO_DEB_VERSION: &str = "3.8.0";

/// Programs of the lab, by name or by path, and the Debian packages that have them.
const LAB_PROGRAMS: &[(&str, &str)] = &[
    ("/lib/systemd/systemd-networkd", "systemd"),
    ("dbus-daemon", "dbus-daemon"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("tmux", "tmux"),
    ("wg", "wireguard-tools"),
];

/// What the tests on an old kernel need besides.
const VM_PROGRAMS: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("mke2fs", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("qemu-system-x86_64", "qemu-system-x86"),
];

/// What lint needs besides.
const LINT_PROGRAMS: &[(&str, &str)] = &[("systemd-analyze", "systemd")];

/// What making the package needs besides.
const DIST_PROGRAMS: &[(&str, &str)] = &[("dpkg-shlibdeps", "dpkg-dev")];

/// What the task at hand cannot do without. The eBPF build is always among it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs {
    /// The programs of the lab.
    pub(crate) lab: bool,
    /// The programs of the virtual machine with an old kernel.
    pub(crate) vm: bool,
    /// cargo-deny, and clippy for the eBPF crate.
    pub(crate) lint: bool,
    /// cargo-deb, and what it calls.
    pub(crate) dist: bool,
}

impl Needs {
    /// To build.
    pub(crate) const BUILD: Self = Self {
        lab: false,
        vm: false,
        lint: false,
        dist: false,
    };
    /// To build, and to run tests or the lab.
    pub(crate) const TEST: Self = Self {
        lab: true,
        ..Self::BUILD
    };
    /// The same, and to run tests on an old kernel.
    pub(crate) const VM: Self = Self {
        vm: true,
        ..Self::TEST
    };
    /// The same, and to make the package.
    pub(crate) const BOOT: Self = Self {
        dist: true,
        ..Self::VM
    };
    /// To build and lint.
    pub(crate) const LINT: Self = Self {
        lint: true,
        ..Self::BUILD
    };

    /// To build and make the package.
    pub(crate) const DIST: Self = Self {
        dist: true,
        ..Self::BUILD
    };

    /// Programs, and the Debian packages that have them.
    pub(crate) fn programs(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let lab = self.lab.then_some(LAB_PROGRAMS);
        let vm = self.vm.then_some(VM_PROGRAMS);
        let lint = self.lint.then_some(LINT_PROGRAMS);
        let dist = self.dist.then_some(DIST_PROGRAMS);
        let lists = [lab, vm, lint, dist].into_iter();
        lists.flatten().flatten().copied()
    }
}

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
    fn has_compiler(&self) -> bool {
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
    fn new(why: impl Into<String>, action: Action) -> Self {
        Self {
            why: why.into(),
            action,
        }
    }
}

/// Decides what to do next.
pub(crate) fn plan(facts: &Facts, needs: Needs) -> Plan {
    let wants = Wants::of(facts, needs);
    if wants.nothing() {
        return Plan::Ready;
    }
    if let Some(debian) = &facts.debian {
        let packages = debian_packages(facts, debian, &wants);
        if facts.privilege == Privilege::None {
            if !packages.is_empty() {
                return Plan::Manual(debian_by_hand(&packages, debian, &wants));
            }
        } else if wants.packages() && !debian.lists_fresh {
            let why = "what can be installed (some seconds)";
            return Plan::Steps(vec![Step::new(why, Action::AptUpdate)]);
        } else if !packages.is_empty() {
            return Plan::Steps(packages);
        }
    }
    match other_steps(facts, &wants) {
        Ok(steps) => Plan::Steps(steps),
        Err(lines) => Plan::Manual(lines),
    }
}

/// What is missing of what is needed.
struct Wants {
    compiler: bool,
    linker: bool,
    /// Development files of an LLVM, to build the linker against.
    llvm: bool,
    system_clippy: bool,
    /// Missing programs and their packages.
    programs: Vec<(&'static str, &'static str)>,
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
            // Of a rustup nightly, clippy is welcome but not fetched: it may be somebody's own.
            system_clippy: needs.lint
                && !facts.clippy
                && facts.debian.is_some()
                && facts.compiler.as_ref().is_some_and(system),
            programs: needs
                .programs()
                .filter(|(program, _package)| facts.missing_programs.contains(program))
                .collect(),
            cargo_deny: needs.lint && !facts.cargo_deny,
            cargo_deb: needs.dist && !facts.cargo_deb,
        }
    }

    /// Whether a package manager may have something of it.
    fn packages(&self) -> bool {
        self.compiler || self.llvm || self.system_clippy || !self.programs.is_empty()
    }

    fn program_names(&self) -> String {
        let names: Vec<_> = self.programs.iter().map(|(program, _)| *program).collect();
        names.join(", ")
    }

    fn program_packages(&self) -> Vec<&'static str> {
        self.programs.iter().map(|(_, package)| *package).collect()
    }

    fn nothing(&self) -> bool {
        !(self.packages() || self.linker || self.cargo_deny || self.cargo_deb)
    }
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
    if !wants.programs.is_empty() {
        steps.push(Step::new(
            format!(
                "the lab and the tests call {} (some seconds)",
                wants.program_names()
            ),
            Action::AptInstall(owned(&wants.program_packages())),
        ));
    }
    steps
}

/// What needs no package manager; or lines to type, if a package manager of a kind not known here
/// has to be asked first.
fn other_steps(facts: &Facts, wants: &Wants) -> Result<Vec<Step>, Vec<String>> {
    let mut steps = Vec::new();
    if !wants.programs.is_empty() {
        return Err(vec![
            format!("# The lab needs the programs {}.", wants.program_names()),
            format!(
                "# On Debian they are in {}.",
                wants.program_packages().join(", ")
            ),
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

/// Shell lines that do by hand, as somebody who may use sudo, what setup would do as root.
fn debian_by_hand(steps: &[Step], debian: &Debian, wants: &Wants) -> Vec<String> {
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

fn nightly_by_hand() -> String {
    format!(
        "rustup toolchain install {NIGHTLY} --profile minimal --component rust-src --component clippy"
    )
}

fn linker_by_hand(llvm: u32) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: Needs = Needs {
        vm: true,
        lint: true,
        dist: true,
        ..Needs::TEST
    };

    fn bare_debian() -> Facts {
        Facts {
            privilege: Privilege::Root,
            compiler: None,
            linker: false,
            clippy: false,
            llvm_installed: BTreeSet::new(),
            missing_programs: vec!["nft"],
            cargo_deny: false,
            cargo_deb: false,
            rustup: true,
            debian: Some(Debian {
                lists_fresh: false,
                rustc_web_minor: None,
                llvm_available: BTreeSet::new(),
            }),
        }
    }

    fn fresh_lists(facts: &mut Facts) {
        facts.debian = Some(Debian {
            lists_fresh: true,
            rustc_web_minor: Some(96),
            llvm_available: BTreeSet::from([14, 16, 22]),
        });
    }

    fn system_compiler() -> Option<Compiler> {
        Some(Compiler {
            origin: Origin::System,
            llvm: 22,
        })
    }

    fn actions(plan: Plan) -> Vec<Action> {
        match plan {
            Plan::Steps(steps) => steps.into_iter().map(|step| step.action).collect(),
            other => panic!("steps expected, not {other:?}"),
        }
    }

    fn lines(plan: Plan) -> String {
        match plan {
            Plan::Manual(lines) => lines.join("\n"),
            other => panic!("lines expected, not {other:?}"),
        }
    }

    fn install(packages: &[&str]) -> Action {
        Action::AptInstall(packages.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn bare_debian_gets_there_batch_by_batch() {
        let needs = EVERYTHING;
        let mut facts = bare_debian();
        assert_eq!(actions(plan(&facts, needs)), [Action::AptUpdate]);

        fresh_lists(&mut facts);
        assert_eq!(
            actions(plan(&facts, needs)),
            [
                install(&["rustc-web", "cargo-web", "rust-web-src"]),
                install(&["nftables"])
            ]
        );

        facts.compiler = system_compiler();
        facts.missing_programs.clear();
        assert_eq!(
            actions(plan(&facts, needs)),
            [
                install(&["llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "g++"]),
                install(&["rust-web-clippy"])
            ]
        );

        facts.llvm_installed = BTreeSet::from([22]);
        facts.clippy = true;
        assert_eq!(
            actions(plan(&facts, needs)),
            [
                Action::BpfLinker {
                    compiler: 22,
                    against: 22
                },
                Action::CargoDeny,
                Action::CargoDeb
            ]
        );

        facts.linker = true;
        facts.cargo_deny = true;
        facts.cargo_deb = true;
        assert_eq!(plan(&facts, needs), Plan::Ready);
    }

    #[test]
    fn nothing_is_got_that_the_task_does_not_need() {
        let mut facts = bare_debian();
        facts.compiler = system_compiler();
        facts.linker = true;
        assert_eq!(plan(&facts, Needs::BUILD), Plan::Ready);
        assert_eq!(actions(plan(&facts, Needs::TEST)), [Action::AptUpdate]);
    }

    #[test]
    fn the_virtual_machine_s_programs_are_got_for_it_alone() {
        let mut facts = bare_debian();
        fresh_lists(&mut facts);
        facts.compiler = system_compiler();
        facts.linker = true;
        facts.missing_programs = vec!["qemu-system-x86_64"];
        assert_eq!(plan(&facts, Needs::TEST), Plan::Ready);
        assert_eq!(
            actions(plan(&facts, Needs::VM)),
            [install(&["qemu-system-x86"])]
        );
    }

    #[test]
    fn a_linker_built_before_wants_no_llvm_files() {
        let mut facts = bare_debian();
        facts.compiler = system_compiler();
        facts.linker = true;
        facts.missing_programs.clear();
        facts.cargo_deny = true;
        facts.cargo_deb = true;
        facts.clippy = true;
        assert_eq!(plan(&facts, EVERYTHING), Plan::Ready);
    }

    #[test]
    fn a_debian_without_a_new_rustc_falls_back_to_rustup() {
        let mut facts = bare_debian();
        facts.missing_programs.clear();
        fresh_lists(&mut facts);
        if let Some(debian) = &mut facts.debian {
            debian.rustc_web_minor = Some(85);
        }
        assert_eq!(actions(plan(&facts, Needs::BUILD)), [Action::RustupNightly]);
    }

    #[test]
    fn without_root_debian_gets_lines_to_type() {
        let mut facts = bare_debian();
        fresh_lists(&mut facts);
        facts.privilege = Privilege::None;
        let text = lines(plan(&facts, Needs::TEST));
        assert!(
            text.contains("rustc-web cargo-web rust-web-src nftables"),
            "{text}"
        );
        assert!(text.contains("llvm-$LLVM-dev"), "{text}");

        facts.compiler = system_compiler();
        let text = lines(plan(&facts, Needs::TEST));
        assert!(!text.contains("rustc-web"), "{text}");
        assert!(text.contains("llvm-22-dev libpolly-22-dev"), "{text}");
    }

    #[test]
    fn without_root_on_a_debian_without_a_new_rustc_rustup_is_asked() {
        let mut facts = bare_debian();
        facts.privilege = Privilege::None;
        facts.missing_programs.clear();
        assert_eq!(actions(plan(&facts, Needs::BUILD)), [Action::RustupNightly]);
    }

    #[test]
    fn without_root_what_needs_none_is_still_done() {
        let mut facts = bare_debian();
        facts.privilege = Privilege::None;
        facts.compiler = system_compiler();
        facts.llvm_installed = BTreeSet::from([22]);
        assert_eq!(
            actions(plan(&facts, Needs::BUILD)),
            [Action::BpfLinker {
                compiler: 22,
                against: 22
            }]
        );
    }

    #[test]
    fn another_system_uses_rustup_and_says_what_it_cannot_get() {
        let mut facts = bare_debian();
        facts.debian = None;
        facts.missing_programs.clear();
        assert_eq!(actions(plan(&facts, Needs::TEST)), [Action::RustupNightly]);

        facts.compiler = Some(Compiler {
            origin: Origin::Rustup(PathBuf::from("/r")),
            llvm: 22,
        });
        assert!(lines(plan(&facts, Needs::TEST)).contains("--features llvm-22"));

        facts.llvm_installed = BTreeSet::from([21, 23]);
        assert_eq!(
            actions(plan(&facts, Needs::TEST)),
            [Action::BpfLinker {
                compiler: 22,
                against: 23
            }]
        );

        facts.missing_programs = vec!["ping"];
        assert!(lines(plan(&facts, Needs::TEST)).contains("iputils-ping"));
    }
}
