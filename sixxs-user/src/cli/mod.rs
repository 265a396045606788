//! The command line: its arguments, and the dispatch to the commands.

mod aiccu;
mod broker_overlay;
mod check;
mod doctor;
mod explain;
mod history;
mod init;
mod locale;
mod output;
mod reload;
mod show;
mod top;

use std::{
    env, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{
    Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, parser::ValueSource,
};

use crate::{
    bpf::HookChoice,
    control::{self, Verb, api::Names, client},
    daemon,
    host::config_file,
    host::paths::Paths,
    teardown,
};

// Exit statuses.

const FAILED: u8 = 1;
/// An invalid configuration, or (by clap) an invalid command line.
const BAD_CONFIG: u8 = 2;
/// The command found a problem.
const UNHEALTHY: u8 = 3;
const NO_DAEMON: u8 = 4;

/// The whole command line.
#[derive(Parser)]
#[command(
    name = "sixxs",
    version,
    about = "Sends replies back through the tunnel that their requests arrived by, and catches leaks",
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    options: GlobalOptions,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct GlobalOptions {
    /// The configuration file.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "SIXXS_CONFIG",
        default_value = "/etc/sixxs/sixxs.toml"
    )]
    config: PathBuf,
    /// Directory for the control socket.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SIXXS_RUN_DIR",
        default_value = "/run/sixxs"
    )]
    run_dir: PathBuf,
    /// Directory for data that outlives a reboot.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SIXXS_STATE_DIR",
        default_value = "/var/lib/sixxs"
    )]
    state_dir: PathBuf,
    /// Directory for pinned eBPF maps and links, on a bpffs.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SIXXS_PIN_DIR",
        default_value = "/sys/fs/bpf/sixxs"
    )]
    pin_dir: PathBuf,
    /// Directory where `ip` reads names of routing tables.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SIXXS_RT_TABLES_DIR",
        default_value = "/etc/iproute2/rt_tables.d"
    )]
    rt_tables_dir: PathBuf,
    /// The group that may read from the daemon.
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "NAME",
        env = "SIXXS_GROUP",
        default_value = "sixxs"
    )]
    group: String,
    /// How to attach programs: auto, tcx or clsact.
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "HOOK",
        env = "SIXXS_HOOK",
        default_value = "auto"
    )]
    hook: HookChoice,
}

impl GlobalOptions {
    fn paths(self) -> Paths {
        Paths {
            config: self.config,
            run_dir: self.run_dir,
            state_dir: self.state_dir,
            pin_dir: self.pin_dir,
            rt_tables_dir: self.rt_tables_dir,
            group: self.group,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon in the foreground.
    Run {
        /// Log each leak in the kernel programs; costs time.
        #[arg(long, env = "SIXXS_PROGRAM_LOG")]
        program_log: bool,
        /// For `sixxs aiccu start`: run without a configuration, and end with the last tunnel.
        #[arg(long, hide = true)]
        on_demand: bool,
        /// For tests: let `POST /v1/clock` move the daemon's clock.
        #[arg(long, hide = true, env = "SIXXS_MOVABLE_CLOCK")]
        movable_clock: bool,
    },
    /// Start tunnels of the running daemon; without names, all of them.
    Start {
        names: Vec<String>,
        /// Get the tunnel's parameters from the broker again.
        #[arg(long)]
        refresh: bool,
    },
    /// Stop tunnels of the running daemon; without names, all of them.
    Stop { names: Vec<String> },
    /// Stop and start tunnels of the running daemon; without names, all of them.
    Restart {
        names: Vec<String>,
        /// Get the tunnel's parameters from the broker again.
        #[arg(long)]
        refresh: bool,
    },
    /// Show tunnels, rules, programs, echo traffic and leaks.
    #[command(after_help = "Exit status: 0 all tunnels healthy, 3 some not, 4 no daemon.")]
    Status {
        /// Redraw every second.
        #[arg(long)]
        watch: bool,
    },
    /// Show tunnels, uplinks and alerts live, on the whole terminal; press ? there for the keys.
    #[command(after_help = "Exit status: 0 quit, 2 no terminal, 4 no daemon.")]
    Top {
        /// Refresh interval in seconds, 0.2 to 60.
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = top::interval)]
        interval: Duration,
        /// Draw with ASCII only, as in a locale without UTF-8.
        #[arg(long)]
        ascii: bool,
    },
    /// Show every counter, per interface.
    Counters {
        /// Also counters that are zero.
        #[arg(long)]
        all: bool,
    },
    /// Show leak alerts and corrections, newest last.
    Alerts {
        /// Continue with new entries.
        #[arg(long)]
        follow: bool,
    },
    /// Ping from each tunnel address, and check rules, routes and programs.
    #[command(after_help = "Exit status: 0 all pass, 3 a check failed.")]
    Check(check::Arguments),
    /// Find problems on this host, and show their fixes; change nothing.
    #[command(after_help = "Exit status: 0 no problems, 3 problems.")]
    Doctor,
    /// Show the path that a packet would take: rules, route, program, size; and why, if it is the wrong one.
    Explain(explain::Arguments),
    /// Show availability by hour and day, and outages, from the records of up to 400 days.
    History(history::Arguments),
    /// Show missing objects, as commands for a shell; change nothing.
    #[command(after_help = "Exit status: 0 nothing to do, 3 something to do.")]
    Plan,
    /// Load the changed configuration file; touch only what changed.
    #[command(
        after_help = "Exit status of --check: 0 nothing to do, 2 a wrong file, 3 something to do."
    )]
    Reload {
        /// Show what it would change, with the file of --config if given; change nothing.
        #[arg(long, conflicts_with = "confirm")]
        check: bool,
        /// Return to the old configuration after this time, unless `sixxs confirm` comes first.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(control::CONFIRM_SECONDS))]
        confirm: Option<u64>,
    },
    /// Keep the configuration of a `reload --confirm`.
    Confirm,
    /// Propose a configuration for the tunnels of this host, with comments; change no file that exists.
    Init(init::Arguments),
    /// The commands of AICCU, for old scripts; also available by calling this program as `aiccu`.
    #[command(subcommand)]
    Aiccu(aiccu::Verb),
    /// Remove every route, rule, table name, program and pin of any run, with or without a daemon.
    Down,
}

