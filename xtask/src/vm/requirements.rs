//! Owns what this machine needs to run a virtual machine, and the result of suites that not every machine
//! can run.

use crate::setup::programs::on_path;

/// Whether Debian's kernel runs the programs that are built here.
pub(crate) const HAS_KERNEL: bool = cfg!(target_arch = "x86_64");

/// The result of suites that not every machine can run.
#[derive(Debug)]
pub(crate) enum Ran {
    Yes,
    /// The suites and the reason why they were not run.
    No(String),
}

/// The reason why this machine cannot run a virtual machine with these programs, if there is one.
pub(crate) fn missing_here(programs: &[&str]) -> Option<String> {
    if !HAS_KERNEL {
        return Some("the kernel is one for x86_64".to_owned());
    }
    let missing = programs.iter().find(|program| !on_path(program))?;
    Some(format!("{missing} is missing"))
}
