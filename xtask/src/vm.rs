//! Runs what must hold on an old kernel on one: Debian's, in a virtual machine without
//! acceleration, on a file system of this machine's own programs.
//!
//! Owns which tests those are. `kernel` gets the kernel, `payload` the tests, `image` packs both,
//! `boot` runs the machine and judges what it printed. None of it needs root, and nothing outside
//! of the target directory is written, but for the programs that setup installs.
//!
//! `reboots` is another machine: Debian as it is installed (`system`), from a disk, with systemd and our
//! package. To make its file system takes root.

mod boot;
mod image;
mod kernel;
mod payload;
mod reboots;
mod system;

pub(crate) use reboots::{Extent, run as run_reboots, run_if_possible as run_reboots_if_possible};

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::{plan::Needs, product, setup, workspace::Workspace};

/// A test binary and what of it is run.
struct Suite {
    binary: &'static str,
    /// Beginnings of names; each has to match a test. Empty: all.
    only: &'static [&'static str],
    /// Parts of names, and why these tests are left out.
    except: &'static [(&'static str, &'static str)],
    /// Environment that it wants here.
    variables: &'static [(&'static str, &'static str)],
}

/// What tests are told there for certain.
const FEATURES: (&str, &str) = ("SIXXS_KERNEL_HAS", "vrf,wireguard");

/// What must hold, all of it.
const WHOLE: &[Suite] = &[
    Suite {
        binary: "programs",
        only: &[],
        except: &[],
        variables: &[],
    },
    Suite {
        binary: "lab",
        only: &[],
        except: &[],
        variables: &[],
    },
    Suite {
        binary: "story",
        only: &[
            "replies::",
            "without_rules::",
            "without_daemon::",
            "on_leak::",
            "bound_socket::",
            "tunnel_gone::",
            "down::",
            "exits::a_table_of_a_vrf",
            "status::",
            "reload::",
            "native::",
            "aiccu_commands::",
            "subtrees::from_rules_to_subtrees_and_back",
        ],
        // What else measures time or takes much of it is not named above: `footprint`, and
        // `subtrees` with its ten thousand addresses.
        except: &[(
            "a_fight_over_rules",
            "counts repairs within seconds; an emulated processor is some ten times slower",
        )],
        variables: &[FEATURES],
    },
    GUIDES,
    CHAOS,
];

/// What `cargo xtask test vm short` runs of it, and `cargo xtask test` among all tests: each way to
/// attach, each kind of tunnel, and some faults, within two minutes.
const SHORT: &[Suite] = &[
    Suite {
        binary: "story",
        only: &["replies::", "native::", "exits::a_table_of_a_vrf"],
        except: &[],
        variables: &[FEATURES],
    },
    CHAOS,
];

/// What people type, where the kernel has `sit` and WireGuard; there is no systemd-networkd.
const GUIDES: Suite = Suite {
    binary: "guides",
    only: &[
        "cases::hurricane_electric",
        "cases::wireguard",
        "cases::aiccu",
        "cases::routed_prefixes",
    ],
    except: &[],
    variables: &[],
};

/// Few faults, and more time for each: the emulated processor is slower. What the programs themselves
/// do is timed by nobody.
const CHAOS: Suite = Suite {
    binary: "chaos",
    only: &["chaos_by_clsact"],
    except: &[],
    variables: &[("SIXXS_CHAOS_FAULTS", "20"), ("SIXXS_TEST_PATIENCE", "10")],
};

/// A machine that runs for longer hangs.
const SHORT_LIMIT: Duration = Duration::from_secs(10 * 60);
const WHOLE_LIMIT: Duration = Duration::from_secs(40 * 60);

/// What became of suites that not every machine can run.
#[derive(Debug)]
pub(crate) enum Ran {
    Yes,
    /// Which suites, and why not.
    No(String),
}

/// As [`run`] does of the short list, where this machine has qemu.
pub(crate) fn run_if_possible(workspace: &Workspace) -> Result<Ran> {
    let programs = ["qemu-system-x86_64", "busybox", "cpio"];
    if let Some(missing) = missing_here(&programs) {
        return Ok(Ran::No(format!(
            "the tests on an old kernel (VM): {missing}; `cargo xtask setup --vm` gets what they need"
        )));
    }
    product::build(workspace, Needs::VM)?;
    in_machine(workspace, SHORT, &[], SHORT_LIMIT)?;
    Ok(Ran::Yes)
}

