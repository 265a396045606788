//! Periods on the command line, and times of UTC.

use jiff::Timestamp;
use sixxs_core::history::{Minute, minute::PER_DAY, ring::RECORDS};

/// Units of a period, with their minutes.
const UNITS: [(char, u32); 3] = [('d', PER_DAY), ('h', 60), ('m', 1)];

/// Parses `--since`: minutes.
pub(crate) fn period(text: &str) -> Result<u32, String> {
    let parsed = UNITS.iter().find_map(|(unit, minutes)| {
        let number: u32 = text.strip_suffix(*unit)?.parse().ok()?;
        number.checked_mul(*minutes)
    });
    parsed
        .filter(|minutes| (1..=RECORDS).contains(minutes))
        .ok_or_else(|| "expected a number with d, h or m, from 1m to 400d, such as 30d".to_owned())
}

/// The begin of a minute. The calendar ends in the year 9999.
fn timestamp(minute: Minute) -> Timestamp {
    let seconds = i64::try_from(minute.unix_seconds()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

/// In RFC 3339.
pub(crate) fn rfc3339(minute: Minute) -> String {
    timestamp(minute).to_string()
}

/// A day, such as `2026-11-02`.
pub(crate) fn day(number: u32) -> String {
    let midnight = Minute::new(number.saturating_mul(PER_DAY));
    timestamp(midnight).strftime("%F").to_string()
}

/// A time, such as `2026-11-02 03:12`.
pub(crate) fn day_and_time(minute: Minute) -> String {
    timestamp(minute).strftime("%F %H:%M").to_string()
}

/// The time of day, such as `03:12`.
pub(crate) fn time_of_day(minute: Minute) -> String {
    timestamp(minute).strftime("%H:%M").to_string()
}

/// A number of minutes in two units, such as `3 days 4 h`.
pub(crate) fn span(minutes: u32) -> String {
    let (days, hours, rest) = (minutes / PER_DAY, minutes % PER_DAY / 60, minutes % 60);
    let days_text = match days {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    };
    match (days, hours, rest) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, 0) => format!("{hours} h"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (_, 0, _) => days_text,
        (_, hours, _) => format!("{days_text} {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_has_a_unit() {
        for (text, minutes) in [
            ("30d", Some(43_200)),
            ("400d", Some(RECORDS)),
            ("12h", Some(720)),
            ("90m", Some(90)),
            ("1m", Some(1)),
            ("0d", None),
            ("401d", None),
            ("90", None),
            ("d", None),
            ("", None),
            ("-1d", None),
            ("1.5h", None),
            ("1w", None),
            ("4000000000d", None),
            ("3é", None),
        ] {
            assert_eq!(period(text).ok(), minutes, "{text}");
        }
    }

    #[test]
    fn times_are_utc() {
        let minute = Minute::of_unix(1_793_589_120);
        assert_eq!(rfc3339(minute), "2026-11-02T03:12:00Z");
        assert_eq!(day_and_time(minute), "2026-11-02 03:12");
        assert_eq!(time_of_day(minute), "03:12");
        assert_eq!(day(minute.day()), "2026-11-02");
        assert_eq!(day(0), "1970-01-01");
        assert!(day(u32::MAX).starts_with("9"));
    }

    #[test]
    fn spans_have_two_units() {
        for (minutes, expected) in [
            (0, "0 min"),
            (59, "59 min"),
            (60, "1 h"),
            (125, "2 h 5 min"),
            (1440, "1 day"),
            (1500, "1 day 1 h"),
            (576_000, "400 days"),
        ] {
            assert_eq!(span(minutes), expected);
        }
    }
}
