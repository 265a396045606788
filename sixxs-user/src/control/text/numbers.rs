//! Numbers, sizes and times as text.

/// A count with its noun.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}

/// Formats a time of at most a few seconds.
pub(crate) fn short_time(seconds: f64) -> String {
    let micros = seconds * 1e6;
    if micros < 10.0 {
        format!("{micros:.1} µs")
    } else if micros < 1000.0 {
        format!("{micros:.0} µs")
    } else if micros < 10_000.0 {
        format!("{:.1} ms", micros / 1e3)
    } else if seconds < 1.0 {
        format!("{:.0} ms", micros / 1e3)
    } else {
        format!("{seconds:.1} s")
    }
}

/// Bytes with a decimal unit prefix.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1_000_000 {
        value /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", value / 1000, value % 1000 / 100, UNITS[unit])
}

/// Formats a time of any length.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{seconds:.1} s")
    } else if seconds < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.0} h", seconds / 3600.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_or_so() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1280, "1.2 kB"),
            (999_999, "999.9 kB"),
            (1_000_000, "1.0 MB"),
            (104_857_600, "104.8 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }
}
