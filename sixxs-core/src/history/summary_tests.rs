//! Availability and outages, from records.

use proptest::{collection::btree_map, prelude::*};

use super::*;
use crate::{
    health::Level,
    history::{minute::PER_DAY, record::State},
};

/// 2026-11-02 00:00 UTC.
const MIDNIGHT: Minute = Minute::new(20_759 * PER_DAY);

fn healthy() -> Record {
    Record {
        state: State::Up,
        level: Level::Healthy,
        failing_seconds: 0,
        cause: None,
        outside: None,
        inside: None,
        median: None,
        leaks: 0,
        corrections: 0,
    }
}

fn failing(failing_seconds: u8, cause: Cause) -> Record {
    Record {
        level: Level::Failing,
        failing_seconds,
        cause: Some(cause),
        ..healthy()
    }
}

/// A day of healthy minutes, except for these.
fn day(faults: &[(u32, Record)]) -> Vec<(Minute, Record)> {
    let mut records: BTreeMap<_, _> = (0..PER_DAY).map(|minute| (minute, healthy())).collect();
    records.extend(faults.iter().copied());
    let records = records.into_iter();
    records
        .map(|(minute, record)| (MIDNIGHT.plus(minute), record))
        .collect()
}

/// The outages as text: minutes of the day, seconds, cause.
fn outages(summary: &Summary) -> Vec<String> {
    let show = |outage: &Outage| {
        let minutes = |minute: Minute| minute.number() - MIDNIGHT.number();
        format!(
            "{} to {}, {} s, {}",
            minutes(outage.begin),
            minutes(outage.end),
            outage.failing_seconds,
            outage.cause
        )
    };
    summary.outages.iter().map(show).collect()
}

#[test]
fn a_day_with_an_outage() {
    // 03:12:40 to 03:20:20.
    let mut faults = vec![(192, failing(20, Cause::PacketsLost))];
    faults.extend((193..200).map(|minute| (minute, failing(60, Cause::BrokerSilent))));
    faults.push((200, failing(20, Cause::Connecting)));
    let summary = Summary::of(&day(&faults));
    assert_eq!(outages(&summary), ["192 to 201, 460 s, broker silent"]);
    let [only] = &summary.days[..] else {
        panic!("{summary:?}");
    };
    assert_eq!(only.day, 20_759);
    assert_eq!(only.totals, summary.totals);
    assert_eq!(only.totals.recorded, 1440);
    // 460 of 86 400 seconds, and of 3600.
    assert_eq!(only.totals.availability.hundredths(), Some(9946));
    assert_eq!(only.hours[3].hundredths(), Some(8722));
    assert_eq!(only.hours[4].hundredths(), Some(10_000));
    let last_day = summary.last_day().unwrap();
    assert_eq!((last_day.hundredths, last_day.outages), (9946, 1));
}

#[test]
fn one_failing_second_is_no_outage_and_not_all() {
    let summary = Summary::of(&day(&[(0, failing(1, Cause::Connecting))]));
    assert!(summary.outages.is_empty(), "{summary:?}");
    assert_eq!(summary.totals.availability.hundredths(), Some(9999));
    // Two such minutes in a row are one failure.
    let restart = failing(15, Cause::Connecting);
    let summary = Summary::of(&day(&[(7, restart), (8, restart), (20, restart)]));
    assert_eq!(outages(&summary), ["7 to 9, 30 s, connecting"]);
}

#[test]
fn an_outage_continues_until_a_later_minute_can_be_recorded() {
    let summary = Summary::of(&day(&[(10, failing(60, Cause::NoReply))]));
    let outage = summary.outages[0];
    let continues = [11, 12, 13].map(|minute| outage.continues(MIDNIGHT.plus(minute)));
    assert_eq!(continues, [true, true, false]);
}

