//! Packet filters that check the reverse path of a packet's source: `fib saddr . iif oif missing drop`,
//! as firewalld has it (`IPv6_rpfilter`), and `-m rpfilter` of ip6tables.
//!
//! For a packet that arrives by a tunnel, the kernel looks up the reverse path with the rules of sixxs, as it
//! does for the answer. So such a filter accepts the packets while the rules are in place. Without the
//! rules it drops all of them, although the programs would still redirect the answers. At an uplink, it
//! drops packets to a tunnel's address while the rules are in place. These are answers to sockets that
//! are bound to the uplink, which the programs steer there.

use super::{
    Finding, Verdict,
    ruleset::{self, Chain, Dropped},
};

/// Facts about packet filters.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// All chains that may decide about incoming packets.
    pub chains: Vec<Chain>,
    /// Rule sets that could not be listed.
    pub not_listed: Vec<NotListed>,
    /// The tunnels.
    pub tunnels: Vec<Tunnel>,
    /// The uplinks' names.
    pub uplinks: Vec<String>,
}

/// A rule set that could not be listed.
#[derive(Clone, Debug)]
pub struct NotListed {
    /// The command that lists it.
    pub asked: &'static str,
    /// The reason; `None`: there is something to list, but the command is missing.
    pub why: Option<String>,
}

/// A tunnel.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// Its interface.
    pub name: String,
    /// Whether answers to packets that arrive by it are routed back to it.
    pub is_led_back: bool,
}

/// A filter, and the interfaces that it affects.
struct Hit<'a> {
    dropped: Dropped<'a>,
    tunnels: Vec<&'a Tunnel>,
    uplinks: Vec<&'a str>,
}

pub(super) fn findings(filters: &Filters) -> Vec<Finding> {
    let mut findings: Vec<_> = filters.not_listed.iter().map(not_listed).collect();
    for hit in &mut hits(filters) {
        // Without rules, no packet is routed to another interface.
        if filters.tunnels.iter().all(|tunnel| !tunnel.is_led_back) {
            hit.uplinks.clear();
        }
        findings.extend(of_tunnels(hit).or_else(|| of_uplinks(hit)));
    }
    findings
}

/// Each filter that drops packets of tunnels or uplinks, once.
fn hits(filters: &Filters) -> Vec<Hit<'_>> {
    let mut hits: Vec<Hit<'_>> = Vec::new();
    for tunnel in &filters.tunnels {
        for dropped in ruleset::reverse_filters(&filters.chains, &tunnel.name) {
            hit_at(&mut hits, dropped).tunnels.push(tunnel);
        }
    }
    for uplink in &filters.uplinks {
        for dropped in ruleset::reverse_filters(&filters.chains, uplink) {
            hit_at(&mut hits, dropped).uplinks.push(uplink);
        }
    }
    hits
}

fn hit_at<'a, 'b>(hits: &'b mut Vec<Hit<'a>>, dropped: Dropped<'a>) -> &'b mut Hit<'a> {
    let at = match hits.iter().position(|hit| hit.dropped == dropped) {
        Some(at) => at,
        None => {
            hits.push(Hit {
                dropped,
                tunnels: Vec::new(),
                uplinks: Vec::new(),
            });
            hits.len() - 1
        }
    };
    &mut hits[at]
}

fn not_listed(not_listed: &NotListed) -> Finding {
    let NotListed { asked, why } = not_listed;
    let (detail, fix) = match why {
        Some(why) => (
            format!("packet filters were not checked: {why}"),
            format!("run it as root; it runs {asked}"),
        ),
        None => (
            format!("packet filters of ip6tables were not checked: there is no {asked}"),
            "apt-get install iptables".to_owned(),
        ),
    };
    Finding::not("filters", Verdict::Note, detail, fix)
}

