//! A status for tests.

use serde_json::json;

use crate::control::api::Status;

/// The status of healthy tunnels with these names, and of the uplink `net0`.
pub(super) fn status(names: &[&str]) -> Status {
    let tunnel = |name: &&str| {
        json!({"name": name, "kind": "interface", "state": "up", "health": "healthy", "ifindex": 7,
            "addresses": ["2001:db8:a::2"], "prefixes": [], "table": 200, "mtu": 1280,
            "routing": "in_place", "program": "attached", "packets": {"in": 0, "out": 0},
            "bytes": {"in": 0, "out": 0}, "echo": {"requests_in": 0, "replies_out": 0,
            "requests_out": 0, "replies_in": 0}, "leaks": {"redirected": 1, "dropped": 2,
            "observed": 3, "too_big": 4}, "strays": 0})
    };
    let tunnels: Vec<_> = names.iter().map(tunnel).collect();
    let uplink = json!({"name": "net0", "ifindex": 2, "program": "attached", "hook": "tcx",
        "packets": {"out": 0}, "bytes": {"out": 0}, "leaks": 10});
    let value = json!({"healthy": true, "corrections": 0, "tunnels": tunnels, "uplinks": [uplink],
        "problems": []});
    serde_json::from_value(value).unwrap()
}
