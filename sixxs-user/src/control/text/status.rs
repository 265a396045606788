//! The status as text.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{
    groups,
    lines::{LABEL, WIDTH, fitting, push_line},
    numbers::{counted, duration, short_time, size},
};
use crate::control::api::{
    Broker, EndpointUpdate, Outer, Proof, Status, Tunnel, UpdateState, Uplink, WireGuard, Xdp,
};

/// The maximum number of addresses and prefixes of a tunnel in the text. The JSON has all.
const MAX_SOURCES: usize = 8;

/// The screen of `sixxs status`.
#[must_use]
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    for one in &status.tunnels {
        tunnel(&mut text, one);
    }
    for one in &status.groups {
        groups::group(&mut text, one);
    }
    for one in &status.uplinks {
        uplink(&mut text, one);
    }
    brokers(&mut text, &status.brokers);
    for tunnel in &status.tunnels {
        for reason in &tunnel.health_reasons {
            push_line(
                &mut text,
                &format!("{}: {}: {reason}", tunnel.health, tunnel.name),
            );
        }
    }
    for tunnel in &status.tunnels {
        let silent = tunnel
            .outer
            .as_ref()
            .and_then(|outer| outer.sentence.as_ref());
        if let Some(silent) = silent {
            push_line(&mut text, &format!("silent: {}: {silent}", tunnel.name));
        }
    }
    for problem in &status.problems {
        push_line(&mut text, &format!("problem: {problem}"));
    }
    let verdict = match status.healthy {
        true => "all tunnels healthy",
        false => "NOT HEALTHY",
    };
    let corrections = counted(status.corrections, "correction", "corrections");
    push_line(&mut text, &format!("{verdict}, {corrections}"));
    text
}

/// Remaining connects, and lockouts.
fn brokers(text: &mut String, brokers: &[Broker]) {
    let mut line = String::new();
    for broker in brokers {
        let Broker {
            name,
            slots_left,
            slots,
            ..
        } = broker;
        if let Some(until) = &broker.locked_out_until {
            push_line(
                text,
                &format!("broker {name} refuses this host until {until}"),
            );
            continue;
        }
        let left = format!("{name} {slots_left} of {slots}");
        if !line.is_empty() && line.len() + 2 + left.len() > WIDTH {
            push_line(text, &line);
            line.clear();
        }
        line += if line.is_empty() {
            "connects left: "
        } else {
            ", "
        };
        line += &left;
    }
    if !line.is_empty() {
        push_line(text, &line);
    }
}

fn tunnel(text: &mut String, tunnel: &Tunnel) {
    tunnel_state(text, tunnel);
    tunnel_traffic(text, tunnel);
    tunnel_drops(text, tunnel);
}

/// State, addresses, and the objects in place.
fn tunnel_state(text: &mut String, tunnel: &Tunnel) {
    let mut parts = vec![
        format!("{:<15} {:<10} {}", tunnel.name, tunnel.state, tunnel.kind),
        format!(", table {}", tunnel.table),
    ];
    parts.extend(tunnel.mtu.map(|mtu| format!(", mtu {mtu}")));
    push_line(text, &fitting(&parts, WIDTH));
    if let Some(interface) = &tunnel.interface {
        push_line(text, &format!("  interface {interface}"));
    }
    if let (Some(endpoint), Some(carrier)) = (&tunnel.endpoint, &tunnel.carrier) {
        push_line(text, &format!("  broker    {endpoint} by {carrier}"));
    }
    if let (Some(endpoint), Some(_)) = (&tunnel.endpoint, &tunnel.wireguard) {
        push_line(text, &format!("  far end   {endpoint}"));
    }
    if let (None, Some(outer)) = (&tunnel.endpoint, &tunnel.outer) {
        let more = outer.endpoints.len().saturating_sub(1);
        let more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let first = outer.endpoints.first().map_or("", String::as_str);
        push_line(text, &format!("  far end   {first}{more}"));
    }
    if let Some(wireguard) = &tunnel.wireguard {
        push_line(text, &format!("  handshake {}", handshake(wireguard)));
    }
    if let Some(reason) = &tunnel.reason {
        push_line(text, &format!("  {reason}"));
    }
    if let Some(until) = &tunnel.until {
        push_line(text, &format!("  until     {until}"));
    }
    if let Some(update) = &tunnel.update {
        push_line(text, &format!("  update    {}", endpoint_update(update)));
    }
    push_line(text, &format!("  from      {}", sources(tunnel)));
    push_line(
        text,
        &format!(
            "  in place  rules and routes: {}, programs: {}",
            tunnel.routing.name().replace('_', " "),
            tunnel.program
        ),
    );
}

