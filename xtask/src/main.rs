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
    task::{launch, lint, page, test},
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
        /// Get the browser and the tools for `test page` too.
        #[arg(long)]
        page: bool,
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
    Test(test::Arguments),
    /// Run a benchmark: `core` measures the cost per packet of the kernel programs, `tunnel` the throughput
    /// and cost of native tunnels, `repair` how long a removed object is missing, `renumber` how long
    /// a changed address is not protected, `scale` the cost of very many tunnels.
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
    /// Check format, clippy, crate directions, boundaries, circles of imports, sizes, layout of modules,
    /// sums of times, stray paths, units, licences and sources.
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
    setup::tools::enter(&workspace)?;
    match task {
        Task::Setup {
            lint,
            vm,
            dist,
            page,
        } => {
            let needs = Needs {
                lint,
                vm,
                dist,
                ..Needs::TEST
            };
            setup::ensure(&workspace, needs)?;
            if page {
                page::set_up(&workspace)?;
            }
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
