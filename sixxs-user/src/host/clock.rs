//! The daemon's clocks, for code that a time jump could harm: brokers use the wall clock, and the connect
//! ledger uses the time since boot.
//!
//! They are the machine's clocks. For tests, both can be displaced without changing the machine's, in a daemon
//! that was started with `--movable-clock`.

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

/// Both clocks. Clones share the displacement.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Displaced>);

/// The displacements, in seconds.
#[derive(Debug, Default)]
struct Displaced {
    wall: AtomicI64,
    slept: AtomicU64,
}

/// `since + time`; at most a year is added, and nothing if the clock cannot express the sum. All code uses
/// this to add to an `Instant`: `+` panics on overflow.
pub(crate) fn after(since: Instant, time: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let later = since.checked_add(time.min(YEAR));
    later.unwrap_or(since)
}

/// A time as text for users, such as `12:03:11 UTC`; `None` if it is out of range.
pub(crate) fn time_of_day(unix_seconds: u64) -> Option<String> {
    let time = jiff::Timestamp::from_second(i64::try_from(unix_seconds).ok()?).ok()?;
    Some(time.strftime("%T UTC").to_string())
}

impl Clock {
    /// Displaces the wall clock by `wall_seconds` from the machine's, and adds `slept_seconds` to the time
    /// since boot, which never decreases.
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

    /// The wall clock in seconds since 1970; 0 for earlier times, which no broker accepts anyway.
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        u64::try_from(self.wall().as_second()).unwrap_or_default()
    }

    /// The time since boot, including suspend (`CLOCK_BOOTTIME`, Linux 2.6.39).
    pub fn since_boot(&self) -> anyhow::Result<Duration> {
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).context("read the clock")?;
        let slept = Duration::from_secs(self.0.slept.load(Ordering::Relaxed));
        Ok(Duration::from(since_boot).saturating_add(slept))
    }

    /// Both clocks now.
    #[must_use]
    pub fn now(&self) -> Now {
        Now {
            // This clock exists on all supported kernels, so reading it cannot fail.
            elapsed: self.since_boot().unwrap_or_default(),
            unix_seconds: self.unix_seconds(),
        }
    }
}

/// CPU time of this thread.
pub fn processor_time() -> anyhow::Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the clock")?;
    Ok(time.into())
}

/// Whether the machine's clock is synchronised; `None` if the kernel does not report it.
#[must_use]
pub fn is_synchronised() -> Option<bool> {
    Some(kernel_state()?.status & libc::STA_UNSYNC == 0)
}

/// The seconds by which the kernel takes International Atomic Time to be ahead of UTC: 37, or 0 where no time service has
/// set the number.
#[must_use]
pub fn tai_offset() -> Option<i32> {
    Some(kernel_state()?.tai)
}

/// The state of the kernel's clock; `None` if it does not report it.
fn kernel_state() -> Option<libc::timex> {
    // SAFETY: all zeroes are a valid value of this structure of numbers; with `modes` 0 nothing is changed.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` is a valid structure for the call.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    (answer >= 0).then_some(state)
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
    fn a_displacement_moves_only_the_daemons_clock() {
        let clock = Clock::default();
        let same = clock.clone();
        let (wall, since_boot) = (clock.unix_seconds(), clock.since_boot().unwrap());
        clock.displace(-3600, 100);
        assert!(same.unix_seconds() < wall - 3590);
        assert!(same.since_boot().unwrap() >= since_boot + Duration::from_secs(100));
        // The wall clock may jump in both directions, the time since boot only forward.
        clock.displace(i64::MAX, 50);
        assert!(same.unix_seconds() >= wall);
        assert!(same.since_boot().unwrap() >= since_boot + Duration::from_secs(100));
    }
}
