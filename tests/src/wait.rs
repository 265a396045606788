//! Owns waiting: for a condition, with a limit, and never for a time alone.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// How much longer than usual everything may take here, by `SIXXS_TEST_PATIENCE`: on an emulated
/// processor, say.
pub fn patience() -> u32 {
    let said = std::env::var("SIXXS_TEST_PATIENCE").ok();
    said.and_then(|said| said.parse().ok()).unwrap_or(1)
}

/// Looks until `seen` gives a value that `good` accepts, and returns it.
///
/// The error after `limit` ([`patience`] times that) names `what` was awaited and shows the last value or error.
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