/// The addresses and prefixes of a tunnel.
fn sources(tunnel: &Tunnel) -> String {
    let addresses =
        tunnel
            .addresses
            .iter()
            .map(|address| match tunnel.deprecated.contains(address) {
                true => format!("{address} (deprecated)"),
                false => address.to_string(),
            });
    let sources: Vec<_> = addresses.chain(tunnel.prefixes.iter().cloned()).collect();
    let more = sources.len().saturating_sub(MAX_SOURCES);
    let named = sources[..sources.len() - more].join(", ");
    match more {
        0 if named.is_empty() => "nothing: it has no address".to_owned(),
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// The latest handshake, and how many peers have had one.
fn handshake(wireguard: &WireGuard) -> String {
    let latest = match wireguard.latest_handshake_seconds_ago {
        Some(seconds) => format!("{} ago", duration(seconds)),
        None => "none yet".to_owned(),
    };
    let peers = wireguard.peers.iter();
    let known = peers.filter(|peer| peer.latest_handshake_seconds_ago.is_some());
    match (known.count(), wireguard.peers.len()) {
        (_, 0) => "no peers".to_owned(),
        (_, 1) => latest,
        (known, all) => format!("{latest} ({known} of {all} peers)"),
    }
}

/// The state of endpoint updates.
fn endpoint_update(update: &EndpointUpdate) -> String {
    let mut line = format!("{}: {}", update.state, update.sentence);
    if update.state == UpdateState::Current
        && let Some(seconds) = update.confirmed_seconds_ago
    {
        line += &format!(", confirmed {} ago", duration(seconds));
    }
    if let Some(seconds) = update.next_in_seconds
        && matches!(update.state, UpdateState::Retrying | UpdateState::Waiting)
    {
        line += &format!("; next attempt in {}", duration(seconds));
    }
    line
}

/// Packets, and echo requests with their replies.
fn tunnel_traffic(text: &mut String, tunnel: &Tunnel) {
    let (packets, bytes) = (&tunnel.packets, &tunnel.bytes);
    let whole = format!(
        "  traffic   in {} packets, {}; out {} packets, {}",
        packets.incoming,
        size(bytes.incoming),
        packets.out,
        size(bytes.out)
    );
    let line = match whole.len() <= WIDTH {
        true => whole,
        false => format!(
            "  traffic   in {} packets, out {} packets",
            packets.incoming, packets.out
        ),
    };
    push_line(text, &line);
    if let Some(outer) = &tunnel.outer {
        push_line(text, &format!("  outer     {}", outer_packets(outer)));
    }
    let echo = &tunnel.echo;
    let last = match echo.last_reply_out_seconds_ago {
        Some(seconds) => format!(" ({} ago)", duration(seconds)),
        None => String::new(),
    };
    push_line(
        text,
        &format!(
            "  pings     {} in, {} answered{last}; {} out, {} answered",
            echo.requests_in, echo.replies_out, echo.requests_out, echo.replies_in
        ),
    );
    if echo.answered_by_programs > 0 {
        push_line(
            text,
            &format!("  programs  answered {} pings", echo.answered_by_programs),
        );
    }
    if let Some(line) = answers(&tunnel.proof) {
        push_line(text, &format!("  answers   {line}"));
    }
    if let Some(probes) = &tunnel.probes {
        push_line(text, &format!("  probes    {}", groups::probes(probes)));
    }
    if let Some(percent) = tunnel.available_percent_24h {
        let outages = tunnel.outages_24h.unwrap_or(0);
        push_line(text, &format!("  24 h      {}", last_day(percent, outages)));
    }
}

/// The availability of the last day, rounded down to tenths: 100% only if there was no failure.
fn last_day(percent: f64, outages: u32) -> String {
    let hundredths = format!("{percent:.2}");
    let tenths = hundredths.get(..hundredths.len() - 1).unwrap_or_default();
    let outages = match outages {
        0 => String::new(),
        outages => format!(", {}", counted(outages.into(), "outage", "outages")),
    };
    match tenths {
        "100.0" => format!("100% available{outages}"),
        tenths => format!("{tenths}% available{outages}"),
    }
}

/// The outer packets of a tunnel, with the time of the last ones.
fn outer_packets(outer: &Outer) -> String {
    let part = |packets: u64, ago: Option<f64>| match ago {
        Some(seconds) => format!("{packets} packets (last {} ago)", duration(seconds)),
        None => "nothing".to_owned(),
    };
    let Outer { packets, .. } = outer;
    format!(
        "in {}, out {}",
        part(packets.incoming, outer.last_in_seconds_ago),
        part(packets.out, outer.last_out_seconds_ago)
    )
}

/// Leaks, and packets that were dropped or refused.
fn tunnel_drops(text: &mut String, tunnel: &Tunnel) {
    groups::leaks(text, tunnel.leaks);
    if tunnel.strays > 0 {
        push_line(
            text,
            &format!(
                "  strays    {} packets left with no tunnel's source: the far end drops them",
                tunnel.strays
            ),
        );
    }
    if tunnel.loops > 0 {
        push_line(
            text,
            &format!(
                "  loops     {} packets dropped: a tunnel would have routed them back",
                tunnel.loops
            ),
        );
    }
    if tunnel.recursions > 0 {
        push_line(
            text,
            &format!(
                "  recursion {} outer packets dropped that were routed into their own tunnel",
                tunnel.recursions
            ),
        );
    }
    if !tunnel.refused.is_empty() {
        push_line(text, &format!("  refused   {}", refused(&tunnel.refused)));
    }
}

/// The result of echo pairing, if there were echo requests.
fn answers(proof: &Proof) -> Option<String> {
    let mut parts = vec![match proof.answered_percent {
        Some(100.0) => "100% of pings".to_owned(),
        Some(percent) => {
            let missing = [(proof.unanswered, "unanswered"), (proof.astray, "astray")]
                .into_iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{count} {what}"))
                .collect::<Vec<_>>();
            format!("{percent:.1}% of pings ({})", missing.join(", "))
        }
        None => return None,
    }];
    let last = proof.last_answered_seconds_ago;
    parts.extend(last.map(|seconds| format!(", last {} ago", duration(seconds))));
    let median = proof.median_seconds;
    parts.extend(median.map(|seconds| format!(", median {}", short_time(seconds))));
    let watched = proof.watched_seconds;
    parts.extend(watched.map(|seconds| format!(", in {}", duration(seconds))));
    Some(fitting(&parts, WIDTH - LABEL))
}

fn uplink(text: &mut String, uplink: &Uplink) {
    let hook = uplink.hook.as_ref();
    let mut parts = vec![
        format!("{:<15} uplink     program {}", uplink.name, uplink.program),
        hook.map_or_else(String::new, |hook| format!(" ({hook})")),
    ];
    if let Some(Xdp {
        mode: Some(mode),
        shared,
        ..
    }) = &uplink.xdp
    {
        parts.push(format!(", XDP {mode}"));
        parts.extend(shared.then(|| " (shared)".to_owned()));
    }
    push_line(text, &fitting(&parts, WIDTH));
    push_line(
        text,
        &format!(
            "  traffic   out {} packets, {}; {} leaks caught",
            uplink.packets.out,
            size(uplink.bytes.out),
            uplink.leaks
        ),
    );
}

/// Counts of refused packets with their reasons, the highest first.
fn refused(refused: &BTreeMap<String, u64>) -> String {
    let mut sorted: Vec<_> = refused.iter().collect();
    sorted.sort_by_key(|(reason, count)| (Reverse(**count), *reason));
    let part = |(index, (reason, count)): (usize, (&String, &u64))| {
        let comma = if index == 0 { "" } else { ", " };
        format!("{comma}{count} {}", reason.replace('_', " "))
    };
    let parts: Vec<_> = sorted.into_iter().enumerate().map(part).collect();
    fitting(&parts, WIDTH - LABEL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::WireGuardPeer;

    #[test]
    fn one_correction_is_singular() {
        let shown = |corrections: u64| {
            let report = serde_json::json!({"healthy": true, "corrections": corrections,
                "tunnels": [], "uplinks": [], "brokers": [], "problems": []});
            status(&serde_json::from_value(report).unwrap())
        };
        assert_eq!(shown(0), "all tunnels healthy, 0 corrections\n");
        assert_eq!(shown(1), "all tunnels healthy, 1 correction\n");
    }

    #[test]
    fn handshakes_of_some_peers() {
        let shown = |latest: Option<f64>, peers: &[Option<f64>]| {
            let peer = |ago: &Option<f64>| WireGuardPeer {
                latest_handshake_seconds_ago: *ago,
                ..WireGuardPeer::default()
            };
            handshake(&WireGuard {
                latest_handshake_seconds_ago: latest,
                peers: peers.iter().map(peer).collect(),
                ..WireGuard::default()
            })
        };
        assert_eq!(shown(None, &[]), "no peers");
        assert_eq!(shown(None, &[None]), "none yet");
        assert_eq!(shown(Some(7.0), &[Some(7.0)]), "7.0 s ago");
        assert_eq!(
            shown(Some(7.0), &[Some(7.0), None]),
            "7.0 s ago (1 of 2 peers)"
        );
    }

    #[test]
    fn the_last_day_is_never_rounded_up() {
        assert_eq!(last_day(100.0, 0), "100% available");
        assert_eq!(last_day(99.99, 1), "99.9% available, 1 outage");
        assert_eq!(last_day(99.8, 2), "99.8% available, 2 outages");
        assert_eq!(last_day(7.05, 0), "7.0% available");
        assert_eq!(last_day(0.0, 1), "0.0% available, 1 outage");
    }

    #[test]
    fn deprecated_addresses_are_marked() {
        let tunnel = serde_json::json!({"name": "dsl0", "kind": "interface", "state": "up",
            "addresses": ["2001:db8:a::2", "2001:db8:a::3"], "deprecated": ["2001:db8:a::3"],
            "prefixes": ["2001:db8:aa::/48"], "peer": null, "check_target": null, "ifindex": 3,
            "table": 200, "mtu": 1500, "routing": "in_place", "program": "attached",
            "packets": {"in": 0, "out": 0}, "bytes": {"in": 0, "out": 0},
            "echo": {"requests_in": 0, "replies_out": 0, "requests_out": 0, "replies_in": 0,
                "last_request_in_seconds_ago": null, "last_reply_out_seconds_ago": null},
            "leaks": {"redirected": 0, "dropped": 0, "observed": 0, "too_big": 0}, "strays": 0});
        let tunnel: Tunnel = serde_json::from_value(tunnel).unwrap();
        assert_eq!(
            sources(&tunnel),
            "2001:db8:a::2, 2001:db8:a::3 (deprecated), 2001:db8:aa::/48"
        );
    }

    #[test]
    fn a_tunnel_at_its_widest_has_room() {
        let tunnel = |kind: &str, endpoint: &str| {
            serde_json::json!({"name": "fifteen-letters", "kind": kind, "state": "connecting",
                "addresses": ["2001:db8:1111:2222:3333:4444:5555:6666"], "prefixes": [],
                "endpoint": endpoint, "carrier": "tun", "ifindex": 4_294_967_295_u32,
                "table": 4_294_967_295_u32, "mtu": 65_535,
                "routing": "in_place", "program": "attached",
                "packets": {"in": u64::MAX, "out": u64::MAX}, "bytes": {"in": u64::MAX, "out": u64::MAX},
                "echo": {"requests_in": 0, "replies_out": 0, "requests_out": 0, "replies_in": 0,
                    "last_request_in_seconds_ago": null, "last_reply_out_seconds_ago": null},
                "proof": {"requests": 4_000_000_000_u64, "answered": 1, "astray": 1_000_000_000,
                    "unanswered": 2_000_000_000, "answered_percent": 12.345,
                    "last_answered_seconds_ago": 12_345.6, "median_seconds": 0.123_456,
                    "watched_seconds": 1_234_567.8},
                "leaks": {"redirected": 0, "dropped": 0, "observed": 0, "too_big": 0}, "strays": 0,
                "refused": {"not_its_source": u64::MAX, "wrong_signature": 1, "wrong_time": 2,
                    "replayed": 3, "too_short": u64::MAX}})
        };
        let tunnels = serde_json::json!([
            tunnel("6in4-heartbeat", "255.255.255.255"),
            tunnel("ayiya", "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"),
        ]);
        let report = serde_json::json!({"healthy": false, "corrections": 0, "tunnels": tunnels,
            "uplinks": [], "brokers": [], "problems": []});
        let report: Status = serde_json::from_value(report).unwrap();
        let text = status(&report);
        assert!(text.contains("\n  broker    [2001:db8:"), "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}
