//! Records survive being stored, and nothing else is read as a record.

use proptest::{option, prelude::*, sample::select};

use super::*;

fn record() -> Record {
    Record {
        state: State::Up,
        level: Level::Healthy,
        failing_seconds: 0,
        cause: None,
        outside: Share::of(1, 1),
        inside: None,
        median: Some(Duration::from_micros(40)),
        leaks: 0,
        corrections: 0,
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    let health = (
        select(State::ALL.to_vec()),
        select(vec![Level::Healthy, Level::Degraded, Level::Failing]),
        0u8..=60,
        option::of(select(Cause::ALL.to_vec())),
    );
    let shares = (option::of(0u64..=250), option::of(0u64..=250));
    let counts = (option::of(any::<u64>()), any::<u64>(), any::<u64>());
    (health, shares, counts).prop_map(
        |(health, (outside, inside), (median, leaks, corrections))| {
            let (state, level, failing_seconds, cause) = health;
            let share = |part: Option<u64>| Share::of(part?, 250);
            Record {
                state,
                level,
                failing_seconds,
                cause,
                outside: share(outside),
                inside: share(inside),
                median: median.map(Duration::from_micros),
                leaks,
                corrections,
            }
        },
    )
}

proptest! {
    #[test]
    fn a_record_survives_being_stored(record in any_record(), number in any::<u32>()) {
        let minute = Minute::new(number);
        let read = Record::from_bytes(record.to_bytes(minute), minute).unwrap();
        prop_assert!(read.leaks <= record.leaks && read.corrections <= record.corrections);
        prop_assert_eq!(read.median.is_some(), record.median.is_some());
        let rounded = Record {
            median: read.median,
            leaks: read.leaks,
            corrections: read.corrections,
            ..record
        };
        prop_assert_eq!(read, rounded);
        // A record that was read is stored in the same way again.
        prop_assert_eq!(read.to_bytes(minute), record.to_bytes(minute));
    }

    #[test]
    fn a_record_of_another_lap_is_absent(record in any_record(), number in 0u32..1 << 30, laps in 1u32..15) {
        let bytes = record.to_bytes(Minute::new(number));
        let later = Minute::new(number + laps * ring::RECORDS);
        prop_assert_eq!(ring::offset(later), ring::offset(Minute::new(number)));
        prop_assert_eq!(Record::from_bytes(bytes, later), None);
    }

    #[test]
    fn a_changed_bit_makes_it_absent(record in any_record(), number in any::<u32>(), bit in 0u32..64) {
        let minute = Minute::new(number);
        let damaged = u64::from_le_bytes(record.to_bytes(minute)) ^ (1 << bit);
        prop_assert_eq!(Record::from_bytes(damaged.to_le_bytes(), minute), None);
    }

    #[test]
    fn any_bytes_can_be_read(bytes in any::<[u8; 8]>(), number in any::<u32>()) {
        if let Some(record) = Record::from_bytes(bytes, Minute::new(number)) {
            prop_assert!(record.failing_seconds <= 60);
        }
    }
}

#[test]
fn an_empty_place_has_no_record() {
    for bytes in [[0; 8], [0xff; 8]] {
        for number in [0, 29_000_000, u32::MAX] {
            assert_eq!(Record::from_bytes(bytes, Minute::new(number)), None);
        }
    }
}

/// Files of earlier versions are read by this layout.
#[test]
fn the_layout_stays() {
    let minute = Minute::new(51 * ring::RECORDS + 7);
    let stored = Record {
        state: State::Connecting,
        level: Level::Failing,
        failing_seconds: 40,
        cause: Some(Cause::BrokerSilent),
        outside: Share::of(1, 2),
        leaks: 12,
        corrections: 2,
        ..record()
    };
    let word = u64::from_le_bytes(stored.to_bytes(minute));
    for (shift, bits, expected) in [
        (0, 4, 7),
        (4, 2, 2),
        (6, 3, 2),
        (9, 6, 40),
        (15, 5, 7),
        (20, 8, 125),
        (28, 8, 255),
        (36, 8, 26),
        (44, 7, 10),
        (51, 5, 2),
    ] {
        let found = (word >> shift) & ((1_u64 << bits) - 1);
        assert_eq!(found, expected, "bit {shift}");
    }
}

#[test]
fn common_numbers_are_hardly_rounded() {
    let minute = Minute::new(29_000_000);
    let read = |record: Record| Record::from_bytes(record.to_bytes(minute), minute).unwrap();
    for (count, leaks, corrections) in [(1, 1, 1), (3, 3, 3), (7, 7, 6), (100, 96, 96)] {
        let found = read(Record {
            leaks: count,
            corrections: count,
            ..record()
        });
        assert_eq!((found.leaks, found.corrections), (leaks, corrections));
    }
    for (micros, expected) in [(0, 1), (1, 1), (15, 15), (41, 40), (12_400, 12_288)] {
        let median = Some(Duration::from_micros(micros));
        let found = read(Record { median, ..record() });
        assert_eq!(found.median, Some(Duration::from_micros(expected)));
    }
}

#[test]
fn all_is_only_all() {
    let hundredths = |part, whole| Share::of(part, whole).map(Share::hundredths);
    assert_eq!(hundredths(0, 0), None);
    assert_eq!(hundredths(7, 7), Some(10_000));
    assert_eq!(hundredths(9, 7), Some(10_000));
    assert_eq!(hundredths(999_999, 1_000_000), Some(9960));
    assert_eq!(hundredths(1, 1_000_000), Some(0));
    assert_eq!(hundredths(u64::MAX, u64::MAX), Some(10_000));
}

#[test]
fn states_have_the_names_of_the_status() {
    use crate::tunnel::LockedOut;
    let locked_out = LockedOut {
        until_unix: 0,
        reason: String::new(),
    };
    let states = [
        tunnel::State::Down,
        tunnel::State::Waiting(String::new()),
        tunnel::State::Connecting(None),
        tunnel::State::Up,
        tunnel::State::LockedOut(locked_out),
        tunnel::State::Failed(String::new()),
    ];
    for (state, expected) in states.iter().zip(State::ALL) {
        assert_eq!(State::from(state), expected);
        assert_eq!(expected.name(), state.name());
    }
}
