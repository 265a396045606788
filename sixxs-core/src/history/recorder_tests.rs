//! Records of minutes, from observations.

use sixxs_common::echo::bucket;

use super::*;

const FIRST: Minute = Minute::EARLIEST;

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn healthy() -> Observation {
    Observation {
        state: State::Up,
        level: Level::Healthy,
        cause: None,
        echo: EchoCounts::default(),
        waiting: 0,
        leaks: 0,
    }
}

fn failing(cause: Cause) -> Observation {
    Observation {
        level: Level::Failing,
        cause: Some(cause),
        ..healthy()
    }
}

/// The observations of one tunnel.
struct Run {
    recorder: Recorder,
    times: Times,
}

impl Run {
    fn new() -> Self {
        Self {
            recorder: Recorder::default(),
            times: Times::NONE,
        }
    }

    /// Takes an observation at this time, in this minute after the first one. Returns the record that ends with it.
    fn observe(&mut self, seconds: u64, minute: u32, observation: Observation) -> Option<Record> {
        let observed = BTreeMap::from([(name("sixxs0"), observation)]);
        let now = Duration::from_secs(seconds);
        let times = self.times;
        let ended = self
            .recorder
            .observe(now, FIRST.plus(minute), observed, |_| Some(times));
        assert!(ended.len() <= 1, "{ended:?}");
        ended.first().map(|ended| ended.record)
    }
}

#[test]
fn a_minute_is_recorded_once_it_has_ended() {
    let mut recorder = Recorder::default();
    let observed = || BTreeMap::from([(name("a"), healthy()), (name("b"), healthy())]);
    let at = Duration::from_secs;
    assert!(recorder.ends_with(FIRST));
    let ended = recorder.observe(at(0), FIRST, observed(), |_| None);
    assert!(ended.is_empty() && !recorder.ends_with(FIRST));
    let ended = recorder.observe(at(10), FIRST, observed(), |_| None);
    assert!(ended.is_empty());
    let ended = recorder.observe(at(60), FIRST.plus(1), observed(), |_| None);
    let found: Vec<_> = ended
        .iter()
        .map(|e| (e.tunnel.as_str(), e.minute))
        .collect();
    assert_eq!(found, [("a", FIRST), ("b", FIRST)]);
    assert_eq!(ended[0].record.level, Level::Healthy);
    assert_eq!(ended[0].record.failing_seconds, 0);
    // A tunnel that is gone is not recorded, and a new one has no minute that has ended.
    let observed = BTreeMap::from([(name("b"), healthy()), (name("c"), healthy())]);
    let ended = recorder.observe(at(120), FIRST.plus(2), observed, |_| None);
    let found: Vec<_> = ended.iter().map(|ended| ended.tunnel.as_str()).collect();
    assert_eq!(found, ["b"]);
}

#[test]
fn a_part_of_a_minute_fails() {
    let mut run = Run::new();
    run.observe(0, 0, healthy());
    run.observe(30, 0, failing(Cause::PacketsLost));
    run.observe(40, 0, failing(Cause::NoCarrier));
    run.observe(45, 0, healthy());
    let record = run.observe(60, 1, healthy()).unwrap();
    assert_eq!(record.failing_seconds, 15);
    assert_eq!(record.level, Level::Failing);
    assert_eq!(record.cause, Some(Cause::PacketsLost), "it took longer");
    assert_eq!(record.state, State::Up);
    let record = run.observe(120, 2, failing(Cause::NoCarrier)).unwrap();
    assert_eq!((record.failing_seconds, record.cause), (0, None));
    let record = run.observe(180, 3, healthy()).unwrap();
    assert_eq!(record.failing_seconds, 60);
}

#[test]
fn a_short_failure_counts_and_a_long_one_is_not_all() {
    let mut run = Run::new();
    let at = |milliseconds| Duration::from_millis(milliseconds);
    let mut observe = |now, minute, observation| {
        let observed = BTreeMap::from([(name("sixxs0"), observation)]);
        let ended = run
            .recorder
            .observe(at(now), FIRST.plus(minute), observed, |_| None);
        ended.first().map(|ended| ended.record.failing_seconds)
    };
    observe(0, 0, failing(Cause::NoReply));
    observe(10, 0, healthy());
    assert_eq!(observe(60_000, 1, failing(Cause::NoReply)), Some(1));
    observe(119_990, 1, healthy());
    assert_eq!(observe(120_000, 2, healthy()), Some(59));
}