/// The command line, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let mut arguments: Vec<_> = env::args_os().collect();
    if aiccu::is_alias() {
        arguments.insert(1, "aiccu".into());
    }
    let matches = Cli::command().get_matches_from(arguments);
    let is_config_given = matches.value_source("config") != Some(ValueSource::DefaultValue);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let outcome = runtime.block_on(run(cli, is_config_given));
    // A thread may still be looking up a name; its result is not needed any more.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|error| fail(&error))
}

fn fail(error: &anyhow::Error) -> ExitCode {
    if error.is::<output::ReaderGone>() {
        return ExitCode::SUCCESS;
    }
    let status = if error.is::<client::NoDaemon>() {
        NO_DAEMON
    } else if error.is::<config_file::Error>() || error.is::<explain::BadArgument>() {
        BAD_CONFIG
    } else {
        FAILED
    };
    output::message(&format!("{error:#}"));
    ExitCode::from(status)
}

async fn run(cli: Cli, is_config_given: bool) -> anyhow::Result<ExitCode> {
    let Cli {
        options,
        json,
        command,
    } = cli;
    let hook = options.hook;
    let paths = options.paths();
    let socket = paths.socket();
    match command {
        Command::Run {
            program_log,
            on_demand,
            movable_clock,
        } => {
            let options = daemon::Options {
                hook,
                program_log,
                movable_clock,
                on_demand,
            };
            run_daemon(&paths, &options).await
        }
        Command::Start { names, refresh } => {
            change_tunnels(&socket, Verb::Start, names, refresh).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Stop { names } => {
            change_tunnels(&socket, Verb::Stop, names, false).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Restart { names, refresh } => {
            change_tunnels(&socket, Verb::Restart, names, refresh).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status { watch } => show::status(&socket, json, watch).await,
        Command::Top { interval, ascii } => top::top(&socket, interval, ascii).await,
        Command::Counters { all } => show::counters(&socket, json, all).await,
        Command::Alerts { follow } => show::alerts(&socket, json, follow).await,
        Command::Check(asked) => check::check(&socket, json, asked).await,
        Command::Doctor => doctor::doctor(&paths, json).await,
        Command::Explain(asked) => explain::explain(&paths, json, asked).await,
        Command::History(arguments) => history::history(&paths, json, &arguments),
        Command::Reload { check: true, .. } => {
            reload::preview_reload(&paths, json, is_config_given).await
        }
        Command::Reload { confirm, .. } => reload::reload(&socket, json, confirm).await,
        Command::Confirm => {
            client::post(&socket, "/v1/confirm", &()).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Init(arguments) => init::init(&paths, arguments).await,
        Command::Aiccu(verb) => aiccu::run(&paths, verb).await,
        Command::Plan => show::plan(&paths, json).await,
        Command::Down => {
            teardown::down(&paths).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn run_daemon(paths: &Paths, options: &daemon::Options) -> anyhow::Result<ExitCode> {
    let config = if options.on_demand {
        config_file::read_or_default(&paths.config)?
    } else {
        config_file::read(&paths.config)?
    };
    log_to_stderr(options.program_log)?;
    for note in config.notes() {
        tracing::warn!("{note}");
    }
    if daemon::run(paths, config, options).await? == daemon::End::Idle {
        // The daemon ran only for these tunnels, which are gone.
        teardown::down(paths).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the daemon start, stop or restart tunnels; without names, all of them.
async fn change_tunnels(
    socket: &Path,
    verb: Verb,
    tunnels: Vec<String>,
    refresh: bool,
) -> anyhow::Result<()> {
    let path = format!("/v1/tunnels/{}", verb.name());
    client::post(socket, &path, &Names { tunnels, refresh }).await
}

/// Sends the daemon's log to stderr. The journal adds its own timestamps.
fn log_to_stderr(program_log: bool) -> anyhow::Result<()> {
    use tracing_subscriber::{
        EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
    };
    let default = if program_log {
        "info,netlink_packet_route=error,sixxs_ebpf=debug"
    } else {
        // netlink_packet_route logs kernel attributes that it does not know as a bug, in each round.
        "info,netlink_packet_route=error"
    };
    let filter = match env::var("SIXXS_LOG") {
        Ok(filter) => EnvFilter::try_new(&filter)
            .with_context(|| format!("SIXXS_LOG={filter:?} is no filter for the log"))?,
        Err(_) => EnvFilter::new(default),
    };
    let layer = fmt::layer()
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    if env::var_os("JOURNAL_STREAM").is_some() {
        registry.with(layer.without_time()).try_init()?;
    } else {
        registry.with(layer).try_init()?;
    }
    Ok(())
}
