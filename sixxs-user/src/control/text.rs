//! Text output: the same data as the JSON, for a terminal of 80 columns.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::control::api::{
    About, Alert, Broker, Counters, Leak, Leaks, Proof, Status, Treatment, Tunnel, Uplink,
};

/// Width of the terminal in columns.
const WIDTH: usize = 80;

/// An alert in one line.
#[must_use]
pub fn alert(alert: &Alert) -> String {
    let about = about(&alert.about);
    match alert.more {
        0 => about,
        more => format!("{about} (and {more} more like it)"),
    }
}

fn about(about: &About) -> String {
    match about {
        About::Leak(leak) => leak_line(leak),
        About::Correction {
            tunnel,
            correction,
            by,
        } => {
            let tunnel = tunnel.as_ref().map_or(String::new(), |t| format!("{t}: "));
            let by = match by {
                Some(by) => format!("removed by {by}"),
                None => "was missing".to_owned(),
            };
            format!("{tunnel}{by}, restored: {correction}")
        }
        About::Tunnel {
            tunnel,
            state,
            reason: Some(reason),
        } => format!("{tunnel}: {state}: {reason}"),
        About::Tunnel { tunnel, state, .. } => format!("{tunnel}: {state}"),
        About::Health {
            tunnel,
            health,
            reasons,
        } if reasons.is_empty() => format!("{tunnel}: {health} again"),
        About::Health {
            tunnel,
            health,
            reasons,
        } => format!("{tunnel}: {health}: {}", reasons.join("; ")),
        About::Problem { problem } => format!("problem: {problem}"),
    }
}

fn leak_line(leak: &Leak) -> String {
    let count = |packets: u64| match packets {
        1 => "1 packet".to_owned(),
        packets => format!("{packets} packets"),
    };
    let packets = count(leak.packets);
    let (Some(source), Some(destination)) = (leak.source, leak.destination) else {
        return format!("{}: {packets} of other flows leaked", leak.tunnel);
    };
    let (from, to) = match leak.ports {
        Some([from, to]) if leak.protocol.as_deref() != Some("icmpv6") => (
            format!("[{source}]:{from}"),
            format!("[{destination}]:{to}"),
        ),
        _ => (source.to_string(), destination.to_string()),
    };
    let mut line = format!(
        "{}: {packets} {from} > {to} {} leaked to {}: {}",
        leak.tunnel,
        leak.protocol.as_deref().unwrap_or("?"),
        leak.interface.as_deref().unwrap_or("?"),
        match leak.treatment {
            Some(Treatment::TooBig) => "too big for the tunnel, sender informed",
            Some(Treatment::Recursion) => "dropped, the tunnel would carry its own outer packets",
            Some(Treatment::NoTunnel) => "dropped, the tunnel does not exist",
            Some(treatment) => treatment.name(),
            None => "?",
        }
    );
    let mut sender = Vec::new();
    if let Some(uid) = leak.uid {
        sender.push(format!("uid {uid}"));
    }
    if let Some(unit) = &leak.unit {
        sender.push(unit.clone());
    }
    if let Some(container) = &leak.container {
        sender.push(container.clone());
    }
    if let Some(mark) = leak.mark {
        sender.push(format!("mark {mark:#x}"));
    }
    if let Some(interface) = &leak.bound_to {
        sender.push(format!("socket bound to {interface}"));
    }
    if let Some(interface) = &leak.forwarded_from {
        sender.push(format!("forwarded from {interface}"));
    }
    if !sender.is_empty() {
        // Writing into a String does not fail.
        let _infallible = write!(line, " ({})", sender.join(", "));
    }
    for (what, sentence) in [("why", &leak.why), ("cure", &leak.cure)] {
        if let Some(sentence) = sentence {
            let _infallible = write!(line, "; {what}: {sentence}");
        }
    }
    line
}

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
            text.push_str(&format!("{}: {}: {reason}\n", tunnel.health, tunnel.name));
        }
    }
    for problem in &status.problems {
        text.push_str(&format!("problem: {problem}\n"));
    }
    text.push_str(&format!(
        "{}, {} corrections\n",
        if status.healthy {
            "all tunnels healthy"
        } else {
            "NOT HEALTHY"
        },
        status.corrections
    ));
    text
}

/// Text for a terminal: lines longer than this are wrapped and indented.
pub fn wrapped(text: &str, columns: usize) -> String {
    const INDENT: &str = "            ";
    let mut all = String::new();
    for line in text.lines() {
        let mut rest = line;
        let mut indent = "";
        while let Some(end) = break_at(rest, columns.saturating_sub(indent.len())) {
            let (first, later) = rest.split_at(end);
            push(&mut all, &format!("{indent}{}", first.trim_end()));
            rest = later.trim_start();
            indent = INDENT;
        }
        push(&mut all, &format!("{indent}{rest}"));
    }
    all
}