/// Why this machine cannot run a virtual machine that takes these programs, if so.
fn missing_here(programs: &[&str]) -> Option<String> {
    if !HAS_KERNEL {
        return Some("the kernel is one for x86_64".to_owned());
    }
    let missing = programs.iter().find(|program| !setup::on_path(program))?;
    Some(format!("{missing} is missing"))
}

/// What must hold on an old kernel (`short`: some of it), or of those test binaries the tests whose
/// names contain one of `filter`; gets what that lacks.
pub(crate) fn run(workspace: &Workspace, filter: &[String]) -> Result<()> {
    ensure!(
        HAS_KERNEL,
        "run the tests on an old kernel: it is one for x86_64, and so must be the tests"
    );
    product::build(workspace, Needs::VM)?;
    match filter {
        [only] if only == "short" => in_machine(workspace, SHORT, &[], SHORT_LIMIT),
        _ => in_machine(workspace, WHOLE, filter, WHOLE_LIMIT),
    }
}

const HAS_KERNEL: bool = cfg!(target_arch = "x86_64");

fn in_machine(
    workspace: &Workspace,
    suites: &[Suite],
    filter: &[String],
    limit: Duration,
) -> Result<()> {
    let directory = workspace.target.join("vm");
    let kernel = kernel::get(&directory)?;
    let binaries = payload::build(workspace, suites.iter().map(|suite| suite.binary))?;
    let image = image::build(&directory, &kernel, &binaries, &script(suites, filter))?;
    println!("booting {}", kernel.release);
    let started = Instant::now();
    let machine = boot::Machine {
        kernel: &kernel.image,
        initramfs: &image,
        disk: None,
    };
    let transcript = boot::run(&machine, limit)?;
    let ran = boot::judge(&transcript)?;
    if filter.is_empty() {
        let unmatched = unmatched(suites, &transcript);
        ensure!(
            unmatched.is_empty(),
            "run the tests on an old kernel: no test's name begins with {}; correct the list in \
             xtask/src/vm.rs",
            unmatched.join(" or ")
        );
    }
    println!(
        "{ran} tests passed on {} in {} s",
        kernel.release,
        started.elapsed().as_secs()
    );
    Ok(())
}

/// What the machine runs: every suite, whatever became of those before.
fn script(suites: &[Suite], filter: &[String]) -> String {
    let mut script = format!(
        "export SIXXS_BIN={}/sixxs RUST_BACKTRACE=0\nfailed=0\n",
        image::PAYLOAD
    );
    for suite in suites {
        let set = suite.variables.iter();
        let set: String = set
            .map(|(name, value)| format!("{name}={value} "))
            .collect();
        let mut line = format!("{set}{}/{} --test-threads=1", image::PAYLOAD, suite.binary);
        if filter.is_empty() {
            let skip = suite.except.iter().map(|(name, _why)| ["--skip", name]);
            for word in suite.only.iter().copied().chain(skip.flatten()) {
                line += &format!(" {word}");
            }
        } else {
            for word in filter {
                line += &format!(" '{}'", word.replace('\'', r"'\''"));
            }
        }
        script += &format!("echo; echo '== {}'\n{line} || failed=1\n", suite.binary);
    }
    script + "exit $failed\n"
}

/// Beginnings of names that no test had.
fn unmatched(suites: &[Suite], transcript: &str) -> Vec<&'static str> {
    let begins = |name: &&str| !transcript.contains(&format!("\ntest {name}"));
    let names = suites.iter().flat_map(|suite| suite.only.iter().copied());
    names.filter(begins).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITES: &[Suite] = &[Suite {
        binary: "story",
        only: &["a::", "b::c"],
        except: &[("slow", "it is slow")],
        variables: &[("A", "1")],
    }];

    #[test]
    fn the_list_becomes_a_script() {
        let script = script(SUITES, &[]);
        let line = "\nA=1 /test/story --test-threads=1 a:: b::c --skip slow || failed=1\n";
        assert!(script.contains(line), "{script}");
        assert!(script.ends_with("exit $failed\n"), "{script}");
    }

    #[test]
    fn a_filter_takes_the_list_s_place() {
        let script = script(SUITES, &["it's".to_owned()]);
        let line = r"/test/story --test-threads=1 'it'\''s' || failed=1";
        assert!(script.contains(line), "{script}");
    }

    #[test]
    fn names_that_match_nothing_are_found() {
        let transcript = "running 1 test\ntest a::x ... ok\n";
        assert_eq!(unmatched(SUITES, transcript), ["b::c"]);
    }
}