#[test]
fn an_unknown_minute_is_no_outage_and_ends_one() {
    let down = failing(60, Cause::InterfaceDown);
    let mut records = day(&[(10, down), (11, down), (13, down)]);
    records.remove(12);
    let summary = Summary::of(&records);
    assert_eq!(
        outages(&summary),
        [
            "10 to 12, 120 s, interface down",
            "13 to 14, 60 s, interface down"
        ]
    );
    assert_eq!(summary.totals.availability.minutes, 1439);
    assert_eq!(summary.totals.availability.failing_seconds, 180);
}

#[test]
fn a_stopped_tunnel_does_not_count() {
    let stopped = Record {
        state: State::Down,
        ..failing(60, Cause::Stopped)
    };
    let records: Vec<_> = (0..60).map(|m| (MIDNIGHT.plus(m), stopped)).collect();
    let summary = Summary::of(&records);
    assert!(summary.outages.is_empty(), "{summary:?}");
    assert_eq!(summary.totals.recorded, 60);
    assert_eq!(summary.totals.availability.hundredths(), None);
    assert_eq!(summary.days[0].hours[0].hundredths(), None);
    assert_eq!(summary.last_day(), None);
}

#[test]
fn days_without_a_record_have_a_line_too() {
    let records = [0, 3 * PER_DAY].map(|minute| (MIDNIGHT.plus(minute), healthy()));
    let summary = Summary::of(&records);
    let days: Vec<_> = summary
        .days
        .iter()
        .map(|day| (day.day, day.totals.availability.hundredths()))
        .collect();
    let all = Some(10_000);
    assert_eq!(
        days,
        [(20_759, all), (20_760, None), (20_761, None), (20_762, all)]
    );
    assert_eq!(Summary::of(&[]), Summary::default());
}

#[test]
fn shares_and_times_are_of_the_minutes_that_have_some() {
    let minute = |share, micros, leaks, corrections| Record {
        outside: Share::of(share, 100),
        inside: Share::of(1, 1),
        median: Some(Duration::from_micros(micros)),
        leaks,
        corrections,
        ..healthy()
    };
    let faults = [
        (1, minute(100, 40, 0, 0)),
        (2, minute(50, 60, 12, 3)),
        (3, minute(90, 1000, 1, 1)),
    ];
    let totals = Summary::of(&day(&faults)).totals;
    assert_eq!((totals.outside, totals.inside), (Some(8000), Some(10_000)));
    assert_eq!(totals.median, Some(Duration::from_micros(60)));
    assert_eq!((totals.leaks, totals.corrections), (13, 4));
    let totals = Summary::of(&day(&[])).totals;
    assert_eq!((totals.outside, totals.median), (None, None));
}

proptest! {
    #[test]
    fn parts_add_up(failing_by_minute in btree_map(0u32..5000, 0u8..=60, 0..300)) {
        let records: Vec<_> = failing_by_minute
            .iter()
            .map(|(minute, seconds)| {
                let record = failing(*seconds, Cause::NoReply);
                (MIDNIGHT.plus(*minute), record)
            })
            .collect();
        let summary = Summary::of(&records);
        let days = summary.days.iter();
        let minutes: u32 = days.clone().map(|day| day.totals.availability.minutes).sum();
        prop_assert_eq!(minutes, summary.totals.availability.minutes);
        let hours = days.flat_map(|day| day.hours);
        let seconds: u64 = hours.map(|hour| hour.failing_seconds).sum();
        prop_assert_eq!(seconds, summary.totals.availability.failing_seconds);
        let of_outages: u64 = summary.outages.iter().map(|o| u64::from(o.failing_seconds)).sum();
        prop_assert!(of_outages <= seconds);
        for pair in summary.outages.windows(2) {
            prop_assert!(pair[0].end < pair[1].begin);
        }
        let hundredths = summary.totals.availability.hundredths();
        prop_assert_eq!(hundredths == Some(10_000), seconds == 0 && minutes > 0);
    }
}
