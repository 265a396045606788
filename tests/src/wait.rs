//! Waits for conditions, always with a limit.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Interval between two checks of a condition.
const INTERVAL: Duration = Duration::from_millis(20);

/// Tasks for each processor that are usual beside a test: others of them, and what they start.
const USUAL_TASKS: f64 = 5.0;

/// Factor for all time limits: from `SIXXS_TEST_PATIENCE`, for example on an emulated processor, and by the number of
/// tasks that wait for the processors now. It is 1 with the usual number of tests, also with a busy loop for each
/// processor beside them.
pub fn patience() -> u32 {
    let factor = std::env::var("SIXXS_TEST_PATIENCE").ok();
    let factor = factor.and_then(|factor| factor.parse().ok()).unwrap_or(1);
    factor * overload().unwrap_or(1)
}

/// How many times as many tasks as usual there were in the last minute (`proc_loadavg(5)`); at least 1.
fn overload() -> Option<u32> {
    let averages = std::fs::read_to_string("/proc/loadavg").ok()?;
    let load: f64 = averages.split(' ').next()?.parse().ok()?;
    let processors = u32::try_from(std::thread::available_parallelism().ok()?.get()).ok()?;
    let overload = (load / (USUAL_TASKS * f64::from(processors))).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "1 to 64"
    )]
    let overload = overload.clamp(1.0, 64.0) as u32;
    Some(overload)
}

/// Calls `seen` until `good` accepts its value, and returns that.
///
/// The error after `limit` times [`patience`] has `what` and the last value or error.
pub fn until<T: Debug>(
    what: &str,
    limit: Duration,
    mut seen: impl FnMut() -> Result<T>,
    good: impl Fn(&T) -> bool,
) -> Result<T> {
    let limit = limit * patience();
    let deadline = Instant::now() + limit;
    loop {
        let last = seen();
        if let Ok(value) = &last
            && good(value)
        {
            return last;
        }
        if Instant::now() >= deadline {
            match last {
                Ok(value) => bail!("{what}: not within {limit:?}; last seen: {value:#?}"),
                Err(e) => return Err(e.context(format!("{what}: not within {limit:?}"))),
            }
        }
        std::thread::sleep(INTERVAL);
    }
}
