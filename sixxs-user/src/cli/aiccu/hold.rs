//! The holder: the process that represents a tunnel.

use std::{
    env, fs, io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{interval, sleep},
};

use super::Conf;
use crate::{
    control::{api::State, client},
    host::{files, paths::Paths},
};

/// Interval for checking the tunnel.
const TUNNEL_INTERVAL: Duration = Duration::from_secs(2);

/// Time limit for a holder to end: it may have to wait until the tunnel's interface is removed.
const END_LIMIT: Duration = Duration::from_secs(75);

/// Time limit for a background holder to write its pidfile.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Interval for checking the holder.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Holds a tunnel until a signal arrives, and stops the tunnel then, or until something else stops it.
pub(super) async fn hold(paths: &Paths, conf: &Conf) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let pidfile = &conf.aiccu.pidfile;
    write(pidfile)?;
    let mut ticks = interval(TUNNEL_INTERVAL);
    let outcome = loop {
        tokio::select! {
            _ = terminate.recv() => break stop(paths, conf).await,
            _ = interrupt.recv() => break stop(paths, conf).await,
            _ = ticks.tick() => match conf.tunnel(paths).await {
                Ok(Some(tunnel)) if tunnel.state != State::Down => {}
                Ok(_) => break Ok(ExitCode::SUCCESS),
                Err(error) => break Err(error.context("the daemon is gone, and the tunnel with it")),
            },
        }
    };
    files::remove_if_exists(Path::new(pidfile))?;
    outcome
}

async fn stop(paths: &Paths, conf: &Conf) -> anyhow::Result<ExitCode> {
    match conf.stop(paths).await {
        // The daemon is gone, and the tunnel too.
        Err(error) if !error.is::<client::NoDaemon>() => Err(error),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Starts a holder in the background, and waits until it has written its pidfile.
pub(super) async fn start_in_background(paths: &Paths, conf: &Conf) -> anyhow::Result<ExitCode> {
    let program = env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    paths.pass_on(&mut command);
    let mut holder = command
        .args(["aiccu", "hold", &conf.path])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("start the tunnel's process")?;
    let begun = Instant::now();
    while self::holder(&conf.aiccu.pidfile)?.is_none_or(|pid| pid.as_raw() != holder_pid(&holder)) {
        if let Some(status) = holder.try_wait().context("wait for the tunnel's process")? {
            bail!(
                "the tunnel's process ended ({status}); can it write {}?",
                conf.aiccu.pidfile
            );
        }
        if begun.elapsed() > START_LIMIT {
            bail!("the tunnel's process did not write {}", conf.aiccu.pidfile);
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(ExitCode::SUCCESS)
}

fn holder_pid(holder: &std::process::Child) -> i32 {
    i32::try_from(holder.id()).unwrap_or(-1)
}

/// The running holder whose process ID is in the file.
pub(super) fn holder(pidfile: &str) -> anyhow::Result<Option<Pid>> {
    let text = match fs::read_to_string(pidfile) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {pidfile}")),
    };
    let Ok(pid) = text.trim().parse::<i32>() else {
        // Other contents name no process.
        return Ok(None);
    };
    // Process IDs are reused, so check that the process runs this program.
    let own = env::current_exe().context("find this program")?;
    let other = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let is_ours = other.is_some_and(|other| is_same_program(&other, &own));
    Ok((pid > 0 && is_ours).then(|| Pid::from_raw(pid)))
}

/// Whether both are the same program, even if its file was replaced after that process started.
fn is_same_program(other: &Path, own: &Path) -> bool {
    let other = other.to_string_lossy();
    Path::new(other.trim_end_matches(" (deleted)")) == own
}

fn write(pidfile: &str) -> anyhow::Result<()> {
    // Write a draft and rename it, so that the file is always complete.
    let draft = format!("{pidfile}.new");
    let written = fs::write(&draft, format!("{}\n", std::process::id()))
        .and_then(|()| fs::rename(&draft, pidfile));
    files::remove_draft_on_error(Path::new(&draft), written)
        .with_context(|| format!("write {pidfile}"))
}

/// Ends the holder and waits for that; false if there is none.
pub(super) async fn end(pidfile: &str) -> anyhow::Result<bool> {
    let Some(pid) = holder(pidfile)? else {
        return Ok(false);
    };
    match kill(pid, Signal::SIGTERM) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return Ok(false),
        Err(error) => bail!("end process {pid}: {error}; run as root"),
    }
    let begun = Instant::now();
    while holder(pidfile)? == Some(pid) {
        if begun.elapsed() > END_LIMIT {
            bail!("process {pid} does not end");
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(true)
}
