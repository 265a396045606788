//! Processor time of the daemon and of the brokers' threads, and idle time of the machine.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};
use sixxs_tests::program::Daemon;

/// Name of a broker's thread.
const BROKER_THREAD: &str = "pop";

/// Processor time up to some moment, or between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    at: Instant,
    /// Processor time of the daemon.
    pub(crate) client: Duration,
    /// Processor time of all brokers.
    pub(crate) broker: Duration,
    /// Idle time of all processors.
    pub(crate) idle: Duration,
}

impl Times {
    /// The times up to now; without a daemon its time is 0.
    pub(crate) fn now(daemon: Option<&Daemon>) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            client: daemon.map_or(Ok(Duration::ZERO), Daemon::processor_time)?,
            broker: brokers()?,
            idle: idle()?,
        })
    }

    /// The times since `then`, and the elapsed time.
    pub(crate) fn since(daemon: Option<&Daemon>, then: &Self) -> Result<(Self, Duration)> {
        let now = Self::now(daemon)?;
        let time = now.at - then.at;
        let between = Self {
            at: now.at,
            client: now.client.saturating_sub(then.client),
            broker: now.broker.saturating_sub(then.broker),
            idle: now.idle.saturating_sub(then.idle),
        };
        Ok((between, time))
    }
}

fn brokers() -> Result<Duration> {
    let mut ticks = 0;
    for task in fs::read_dir("/proc/self/task").context("list our threads")? {
        let task = task.context("list our threads")?.path();
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(task.join("stat")) else {
            continue;
        };
        // proc_pid_stat(5): the name is in parentheses; the 12th and 13th fields after it are utime and
        // stime.
        let Some((name, fields)) = text.rsplit_once(')') else {
            continue;
        };
        if name.ends_with(&format!("({BROKER_THREAD}")) {
            let times = fields.split_whitespace().skip(11).take(2);
            ticks += times
                .filter_map(|time| time.parse::<u64>().ok())
                .sum::<u64>();
        }
    }
    duration(ticks)
}

fn idle() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    // proc_stat(5): `cpu user nice system idle …`, the sum of all processors.
    let idle = text.split_whitespace().nth(4).context("no idle time")?;
    duration(idle.parse().context("read the idle time")?)
}

fn duration(ticks: u64) -> Result<Duration> {
    let per_second = sysconf(SysconfVar::CLK_TCK)
        .context("ask for the length of a tick")?
        .and_then(|ticks| u64::try_from(ticks).ok())
        .context("the length of a tick is unknown")?;
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}
