//! `cargo xtask`: all tasks in the repository, from setting up a machine to a lint run.
//!
//! This file parses the command line and calls one module per task. Nothing in this crate is part of the
//! product.

mod boundaries;
mod clean;
mod directions;
mod dist;
mod ebpf;
mod launch;
mod lint;
mod metadata;
mod package;
mod plan;
mod privilege;
mod process;
mod product;
mod progress;
mod setup;
mod source;
mod tests;
mod times;
mod toolchain;
mod tools;
mod units;
mod unpacked;
mod vm;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{plan::Needs, workspace::Workspace};

/// Sets up, builds, runs, tests and checks sixxs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install missing tools for the eBPF build and the tests (prints each with its reason).
    Setup {
        /// Install the tools for `lint` too.
        #[arg(long)]
        lint: bool,
        /// Install the tools for `test vm` too.
        #[arg(long)]
        vm: bool,
        /// Install the tools for `dist` too.
        #[arg(long)]
        dist: bool,
    },
    /// Build the eBPF object and then the release binary `sixxs`, which embeds it.
    Build,
    /// Run the daemon; without a configuration, the lab's demonstration.
    Run {
        /// Configuration file; default: /etc/sixxs/sixxs.toml if it exists, else the lab.
        #[arg(long, value_name = "F")]
        config: Option<PathBuf>,
        /// Arguments for `sixxs run` or for the demonstration.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build the lab (network namespaces with two tunnels and a filtered uplink) and keep it until ctrl-C.
    Lab {
        /// Arguments for `sixxs-lab up`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run all tests, including the lab's, as root (through sudo if needed). If qemu is installed, also run
    /// some of them in a virtual machine with an old kernel.
    ///
    /// `test vm` installs qemu, and runs the tests for old kernels on Debian's kernel in a virtual machine;
    /// `test vm short` runs some of them.
    ///
    /// `test boot` makes the package, installs and removes it in a separate Debian system, and boots that
    /// three times in the virtual machine; `test boot short` boots it twice, and runs nothing else.
    ///
    /// `test chaos` injects random faults into hosts with traffic. As part of all tests this takes a minute.
    /// `--faults N` sets the number of faults, `--seed S` repeats an earlier run, and `tcx`, `clsact` or
    /// `native` selects one kind of host.
    Test {
        /// Only tests whose name contains one of these; also test runner options. `vm` [FILTER…]: in the
        /// virtual machine. `boot`: the package. `chaos` [--faults N] [--seed S] [KIND…]: chaos.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        filter: Vec<String>,
    },
    /// Run a benchmark: `core` measures the cost per packet of the kernel programs, `tunnel` the throughput
    /// and cost of native tunnels, `repair` how long a removed object is missing, `scale` the cost of very
    /// many tunnels.
    Bench {
        /// The benchmark, and its options.
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            default_value = "core"
        )]
        args: Vec<String>,
    },
    /// Make the Debian package: the release binary, its units, manual pages and completions.
    Dist,
    /// Draw the pictures in docs/pictures, from a run of `sixxs top` and `status` in the lab.
    Pictures,
    /// Check format, clippy, crate directions, boundaries, stray paths, units, licences and sources.
    Lint {
        /// Also check for known security advisories (downloads their database).
        #[arg(long)]
        advisories: bool,
    },
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> Result<()> {
    let workspace = Workspace::find()?;
    tools::enter(&workspace)?;
    match task {
        Task::Setup { lint, vm, dist } => {
            let needs = Needs {
                lint,
                vm,
                dist,
                ..Needs::TEST
            };
            setup::ensure(&workspace, needs)?;
            println!("everything needed is there");
            Ok(())
        }
        Task::Build => product::build(&workspace, Needs::BUILD),
        Task::Run { config, args } => launch::run(&workspace, config, &args),
        Task::Lab { args } => launch::lab(&workspace, &args),
        Task::Test { filter } => tests::run(&workspace, &filter),
        Task::Bench { args } => launch::bench(&workspace, &args),
        Task::Dist => dist::run(&workspace),
        Task::Pictures => launch::pictures(&workspace),
        Task::Lint { advisories } => lint::run(&workspace, advisories),
    }
}
