//! The interactive lab: explore it, try things in it, watch the program at work.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The networks of the problem, in network namespaces on this machine.
#[derive(Parser)]
#[command(name = "sixxs-lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the lab and keep it until ctrl-C.
    Up,
    /// Build the lab, run the daemon in it and show the replies to pings from the outside.
    Demo {
        /// End after this many seconds.
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Leak on purpose: UDP with a tunnel's address from a socket bound to net0.
    Leak {
        /// The tunnel that has the address.
        #[arg(long, default_value = "sixxs0")]
        tunnel: String,
        /// Number of packets.
        #[arg(long, default_value_t = 5)]
        count: u64,
    },
    /// Run `sixxs` in the lab's host, with the lab's configuration.
    Sixxs {
        /// Arguments for `sixxs`.
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