/// Where to break a line for this width: at its last space, or within a word that is longer. `None` if the
/// line fits.
fn break_at(line: &str, columns: usize) -> Option<usize> {
    let (beyond, _) = line.char_indices().nth(columns)?;
    // Do not break within the indentation.
    let words = line.len() - line.trim_start().len();
    let end = beyond + usize::from(line[beyond..].starts_with(' '));
    let space = line.get(words..end).and_then(|words| words.rfind(' '));
    let space = space.map(|at| at + words);
    Some(space.filter(|at| *at > words).unwrap_or(beyond)).filter(|at| *at > 0)
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
            push(
                text,
                &format!("broker {name} refuses this host until {until}"),
            );
            continue;
        }
        let left = format!("{name} {slots_left} of {slots}");
        if !line.is_empty() && line.len() + 2 + left.len() > WIDTH {
            push(text, &line);
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
        push(text, &line);
    }
}

fn tunnel(text: &mut String, tunnel: &Tunnel) {
    tunnel_state(text, tunnel);
    tunnel_traffic(text, tunnel);
    tunnel_drops(text, tunnel);
}

/// State, addresses, and the objects in place.
fn tunnel_state(text: &mut String, tunnel: &Tunnel) {
    let mut line = format!("{:<15} {:<10} {}", tunnel.name, tunnel.state, tunnel.kind);
    line.push_str(&format!(", table {}", tunnel.table));
    if let Some(mtu) = tunnel.mtu {
        line.push_str(&format!(", mtu {mtu}"));
    }
    push(text, &line);
    if let (Some(endpoint), Some(carrier)) = (&tunnel.endpoint, &tunnel.carrier) {
        push(text, &format!("  broker    {endpoint} by {carrier}"));
    }
    if let Some(reason) = &tunnel.reason {
        push(text, &format!("  {reason}"));
    }
    if let Some(until) = &tunnel.until {
        push(text, &format!("  until     {until}"));
    }
    let addresses: Vec<_> = tunnel.addresses.iter().map(ToString::to_string).collect();
    let sources = [addresses.join(", "), tunnel.prefixes.join(", ")]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(", ");
    push(text, &format!("  from      {sources}"));
    push(
        text,
        &format!(
            "  in place  rules and routes: {}, programs: {}",
            tunnel.routing.name().replace('_', " "),
            tunnel.program
        ),
    );
}

/// Packets, and echo requests with their replies.
fn tunnel_traffic(text: &mut String, tunnel: &Tunnel) {
    push(
        text,
        &format!(
            "  traffic   in {} packets, {}; out {} packets, {}",
            tunnel.packets.incoming,
            size(tunnel.bytes.incoming),
            tunnel.packets.out,
            size(tunnel.bytes.out)
        ),
    );
    let echo = &tunnel.echo;
    let last = match echo.last_reply_out_seconds_ago {
        Some(seconds) => format!(" ({} ago)", duration(seconds)),
        None => String::new(),
    };
    push(
        text,
        &format!(
            "  pings     {} in, {} answered{last}; {} out, {} answered",
            echo.requests_in, echo.replies_out, echo.requests_out, echo.replies_in
        ),
    );
    if let Some(line) = answers(&tunnel.proof) {
        push(text, &format!("  answers   {line}"));
    }
}

/// Leaks, and packets that were dropped or refused.
fn tunnel_drops(text: &mut String, tunnel: &Tunnel) {
    let Leaks {
        redirected,
        dropped,
        observed,
        too_big,
    } = tunnel.leaks;
    push(
        text,
        &format!(
            "  leaks     {redirected} redirected, {dropped} dropped, {observed} observed, {too_big} too big"
        ),
    );
    if tunnel.strays > 0 {
        push(
            text,
            &format!(
                "  strays    {} packets left with no tunnel's source: the far end drops them",
                tunnel.strays
            ),
        );
    }
    if tunnel.loops > 0 {
        push(
            text,
            &format!(
                "  loops     {} packets dropped: a tunnel would have routed them back",
                tunnel.loops
            ),
        );
    }
    if tunnel.recursions > 0 {
        push(
            text,
            &format!(
                "  recursion {} outer packets dropped that were routed into their own tunnel",
                tunnel.recursions
            ),
        );
    }
    if !tunnel.refused.is_empty() {
        push(text, &format!("  refused   {}", refused(&tunnel.refused)));
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
        line.push_str(&format!(", last {} ago", duration(seconds)));
    }
    if let Some(seconds) = proof.median_seconds {
        line.push_str(&format!(", median {}", short_time(seconds)));
    }
    if let Some(seconds) = proof.watched_seconds {
        line.push_str(&format!(", in {}", duration(seconds)));
    }
    Some(line)
}

