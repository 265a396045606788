//! The status as text.

use std::collections::BTreeMap;

use super::{
    lines::push_line,
    numbers::{counted, duration, short_time, size},
};
use crate::control::api::{
    Broker, EndpointUpdate, Leaks, Outer, Proof, Status, Tunnel, UpdateState, Uplink, Xdp,
};

/// Width of the terminal in columns.
const WIDTH: usize = 80;

/// The screen of `sixxs status`.
#[must_use]
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    for one in &status.tunnels {
        tunnel(&mut text, one);
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
    let mut line = format!(
        "{:<15} {:<10} {}, table {}",
        tunnel.name, tunnel.state, tunnel.kind, tunnel.table
    );
    if let Some(mtu) = tunnel.mtu {
        line += &format!(", mtu {mtu}");
    }
    push_line(text, &line);
    if let (Some(endpoint), Some(carrier)) = (&tunnel.endpoint, &tunnel.carrier) {
        push_line(text, &format!("  broker    {endpoint} by {carrier}"));
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
    if let Some(reason) = &tunnel.reason {
        push_line(text, &format!("  {reason}"));
    }
    if let Some(until) = &tunnel.until {
        push_line(text, &format!("  until     {until}"));
    }
    if let Some(update) = &tunnel.update {
        push_line(text, &format!("  update    {}", endpoint_update(update)));
    }
    let addresses: Vec<_> = tunnel.addresses.iter().map(ToString::to_string).collect();
    let sources = [addresses.join(", "), tunnel.prefixes.join(", ")]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(", ");
    push_line(text, &format!("  from      {sources}"));
    push_line(
        text,
        &format!(
            "  in place  rules and routes: {}, programs: {}",
            tunnel.routing.name().replace('_', " "),
            tunnel.program
        ),
    );
}

/// The state of endpoint updates.
fn endpoint_update(update: &EndpointUpdate) -> String {
    let mut line = format!("{}: {}", update.state, update.sentence);
    if update.state == UpdateState::Current
        && let Some(seconds) = update.last_seconds_ago
    {
        line += &format!(", confirmed {} ago", duration(seconds));
    }
    if let Some(seconds) = update.next_in_seconds
        && update.state == UpdateState::Retrying
    {
        line += &format!("; next attempt in {}", duration(seconds));
    }
    line
}

/// Packets, and echo requests with their replies.
fn tunnel_traffic(text: &mut String, tunnel: &Tunnel) {
    push_line(
        text,
        &format!(
            "  traffic   in {} packets, {}; out {} packets, {}",
            tunnel.packets.incoming,
            size(tunnel.bytes.incoming),
            tunnel.packets.out,
            size(tunnel.bytes.out)
        ),
    );
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
    let Leaks {
        redirected,
        dropped,
        observed,
        too_big,
    } = tunnel.leaks;
    push_line(
        text,
        &format!(
            "  leaks     {redirected} redirected, {dropped} dropped, {observed} observed, {too_big} too big"
        ),
    );
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
    let mut line = match proof.answered_percent {
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
    };
    if let Some(seconds) = proof.last_answered_seconds_ago {
        line += &format!(", last {} ago", duration(seconds));
    }
    if let Some(seconds) = proof.median_seconds {
        line += &format!(", median {}", short_time(seconds));
    }
    if let Some(seconds) = proof.watched_seconds {
        line += &format!(", in {}", duration(seconds));
    }
    Some(line)
}

fn uplink(text: &mut String, uplink: &Uplink) {
    push_line(
        text,
        &format!(
            "{:<15} uplink     program {}{}{}",
            uplink.name,
            uplink.program,
            uplink
                .hook
                .as_ref()
                .map_or_else(String::new, |hook| format!(" ({hook})")),
            match &uplink.xdp {
                Some(Xdp {
                    mode: Some(mode),
                    shared,
                    ..
                }) => format!(", XDP {mode}{}", if *shared { " (shared)" } else { "" }),
                _ => String::new(),
            }
        ),
    );
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

/// Counts of refused packets with their reasons.
fn refused(refused: &BTreeMap<String, u64>) -> String {
    let parts: Vec<_> = refused
        .iter()
        .map(|(reason, count)| format!("{count} {}", reason.replace('_', " ")))
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_tunnel_at_its_widest_has_room() {
        let tunnel = |kind: &str, endpoint: &str| {
            serde_json::json!({"name": "fifteen-letters", "kind": kind, "state": "connecting",
                "addresses": ["2001:db8:1111:2222:3333:4444:5555:6666"], "prefixes": [],
                "endpoint": endpoint, "carrier": "tun", "ifindex": 4_294_967_295_u32,
                "table": 4_294_967_295_u32, "mtu": 65_535,
                "routing": "in_place", "program": "attached",
                "packets": {"in": 0, "out": 0}, "bytes": {"in": 0, "out": 0},
                "echo": {"requests_in": 0, "replies_out": 0, "requests_out": 0, "replies_in": 0,
                    "last_request_in_seconds_ago": null, "last_reply_out_seconds_ago": null},
                "proof": {"requests": 0, "answered": 0, "astray": 0, "unanswered": 0},
                "leaks": {"redirected": 0, "dropped": 0, "observed": 0, "too_big": 0}, "strays": 0})
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
