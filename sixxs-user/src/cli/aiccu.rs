//! The commands of AICCU, so that old scripts keep working: `sixxs aiccu start FILE`, or the same if the
//! program is called as `aiccu`.
//!
//! All tunnels share one daemon. It is started when necessary, and ends with the last of these tunnels. For the
//! caller, each tunnel still has its own process: `start` becomes the holder, or with `daemonize` leaves one
//! in the background. The file's `pidfile` contains the holder's process ID. When the holder gets SIGTERM or
//! SIGINT, it stops its tunnel; when the tunnel or the daemon ends, the holder ends too.

mod hold;
mod lists;
mod test;

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use sixxs_core::aiccu::{self, Aiccu};
use tokio::time::sleep;

use super::output;
use crate::{
    control::api::{AccountFile, Health, Program, Routing, State, Status, Tunnel},
    control::client,
    host::config_file,
    host::paths::Paths,
};

/// The configuration file of AICCU.
const DEFAULT_CONF: &str = "/etc/aiccu.conf";

/// Time limit for a started daemon to answer.
const DAEMON_LIMIT: Duration = Duration::from_secs(15);

/// Time limit for a tunnel to be up. It may have to wait for a slot.
const TUNNEL_LIMIT: Duration = Duration::from_secs(90);

/// Time limit for a tunnel that is up to get its rules, its routes and its programs.
const GUARD_LIMIT: Duration = Duration::from_secs(5);

/// Interval for checking the daemon and the tunnel.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The commands of AICCU.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Start the tunnel of an aiccu.conf, and stay until it is stopped, unless the file sets `daemonize`.
    Start(Start),
    /// Stop the tunnel of an aiccu.conf.
    Stop(File),
    /// List the account's tunnels. Connects to the broker.
    Tunnels(Account),
    /// List the broker's PoPs. Connects to the broker.
    Brokers(Account),
    /// Check everything that a tunnel needs, and show errors.
    Test(Account),
    /// The same as `test`, for scripts.
    Autotest(Account),
    /// Print the licence.
    License,
    /// Print the version.
    Version,
    /// Hold a tunnel that was started.
    #[command(hide = true)]
    Hold(File),
}

#[derive(Args)]
pub(super) struct File {
    /// The aiccu.conf of the tunnel.
    #[arg(default_value = DEFAULT_CONF)]
    file: PathBuf,
}

#[derive(Args)]
pub(super) struct Account {
    #[command(flatten)]
    file: File,
    #[command(flatten)]
    tls: Tls,
}

#[derive(Args)]
pub(super) struct Start {
    #[command(flatten)]
    file: File,
    #[command(flatten)]
    tls: Tls,
    /// Get the tunnel's parameters from the broker again.
    #[arg(long)]
    refresh: bool,
}

#[derive(Args)]
struct Tls {
    /// Certificate authority for the TIC server, instead of the system's.
    #[arg(long, value_name = "FILE", env = "SIXXS_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// Do not verify the TIC server's certificate, like AICCU.
    #[arg(long, env = "SIXXS_TLS_NO_VERIFY")]
    tls_no_verify: bool,
}

/// Whether the program was called as `aiccu`.
pub(super) fn is_alias() -> bool {
    let name = env::args_os().next().map(PathBuf::from);
    name.is_some_and(|name| name.file_name().is_some_and(|name| name == "aiccu"))
}

