//! Runs the tests of the workspace, those of the lab included.
//!
//! The lab creates network namespaces and loads programs into the kernel, so test binaries run as root. The
//! compiler does not. cargo test's own summaries are printed last.

use std::num::NonZeroUsize;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};

use crate::{
    privilege, process,
    product::release,
    setup::{deb_programs, plan::Needs},
    task::page,
    vm::{
        old_kernel,
        package::{self, Extent},
        requirements::Ran,
    },
    workspace::{TESTED_PACKAGES, Workspace},
};

/// The arguments of `cargo xtask test`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    suite: Option<Suite>,
    /// Only tests whose names contain one of these; options of the test runner too.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    filter: Vec<String>,
}

#[derive(Subcommand)]
enum Suite {
    /// Run the tests that must pass on an old kernel, on Debian's in a virtual machine; installs qemu.
    #[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
    Vm {
        #[command(subcommand)]
        extent: Option<Short>,
        /// Only tests whose names contain one of these.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        filter: Vec<String>,
    },
    /// Make the package, install and remove it in a separate Debian, and boot that in a virtual machine,
    /// three times.
    #[command(disable_help_subcommand = true)]
    Boot {
        #[command(subcommand)]
        extent: Option<Short>,
    },
    /// Inject random faults into hosts while traffic runs.
    Chaos(Chaos),
    /// Look at the daemon's page in a headless Chromium, check it, and write its pictures to docs/pictures.
    #[command(disable_help_subcommand = true)]
    Page,
}

#[derive(Subcommand)]
enum Short {
    /// Only a part, which is faster.
    Short,
}

/// Runs all tests, with some of them on an old kernel too where that is possible; or a suite; or the tests
/// that match the filter.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    match &arguments.suite {
        Some(Suite::Vm {
            extent: Some(Short::Short),
            ..
        }) => old_kernel::run_short(workspace),
        Some(Suite::Vm {
            extent: None,
            filter,
        }) => old_kernel::run(workspace, filter),
        Some(Suite::Boot { extent }) => {
            let extent = extent
                .as_ref()
                .map_or(Extent::Whole, |Short::Short| Extent::Short);
            package::run(workspace, extent)
        }
        Some(Suite::Chaos(options)) => chaos(workspace, options),
        Some(Suite::Page) => page::test(workspace),
        None if arguments.filter.is_empty() => everything(workspace),
        None => on_this_kernel(workspace, &[], &[], &arguments.filter),
    }
}

/// Set to make a suite that was not run a failure.
const REQUIRE_ALL: &str = "SIXXS_REQUIRE_ALL_SUITES";

/// Runs all tests. Prints at the end the suites that were not run, with the reason.
fn everything(workspace: &Workspace) -> Result<()> {
    let suites = [
        old_kernel::run_if_possible(workspace),
        package::run_if_possible(workspace),
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

/// Tests in the lab mostly wait: one uses a fifth of a processor. Tests that use a whole one, or measure
/// time, run one at a time.
fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    3 * processors
}

#[derive(Args)]
struct Chaos {
    /// Number of faults that one daemon lives through, after a quarter of that with daemons that are killed
    /// and started; default: as many as fit into some seconds.
    #[arg(long, value_name = "N")]
    faults: Option<u64>,
    /// Seed of the faults; default: a new one each time, which is printed.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Only these kinds of host.
    #[arg(value_name = "KIND", value_parser = ["tcx", "clsact", "native", "renumbering"])]
    kinds: Vec<String>,
}

fn chaos(workspace: &Workspace, options: &Chaos) -> Result<()> {
    let mut variables = Vec::new();
    for (name, value) in [
        ("SIXXS_CHAOS_FAULTS", options.faults),
        ("SIXXS_CHAOS_SEED", options.seed),
    ] {
        variables.extend(value.map(|value| (name, value.to_string())));
    }
    let mut filter = options.kinds.clone();
    // It prints its progress and its counts.
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
    release::build(workspace, Needs::TEST)?;
    let mut command = workspace.cargo();
    for program in deb_programs::ALL {
        command.env(program.variable, program.get(workspace)?);
    }
    command
        .arg("test")
        .args(TESTED_PACKAGES)
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(words: &str) -> Result<Arguments, clap::Error> {
        let words = std::iter::once("test").chain(words.split_whitespace());
        Ok(Cli::try_parse_from(words)?.arguments)
    }

    #[test]
    fn other_words_than_suites_are_the_filter() {
        for (words, filter) in [
            ("", vec![]),
            ("loops::", vec!["loops::"]),
            ("chaos_native", vec!["chaos_native"]),
            ("help", vec!["help"]),
            ("loops:: vm", vec!["loops::", "vm"]),
            ("loops:: --nocapture", vec!["loops::", "--nocapture"]),
            ("--nocapture", vec!["--nocapture"]),
        ] {
            let arguments = parse(words).unwrap();
            assert!(arguments.suite.is_none(), "{words}");
            assert_eq!(arguments.filter, filter, "{words}");
        }
    }

    #[test]
    fn suites_have_their_arguments() {
        let suite = |words| parse(words).unwrap().suite;
        let Some(Suite::Vm { extent, filter }) = suite("vm replies:: --nocapture") else {
            panic!("no suite vm");
        };
        assert!(extent.is_none());
        assert_eq!(filter, ["replies::", "--nocapture"]);
        assert!(matches!(
            suite("vm short"),
            Some(Suite::Vm {
                extent: Some(Short::Short),
                ..
            })
        ));
        assert!(matches!(suite("boot"), Some(Suite::Boot { extent: None })));
        assert!(matches!(
            suite("boot short"),
            Some(Suite::Boot { extent: Some(_) })
        ));
        let Some(Suite::Chaos(chaos)) = suite("chaos tcx --seed 7 --faults 20") else {
            panic!("no suite chaos");
        };
        assert_eq!((chaos.seed, chaos.faults), (Some(7), Some(20)));
        assert_eq!(chaos.kinds, ["tcx"]);
        assert!(matches!(suite("page"), Some(Suite::Page)));
        assert!(parse("page other").is_err());
        assert!(parse("chaos other").is_err() && parse("boot other").is_err());
    }
}
