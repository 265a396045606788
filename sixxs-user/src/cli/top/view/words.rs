//! Formats numbers and texts for a table: short, of limited width, and without control characters.

use ratatui_core::text::Span;

use crate::{control::text, host::plain::is_unsafe};

/// Text for an unknown value.
const UNKNOWN: &str = "-";

/// Bytes per second, in at most 6 columns.
pub(super) fn bytes(rate: Option<f64>) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let Some(rate) = rate else {
        return UNKNOWN.to_owned();
    };
    if rate < 999.5 {
        return format!("{rate:.0} B");
    }
    let mut value = rate / 1000.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while value >= 999.5
        && let Some(next) = units.next()
    {
        value /= 1000.0;
        unit = Some(next);
    }
    let unit = unit.unwrap_or(&"");
    if value < 9.95 {
        format!("{value:.1}{unit}")
    } else {
        format!("{value:.0}{unit}")
    }
}

/// Events per second, in at most 6 columns.
pub(super) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => UNKNOWN.to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(rate) if rate < 9.95 => format!("{rate:.1}"),
        Some(rate) => count_rounded(rate),
    }
}

/// A count, in at most 5 columns.
pub(super) fn count(count: u64) -> String {
    if count < 100_000 {
        return count.to_string();
    }
    count_rounded(count as f64)
}

fn count_rounded(count: f64) -> String {
    let mut value = count;
    for unit in ["", "k", "M", "G", "T"] {
        if value < 9999.5 {
            return format!("{value:.0}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.0}P")
}

/// A percentage, in at most 5 columns; `100%` only if it is exactly 100.
pub(super) fn percent(percent: Option<f64>) -> String {
    match percent {
        None => UNKNOWN.to_owned(),
        Some(100.0) => "100%".to_owned(),
        // Not rounded up to 100.
        Some(percent) => format!("{:.1}%", percent.min(99.9)),
    }
}

/// A time of at most a few seconds.
pub(super) fn short_time(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| UNKNOWN.to_owned(), text::short_time)
}

/// A time ago, in at most 4 columns, and in steps, so that it does not change at each refresh.
pub(super) fn ago(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else {
        return UNKNOWN.to_owned();
    };
    let floor = |step: f64| (seconds / step).floor();
    if seconds < 5.0 {
        "now".to_owned()
    } else if seconds < 60.0 {
        format!(
            "{:.0} s",
            floor(10.0) * 10.0 + if floor(10.0) == 0.0 { 5.0 } else { 0.0 }
        )
    } else if seconds < 3600.0 {
        format!("{:.0} m", floor(60.0))
    } else if seconds < 48.0 * 3600.0 {
        format!("{:.0} h", floor(3600.0))
    } else {
        format!("{:.0} d", floor(86_400.0).min(99.0))
    }
}

/// Replaces characters that could control a terminal or reorder the text around them: control characters, and
/// Unicode's invisible and bidirectional formatting. With `ascii`, also replaces all others than ASCII.
pub(super) fn harmless(text: &str, ascii: bool) -> String {
    let mut harmless = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            _ if is_unsafe(character) => harmless.push('?'),
            'µ' if ascii => harmless.push('u'),
            '…' if ascii => harmless.push_str("..."),
            _ if ascii && !character.is_ascii() => harmless.push('?'),
            _ => harmless.push(character),
        }
    }
    harmless
}

/// The width of a text in columns.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Cuts a text to a width, with a mark if something is left out.
pub(super) fn cut(text: &str, columns: usize, ascii: bool) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mark = if ascii { "~" } else { "…" };
    let mut cut = head(text, columns.saturating_sub(1)).to_owned();
    if columns > 0 {
        cut.push_str(mark);
    }
    cut
}

/// The longest start of a text that fits.
fn head(text: &str, columns: usize) -> &str {
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let mut end = 0;
    for next in ends {
        if width(&text[..next]) > columns {
            break;
        }
        end = next;
    }
    &text[..end]
}

