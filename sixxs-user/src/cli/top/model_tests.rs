//! Tests with sample data of a daemon.

use serde_json::json;

use super::*;

fn tunnel(name: &str, bytes: u64) -> serde_json::Value {
    json!({"name": name, "kind": "interface", "state": "up", "ifindex": 7, "addresses": [],
        "prefixes": [], "table": 200, "mtu": 1280, "routing": "in_place", "program": "attached",
        "packets": {"in": 0, "out": 0}, "bytes": {"in": bytes, "out": 0},
        "echo": {"requests_in": 0, "replies_out": 0, "requests_out": 0, "replies_in": 0},
        "leaks": {"redirected": 1, "dropped": 2, "observed": 3, "too_big": 4}, "strays": 0})
}

fn status(tunnels: &[(&str, u64)]) -> Status {
    let tunnels: Vec<_> = tunnels
        .iter()
        .map(|(name, bytes)| tunnel(name, *bytes))
        .collect();
    let value = json!({"healthy": true, "corrections": 0, "tunnels": tunnels, "uplinks": [],
        "problems": []});
    serde_json::from_value(value).unwrap()
}

fn after(samples: &[(u64, &[(&str, u64)])]) -> Model {
    let mut model = Model::new(Duration::from_secs(1));
    for (second, tunnels) in samples {
        model.take(status(tunnels), Duration::from_secs(*second));
    }
    model
}

fn rates(model: &Model) -> Vec<(String, Option<f64>)> {
    let tunnels = model.tunnels(Sort::File, false);
    tunnels
        .into_iter()
        .map(|(tunnel, meters)| (tunnel.name.clone(), meters.bytes_in.rate()))
        .collect()
}

#[test]
fn tunnels_come_and_go() {
    let mut model = after(&[
        (0, &[("a", 0), ("b", 0)]),
        (1, &[("a", 10), ("b", 20)]),
        (2, &[("b", 50), ("c", 7)]),
    ]);
    assert_eq!(
        rates(&model),
        [("b".into(), Some(30.0)), ("c".into(), None)]
    );
    // A tunnel that returns is new: its meters were removed.
    model.take(status(&[("a", 15)]), Duration::from_secs(3));
    assert_eq!(rates(&model), [("a".into(), None)]);
    assert_eq!(model.tunnels.len(), 1, "nothing is kept of those that went");
}

#[test]
fn a_daemon_that_was_away_is_a_beginning() {
    let mut model = after(&[(0, &[("a", 0)]), (1, &[("a", 10)])]);
    model.lose("12:00:01".into(), "why".into());
    model.lose("12:00:02".into(), "why else".into());
    let lost = model.lost().unwrap();
    assert_eq!(
        (lost.since.as_str(), lost.why.as_str()),
        ("12:00:01", "why else")
    );
    assert_eq!(rates(&model), [("a".into(), None)]);
    model.take(status(&[("a", 1000)]), Duration::from_secs(2));
    assert!(model.lost().is_none());
    assert_eq!(rates(&model), [("a".into(), None)]);
    model.take(status(&[("a", 1001)]), Duration::from_secs(3));
    assert_eq!(rates(&model), [("a".into(), Some(1.0))]);
}

#[test]
fn in_any_order() {
    let mut model = Model::new(Duration::from_secs(1));
    for second in [0, 1] {
        let mut status = status(&[("c", second), ("a", 3 * second), ("b", 2 * second)]);
        status.tunnels[1].state = State::Connecting;
        status.tunnels[2].routing = Routing::Missing;
        status.tunnels[2].proof.answered_percent = Some(50.0);
        status.tunnels[0].proof.answered_percent = Some(100.0);
        status.tunnels[0].leaks.dropped = 100;
        model.take(status, Duration::from_secs(second));
    }
    for (sort, expected) in [
        (Sort::File, ["c", "a", "b"]),
        (Sort::Name, ["a", "b", "c"]),
        (Sort::State, ["b", "a", "c"]),
        (Sort::In, ["a", "b", "c"]),
        (Sort::Out, ["c", "a", "b"]),
        (Sort::Pings, ["c", "a", "b"]),
        (Sort::Answered, ["b", "c", "a"]),
        (Sort::Leaks, ["c", "a", "b"]),
    ] {
        let names = |reverse| {
            let tunnels = model.tunnels(sort, reverse);
            let names = tunnels.iter().map(|(tunnel, _)| tunnel.name.clone());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(false), expected, "{sort:?}");
        let reversed: Vec<_> = expected.into_iter().rev().collect();
        assert_eq!(names(true), reversed, "{sort:?}");
    }
}

#[test]
fn every_order_comes_round() {
    let mut sort = Sort::default();
    let mut seen = Vec::new();
    for _ in 0..8 {
        seen.push(sort.name());
        sort = sort.next();
    }
    assert_eq!(sort, Sort::default());
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 8);
}

#[test]
fn alerts_are_told_once_and_not_kept_for_ever() {
    let mut model = Model::new(Duration::from_secs(1));
    let line = |number: u32| {
        let time = format!("2024-01-01T12:00:00.{number:06}Z");
        json!({"time": time, "kind": "problem", "problem": "none"}).to_string()
    };
    for number in 0..2000 {
        model.tell(&line(number));
    }
    assert_eq!(model.alerts().len(), ALERTS);
    // After a lost connection, all alerts come again.
    for number in 1900..2001 {
        model.tell(&line(number));
    }
    assert_eq!(model.alerts().len(), ALERTS);
    let last = model.alerts().back().unwrap();
    assert_eq!(last.time, "12:00:00");
    assert_eq!(last.text, "problem: none");
    assert!(last.line.contains("002000"));
    model.tell("not JSON");
    assert_eq!(model.alerts().back().unwrap().text, "not JSON");
}