#[test]
fn a_degraded_minute_does_not_fail() {
    let mut run = Run::new();
    let degraded = Observation {
        level: Level::Degraded,
        cause: Some(Cause::PacketsLeak),
        ..healthy()
    };
    run.observe(0, 0, degraded);
    run.observe(10, 0, healthy());
    let record = run.observe(60, 1, healthy()).unwrap();
    assert_eq!((record.level, record.failing_seconds), (Level::Degraded, 0));
    assert_eq!(record.cause, Some(Cause::PacketsLeak));
}

#[test]
fn a_stopped_tunnel_does_not_fail() {
    let mut run = Run::new();
    let stopped = Observation {
        state: State::Down,
        ..failing(Cause::Stopped)
    };
    run.observe(0, 0, failing(Cause::NoReply));
    run.observe(10, 0, stopped);
    let record = run.observe(60, 1, stopped).unwrap();
    assert_eq!((record.state, record.failing_seconds), (State::Down, 60));
    assert_eq!(record.cause, Some(Cause::NoReply));
    let record = run.observe(120, 2, stopped).unwrap();
    assert_eq!((record.state, record.failing_seconds), (State::Down, 0));
    assert_eq!(record.cause, Some(Cause::Stopped));
    assert!(!record.counts());
}

#[test]
fn nothing_is_known_about_a_gap() {
    let mut run = Run::new();
    run.observe(0, 0, healthy());
    run.observe(30, 0, failing(Cause::NoReply));
    // The process was stopped for an hour: of that, the failure stands for a minute.
    let record = run.observe(3630, 60, healthy()).unwrap();
    assert_eq!(record.failing_seconds, 40);
    // The wall clock may jump in both directions.
    assert!(run.observe(3640, 5, healthy()).is_some());
    assert!(run.observe(3650, 5, healthy()).is_none());
}

#[test]
fn a_clock_that_was_never_set_records_nothing() {
    let mut recorder = Recorder::default();
    let observed = || BTreeMap::from([(name("sixxs0"), healthy())]);
    let mut observe = |number| {
        let minute = Minute::new(number);
        let ended = recorder.observe(Duration::ZERO, minute, observed(), |_| None);
        ended.len()
    };
    let first = FIRST.number();
    assert_eq!([5, 6, first, first + 1].map(&mut observe), [0, 0, 0, 1]);
}

#[test]
fn pings_of_the_minute_are_counted() {
    let mut run = Run::new();
    let counted = |requests, answered, waiting| Observation {
        echo: EchoCounts {
            requests,
            answered,
            astray: 0,
            forgotten: 0,
        },
        waiting,
        ..healthy()
    };
    run.observe(0, 0, counted(100, 50, 0));
    let record = run.observe(60, 1, counted(100, 50, 0)).unwrap();
    assert_eq!(record.outside, None);
    // One of ten waits at the end of the minute.
    let record = run.observe(120, 2, counted(110, 59, 1)).unwrap();
    assert_eq!(record.outside, Share::of(1, 1));
    // It never got its reply.
    let record = run.observe(180, 3, counted(119, 68, 0)).unwrap();
    assert_eq!(record.outside, Share::of(9, 10));
    // The counters were reset.
    let record = run.observe(240, 4, counted(5, 5, 0)).unwrap();
    assert_eq!(record.outside, None);
}

#[test]
fn the_median_is_that_of_the_minute() {
    let mut run = Run::new();
    run.times.replies[bucket(1 << 30)] = 1000;
    run.observe(0, 0, healthy());
    let record = run.observe(60, 1, healthy()).unwrap();
    assert_eq!(record.median, None);
    run.times.replies[bucket(40_000)] = 3;
    let record = run.observe(120, 2, healthy()).unwrap();
    let median = record.median.unwrap();
    assert!(median < Duration::from_micros(60), "{median:?}");
}

#[test]
fn leaks_corrections_and_tests_are_those_of_the_minute() {
    let mut run = Run::new();
    let leaks = |leaks| Observation { leaks, ..healthy() };
    run.observe(0, 0, leaks(7));
    run.recorder.add_correction(Some(&name("sixxs0")));
    run.recorder.add_correction(Some(&name("sixxs1")));
    run.recorder.add_correction(None);
    for passed in [true, true, false, true] {
        run.recorder.add_inside_test(&name("sixxs0"), passed);
    }
    run.recorder.add_inside_test(&name("sixxs1"), false);
    let record = run.observe(60, 1, leaks(12)).unwrap();
    assert_eq!((record.leaks, record.corrections), (5, 2));
    assert_eq!(record.inside, Share::of(3, 4));
    let record = run.observe(120, 2, leaks(12)).unwrap();
    assert_eq!((record.leaks, record.corrections), (0, 0));
    assert_eq!(record.inside, None);
}
