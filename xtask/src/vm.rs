//! Runs tests on an old kernel: Debian's, in a virtual machine without acceleration, on a file system with
//! this machine's own programs.
//!
//! This module lists the tests. `kernel` gets the kernel, `payload` the tests, `image` packs both, `boot`
//! runs the machine and evaluates its output. Nothing of this needs root, or writes outside the target
//! directory, except for the programs that setup installs.
//!
//! `reboots` is another machine: an installed Debian (`system`) on a disk, with systemd and the package. To
//! make its file system needs root.

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

/// A test binary, and the selection of its tests.
struct Suite {
    binary: &'static str,
    /// Prefixes of test names; each has to match a test. Empty means all.
    only: &'static [&'static str],
    /// Parts of test names, with the reason why these tests are excluded.
    except: &'static [(&'static str, &'static str)],
    /// Environment variables for it.
    variables: &'static [(&'static str, &'static str)],
}

/// Features that this kernel has for certain.
const FEATURES: (&str, &str) = ("SIXXS_KERNEL_HAS", "vrf,wireguard");

/// All tests for old kernels.
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
        // The list above also excludes other tests that measure time or take long: `footprint`, and
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

/// The tests of `cargo xtask test vm short`, and of `cargo xtask test`: each hook, each tunnel kind, and some
/// faults, within two minutes.
const SHORT: &[Suite] = &[
    Suite {
        binary: "story",
        only: &["replies::", "native::", "exits::a_table_of_a_vrf"],
        except: &[],
        variables: &[FEATURES],
    },
    CHAOS,
];

/// The commands of the guides, for a kernel with `sit` and WireGuard; the machine has no systemd-networkd.
const GUIDES: Suite = Suite {
    binary: "guides",
    only: &[
        "told::hurricane_electric",
        "told::wireguard",
        "told::aiccu",
        "told::routed_prefixes",
    ],
    except: &[],
    variables: &[],
};

/// Few faults, and longer time limits: the emulated processor is slower. No test measures the time of the
/// programs.
const CHAOS: Suite = Suite {
    binary: "chaos",
    only: &["chaos_by_clsact"],
    except: &[],
    variables: &[("SIXXS_CHAOS_FAULTS", "20"), ("SIXXS_TEST_PATIENCE", "10")],
};

/// Limits for a machine that hangs.
const SHORT_LIMIT: Duration = Duration::from_secs(10 * 60);
const WHOLE_LIMIT: Duration = Duration::from_secs(40 * 60);

/// The outcome of suites that some machines cannot run.
#[derive(Debug)]
pub(crate) enum Ran {
    Yes,
    /// The suites and the reason why they were not run.
    No(String),
}

/// Runs the short list, like [`run`], if this machine has qemu.
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

/// The reason why this machine cannot run a virtual machine that needs these programs, if there is one.
fn missing_here(programs: &[&str]) -> Option<String> {
    if !HAS_KERNEL {
        return Some("the kernel is one for x86_64".to_owned());
    }
    let missing = programs.iter().find(|program| !setup::on_path(program))?;
    Some(format!("{missing} is missing"))
}

/// Runs the tests for old kernels (`short`: some of them), or from their binaries the tests whose names
/// contain one of `filter`. Installs missing needs.
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

/// The machine's script: it runs every suite, even after a failure.
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

/// Prefixes that no test's name has.
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
