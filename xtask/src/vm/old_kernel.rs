//! Runs the suites of `suites` on an old kernel: Debian's, in a virtual machine without acceleration, on a
//! file system in memory made of this machine's own programs.
//!
//! Needs no root. Writes to the target directory only, but for the programs that setup installs.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{
    binaries, boot, debian_kernel, image,
    requirements::{HAS_KERNEL, Ran, missing_here},
    suites::{SHORT, Suite, WHOLE, script, unmatched},
};
use crate::{product::release, setup::plan::Needs, workspace::Workspace};

/// Limits for a machine that hangs.
const SHORT_LIMIT: Duration = Duration::from_secs(10 * 60);
const WHOLE_LIMIT: Duration = Duration::from_secs(40 * 60);

/// Lines that the first process in the machine prints, see `init`.
const BOOTED: &str = "vm: booted ";
const ENDED: &str = "vm: ended with ";

/// Runs the short list if this machine has qemu.
pub(crate) fn run_if_possible(workspace: &Workspace) -> Result<Ran> {
    let programs = ["qemu-system-x86_64", "busybox", "cpio"];
    if let Some(missing) = missing_here(&programs) {
        return Ok(Ran::No(format!(
            "the tests on an old kernel (VM): {missing}; `cargo xtask setup --vm` gets what they need"
        )));
    }
    run_short(workspace)?;
    Ok(Ran::Yes)
}

/// Runs the whole list, or the tests of those binaries whose names contain one of `filter`. Gets missing
/// programs.
pub(crate) fn run(workspace: &Workspace, filter: &[String]) -> Result<()> {
    prepare(workspace)?;
    in_machine(workspace, WHOLE, filter, WHOLE_LIMIT)
}

/// Runs the short list. Gets missing programs.
pub(crate) fn run_short(workspace: &Workspace) -> Result<()> {
    prepare(workspace)?;
    in_machine(workspace, SHORT, &[], SHORT_LIMIT)
}

fn prepare(workspace: &Workspace) -> Result<()> {
    ensure!(
        HAS_KERNEL,
        "run the tests on an old kernel: it is one for x86_64, and so must be the tests"
    );
    release::build(workspace, Needs::VM)
}

fn in_machine(
    workspace: &Workspace,
    suites: &[Suite],
    filter: &[String],
    limit: Duration,
) -> Result<()> {
    let directory = workspace.target.join("vm");
    let kernel = debian_kernel::get(&directory)?;
    let binaries = binaries::build(workspace, suites.iter().map(|suite| suite.binary))?;
    let image = image::build(&directory, &kernel, &binaries, &script(suites, filter))?;
    println!("booting {}", kernel.release);
    let started = Instant::now();
    let machine = boot::Machine {
        kernel: &kernel.image,
        initramfs: &image,
        disk: None,
    };
    let transcript = boot::run(&machine, limit)?;
    let ran = judge(&transcript)?;
    if filter.is_empty() {
        let unmatched = unmatched(suites, &transcript);
        ensure!(
            unmatched.is_empty(),
            "run the tests on an old kernel: no test's name begins with {}; correct the list in \
             xtask/src/vm/suites.rs",
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

/// The number of passed tests; an error if one failed or none ran.
fn judge(transcript: &str) -> Result<u64> {
    let verb = "run the tests on an old kernel";
    // Match only at the start of a line: the kernel may print in the middle of a line, but not before it.
    let said = |what| transcript.lines().find_map(|line| line.strip_prefix(what));
    ensure!(said(BOOTED).is_some(), "{verb}: it did not boot");
    let Some(status) = said(ENDED) else {
        bail!("{verb}: it did not get to the end");
    };
    ensure!(
        status == "0",
        "{verb}: ended with {status}; the summaries above name the tests that failed"
    );
    let passed = transcript
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. "))
        .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
        .sum();
    ensure!(passed > 0, "{verb}: none ran");
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "[    0.1] x\nvm: booted 6.1.0\n";
    const TWO: &str = "test result: ok. 2 passed; 0 failed; 0 ignored\n";

    fn verdict(transcript: &str) -> Result<u64, String> {
        judge(transcript).map_err(|error| error.to_string())
    }

    #[test]
    fn tests_that_passed_are_counted() {
        let transcript = format!("{BOOT}{TWO}{TWO}vm: ended with 0\n");
        assert_eq!(verdict(&transcript), Ok(4));
    }

    #[test]
    fn everything_else_is_a_failure() {
        for (transcript, word) in [
            (String::new(), "not boot"),
            (format!("{BOOT}{TWO}"), "not get to the end"),
            (format!("{BOOT}{TWO}vm: ended with 1\n"), "ended with 1"),
            (format!("{BOOT}vm: ended with 0\n"), "none ran"),
        ] {
            let error = verdict(&transcript).unwrap_err();
            assert!(error.contains(word), "{transcript}: {error}");
        }
    }
}
