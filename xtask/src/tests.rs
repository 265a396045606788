//! Runs every test of the workspace, those of the lab included.
//!
//! The lab makes network namespaces and loads programs into the kernel, so test binaries run as
//! root; only they, never the compiler. cargo test's own summaries are the last thing printed.

use std::num::NonZeroUsize;

use anyhow::{Result, ensure};
use clap::Parser;

use crate::{
    plan::Needs,
    privilege, process, product, unpacked,
    vm::{self, Extent, Ran},
    workspace::Workspace,
};

/// The packages whose tests run on the host. Wherever tests are built it is these together, so that
/// they share what they are built from.
pub(crate) const PACKAGES: &[&str] = &["--workspace", "--exclude", "sixxs-ebpf"];

/// All tests, some of them on an old kernel too where that is possible; or those whose name contains
/// one of `filter` (which may hold test runner options); with `chaos` that alone, by its own options;
/// with `vm` those that must hold on an old kernel, there.
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

/// Set by whoever wants a suite that was not run to be a failure.
const REQUIRE_ALL: &str = "SIXXS_REQUIRE_ALL_SUITES";

/// All tests. Says at the end which suites were not run, and why.
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

/// The test runner's own variable: how many tests run at the same time.
const THREADS: &str = "RUST_TEST_THREADS";

/// Tests in the lab mostly wait: one of them uses a fifth of a processor. Those that use a whole one
/// or measure time take turns.
fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    2 * processors
}

/// Random faults while traffic runs, as many as one likes.
#[derive(Parser)]
#[command(name = "cargo xtask test chaos", bin_name = "cargo xtask test chaos")]
struct Chaos {
    /// So many faults that one daemon lives through, after a quarter of that with daemons killed and
    /// started as well; default: as many as fit into some seconds.
    #[arg(long, value_name = "N")]
    faults: Option<u64>,
    /// Decides what happens; default: another one each time, which is printed.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// `tcx`, `clsact` or `native`: only this kind of host.
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
    // How far it is, and what was counted.
    filter.push("--nocapture".to_owned());
    on_this_kernel(workspace, &["--test", "chaos"], &variables, &filter)
}

/// The tests that match, of these targets (none named: all), with these variables.
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
        // `cfg(all())` is true on every host. env(1) keeps the path, which sudo replaces.
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
