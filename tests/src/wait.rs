//! Owns waiting: for a condition, with a limit, and never for a time alone.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `seen` gives a value that `good` accepts, and returns it.
///
/// The error after `limit` names `what` was awaited and shows the last value or error.
pub fn until<T: Debug>(
    what: &str,
    limit: Duration,
    mut seen: impl FnMut() -> Result<T>,
    good: impl Fn(&T) -> bool,
) -> Result<T> {
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