pub(super) async fn run(paths: &Paths, verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Start(start) => self::start(paths, &start).await,
        Verb::Stop(File { file }) => stop(paths, &file).await,
        Verb::Tunnels(account) => lists::tunnels(paths, &account).await,
        Verb::Brokers(account) => lists::pops(paths, &account).await,
        Verb::Test(account) | Verb::Autotest(account) => test::test(paths, &account).await,
        Verb::License => {
            output::print(include_str!("aiccu/licence.txt"))?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Version => {
            output::print(&format!("sixxs {}\n", env!("CARGO_PKG_VERSION")))?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Hold(File { file }) => hold::hold(paths, &read(&file)?).await,
    }
}

/// A parsed aiccu.conf.
struct Conf {
    /// Its absolute path, since the daemon has another working directory.
    path: String,
    aiccu: Aiccu,
}

fn read(file: &Path) -> anyhow::Result<Conf> {
    let path = fs::canonicalize(file).with_context(|| format!("find {}", file.display()))?;
    let path = path
        .into_os_string()
        .into_string()
        .map_err(|path| anyhow::anyhow!("{} is no name in UTF-8", path.display()))?;
    let bytes = config_file::read_secret(&path).map_err(anyhow::Error::msg)?;
    let aiccu = aiccu::parse(&path, &bytes).map_err(config_file::Error::Invalid)?;
    Ok(Conf { path, aiccu })
}

impl Conf {
    fn request(&self, tls: &Tls, refresh: bool) -> anyhow::Result<AccountFile> {
        let tls_ca = match &tls.tls_ca {
            None => None,
            Some(ca) => {
                let ca = fs::canonicalize(ca).with_context(|| format!("find {}", ca.display()))?;
                Some(ca.display().to_string())
            }
        };
        Ok(AccountFile {
            file: self.path.clone(),
            tls_ca,
            tls_verify: !tls.tls_no_verify,
            refresh,
        })
    }

    /// Makes the daemon stop the tunnel.
    async fn stop(&self, paths: &Paths) -> anyhow::Result<()> {
        // The daemon identifies the tunnel by the file alone.
        let request = AccountFile {
            file: self.path.clone(),
            tls_ca: None,
            tls_verify: true,
            refresh: false,
        };
        client::post(&paths.socket(), "/v1/aiccu/stop", &request).await
    }

    /// The daemon's status of the tunnel; `None` if it has no such tunnel.
    async fn tunnel(&self, paths: &Paths) -> anyhow::Result<Option<Tunnel>> {
        let status: Status = client::get(&paths.socket(), "/v1/status").await?;
        let mut tunnels = status.tunnels.into_iter();
        Ok(tunnels.find(|tunnel| tunnel.account.as_ref() == Some(&self.path)))
    }
}

async fn start(paths: &Paths, start: &Start) -> anyhow::Result<ExitCode> {
    let conf = read(&start.file.file)?;
    for note in &conf.aiccu.notes {
        output::message(&format!("{}: {note}", conf.path));
    }
    if let Some(pid) = hold::holder(&conf.aiccu.pidfile)? {
        bail!(
            "the tunnel of {} is running already: {} has process {pid}",
            conf.path,
            conf.aiccu.pidfile
        );
    }
    let request = conf.request(&start.tls, start.refresh)?;
    ensure_daemon(paths).await?;
    client::post(&paths.socket(), "/v1/aiccu/start", &request).await?;
    if let Err(error) = wait_until_up(paths, &conf).await {
        // Leave nothing behind of a tunnel that does not start.
        if let Err(stop) = conf.stop(paths).await {
            output::message(&format!("stop the tunnel that did not start: {stop:#}"));
        }
        return Err(error);
    }
    if conf.aiccu.daemonize {
        hold::start_in_background(paths, &conf).await
    } else {
        hold::hold(paths, &conf).await
    }
}

/// Waits until the tunnel is up, and replies leave by it.
async fn wait_until_up(paths: &Paths, conf: &Conf) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut last_reason = None;
    let mut up_since = None;
    loop {
        let Some(tunnel) = conf.tunnel(paths).await? else {
            bail!("the tunnel of {} was stopped", conf.path);
        };
        let reason = tunnel.reason.clone().unwrap_or_default();
        match tunnel.state {
            State::Up if is_guarded(&tunnel) => return Ok(()),
            State::Up if up_since.get_or_insert_with(Instant::now).elapsed() > GUARD_LIMIT => {
                output::message(&format!(
                    "{} is up, but replies may not leave by it: see `sixxs status`",
                    tunnel.name
                ));
                return Ok(());
            }
            State::Failed => bail!("{reason}"),
            State::LockedOut => bail!("{reason} (until {})", tunnel.until.unwrap_or_default()),
            _ if begun.elapsed() > TUNNEL_LIMIT => bail!(
                "{} is not up after {} s: {reason}",
                tunnel.name,
                TUNNEL_LIMIT.as_secs()
            ),
            _ => {}
        }
        if conf.aiccu.verbose && last_reason.as_ref() != Some(&reason) && !reason.is_empty() {
            output::message(&reason);
            last_reason = Some(reason);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Whether a tunnel has its rules, its routes and its programs, and nothing keeps replies from it.
fn is_guarded(tunnel: &Tunnel) -> bool {
    tunnel.routing == Routing::InPlace
        && tunnel.program == Program::Attached
        && tunnel.health != Health::Failing
}

/// Makes sure that a daemon runs: starts one if none answers.
async fn ensure_daemon(paths: &Paths) -> anyhow::Result<()> {
    if has_daemon(paths).await? {
        return Ok(());
    }
    let daemon = spawn_daemon(paths)?;
    wait_for_daemon(paths, daemon).await
}

fn spawn_daemon(paths: &Paths) -> anyhow::Result<Child> {
    let program = env::current_exe().context("find this program")?;
    let log_dir = &paths.run_dir;
    fs::create_dir_all(log_dir).with_context(|| format!("create {}", log_dir.display()))?;
    let log = paths.log();
    let log = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = Command::new(program);
    paths.pass_on(&mut command);
    command
        .args(["run", "--on-demand"])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // Signals to the caller's process group must not reach the daemon.
        .process_group(0);
    command.spawn().context("start the daemon")
}

async fn wait_for_daemon(paths: &Paths, mut daemon: Child) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !has_daemon(paths).await? {
        if let Some(status) = daemon.try_wait().context("wait for the daemon")?
            // Another process may have started one meanwhile.
            && !has_daemon(paths).await?
        {
            let log = fs::read_to_string(paths.log()).unwrap_or_default();
            bail!("the daemon ended ({status}): {}", log.trim());
        }
        if begun.elapsed() > DAEMON_LIMIT {
            bail!("the daemon does not answer; see {}", paths.log().display());
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// Whether a daemon answers; an error if one may run, but does not answer.
async fn has_daemon(paths: &Paths) -> anyhow::Result<bool> {
    match client::alive(&paths.socket()).await {
        Ok(()) => Ok(true),
        Err(error) if error.is::<client::NoDaemon>() => Ok(false),
        Err(error) => Err(error),
    }
}

async fn stop(paths: &Paths, file: &Path) -> anyhow::Result<ExitCode> {
    let conf = read(file)?;
    if hold::end(&conf.aiccu.pidfile).await? {
        return Ok(ExitCode::SUCCESS);
    }
    // Its holder was killed, or the tunnel is in the configuration.
    match conf.stop(paths).await {
        Err(error) if error.is::<client::NoDaemon>() => {
            bail!("the tunnel of {} is not running", conf.path)
        }
        outcome => outcome.map(|()| ExitCode::SUCCESS),
    }
}
