//! Silent tunnels: nothing arrives from the far end, or outer packets arrive at an uplink and the kernel drops them before
//! the tunnel's software. The kernel counts some of its reasons. All this is evidence, so the findings are notes.

use std::collections::BTreeMap;

use super::{Finding, Verdict};

/// Counters of the kernel by name, such as `TcpExtIPReversePathFilter`.
pub type KernelCounters = BTreeMap<String, u64>;

/// Facts about silent tunnels.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// Tunnels to which nothing arrives, with the daemon's sentence.
    pub silent: Vec<(String, String)>,
    /// Tunnels whose outer packets arrive, and whose interfaces deliver nothing.
    pub undelivered: Vec<Undelivered>,
    /// The kernel's counters, and the same a moment later.
    pub counters: (KernelCounters, KernelCounters),
}

/// A tunnel whose interface delivers nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// The tunnel.
    pub tunnel: String,
    /// The daemon's sentence.
    pub sentence: String,
    /// Whether its outer packets have ports: they are UDP or TCP.
    pub has_ports: bool,
}

/// What a counter of dropped packets is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    Ports,
    OtherProtocols,
    Both,
}

impl About {
    const fn concerns(self, has_ports: bool) -> bool {
        match self {
            Self::Ports => has_ports,
            Self::OtherProtocols => !has_ports,
            Self::Both => true,
        }
    }
}

/// A counter of packets that the kernel drops: its name, what it is about, what it means, and the fix.
struct Reason {
    counter: &'static str,
    about: About,
    why: &'static str,
    fix: &'static str,
}

const fn reason(
    counter: &'static str,
    about: About,
    why: &'static str,
    fix: &'static str,
) -> Reason {
    Reason {
        counter,
        about,
        why,
        fix,
    }
}

const NO_SOCKET: &str =
    "no socket takes a UDP port: the tunnel's software does not run, or has another port";
const START: &str = "start the tunnel's software; `ss -uanp` lists the ports";
const NO_PROTOCOL: &str = "no software takes a protocol";
const LOAD: &str = "start the tunnel's software, or load its module: sit, ip_gre, ip6_tunnel";

#[rustfmt::skip] // one table is easier to read
const REASONS: [Reason; 9] = [
    reason("TcpExtIPReversePathFilter", About::Both, "a reverse path filter drops packets",
        "sysctl net.ipv4.conf.all.rp_filter=2, and the same for the uplink"),
    reason("UdpNoPorts", About::Ports, NO_SOCKET, START),
    reason("Udp6NoPorts", About::Ports, NO_SOCKET, START),
    reason("UdpRcvbufErrors", About::Ports, "the buffer of a socket is full",
        "look at the load of the tunnel's software"),
    reason("UdpInCsumErrors", About::Ports, "a UDP checksum is wrong",
        "look at the uplink's hardware and its offloads (`ethtool -k`)"),
    reason("IpInUnknownProtos", About::OtherProtocols, NO_PROTOCOL, LOAD),
    reason("Ip6InUnknownProtos", About::OtherProtocols, NO_PROTOCOL, LOAD),
    reason("IpInAddrErrors", About::Both, "packets are for an address that this host does not have",
        "give the uplink the outer address that the far end knows"),
    reason("IpReasmFails", About::Both, "fragments do not become whole packets",
        "lower the MTU of the tunnel at both ends"),
];

/// Reads `/proc/net/snmp` or `/proc/net/netstat`: lines of names, each followed by a line of values.
#[must_use]
pub fn counters(text: &str) -> KernelCounters {
    let mut counters = KernelCounters::new();
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let (Some((group, names)), Some((_, values))) =
            (names.split_once(':'), values.split_once(':'))
        else {
            continue;
        };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            if let Ok(value) = value.parse() {
                counters.insert(format!("{group}{name}"), value);
            }
        }
    }
    counters
}

/// Reads `/proc/net/snmp6`: a name and a value on each line.
#[must_use]
pub fn counters6(text: &str) -> KernelCounters {
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    });
    lines.collect()
}

