//! The thread writes, evaluates and cleans up; errors are one problem, which ends with the first success.

use std::{
    fs::FileTimes,
    sync::mpsc::{RecvTimeoutError, channel},
    time::SystemTime,
};

use sixxs_core::{
    health::Level,
    history::{Cause, Record, State},
};

use super::*;

/// Limit for the thread.
const LIMIT: Duration = Duration::from_secs(30);

const NOW: Minute = Minute::new(20_759 * 24 * 60 + 500);

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn ended(tunnel: &str, minute: Minute, failing_seconds: u8) -> Ended {
    Ended {
        tunnel: name(tunnel),
        minute,
        record: Record {
            state: State::Up,
            level: Level::Failing,
            failing_seconds,
            cause: Some(Cause::NoReply),
            outside: None,
            inside: None,
            median: None,
            leaks: 0,
            corrections: 0,
        },
    }
}

fn batch(now: Minute, tunnels: &[&str], ended: Vec<Ended>) -> Batch {
    Batch {
        now,
        tunnels: tunnels.iter().map(|tunnel| name(tunnel)).collect(),
        ended,
    }
}

fn worker(state_dir: &Path) -> Worker {
    Worker {
        directory: directory(state_dir),
        results: Arc::default(),
        cleaned: None,
    }
}

#[test]
fn records_are_written_and_the_last_day_is_evaluated() {
    let state = tempfile::tempdir().unwrap();
    let (changed, changes) = channel();
    let mut writer = Writer::start(state.path(), move || changed.send(()).unwrap());
    let tunnels = ["a", "b", "c"];
    let records = vec![
        ended("a", NOW.minus(PER_DAY), 60),
        ended("a", NOW.minus(1), 15),
        ended("b", NOW.minus(1), 60),
    ];
    writer.send(batch(NOW, &tunnels, records));
    let results = Arc::clone(&writer.results);
    // The thread ends with its work when there can be no more of it.
    writer.batches = None;
    let end = changes.recv_timeout(LIMIT);
    assert_eq!(end, Err(RecvTimeoutError::Disconnected), "no problem");
    let results = lock(&results);
    let found = |tunnel| {
        let last_day = results.last_days.get(&name(tunnel));
        last_day.map(|day| (day.hundredths, day.outages))
    };
    // The oldest record of `a` is of the day before.
    assert_eq!(found("a"), Some((7500, 0)));
    assert_eq!(found("b"), Some((0, 1)));
    assert_eq!(found("c"), None);
    assert_eq!(results.problem, None);
}

#[test]
fn a_problem_is_reported_until_a_write_succeeds() {
    let state = tempfile::tempdir().unwrap();
    let history = directory(state.path());
    // No directory can be made here.
    fs::write(&history, "").unwrap();
    let (changed, changes) = channel();
    let mut writer = Writer::start(state.path(), move || changed.send(()).unwrap());
    let two = || vec![ended("a", NOW, 0), ended("b", NOW, 0)];
    writer.send(batch(NOW, &["a", "b"], two()));
    changes.recv_timeout(LIMIT).unwrap();
    let problem = writer.problem().unwrap();
    let begin = format!("the history has a gap: create {}: ", history.display());
    assert!(problem.starts_with(&begin), "{problem}");
    assert!(problem.ends_with(" (and 1 more)"), "{problem}");
    fs::remove_file(&history).unwrap();
    writer.send(batch(NOW.plus(1), &["a"], two()));
    changes.recv_timeout(LIMIT).unwrap();
    assert_eq!(writer.problem(), None);
}

#[test]
fn the_same_error_is_the_same_problem() {
    let state = tempfile::tempdir().unwrap();
    fs::write(directory(state.path()), "").unwrap();
    let worker = worker(state.path());
    let [first, second] = [0, 1].map(|later| {
        let minute = NOW.plus(later);
        worker.write(&batch(minute, &["a"], vec![ended("a", minute, 0)]))
    });
    assert!(first.is_some());
    assert_eq!(first, second);
}

#[test]
fn a_disk_that_does_not_answer_costs_minutes() {
    let (batches, receiver) = sync_channel(WAITING);
    let mut writer = Writer {
        batches: Some(batches),
        results: Arc::default(),
        refused: None,
    };
    for _ in 0..WAITING {
        writer.send(batch(NOW, &["a"], vec![ended("a", NOW, 0)]));
        assert_eq!(writer.problem(), None);
    }
    writer.send(batch(NOW, &["a"], vec![ended("a", NOW, 0)]));
    assert!(writer.problem().unwrap().ends_with("does not answer"));
    // It answers again.
    receiver.recv().unwrap();
    writer.send(batch(NOW, &["a"], vec![ended("a", NOW, 0)]));
    assert_eq!(writer.problem(), None);
}

#[test]
fn old_files_of_other_tunnels_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let old = SystemTime::now() - MAX_AGE - Duration::from_secs(60);
    let young = SystemTime::now() - MAX_AGE + Duration::from_secs(60);
    for (file, time) in [
        ("wanted.ring", old),
        ("wanted.ring.old", old),
        ("gone.ring", old),
        ("young.ring", young),
        ("young.ring.old", young),
        ("foreign", old),
        ("foreign.old", old),
    ] {
        let file = fs::File::create(directory.path().join(file)).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    }
    remove_old(directory.path(), &BTreeSet::from([name("wanted")]));
    let mut left: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort_unstable();
    let expected = [
        "foreign",
        "foreign.old",
        "wanted.ring",
        "young.ring",
        "young.ring.old",
    ];
    assert_eq!(left, expected);
    // A directory that does not exist is no error.
    remove_old(&directory.path().join("missing"), &BTreeSet::new());
}