/// Wraps a text, between words if possible.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word = word;
        if !line.is_empty() && width(&line) + 1 + width(word) <= columns {
            line.push(' ');
        } else if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        // A word that is longer than a line: an address, or noise.
        while width(word) > columns {
            let first = head(word, columns);
            if first.is_empty() {
                break;
            }
            lines.push(first.to_owned());
            word = &word[first.len()..];
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_to_their_columns() {
        for (rate, expected) in [
            (None, "-"),
            (Some(0.0), "0 B"),
            (Some(999.4), "999 B"),
            (Some(999.6), "1.0kB"),
            (Some(9_949.0), "9.9kB"),
            (Some(9_951.0), "10kB"),
            (Some(999_499.0), "999kB"),
            (Some(999_501.0), "1.0MB"),
            (Some(1.25e8), "125MB"),
        ] {
            assert_eq!(bytes(rate), expected, "{rate:?}");
        }
        for exponent in 0..17 {
            for digit in [1.0, 9.94, 9.96, 9.9996] {
                let value = digit * 10_f64.powi(exponent);
                assert!(width(&bytes(Some(value))) <= 6, "{value}");
                assert!(width(&rate(Some(value))) <= 6, "{value}");
            }
        }
        for value in [0, 99_999, 100_000, 9_999_499, 9_999_500, u64::MAX / 10] {
            assert!(width(&count(value)) <= 5, "{}", count(value));
        }
        assert_eq!(rate(Some(0.04)), "0.0");
        assert_eq!(rate(Some(12.3)), "12");
        assert_eq!(count(123_456), "123k");
    }

    #[test]
    fn only_all_is_all() {
        for (share, expected) in [
            (None, "-"),
            (Some(100.0), "100%"),
            (Some(99.99), "99.9%"),
            (Some(0.0), "0.0%"),
        ] {
            assert_eq!(percent(share), expected);
        }
    }

    #[test]
    fn times_change_in_steps() {
        for (seconds, expected) in [
            (None, "-"),
            (Some(0.3), "now"),
            (Some(4.9), "now"),
            (Some(5.0), "5 s"),
            (Some(9.9), "5 s"),
            (Some(19.9), "10 s"),
            (Some(59.9), "50 s"),
            (Some(60.0), "1 m"),
            (Some(3599.0), "59 m"),
            (Some(3600.0), "1 h"),
            (Some(1e9), "99 d"),
        ] {
            assert_eq!(ago(seconds), expected, "{seconds:?}");
        }
    }

    #[test]
    fn what_steers_terminals_is_taken_out() {
        for (text, expected, ascii) in [
            ("a\x1b[2Jb\r\n\t", "a?[2Jb???", false),
            ("\u{9b}2J\u{7f}", "?2J?", false),
            ("a\u{202e}b\u{200b}", "a?b?", false),
            ("日本 é µs", "日本 é µs", false),
            ("日本 é µs …", "?? ? us ...", true),
        ] {
            assert_eq!(harmless(text, ascii), expected);
        }
    }

    #[test]
    fn cut_by_columns() {
        for (text, columns, expected) in [
            ("sixxs0", 6, "sixxs0"),
            ("sixxs0", 5, "sixx…"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("ab", 1, "…"),
            ("ab", 0, ""),
        ] {
            assert_eq!(cut(text, columns, false), expected, "{text} in {columns}");
        }
    }

    #[test]
    fn wrapped_between_words() {
        let wrapped = |text, columns| wrap(text, columns).join("|");
        assert_eq!(wrapped("one two three", 7), "one two|three");
        assert_eq!(wrapped("  one   two ", 80), "one two");
        assert_eq!(wrapped("2001:db8::1", 4), "2001|:db8|::1");
        assert_eq!(wrapped("a 日本語", 4), "a|日本|語");
        assert_eq!(wrapped("日本", 1), "日本", "no room at all");
        assert_eq!(wrapped("", 4), "");
    }
}