pub(super) fn findings(delivery: &Delivery) -> Vec<Finding> {
    let silent = delivery.silent.iter().map(|(tunnel, sentence)| {
        let detail = format!("{tunnel}: {sentence}");
        let fix = "if the tunnel does not work either: look at the router before this host, and ask the far end";
        Finding::not("silent", Verdict::Note, detail, fix)
    });
    let undelivered = delivery.undelivered.iter();
    silent
        .chain(undelivered.flat_map(|tunnel| not_delivered(tunnel, &delivery.counters)))
        .collect()
}

/// The tunnel, and the counters that grew. Other packets of this host may have increased them.
fn not_delivered(
    tunnel: &Undelivered,
    (before, after): &(KernelCounters, KernelCounters),
) -> Vec<Finding> {
    let grown = |name: &str| {
        let then = before.get(name).copied().unwrap_or(0);
        after.get(name).copied().unwrap_or(0).saturating_sub(then)
    };
    let Undelivered {
        tunnel,
        sentence,
        has_ports,
    } = tunnel;
    let mut findings = Vec::new();
    let reasons = REASONS.iter();
    for reason in reasons.filter(|reason| reason.about.concerns(*has_ports)) {
        let times = grown(reason.counter);
        if times > 0 {
            let detail = format!(
                "{tunnel}: {sentence}. A possible reason, which the kernel counted {times} times in a second: {} ({})",
                reason.why, reason.counter
            );
            findings.push(Finding::not("delivery", Verdict::Note, detail, reason.fix));
        }
    }
    if findings.is_empty() {
        let detail = format!(
            "{tunnel}: {sentence}. No counter of the kernel grows that would show a reason, so a packet filter is likely"
        );
        let fix = "look at `nft list ruleset` or `iptables-save -c`, and at the log of the tunnel's software; of a \
                   native tunnel, `refused` in status has the packets that the daemon refused";
        findings.push(Finding::not("delivery", Verdict::Note, detail, fix));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNMP: &str =
        "Ip: Forwarding InUnknownProtos\nIp: 1 7\nUdp: InDatagrams NoPorts\nUdp: 100 3\n";

    #[test]
    fn counters_are_read_from_both_formats() {
        let found = counters(SNMP);
        assert_eq!((found["IpInUnknownProtos"], found["UdpNoPorts"]), (7, 3));
        let found = counters6("Ip6InReceives  \t12\nUdp6NoPorts    4\nno number\n");
        assert_eq!((found["Ip6InReceives"], found["Udp6NoPorts"]), (12, 4));
        for broken in ["", "Ip", "Ip: A B\n", "Ip: A B\nIp: x\n", "A\nB\n"] {
            assert_eq!(counters(broken), KernelCounters::new(), "{broken}");
        }
    }

    #[test]
    fn what_grows_is_a_possible_reason() {
        let before = counters(SNMP);
        let after = counters(&SNMP.replace("100 3", "150 33").replace("1 7", "1 9"));
        let undelivered = |has_ports| Undelivered {
            tunnel: "wg0".to_owned(),
            sentence: "a sentence".to_owned(),
            has_ports,
        };
        let found = |has_ports, after: &KernelCounters| {
            let delivery = Delivery {
                undelivered: vec![undelivered(has_ports)],
                counters: (before.clone(), after.clone()),
                ..Delivery::default()
            };
            let found = findings(&delivery);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].verdict, Verdict::Note);
            found[0].detail.clone()
        };
        let text = found(true, &after);
        assert!(text.contains("30 times in a second: no socket"), "{text}");
        let text = found(false, &after);
        assert!(text.contains("2 times in a second: no software"), "{text}");
        let text = found(true, &before);
        assert!(text.contains("a packet filter is likely"), "{text}");
        assert_eq!(findings(&Delivery::default()), []);
    }

    #[test]
    fn a_silent_tunnel_is_a_note() {
        let delivery = Delivery {
            silent: vec![("wg0".to_owned(), "nothing arrives".to_owned())],
            ..Delivery::default()
        };
        let found = findings(&delivery);
        assert_eq!((found.len(), found[0].about), (1, "silent"));
        assert_eq!(found[0].detail, "wg0: nothing arrives");
    }
}
