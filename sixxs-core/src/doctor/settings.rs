//! Sysctls that misdirect or drop packets.

use super::{Finding, Verdict};

/// Milliseconds between two errors to the same host: the kernel's default.
const USUAL_RATE_MS: u32 = 1000;

/// ICMPv6 types that must not be delayed: Packet Too Big and echo replies.
const PACKET_TOO_BIG: u32 = 2;
const ECHO_REPLY: u32 = 129;

/// `rp_filter`: accept only packets that arrive by the interface that leads to their source.
const STRICT: u32 = 1;

/// `accept_ra`: accept router advertisements also while forwarding.
const RA_ALWAYS: u32 = 2;

/// Kernel settings. `None`: the kernel does not report the value.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Interfaces on which IPv6 is disabled (`disable_ipv6`); may include `all` and `default`.
    pub disabled: Vec<String>,
    /// Whether the host forwards IPv6.
    pub forwarding: Option<bool>,
    /// Interfaces with networks behind this host that belong to a tunnel: the interface, and the
    /// tunnel.
    pub behind: Vec<(String, String)>,
    /// Native uplinks.
    pub uplinks: Vec<Uplink>,
    /// ICMPv6.
    pub icmp: Icmp,
    /// Paths of the tunnels' outer packets.
    pub outer: Vec<Outer>,
}

/// The settings of a native uplink for router advertisements.
#[derive(Clone, Debug, Default)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// `accept_ra`.
    pub accept_ra: Option<u32>,
    /// `forwarding`.
    pub forwarding: bool,
    /// Whether it has a permanent default route: not one from a router advertisement.
    pub has_lasting_default: bool,
}

/// `net.ipv6.icmp`.
#[derive(Clone, Debug, Default)]
pub struct Icmp {
    /// `echo_ignore_all`.
    pub echo_ignore_all: bool,
    /// Minimum time between two rate-limited messages to the same host, in milliseconds; 0: no
    /// limit.
    pub ratelimit_ms: Option<u32>,
    /// The rate-limited types, as the kernel writes them: `0-1,3-127`.
    pub ratemask: Option<String>,
}

/// The path of a tunnel's outer packets.
#[derive(Clone, Debug, Default)]
pub struct Outer {
    /// The tunnel.
    pub tunnel: String,
    /// The interface with the local outer address, by which the broker's packets arrive.
    pub comes_by: String,
    /// `rp_filter` there: the larger of its own value and that of `all`.
    pub rp_filter: u32,
    /// The interface that leads to the broker.
    pub leaves_by: String,
}

pub(super) fn findings(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in &settings.disabled {
        findings.push(Finding::not(
            "disable_ipv6",
            Verdict::Bad,
            format!("IPv6 is switched off for {name}"),
            format!("sysctl -w net.ipv6.conf.{}.disable_ipv6=0", key(name)),
        ));
    }
    if settings.forwarding == Some(false) {
        for (interface, tunnel) in &settings.behind {
            findings.push(Finding::not(
                "forwarding",
                Verdict::Bad,
                format!(
                    "{interface} has a network of {tunnel} behind it, and this host does not forward"
                ),
                "sysctl -w net.ipv6.conf.all.forwarding=1",
            ));
        }
    }
    findings.extend(settings.uplinks.iter().filter_map(uplink));
    findings.extend(icmp(&settings.icmp));
    findings.extend(settings.outer.iter().filter_map(outer));
    findings
}

fn uplink(uplink: &Uplink) -> Option<Finding> {
    let Uplink {
        name,
        accept_ra,
        forwarding,
        has_lasting_default,
    } = uplink;
    let is_deaf = *forwarding && accept_ra.is_some_and(|accept| accept < RA_ALWAYS);
    (is_deaf && !has_lasting_default).then(|| {
        Finding::not(
            "accept_ra",
            Verdict::Bad,
            format!(
                "{name} has no permanent default route, and while this host forwards, it accepts none from \
                 routers there"
            ),
            format!("sysctl -w net.ipv6.conf.{}.accept_ra=2", key(name)),
        )
    })
}

