//! The history as CSV (RFC 4180): a line for each minute with a record.

use std::{borrow::Cow, fmt::Write as _};

use sixxs_core::{
    history::{Minute, Record, Share},
    types::IfName,
};

use crate::history::time::rfc3339;

/// The first line.
pub(super) const HEADER: &str = "time,tunnel,state,health,failing_seconds,reason,answered_percent,\
                                 inside_percent,median_seconds,leaks,corrections\n";

/// The lines of a tunnel.
pub(super) fn lines(tunnel: &IfName, records: &[(Minute, Record)]) -> String {
    let tunnel = quoted(tunnel.as_str());
    let mut text = String::new();
    for (minute, record) in records {
        let Record {
            state,
            level,
            failing_seconds,
            cause,
            outside,
            inside,
            median,
            leaks,
            corrections,
        } = record;
        let median = median.map(|median| median.as_secs_f64().to_string());
        // Writing into a String does not fail.
        let _infallible = writeln!(
            text,
            "{},{tunnel},{},{},{failing_seconds},{},{},{},{},{leaks},{corrections}",
            rfc3339(*minute),
            state.name(),
            level.name(),
            cause.map_or("", |cause| cause.words()),
            percent(*outside),
            percent(*inside),
            median.unwrap_or_default(),
        );
    }
    text
}

/// A share in per cent; empty for none.
fn percent(share: Option<Share>) -> String {
    share.map_or_else(String::new, |share| {
        (f64::from(share.hundredths()) / 100.0).to_string()
    })
}

/// A field, in quotes where it needs them. Names of interfaces may have commas and quotes.
fn quoted(field: &str) -> Cow<'_, str> {
    match field.contains([',', '"']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")).into(),
        false => field.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sixxs_core::{
        health::Level,
        history::{Cause, State},
    };

    use super::*;

    #[test]
    fn a_line_has_a_field_for_each_column() {
        let full = Record {
            state: State::Up,
            level: Level::Failing,
            failing_seconds: 40,
            cause: Some(Cause::BrokerSilent),
            outside: Share::of(996, 1000),
            inside: Share::of(1, 2),
            median: Some(Duration::from_micros(40)),
            leaks: 12,
            corrections: 3,
        };
        let empty = Record {
            level: Level::Healthy,
            failing_seconds: 0,
            cause: None,
            outside: None,
            inside: None,
            median: None,
            leaks: 0,
            corrections: 0,
            ..full
        };
        let minute = Minute::of_unix(1_793_589_120);
        let records = [(minute, full), (minute.plus(1), empty)];
        let text = lines(&"sixxs0".parse().unwrap(), &records);
        assert_eq!(
            text,
            "2026-11-02T03:12:00Z,sixxs0,up,failing,40,broker silent,99.6,50,0.00004,12,3\n\
             2026-11-02T03:13:00Z,sixxs0,up,healthy,0,,,,,0,0\n"
        );
        for line in HEADER.lines().chain(text.lines()) {
            assert_eq!(line.split(',').count(), 11, "{line}");
        }
        let text = lines(&"a,\"b".parse().unwrap(), &records[..1]);
        assert!(text.contains("Z,\"a,\"\"b\",up,"), "{text}");
    }

    #[test]
    fn no_words_need_quotes() {
        for cause in Cause::ALL {
            assert_eq!(quoted(cause.words()), cause.words());
        }
    }
}
