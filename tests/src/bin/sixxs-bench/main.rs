//! `sixxs-bench`: measures, prints a table, and writes it to docs/benchmarks.md.

mod flood;
mod machine;
mod packets;
mod progress;
mod renumber;
mod repair;
mod report;
mod scale;
mod timing;
mod tunnel;
mod veth;

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
    /// Cost of the kernel programs per packet, relative to an empty program, and as packets per second.
    Core {
        /// File for the table.
        #[arg(long, value_name = "F", default_value = "docs/benchmarks.md")]
        write: PathBuf,
        /// How many batches are measured for each packet, in turn with the other packets.
        #[arg(long, default_value_t = 150)]
        rounds: u32,
    },
    /// Throughput and cost of the native tunnels, relative to the same path without a tunnel.
    Tunnel {
        /// File for the tables; a quick run only prints them.
        #[arg(long, value_name = "F", default_value = "docs/benchmarks.md")]
        write: PathBuf,
        /// Measure less than a second for each number; the results are only printed.
        #[arg(long)]
        quick: bool,
        /// Only tunnels of this kind: ayiya, 6in4 or 6in4-heartbeat; the results are only printed.
        #[arg(long, value_name = "KIND")]
        only: Option<String>,
    },
    /// How many forged packets a processor drops, and what a flood of them costs a tunnel.
    Flood {
        /// File for the tables.
        #[arg(long, value_name = "F", default_value = "docs/benchmarks.md")]
        write: PathBuf,
        /// How many batches of each are measured, in turn.
        #[arg(long, default_value_t = 25)]
        rounds: u32,
    },
    /// How long a removed rule, route or program is missing, and what leaks meanwhile.
    Repair {
        /// File for the table; fewer than a thousand repetitions only print it.
        #[arg(long, value_name = "F", default_value = "docs/benchmarks.md")]
        write: PathBuf,
        /// How many times each object is removed.
        #[arg(long, default_value_t = 1000)]
        times: usize,
    },
    /// How long a changed address of a link is not protected.
    Renumber {
        /// File for the table; fewer than a thousand changes only print it.
        #[arg(long, value_name = "F", default_value = "docs/benchmarks.md")]
        write: PathBuf,
        /// How many times the address changes.
        #[arg(long, default_value_t = 1000)]
        times: usize,
    },
    /// Cost of very many tunnel addresses, per packet and at setup, relative to plain rules.
    Scale {
        /// File for the tables; a quick run only prints them.
        #[arg(long, value_name = "F", default_value = "docs/benchmarks.md")]
        write: PathBuf,
        /// Send only a few packets; the results are only printed.
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> Result<()> {
    match Cli::parse().benchmark {
        Benchmark::Core { write, rounds } => {
            let section = packets::measure(rounds)? + &veth::measure(rounds)?;
            println!("{section}");
            report::keep(&write, "core", &section)
        }
        Benchmark::Flood { write, rounds } => {
            let section = flood::measure(rounds)?;
            println!("{section}");
            report::keep(&write, "flood", &section)
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
        Benchmark::Renumber { write, times } => {
            let section = renumber::measure(times)?;
            println!("{section}");
            if times < 1000 {
                return Ok(());
            }
            report::keep(&write, "renumber", &section)
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
