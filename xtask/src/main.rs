//! `cargo xtask`: all tasks of the repository, from the set-up of a machine to lint.
//!
//! This file parses the command line and calls one module per task. Nothing in this crate is part of the
//! product.

mod cargo_env;
mod check;
mod metadata;
mod privilege;
mod process;
mod product;
mod progress;
mod setup;
mod task;
mod vm;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    product::{package, release},
    setup::plan::Needs,
    task::{launch, lint, test},
    workspace::Workspace,
};

/// Sets up, builds, runs, tests and checks sixxs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Get what the eBPF build and the tests lack (says what and why; nothing when all is there).
    Setup {
        /// Get what `lint` wants as well.
        #[arg(long)]
        lint: bool,
        /// Get what `test vm` wants as well.
        #[arg(long)]
        vm: bool,
        /// Get what `dist` wants as well.
        #[arg(long)]
        dist: bool,
    },
    /// Build the eBPF object and then the release binary `sixxs`, which embeds it.
    Build,
    /// Run the daemon; without a configuration, the lab's demonstration.
    Run {
        /// Configuration to run; default: /etc/sixxs/sixxs.toml if it exists, else the lab.
        #[arg(long, value_name = "F")]
        config: Option<PathBuf>,
        /// Passed on to `sixxs run` or to the demonstration.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build the lab (network namespaces with two tunnels beside a filtered uplink) and stay in it.
    Lab {
        /// Passed on to `sixxs-lab up`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run every test, the lab's included; as root, through sudo where needed. Where qemu is
    /// installed, some of them in a virtual machine with an old kernel as well.
    Test(test::Arguments),
    /// Measure: `core` is the cost per packet of the kernel programs, `tunnel` what native tunnels
    /// carry and at what cost, `repair` for how long what was taken away is gone, `scale` what very
    /// many tunnels cost.
    Bench {
        /// Which benchmark, and its options.
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            default_value = "core"
        )]
        args: Vec<String>,
    },
    /// Make the Debian package: the release binary, its units, manual pages and completions.
    Dist,
    /// Draw the pictures in docs/pictures anew, from a run of `sixxs top` and `status` in the lab.
    Pictures,
    /// Check format, clippy, crate directions, boundaries, circles of imports, sizes, layout of modules,
    /// sums of times, stray paths, units, licences and sources.
    Lint {
        /// Check for known security advisories too (fetches their database from the network).
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
    setup::tools::enter(&workspace)?;
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
        Task::Build => release::build(&workspace, Needs::BUILD),
        Task::Run { config, args } => launch::run(&workspace, config, &args),
        Task::Lab { args } => launch::lab(&workspace, &args),
        Task::Test(arguments) => test::run(&workspace, &arguments),
        Task::Bench { args } => launch::bench(&workspace, &args),
        Task::Dist => {
            println!("{}", package::make(&workspace)?.display());
            Ok(())
        }
        Task::Pictures => launch::pictures(&workspace),
        Task::Lint { advisories } => lint::run(&workspace, advisories),
    }
}