/// Formats a time of at most a few seconds.
pub(crate) fn short_time(seconds: f64) -> String {
    let micros = seconds * 1e6;
    if micros < 10.0 {
        format!("{micros:.1} µs")
    } else if micros < 1000.0 {
        format!("{micros:.0} µs")
    } else if micros < 10_000.0 {
        format!("{:.1} ms", micros / 1e3)
    } else if seconds < 1.0 {
        format!("{:.0} ms", micros / 1e3)
    } else {
        format!("{seconds:.1} s")
    }
}

fn uplink(text: &mut String, uplink: &Uplink) {
    push(
        text,
        &format!(
            "{:<15} uplink     program {}{}",
            uplink.name,
            uplink.program,
            uplink
                .hook
                .as_ref()
                .map_or_else(String::new, |hook| format!(" ({hook})"))
        ),
    );
    push(
        text,
        &format!(
            "  traffic   out {} packets, {}; {} leaks caught",
            uplink.packets.out,
            size(uplink.bytes.out),
            uplink.leaks
        ),
    );
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// Counts of refused packets with their reasons.
fn refused(refused: &BTreeMap<String, u64>) -> String {
    let parts: Vec<_> = refused
        .iter()
        .map(|(reason, count)| format!("{count} {}", reason.replace('_', " ")))
        .collect();
    parts.join(", ")
}

/// Bytes with a decimal unit prefix.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1_000_000 {
        value /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", value / 1000, value % 1000 / 100, UNITS[unit])
}

fn duration(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{seconds:.1} s")
    } else if seconds < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.0} h", seconds / 3600.0)
    }
}

/// The output of `sixxs counters`: counters that are not zero, or all.
#[must_use]
pub fn counters(counters: &Counters, all: bool) -> String {
    let mut text = String::new();
    for (interface, values) in &counters.interfaces {
        push(&mut text, interface);
        for (name, value) in values.iter().filter(|(_, value)| all || **value != 0) {
            push(&mut text, &format!("  {name:<26} {value:>20}"));
        }
    }
    text
}

#[cfg(test)]
mod wrapping {
    use super::wrapped;

    #[test]
    fn no_line_is_longer() {
        let text = "short\n  from      2001:db8:a::2, 2001:db8:b::2, 2001:db8:c::2\n\nfailing: sixxs0: its interface has no carrier; look at it\n";
        assert_eq!(
            wrapped(text, 40),
            "short\n  from      2001:db8:a::2,\n            2001:db8:b::2, 2001:db8:c::2\n\nfailing: sixxs0: its interface has no\n            carrier; look at it\n"
        );
    }

    #[test]
    fn a_long_word_is_cut() {
        let word = "x".repeat(100);
        let text = wrapped(&format!("  {word} é{word}\n"), 30);
        assert!(
            text.lines().all(|line| line.chars().count() <= 30),
            "{text}"
        );
        let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
        assert_eq!(letters(&text), 201);
        assert_eq!(wrapped("é", 0), "é\n", "it ends all the same");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_or_so() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1280, "1.2 kB"),
            (999_999, "999.9 kB"),
            (1_000_000, "1.0 MB"),
            (104_857_600, "104.8 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
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

    #[test]
    fn a_leak_names_its_sender() {
        let leak = Leak {
            tunnel: "sixxs0".into(),
            interface: Some("net0".into()),
            source: Some("2001:db8:a::2".parse().unwrap()),
            destination: Some("2001:db8:ffff::9".parse().unwrap()),
            protocol: Some("udp".into()),
            ports: Some([5353, 53]),
            packets: 12,
            treatment: Some(Treatment::Redirected),
            uid: Some(1000),
            cgroup: Some(77),
            cgroup_path: Some("/system.slice/dns.service".into()),
            unit: Some("dns.service".into()),
            container: None,
            mark: Some(0x10),
            bound_to: Some("net0".into()),
            forwarded_from: None,
            cause: Some("bound".into()),
            why: Some("it is bound".into()),
            cure: Some("unbind it".into()),
        };
        assert_eq!(
            about(&About::Leak(Box::new(leak))),
            "sixxs0: 12 packets [2001:db8:a::2]:5353 > [2001:db8:ffff::9]:53 udp leaked to net0: \
             redirected (uid 1000, dns.service, mark 0x10, socket bound to net0); why: it is bound; \
             cure: unbind it"
        );
    }
}
