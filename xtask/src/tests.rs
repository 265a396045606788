//! Runs all tests of the workspace, including the lab's.
//!
//! The lab makes network namespaces and loads programs into the kernel, so test binaries run as root; the
//! compiler never does. cargo test prints its summaries last.

use std::num::NonZeroUsize;

use anyhow::{Result, ensure};
use clap::Parser;

use crate::{
    plan::Needs,
    privilege, process, product, unpacked,
    vm::{self, Extent, Ran},
    workspace::Workspace,
};

/// The packages whose tests run on the host. All builds of tests use this list, so that they share their
/// dependencies.
pub(crate) const PACKAGES: &[&str] = &["--workspace", "--exclude", "sixxs-ebpf"];

/// Runs all tests, some of them on an old kernel too if possible; or tests whose name contains one of
/// `filter`, which may have test runner options. `chaos` with its options runs only that; `vm` runs the tests
/// for old kernels in the virtual machine.
pub(crate) fn run(workspace: &Workspace, filter: &[String]) -> Result<()> {
    match filter {
        [first, rest @ ..] if first == "vm" => vm::run(workspace, rest),
        [only] if only == "boot" => vm::run_reboots(workspace, Extent::Whole),
        [first, only] if first == "boot" && only == "short" => {
            vm::run_reboots(workspace, Extent::Short)
        }
        [first, ..] if first == "chaos" => chaos(workspace, &Chaos::parse_from(filter)),
        [] => everything(workspace),
        _ => on_this_kernel(workspace, &[], &[], filter),
    }
}

/// If this variable is set, a suite that was not run is an error.
const REQUIRE_ALL: &str = "SIXXS_REQUIRE_ALL_SUITES";

/// Runs all tests. Prints at the end the suites that were not run, with the reason.
fn everything(workspace: &Workspace) -> Result<()> {
    let suites = [
        vm::run_if_possible(workspace),
        vm::run_reboots_if_possible(workspace),
    ];
    for error in suites.iter().filter_map(|suite| suite.as_ref().err()) {
        eprintln!("error: {error:#}");
    }
    let mut outcome = on_this_kernel(workspace, &[], &[], &[]);
    let mut not_run = false;
    for suite in suites {
        match suite {
            Ok(Ran::Yes) => {}
            Ok(Ran::No(suite_and_reason)) => {
                eprintln!("not run: {suite_and_reason}");
                not_run = true;
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                outcome = outcome.and(Err(error));
            }
        }
    }
    ensure!(
        !not_run || std::env::var_os(REQUIRE_ALL).is_none(),
        "suites were not run, see above; {REQUIRE_ALL} asks for all of them"
    );
    outcome
}

/// The test runner's variable for the number of concurrent tests.
const THREADS: &str = "RUST_TEST_THREADS";

/// The number of concurrent tests. Tests in the lab mostly wait: one uses a fifth of a processor. Tests that
/// use a whole one or measure time take turns.
fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    2 * processors
}

/// Inject random faults into hosts with traffic.
#[derive(Parser)]
#[command(name = "cargo xtask test chaos", bin_name = "cargo xtask test chaos")]
struct Chaos {
    /// Number of faults with one daemon, after a quarter of that with faults that also kill and start the
    /// daemon; default: some seconds of faults.
    #[arg(long, value_name = "N")]
    faults: Option<u64>,
    /// Seed that determines all faults; default: a random one, which is printed.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Only this kind of host: `tcx`, `clsact` or `native`.
    variant: Vec<String>,
}

fn chaos(workspace: &Workspace, wanted: &Chaos) -> Result<()> {
    let mut variables = Vec::new();
    for (name, value) in [
        ("SIXXS_CHAOS_FAULTS", wanted.faults),
        ("SIXXS_CHAOS_SEED", wanted.seed),
    ] {
        variables.extend(value.map(|value| (name, value.to_string())));
    }
    let mut filter = wanted.variant.clone();
    // Show the progress and the counters.
    filter.push("--nocapture".to_owned());
    on_this_kernel(workspace, &["--test", "chaos"], &variables, &filter)
}

/// Runs the matching tests of these targets (none means all), with these variables.
fn on_this_kernel(
    workspace: &Workspace,
    targets: &[&str],
    variables: &[(&str, String)],
    filter: &[String],
) -> Result<()> {
    product::build(workspace, Needs::TEST)?;
    let mut command = workspace.cargo();
    for program in unpacked::ALL {
        command.env(program.variable, program.get(workspace)?);
    }
    command
        .arg("test")
        .args(PACKAGES)
        .args(targets)
        .arg("--no-fail-fast")
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .env("SIXXS_BIN", workspace.release_binary("sixxs"));
    if std::env::var_os(THREADS).is_none() {
        command.env(THREADS, threads().to_string());
    }
    if !privilege::is_root() {
        // `cfg(all())` is true on every host. env(1) restores PATH, which sudo replaces.
        let path = std::env::var("PATH").unwrap_or_default();
        let runner = format!(r#"target."cfg(all())".runner=["sudo","-E","env","PATH={path}"]"#);
        command.args(["--config", &runner]);
    }
    if !filter.is_empty() {
        command.arg("--").args(filter);
    }
    process::run(
        "run the tests",
        &mut command,
        "the summaries above name the tests that failed",
    )
}
