//! The machine that runs the benchmark.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

/// `Linux RELEASE, PROCESSOR`.
pub(crate) fn name() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("ask for the kernel")?;
    let processors = fs::read_to_string("/proc/cpuinfo").context("ask for the processor")?;
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, model)| model.trim());
    Ok(format!("Linux {}, {model}", kernel.trim()))
}

/// Number of available processors.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The date in UTC, `YYYY-MM-DD`.
pub(crate) fn date() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let (year, month, day) = civil(since.unwrap_or_default().as_secs() / 86_400);
    format!("{year}-{month:02}-{day:02}")
}

/// Converts days since 1970 to a date: years that begin in March, in cycles of 400.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (
        day - (153 * month + 2) / 5 + 1,
        if month < 10 { month + 3 } else { month - 9 },
    );
    (cycle * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (19_722, (2023, 12, 31)),
            (20_148, (2025, 3, 1)),
        ] {
            assert_eq!(civil(days), date);
        }
    }
}
