//! The time that the daemon goes by where a jump of it could do harm: brokers want the wall clock,
//! the record of connects counts the time since boot.
//!
//! It is the machine's. So that tests can move it without moving the machine's, both clocks can be
//! displaced, in a daemon that was started for that alone (`--movable-clock`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};
use sixxs_core::broker::ayiya::Now;
use tokio::time::Instant;

/// Both clocks. Clones are the same, and are moved together.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Displaced>);

/// By how much; both in seconds.
#[derive(Debug, Default)]
struct Displaced {
    wall: AtomicI64,
    slept: AtomicU64,
}

/// A point in time so much later; one that the clock cannot express counts as a year later. The only
/// way in which anything is added to a point in time: `+` panics where this does not.
pub(crate) fn after(since: Instant, time: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let later = since.checked_add(time.min(YEAR));
    later.unwrap_or(since)
}

/// A point in time for people, such as `12:03:11 UTC`; `None`: it is beyond all calendars.
pub(crate) fn time_of_day(unix_seconds: u64) -> Option<String> {
    let time = jiff::Timestamp::from_second(i64::try_from(unix_seconds).ok()?).ok()?;
    Some(time.strftime("%T UTC").to_string())
}

impl Clock {
    /// Moves the wall clock away from the machine's by so many seconds, and has the machine have
    /// slept so many seconds more than it did. Time since boot never goes back.
    pub fn displace(&self, wall_seconds: i64, slept_seconds: u64) {
        self.0.wall.store(wall_seconds, Ordering::Relaxed);
        self.0.slept.fetch_max(slept_seconds, Ordering::Relaxed);
    }

    /// The wall clock.
    #[must_use]
    pub fn wall(&self) -> jiff::Timestamp {
        let moved = jiff::SignedDuration::from_secs(self.0.wall.load(Ordering::Relaxed));
        let now = jiff::Timestamp::now();
        now.checked_add(moved).unwrap_or(now)
    }

    /// The wall clock in seconds since 1970. Before that no broker will listen anyway.
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        u64::try_from(self.wall().as_second()).unwrap_or_default()
    }

    /// The time since boot; it goes on while the machine sleeps (`CLOCK_BOOTTIME`, Linux 2.6.39).
    pub fn since_boot(&self) -> anyhow::Result<Duration> {
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).context("read the clock")?;
        let slept = Duration::from_secs(self.0.slept.load(Ordering::Relaxed));
        Ok(Duration::from(since_boot).saturating_add(slept))
    }

    /// Both.
    #[must_use]
    pub fn now(&self) -> Now {
        Now {
            // The kernel has this clock: it cannot fail.
            elapsed: self.since_boot().unwrap_or_default(),
            unix_seconds: self.unix_seconds(),
        }
    }
}

/// The processor time that this thread has used.
pub fn processor_time() -> anyhow::Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the clock")?;
    Ok(time.into())
}

/// Whether somebody keeps the machine's clock right; `None`: the kernel does not say.
#[must_use]
pub fn is_synchronised() -> Option<bool> {
    // SAFETY: all zero is a value of this structure of numbers, and asks for nothing to be changed.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` is as the call wants it, and is written to before it returns.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    (answer >= 0).then_some(state.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_too_long_to_be_added() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(after(now, second).duration_since(now), second);
        assert!(after(now, Duration::MAX) > now);
    }

    #[test]
    fn what_moves_is_ours_alone() {
        let clock = Clock::default();
        let same = clock.clone();
        let (wall, since_boot) = (clock.unix_seconds(), clock.since_boot().unwrap());
        clock.displace(-3600, 100);
        assert!(same.unix_seconds() < wall - 3590);
        assert!(same.since_boot().unwrap() >= since_boot + Duration::from_secs(100));
        // The wall clock may go anywhere, the time since boot only on.
        clock.displace(i64::MAX, 50);
        assert!(same.unix_seconds() >= wall);
        assert!(same.since_boot().unwrap() >= since_boot + Duration::from_secs(100));
    }
}