fn icmp(icmp: &Icmp) -> Vec<Finding> {
    const USUAL_MASK: &str = "sysctl -w net.ipv6.icmp.ratemask=0-1,3-127";
    let mut findings = Vec::new();
    if icmp.echo_ignore_all {
        findings.push(Finding::not(
            "echo",
            Verdict::Bad,
            "this host answers no ping: a broker considers its tunnels down",
            "sysctl -w net.ipv6.icmp.echo_ignore_all=0",
        ));
    }
    let rate = icmp.ratelimit_ms.unwrap_or_default();
    if rate == 0 {
        return findings;
    }
    let mask = icmp.ratemask.as_deref().unwrap_or_default();
    for (kind, what, harm) in [
        (
            ECHO_REPLY,
            "answers to pings",
            "a broker may consider its tunnels down",
        ),
        (
            PACKET_TOO_BIG,
            "Packet Too Big",
            "connections through this host may stall",
        ),
    ] {
        if covers(mask, kind) {
            findings.push(Finding::not(
                "icmp rate",
                Verdict::Bad,
                format!("{what} are sent once in {rate} ms at most: {harm}"),
                USUAL_MASK,
            ));
        }
    }
    if rate > USUAL_RATE_MS {
        findings.push(Finding::not(
            "icmp rate",
            Verdict::Note,
            format!(
                "errors are sent once in {rate} ms at most: clients of unreachable destinations wait for a \
                 time-out"
            ),
            format!("sysctl -w net.ipv6.icmp.ratelimit={USUAL_RATE_MS}"),
        ));
    }
    findings
}

fn outer(outer: &Outer) -> Option<Finding> {
    let Outer {
        tunnel,
        comes_by,
        rp_filter,
        leaves_by,
    } = outer;
    (*rp_filter == STRICT && comes_by != leaves_by).then(|| {
        Finding::not(
            "rp_filter",
            Verdict::Bad,
            format!(
                "packets of the broker of {tunnel} arrive by {comes_by}, and are dropped there, since \
                 the route to the broker leads out of {leaves_by}"
            ),
            // The larger of both values counts: 2 (loose) for the interface is more than 1 for all.
            format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", key(comes_by)),
        )
    })
}

/// An interface's name in the form that sysctl(8) accepts in a key.
fn key(name: &str) -> String {
    name.replace('.', "/")
}

/// Whether a list in the kernel's format, of numbers and ranges, contains this number.
pub(crate) fn covers(list: &str, number: u32) -> bool {
    list.trim().split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
            (Ok(first), Ok(last)) => (first..=last).contains(&number),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        for (list, expected) in [
            ("0-1,3-127", false),
            ("0-255\n", true),
            ("129", true),
            ("128,130-200", false),
            ("", false),
            ("-,x-y,999999999999", false),
        ] {
            assert_eq!(covers(list, ECHO_REPLY), expected, "{list}");
        }
    }

    #[test]
    fn a_dot_in_a_name_is_no_separator() {
        let facts = Settings {
            disabled: vec!["eth0.5".to_owned()],
            ..Settings::default()
        };
        let fixes: Vec<_> = findings(&facts).into_iter().filter_map(|f| f.fix).collect();
        assert_eq!(fixes, ["sysctl -w net.ipv6.conf.eth0/5.disable_ipv6=0"]);
    }

    #[test]
    fn a_router_needs_a_default_route_that_lasts() {
        for (accept_ra, forwarding, has_lasting_default, is_bad) in [
            (Some(0), true, false, true),
            (Some(1), true, false, true),
            (Some(2), true, false, false),
            (None, true, false, false),
            (Some(1), false, false, false),
            (Some(1), true, true, false),
        ] {
            let found = uplink(&Uplink {
                name: "net0".to_owned(),
                accept_ra,
                forwarding,
                has_lasting_default,
            });
            assert_eq!(found.is_some(), is_bad, "{accept_ra:?} {forwarding}");
        }
    }

    #[test]
    fn answers_have_a_rate_only_if_the_mask_covers_them() {
        for (rate, mask, expected) in [
            (None, "0-255", 0),
            (Some(0), "0-255", 0),
            (Some(1000), "0-1,3-127", 0),
            (Some(1000), "2", 1),
            (Some(1000), "129", 1),
            (Some(1000), "0-255", 2),
            (Some(1001), "0-255", 3),
            (Some(1001), "0-1,3-127", 1),
        ] {
            let found = icmp(&Icmp {
                ratelimit_ms: rate,
                ratemask: Some(mask.to_owned()),
                ..Icmp::default()
            });
            assert_eq!(found.len(), expected, "{rate:?} {mask}");
        }
    }

    #[test]
    fn only_a_strict_filter_on_another_way_drops() {
        for (rp_filter, leaves_by, is_bad) in [
            (0, "net0", false),
            (1, "net0", true),
            (2, "net0", false),
            (1, "net1.7", false),
        ] {
            let found = outer(&Outer {
                tunnel: "sixxs0".to_owned(),
                comes_by: "net1.7".to_owned(),
                rp_filter,
                leaves_by: leaves_by.to_owned(),
            });
            assert_eq!(found.is_some(), is_bad, "{rp_filter} {leaves_by}");
            let fix = found.and_then(|found| found.fix);
            let expected = "sysctl -w net.ipv4.conf.net1/7.rp_filter=2";
            assert!(fix.is_none_or(|fix| fix == expected));
        }
    }
}
