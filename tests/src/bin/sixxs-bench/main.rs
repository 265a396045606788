//! `sixxs-bench`: measures, prints a table, and keeps it in docs/benchmarks.md.

mod machine;
mod packets;
mod progress;
mod repair;
mod report;
mod scale;
mod timing;
mod tunnel;

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
    /// What the native tunnels carry, and what that costs, against the same path without one.
    Tunnel {
        /// Where the tables are kept; only printed after a quick run.
        #[arg(long, value_name = "F", default_value = "docs/benchmarks.md")]
        write: PathBuf,
        /// Less than a second for each number: for a look, not to be kept.
        #[arg(long)]
        quick: bool,
        /// Only tunnels of this kind: ayiya, 6in4 or 6in4-heartbeat; only printed, too.
        #[arg(long, value_name = "KIND")]
        only: Option<String>,
    },
    /// For how long a rule, a route, a program is gone that somebody takes away, and what leaks.
    Repair {
        /// Where the table is kept; only printed after fewer than a thousand times.
        #[arg(long, value_name = "F", default_value = "docs/benchmarks.md")]
        write: PathBuf,
        /// How often each is taken away.
        #[arg(long, default_value_t = 1000)]
        times: usize,
    },
    /// What very many tunnel addresses cost, per packet and to put in place, against plain rules.
    Scale {
        /// Where the tables are kept; only printed after a quick run.
        #[arg(long, value_name = "F", default_value = "docs/benchmarks.md")]
        write: PathBuf,
        /// A few packets: for a look, not to be kept.
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> Result<()> {
    match Cli::parse().benchmark {
        Benchmark::Core { write, rounds } => {
            let section = packets::measure(rounds)?;
            println!("{section}");
            report::keep(&write, "core", &section)
        }
        Benchmark::Tunnel { write, quick, only } => {
            let section = tunnel::measure(quick, only.as_deref())?;
            println!("{section}");
            if quick || only.is_some() {
                return Ok(());
            }
            report::keep(&write, "tunnel", &section)
        }
        Benchmark::Repair { write, times } => {
            let section = repair::measure(times)?;
            println!("{section}");
            if times < 1000 {
                return Ok(());
            }
            report::keep(&write, "repair", &section)
        }
        Benchmark::Scale { write, quick } => {
            let section = scale::measure(quick)?;
            println!("{section}");
            if quick {
                return Ok(());
            }
            report::keep(&write, "scale", &section)
        }
    }
}
