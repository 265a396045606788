//! Processor time: of the program, of the brokers' threads, and what is left of the machine.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};
use sixxs_tests::program::Daemon;

/// What a broker's thread is called.
const BROKER_THREAD: &str = "pop";

/// Processor time up to some moment, or between two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    at: Instant,
    /// Of the program.
    pub(crate) client: Duration,
    /// Of all brokers.
    pub(crate) broker: Duration,
    /// That nobody wanted, of all processors.
    pub(crate) idle: Duration,
}

impl Times {
    /// Up to now; without a program its own time is none.
    pub(crate) fn now(daemon: Option<&Daemon>) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            client: daemon.map_or(Ok(Duration::ZERO), Daemon::processor_time)?,
            broker: brokers()?,
            idle: idle()?,
        })
    }

    /// From then to now, and how long that was.
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
        // proc_pid_stat(5): the name in brackets, and 12th and 13th behind it utime and stime.
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
    // proc_stat(5): `cpu user nice system idle …`, of all processors.
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
