//! `sixxs-bench`: measures, prints a table, and keeps it in docs/benchmarks.md.

mod empty;
mod packets;
mod report;
mod timing;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// What the kernel programs cost per packet, against an empty program.
    Core {
        /// Where the table is kept.
        #[arg(long, value_name = "F", default_value = "docs/benchmarks.md")]
        write: PathBuf,
        /// How often each packet is measured, in turn with all others.
        #[arg(long, default_value_t = 150)]
        rounds: u32,
    },
}

fn main() -> Result<()> {
    match Cli::parse().benchmark {
        Benchmark::Core { write, rounds } => {
            let section = packets::measure(rounds)?;
            println!("{section}");
            report::keep(&write, "core", &section)
        }
    }
}
