//! A history for the tests of the formats.

use std::time::Duration;

use sixxs_core::{
    health::Level,
    history::{Cause, Minute, Record, Share, State, Summary},
};

/// 2026-11-02 00:00 UTC.
pub(crate) const BEGIN: Minute = Minute::new(20_759 * 24 * 60);

/// A healthy minute.
pub(crate) fn healthy() -> Record {
    Record {
        state: State::Up,
        level: Level::Healthy,
        failing_seconds: 0,
        cause: None,
        outside: Share::of(996, 1000),
        inside: None,
        median: Some(Duration::from_micros(40)),
        leaks: 0,
        corrections: 0,
    }
}

/// A minute of an outage.
pub(crate) fn silent() -> Record {
    Record {
        level: Level::Failing,
        failing_seconds: 60,
        cause: Some(Cause::BrokerSilent),
        outside: None,
        median: None,
        ..healthy()
    }
}

/// The first four hours of a day, with an outage from 03:12 to 03:20, 12 leaks and 3 corrections.
pub(crate) fn records() -> Vec<(Minute, Record)> {
    let record = |minute| match minute {
        192..200 => silent(),
        7 => Record {
            leaks: 12,
            corrections: 3,
            ..healthy()
        },
        _ => healthy(),
    };
    (0..240)
        .map(|minute| (BEGIN.plus(minute), record(minute)))
        .collect()
}

/// Their summary.
pub(crate) fn summary() -> Summary {
    Summary::of(&records())
}
