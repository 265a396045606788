//! The lab for people: look at it, try things in it, watch the program at work in it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The internet that the problem needs, in network namespaces on this machine alone.
#[derive(Parser)]
#[command(name = "sixxs-lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the lab and hold it until ctrl-C.
    Up,
    /// Build the lab, run the daemon in it and watch the outside's pings being answered.
    Demo {
        /// End by itself after this many seconds.
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Leak on purpose: UDP with a tunnel's address from a socket bound to net0.
    Leak {
        /// The tunnel whose address it is.
        #[arg(long, default_value = "sixxs0")]
        tunnel: String,
        /// How many packets.
        #[arg(long, default_value_t = 5)]
        count: u64,
    },
    /// Run `sixxs` in the lab's host, with the lab's configuration.
    Sixxs {
        /// Its command line.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Up => sixxs_tests::lab::interactive::up(),
        Command::Demo { seconds } => sixxs_tests::lab::interactive::demo(seconds),
        Command::Leak { tunnel, count } => sixxs_tests::lab::interactive::leak(&tunnel, count),
        Command::Sixxs { arguments } => sixxs_tests::lab::interactive::sixxs(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sixxs-lab: {e:#}");
            ExitCode::FAILURE
        }
    }
}
