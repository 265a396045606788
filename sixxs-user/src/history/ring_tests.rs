//! Files of the history: what is written is read, and no file is an error.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use sixxs_core::{
    health::Level,
    history::{Share, State},
};

use super::*;

/// 2026-11-02 00:00 UTC.
const FIRST: Minute = Minute::new(20_759 * 24 * 60);

fn record(leaks: u64) -> Record {
    Record {
        state: State::Up,
        level: Level::Healthy,
        failing_seconds: 0,
        cause: None,
        outside: Share::of(1, 1),
        inside: None,
        median: Some(Duration::from_micros(40)),
        leaks,
        corrections: 0,
    }
}

/// Minutes after the first one, and leaks.
fn found(path: &Path, from: u32, until: u32) -> Vec<(u32, u64)> {
    let records = read(path, FIRST.plus(from), FIRST.plus(until)).unwrap();
    let number = |minute: Minute| minute.number() - FIRST.number();
    records
        .iter()
        .map(|(minute, record)| (number(*minute), record.leaks))
        .collect()
}

#[test]
fn records_are_read_by_minute() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("not/yet/sixxs0.ring");
    assert!(found(&path, 0, 10).is_empty());
    for (minute, leaks) in [(0, 1), (1, 2), (5, 3)] {
        write(&path, FIRST.plus(minute), &record(leaks)).unwrap();
    }
    assert_eq!(found(&path, 0, 10), [(0, 1), (1, 2), (5, 3)]);
    assert_eq!(found(&path, 1, 4), [(1, 2)]);
    assert_eq!(found(&path, 1, 1), [(1, 2)]);
    assert!(found(&path, 2, 1).is_empty());
    // A minute may be written again.
    write(&path, FIRST.plus(1), &record(4)).unwrap();
    assert_eq!(found(&path, 0, 4), [(0, 1), (1, 4)]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

#[test]
fn a_lap_later_earlier_records_are_absent() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("sixxs0.ring");
    // The last place of the ring, and the first one.
    let last = RECORDS - 1 - ring::place(FIRST);
    for (minute, leaks) in [(last, 1), (last + 1, 2), (last + 2, 3)] {
        write(&path, FIRST.plus(minute), &record(leaks)).unwrap();
    }
    let size = fs::metadata(&path).unwrap().len();
    assert_eq!(size, ring::FILE_BYTES, "sparse, up to the last place");
    assert_eq!(
        found(&path, last - 5, last + 5),
        [(last, 1), (last + 1, 2), (last + 2, 3)]
    );
    assert_eq!(found(&path, 0, last + RECORDS - 1).len(), 3);
    assert_eq!(
        found(&path, 0, last + RECORDS).len(),
        2,
        "the first is too old"
    );
    let later = last + RECORDS;
    write(&path, FIRST.plus(later), &record(4)).unwrap();
    assert_eq!(found(&path, later, later + 9), [(later, 4)]);
    assert_eq!(fs::metadata(&path).unwrap().len(), size);
}

#[test]
fn a_foreign_file_is_set_aside() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("sixxs0.ring");
    let aside = state.path().join("sixxs0.ring.old");
    let mut newer = HEADER.to_vec();
    newer[8] = 200;
    for content in [&b"something else"[..], &newer, &[0; 5000]] {
        fs::write(&path, content).unwrap();
        assert!(found(&path, 0, 10).is_empty());
        write(&path, FIRST, &record(1)).unwrap();
        assert_eq!(found(&path, 0, 10), [(0, 1)]);
        assert_eq!(fs::read(&aside).unwrap(), content, "the last one");
    }
}

#[test]
fn a_header_that_was_not_completed_is_written_again() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("sixxs0.ring");
    for length in [0, 7, HEADER_BYTES - 1] {
        fs::write(&path, &HEADER[..length]).unwrap();
        assert!(found(&path, 0, 10).is_empty());
        write(&path, FIRST, &record(1)).unwrap();
        assert_eq!(found(&path, 0, 10), [(0, 1)]);
    }
    assert!(!aside(&path).exists());
}

#[test]
fn a_damaged_record_is_the_only_one_that_is_lost() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("sixxs0.ring");
    for minute in 0..4 {
        write(&path, FIRST.plus(minute), &record(1)).unwrap();
    }
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"x", ring::offset(FIRST.plus(1)) + 3)
        .unwrap();
    assert_eq!(found(&path, 0, 3), [(0, 1), (2, 1), (3, 1)]);
    // The file ends within a record.
    file.set_len(ring::offset(FIRST.plus(3)) + 5).unwrap();
    assert_eq!(found(&path, 0, 3), [(0, 1), (2, 1)]);
}

#[test]
fn a_directory_in_the_place_of_the_file_is_an_error() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("sixxs0.ring");
    fs::create_dir(&path).unwrap();
    let error = write(&path, FIRST, &record(1)).unwrap_err();
    let shown = format!("{error:#}");
    assert!(
        shown.starts_with(&format!("open {}: ", path.display())),
        "{shown}"
    );
}