fn of_tunnels(hit: &Hit<'_>) -> Option<Finding> {
    let names = |tunnels: &[&Tunnel]| {
        let names: Vec<_> = tunnels.iter().map(|tunnel| tunnel.name.as_str()).collect();
        names.join(" and ")
    };
    let tunnels = hit.tunnels.iter().copied();
    let cut_off: Vec<_> = tunnels.filter(|tunnel| !tunnel.is_led_back).collect();
    let (verdict, says) = match (hit.tunnels.as_slice(), cut_off.as_slice()) {
        ([], _) => return None,
        (all, []) => (
            Verdict::Note,
            format!(
                "would drop packets that arrive by {} as soon as the rules of sixxs are missing",
                names(all)
            ),
        ),
        (_, cut_off) => (
            Verdict::Bad,
            format!(
                "drops packets that arrive by {}, since no rule routes the answers there",
                names(cut_off)
            ),
        ),
    };
    let already = match hit.uplinks.as_slice() {
        [] => String::new(),
        uplinks => format!("; and {}", drops_answers(uplinks)),
    };
    let hit_by_name: Vec<_> = hit.tunnels.iter().map(|t| t.name.as_str()).collect();
    Some(Finding::not(
        "filters",
        verdict,
        format!("a packet filter ({}) {says}{already}", hit.dropped.place()),
        hit.dropped.exception(&hit_by_name),
    ))
}

/// No exception for the uplink: it would accept forged sources. So the fix changes the sockets instead.
fn of_uplinks(hit: &Hit<'_>) -> Option<Finding> {
    let uplinks = hit.uplinks.as_slice();
    (!uplinks.is_empty()).then(|| {
        Finding::not(
            "filters",
            Verdict::Note,
            format!(
                "a packet filter ({}) {}",
                hit.dropped.place(),
                drops_answers(uplinks)
            ),
            format!(
                "bind programs to the address, not to {}",
                uplinks.join(" and ")
            ),
        )
    })
}

fn drops_answers(uplinks: &[&str]) -> String {
    format!(
        "drops answers to sockets that are bound to {} and have a tunnel's address, since they arrive there",
        uplinks.join(" and ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::ruleset::{
        Action, Condition, Home, Interfaces, Policy, Reverse, Rule, Tool,
    };

    /// The findings for a rule that drops packets from interfaces like `names` without a reverse path.
    fn found(names: &str) -> Vec<(Verdict, String)> {
        let conditions = vec![
            Condition::Incoming(Interfaces {
                not: false,
                names: vec![names.to_owned()],
            }),
            Condition::Reverse(Reverse::Strict, false),
        ];
        let filters = Filters {
            chains: vec![Chain {
                home: Home {
                    tool: Tool::Nft,
                    family: "inet".to_owned(),
                    table: "t".to_owned(),
                },
                name: "c".to_owned(),
                base: Some(Policy::Accept),
                rules: vec![Rule {
                    number: 4,
                    conditions,
                    action: Action::Drop,
                }],
            }],
            not_listed: Vec::new(),
            tunnels: [("sixxs0", false), ("sixxs1", true)]
                .map(|(name, is_led_back)| Tunnel {
                    name: name.to_owned(),
                    is_led_back,
                })
                .to_vec(),
            uplinks: vec!["net0".to_owned()],
        };
        let findings = findings(&filters).into_iter();
        findings
            .map(|finding| (finding.verdict, finding.detail))
            .collect()
    }

    #[test]
    fn reverse_path_filters_are_judged_by_interface() {
        let place = "a packet filter (inet t c, handle 4)";
        for (names, verdict, detail) in [
            (
                "sixxs*",
                Verdict::Bad,
                "drops packets that arrive by sixxs0, since no rule routes the answers there",
            ),
            (
                "sixxs1",
                Verdict::Note,
                "would drop packets that arrive by sixxs1 as soon as the rules of sixxs are missing",
            ),
            (
                "net0",
                Verdict::Note,
                "drops answers to sockets that are bound to net0 and have a tunnel's address, since \
                 they arrive there",
            ),
        ] {
            let expected = (verdict, format!("{place} {detail}"));
            assert_eq!(found(names), [expected], "{names}");
        }
        assert_eq!(found("*").len(), 1);
        assert_eq!(found("ppp0"), []);
    }
}
