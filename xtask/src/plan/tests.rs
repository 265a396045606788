use std::path::PathBuf;

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
