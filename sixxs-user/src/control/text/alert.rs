//! Alerts as text.

use std::net::Ipv6Addr;

use super::numbers::counted;
use crate::control::api::{About, Alert, Leak, Treatment};

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
        About::Switch {
            group,
            from,
            to,
            reason,
        } => format!("{group}: {to} carries its prefixes instead of {from}; {reason}"),
        About::Deprecation {
            tunnel,
            deprecated,
            addresses,
            reason,
        } => {
            let addresses = first_addresses(addresses);
            match deprecated {
                true => format!("{tunnel}: deprecated {addresses}: {reason}"),
                false => format!("{tunnel}: preferred again: {addresses}: {reason}"),
            }
        }
        About::Problem { problem } => format!("problem: {problem}"),
    }
}

/// The maximum number of addresses in the line of an alert. The JSON has all.
const MAX_ADDRESSES: usize = 4;

fn first_addresses(addresses: &[Ipv6Addr]) -> String {
    let named = addresses.iter().take(MAX_ADDRESSES);
    let named: Vec<_> = named.map(ToString::to_string).collect();
    let named = named.join(", ");
    match addresses.len().saturating_sub(MAX_ADDRESSES) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// A leak in one line: packets, way and treatment, then the sender, cause and cure as far as they are known.
fn leak_line(leak: &Leak) -> String {
    let mut line = format!("{}: {}", leak.tunnel, leaked_packets(leak));
    if flow(leak).is_none() {
        return line;
    }
    let sender = sender(leak);
    if !sender.is_empty() {
        line += &format!(" ({})", sender.join(", "));
    }
    for (what, sentence) in [("why", &leak.why), ("cure", &leak.cure)] {
        if let Some(sentence) = sentence {
            line += &format!("; {what}: {sentence}");
        }
    }
    line
}

/// The packets of a leak, their way and their treatment.
pub(crate) fn leaked_packets(leak: &Leak) -> String {
    let packets = counted(leak.packets, "packet", "packets");
    let Some((from, to)) = flow(leak) else {
        return format!("{packets} of other flows leaked");
    };
    format!(
        "{packets} {from} > {to} {} leaked to {}: {}",
        leak.protocol.as_deref().unwrap_or("?"),
        leak.interface.as_deref().unwrap_or("?"),
        leak.treatment.map_or("?", treatment)
    )
}

/// Both ends of a leaking flow, with their ports where there are any; `None`: the leak is of several flows.
fn flow(leak: &Leak) -> Option<(String, String)> {
    let (source, destination) = (leak.source?, leak.destination?);
    Some(match leak.ports {
        Some([from, to]) if leak.protocol.as_deref() != Some("icmpv6") => (
            format!("[{source}]:{from}"),
            format!("[{destination}]:{to}"),
        ),
        _ => (source.to_string(), destination.to_string()),
    })
}

const fn treatment(treatment: Treatment) -> &'static str {
    match treatment {
        Treatment::TooBig => "too big for the tunnel, sender informed",
        Treatment::Recursion => "dropped, the tunnel would carry its own outer packets",
        Treatment::NoTunnel => "dropped, the tunnel does not exist",
        treatment => treatment.name(),
    }
}

/// What is known about the sender of a leak.
pub(crate) fn sender(leak: &Leak) -> Vec<String> {
    let parts = [
        leak.uid.map(|uid| format!("uid {uid}")),
        leak.unit.clone(),
        leak.container.clone(),
        leak.mark.map(|mark| format!("mark {mark:#x}")),
        leak.bound_to
            .as_ref()
            .map(|interface| format!("socket bound to {interface}")),
        leak.forwarded_from
            .as_ref()
            .map(|interface| format!("forwarded from {interface}")),
    ];
    parts.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deprecation_names_the_first_addresses() {
        let shown = |deprecated, count: u16| {
            let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, last);
            about(&About::Deprecation {
                tunnel: "dsl0".into(),
                deprecated,
                addresses: (1..=count).map(address).collect(),
                reason: "why".into(),
            })
        };
        assert_eq!(shown(true, 1), "dsl0: deprecated 2001:db8:a::1: why");
        assert_eq!(
            shown(false, 6),
            "dsl0: preferred again: 2001:db8:a::1, 2001:db8:a::2, 2001:db8:a::3, 2001:db8:a::4 and 2 more: why"
        );
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
