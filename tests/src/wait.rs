//! Waits for conditions, always with a limit.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Interval between two checks of a condition.
const INTERVAL: Duration = Duration::from_millis(20);

/// Factor for all time limits, from `SIXXS_TEST_PATIENCE`; for example on an emulated processor.
pub fn patience() -> u32 {
    let factor = std::env::var("SIXXS_TEST_PATIENCE").ok();
    factor.and_then(|factor| factor.parse().ok()).unwrap_or(1)
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
