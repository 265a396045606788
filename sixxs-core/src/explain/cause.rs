//! Finds the reason why a packet with a tunnel's source leaves by the wrong interface, and the cure.
//!
//! It serves for real packets from kernel events, and for hypothetical ones.

use std::{fmt, net::Ipv6Addr};

use super::rules::{Action, Match, PolicyRule};
use crate::{
    routing::Rule,
    types::{IfName, PROTOCOL, TableId},
};

/// The known facts about the packet, and about the host.
#[derive(Clone, Debug)]
pub struct LeakFacts {
    /// The tunnel to which the packet's source belongs.
    pub tunnel: IfName,
    /// The interface that the sending socket is bound to.
    pub bound_to: Option<String>,
    /// The interface by which a forwarded packet arrived.
    pub forwarded_from: Option<String>,
    /// Whether the tunnel is configured and not stopped.
    pub wanted: bool,
    /// Whether a daemon runs; `None`: unknown.
    pub daemon: Option<bool>,
    /// The rule of sixxs that leads the packet to the tunnel's table.
    pub rule: Rule,
    /// Whether that rule exists.
    pub rule_in_place: bool,
    /// Whether the route of sixxs through the tunnel exists.
    pub route_in_place: bool,
    /// Whether its source is an address of this host.
    pub is_own_address: bool,
    /// The interface by which it leaves, if this has no global address.
    pub without_address: Option<String>,
    /// A foreign rule before the rules of sixxs that the packet matches
    /// ([`foreign_match`](super::rules::foreign_match)).
    pub before: Option<(PolicyRule, Match)>,
}

/// The reason why a packet leaves by the wrong interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The socket is bound to an interface, so rules that lead to another one have no effect.
    Bound {
        /// The interface.
        interface: String,
    },
    /// The tunnel was stopped.
    Stopped {
        /// The tunnel.
        tunnel: IfName,
    },
    /// A foreign rule comes before the rules of sixxs.
    Shadowed {
        /// That rule.
        rule: PolicyRule,
        /// Whether it certainly matches the packet; false: it may match.
        certain: bool,
    },
    /// The rule of sixxs is missing.
    RuleMissing {
        /// The rule.
        rule: Rule,
        /// Whether a daemon runs, which would restore it; `None`: unknown.
        daemon: Option<bool>,
        /// The interface by which a forwarded packet arrived.
        forwarded_from: Option<String>,
    },
    /// The route of sixxs through the tunnel is missing.
    RouteMissing {
        /// The tunnel.
        tunnel: IfName,
        /// Its table.
        table: TableId,
        /// Whether a daemon runs, which would restore it; `None`: unknown.
        daemon: Option<bool>,
    },
    /// The rule or route was missing, and has been restored since.
    PutBack {
        /// The process that removed it, if known.
        by: Option<String>,
    },
    /// The packet is an outer packet of the tunnel that its source belongs to.
    Recursion {
        /// The tunnel.
        tunnel: IfName,
        /// The destination of the outer packets: an address, with a port if there is one.
        endpoint: Endpoint,
    },
    /// The source was translated after the routing decision (NAT): the rules applied to the original source.
    Translated {
        /// The interface by which it arrived.
        from: String,
        /// The tunnel.
        tunnel: IfName,
        /// The tunnel's table.
        table: TableId,
    },
    /// The kernel chose the source after the route, for a socket without an address, because the interface
    /// has none.
    SourceChosen {
        /// The interface.
        interface: String,
    },
    /// The rules and routes are in place, but were not consulted.
    NotAsked,
}

/// The destination of outer packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: Ipv6Addr,
    /// The port; 0 for protocols without ports.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { address, port: 0 } => write!(f, "{address}"),
            Self { address, port } => write!(f, "[{address}]:{port}"),
        }
    }
}

/// Finds the reason why a packet leaves by the wrong interface.
#[must_use]
pub fn cause(facts: &LeakFacts) -> Cause {
    if let Some(interface) = &facts.bound_to {
        let interface = interface.clone();
        return Cause::Bound { interface };
    }
    // A forwarded packet has an address of this host as source only if it was translated here.
    if let (Some(from), true) = (&facts.forwarded_from, facts.is_own_address) {
        return Cause::Translated {
            from: from.clone(),
            tunnel: facts.tunnel.clone(),
            table: facts.rule.table,
        };
    }
    if !facts.wanted {
        let tunnel = facts.tunnel.clone();
        return Cause::Stopped { tunnel };
    }
    // A rule that may match is less probable as the cause than a missing rule or route.
    let shadowed_or_missing = shadowed(facts, Match::Yes)
        .or_else(|| missing(facts))
        .or_else(|| shadowed(facts, Match::Perhaps));
    if let Some(cause) = shadowed_or_missing {
        return cause;
    }
    match (&facts.forwarded_from, &facts.without_address) {
        (None, Some(interface)) => Cause::SourceChosen {
            interface: interface.clone(),
        },
        _ => Cause::NotAsked,
    }
}

/// The shadowing rule, if it matches the packet with this certainty.
fn shadowed(facts: &LeakFacts, wanted: Match) -> Option<Cause> {
    let (rule, how) = facts.before.as_ref()?;
    (*how == wanted).then(|| Cause::Shadowed {
        rule: rule.clone(),
        certain: *how == Match::Yes,
    })
}

/// The missing rule or route of sixxs, if one is missing.
fn missing(facts: &LeakFacts) -> Option<Cause> {
    let rule = facts.rule;
    if !facts.rule_in_place {
        return Some(Cause::RuleMissing {
            rule,
            daemon: facts.daemon,
            forwarded_from: facts.forwarded_from.clone(),
        });
    }
    (!facts.route_in_place).then(|| Cause::RouteMissing {
        tunnel: facts.tunnel.clone(),
        table: rule.table,
        daemon: facts.daemon,
    })
}

impl Cause {
    /// Its name in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Bound { .. } => "bound",
            Self::Stopped { .. } => "stopped",
            Self::Shadowed { .. } => "shadowed",
            Self::RuleMissing { .. } => "rule_missing",
            Self::RouteMissing { .. } => "route_missing",
            Self::PutBack { .. } => "put_back",
            Self::Recursion { .. } => "recursion",
            Self::Translated { .. } => "translated",
            Self::SourceChosen { .. } => "source_chosen",
            Self::NotAsked => "not_asked",
        }
    }

    /// The reason, as a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Bound { interface } => format!(
                "the socket is bound to {interface}, and its packets are never routed to the tunnel"
            ),
            Self::Stopped { tunnel } => format!("{tunnel} is stopped, and its rules are gone"),
            Self::Shadowed { rule, certain } => format!(
                "a foreign rule comes before the rules of sixxs and {}: {}: {rule}",
                effect(rule, *certain),
                rule.priority
            ),
            Self::RuleMissing {
                rule,
                forwarded_from,
                daemon,
            } => {
                let forwarded = forwarded_from.as_ref().map_or(String::new(), |from| {
                    format!(" for packets that arrive by {from}")
                });
                let Rule { from, table, .. } = rule;
                format!(
                    "the rule from {from} to table {table}{forwarded} is missing{}",
                    not_restored(*daemon)
                )
            }
            Self::RouteMissing {
                tunnel,
                table,
                daemon,
            } => format!(
                "table {table} has no route through {tunnel}{}",
                not_restored(*daemon)
            ),
            Self::Translated { from, .. } => format!(
                "it arrived by {from} with another source, by which its route was chosen; NAT put the tunnel's \
                 address there afterwards"
            ),
            Self::SourceChosen { interface } => format!(
                "the socket has no address, and {interface} has no global one: the kernel chose the route first, \
                 and the tunnel's address afterwards"
            ),
            Self::PutBack { by } => {
                let by = by
                    .as_ref()
                    .map_or(String::new(), |by| format!(", removed by {by}"));
                format!("its rule or route was missing a moment ago{by}, and has been restored")
            }
            Self::Recursion { tunnel, endpoint } => format!(
                "they are the outer packets of a tunnel, to {endpoint}, and have an address of {tunnel}: redirected \
                 into {tunnel} they would come back, each time longer"
            ),
            Self::NotAsked => {
                "the rules are in place and were not consulted: they were restored since, or the \
                               sender chose the interface packet by packet"
                    .to_owned()
            }
        }
    }

    /// The cure, in one line.
    #[must_use]
    pub fn cure(&self) -> String {
        match self {
            Self::Bound { interface } => {
                format!("bind the program to the address, not to {interface}")
            }
            Self::Stopped { tunnel } => format!("sixxs start {tunnel}"),
            Self::Shadowed {
                rule,
                certain: true,
            } => rule.cures(),
            Self::Shadowed { rule, .. } => match rule.behind_ours() {
                Some(moves) => format!("move it behind the rules of sixxs: {moves}"),
                None => rule.command("del"),
            },
            Self::Translated {
                from,
                tunnel,
                table,
            } => format!(
                "route replies by the mark of their connection: nft add table inet sixxs-nat; \
                 nft add chain inet sixxs-nat in '{{ type filter hook prerouting priority mangle; }}'; \
                 nft add rule inet sixxs-nat in iifname {tunnel} ct mark set {table}; \
                 nft add rule inet sixxs-nat in iifname {from} meta mark set ct mark; \
                 ip -6 rule add fwmark {table} lookup {table}"
            ),
            Self::SourceChosen { interface } => {
                format!("give {interface} a global address, or bind the program to an address")
            }
            Self::RuleMissing {
                daemon: Some(false),
                ..
            }
            | Self::RouteMissing {
                daemon: Some(false),
                ..
            } => "sixxs run".to_owned(),
            Self::RuleMissing { rule, .. } => format!(
                "ip -6 rule add from {} lookup {} priority {} protocol {PROTOCOL}",
                rule.from, rule.table, rule.priority
            ),
            Self::RouteMissing { .. } => {
                "sixxs plan shows the route; sixxs status shows what prevents it".to_owned()
            }
            Self::PutBack { by: Some(by) } => {
                format!("have {by} leave rules and routes of protocol {PROTOCOL} alone")
            }
            Self::PutBack { by: None } => "sixxs alerts lists what was restored".to_owned(),
            Self::Recursion { endpoint, .. } => {
                let to = endpoint.address;
                format!(
                    "the outer packets need another source address: give the uplink a global one, or the route to \
                     the endpoint one that is no tunnel's: ip -6 route add {to} via GATEWAY dev UPLINK src ADDRESS"
                )
            }
            Self::NotAsked => {
                "sixxs alerts --follow: corrections there name the process that removes rules"
                    .to_owned()
            }
        }
    }
}

fn not_restored(daemon: Option<bool>) -> &'static str {
    match daemon {
        Some(false) => ", and no daemon runs that would restore it",
        Some(true) | None => "",
    }
}

/// What a foreign rule does with the packet.
const fn effect(rule: &PolicyRule, certain: bool) -> &'static str {
    match (&rule.action, certain) {
        (Action::Refuse(_), true) => "refuses it",
        (Action::Refuse(_), false) => "may refuse it",
        (_, true) => "routes it elsewhere",
        (_, false) => "may route it elsewhere",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        explain::rules::{Action, Selector},
        types::RulePriority,
    };

    fn healthy() -> LeakFacts {
        LeakFacts {
            tunnel: "sixxs0".parse().unwrap(),
            bound_to: None,
            forwarded_from: None,
            wanted: true,
            daemon: Some(true),
            rule: Rule {
                priority: RulePriority(16383),
                from: "2001:db8:a::2".parse().unwrap(),
                to: None,
                table: TableId(200),
                no_default: false,
            },
            rule_in_place: true,
            route_in_place: true,
            is_own_address: true,
            without_address: None,
            before: None,
        }
    }

    fn foreign_rule(how: Match) -> Option<(PolicyRule, Match)> {
        let rule = PolicyRule {
            priority: RulePriority(100),
            is_ours: false,
            selector: Selector {
                mark: Some((0x77, u32::MAX)),
                ..Selector::ALL
            },
            action: Action::Lookup(TableId(254), None),
        };
        Some((rule, how))
    }

    #[test]
    #[rustfmt::skip] // one table is easier to read
    fn every_cause_has_a_sentence_and_a_cure() {
        type Set = fn(&mut LeakFacts);
        let cases: [(&str, &str, &str, Set); 12] = [
            ("not_asked", "were not consulted", "alerts", |_| {}),
            ("translated", "arrived by br0 with another source", "nft add rule inet sixxs-nat in iifname sixxs0 ct mark set 200", |c| c.forwarded_from = Some("br0".into())),
            ("source_chosen", "net0 has no global one", "give net0 a global address", |c| c.without_address = Some("net0".into())),
            ("bound", "bound to net0", "bind the program to the address", |c| c.bound_to = Some("net0".into())),
            ("stopped", "sixxs0 is stopped", "sixxs start sixxs0", |c| c.wanted = false),
            ("shadowed", "routes it elsewhere: 100: from all fwmark 0x77", "rule del from all fwmark 0x77 lookup main priority 100", |c| c.before = foreign_rule(Match::Yes)),
            ("shadowed", "may route", "move it behind the rules of sixxs: ip -6 rule add from all fwmark 0x77 lookup main priority 32765 && ip -6 rule del", |c| c.before = foreign_rule(Match::Perhaps)),
            ("rule_missing", "from 2001:db8:a::2 to table 200 is missing", "rule add from 2001:db8:a::2 lookup 200 priority 16383 protocol 116", |c| c.rule_in_place = false),
            ("rule_missing", "no daemon runs", "sixxs run", |c| { c.rule_in_place = false; c.daemon = Some(false); }),
            ("rule_missing", "arrive by lan1", "rule add", |c| { c.is_own_address = false; c.rule_in_place = false; c.forwarded_from = Some("lan1".into()); }),
            ("route_missing", "table 200 has no route through sixxs0", "sixxs plan", |c| c.route_in_place = false),
            // A possible cause is reported only if there is no certain one.
            ("rule_missing", "is missing", "rule add", |c| { c.rule_in_place = false; c.before = foreign_rule(Match::Perhaps); }),
        ];
        for (name, sentence, cure, set) in cases {
            let mut leak_facts = healthy();
            set(&mut leak_facts);
            let cause = cause(&leak_facts);
            assert_eq!(cause.name(), name, "{cause:?}");
            assert!(cause.sentence().contains(sentence), "{}", cause.sentence());
            assert!(cause.cure().contains(cure), "{}", cause.cure());
            assert!(!cause.sentence().contains('\n') && !cause.cure().contains('\n'));
        }
    }

    #[test]
    fn what_was_restored_is_told_with_its_remover() {
        for (by, sentence, cure) in [
            (
                Some("networkd".to_owned()),
                "its rule or route was missing a moment ago, removed by networkd, and has been restored",
                "have networkd leave rules and routes of protocol 116 alone",
            ),
            (
                None,
                "its rule or route was missing a moment ago, and has been restored",
                "sixxs alerts lists what was restored",
            ),
        ] {
            let cause = Cause::PutBack { by };
            assert_eq!(cause.name(), "put_back");
            assert_eq!(cause.sentence(), sentence);
            assert_eq!(cause.cure(), cure);
        }
    }

    #[test]
    fn an_endpoint_without_a_port_is_an_address() {
        let address = "2001:db8::1".parse().unwrap();
        for (port, expected) in [(0, "2001:db8::1"), (5072, "[2001:db8::1]:5072")] {
            assert_eq!(Endpoint { address, port }.to_string(), expected);
        }
    }

    #[test]
    fn a_jump_that_may_match_is_removed() {
        let Some((rule, _)) = foreign_rule(Match::Perhaps) else {
            panic!("there is a rule");
        };
        let jump = PolicyRule {
            action: Action::Goto(RulePriority(20_000)),
            ..rule
        };
        let cause = Cause::Shadowed {
            rule: jump.clone(),
            certain: false,
        };
        assert_eq!(cause.cure(), jump.command("del"));
    }

    /// Which of several causes is named: the first in this list.
    #[test]
    fn one_cause_hides_the_next() {
        type Set = fn(&mut LeakFacts);
        let causes: [(&str, Set); 7] = [
            ("bound", |c| c.bound_to = Some("net0".into())),
            ("stopped", |c| c.wanted = false),
            ("shadowed", |c| c.before = foreign_rule(Match::Yes)),
            ("rule_missing", |c| c.rule_in_place = false),
            ("route_missing", |c| c.route_in_place = false),
            ("source_chosen", |c| c.without_address = Some("net0".into())),
            ("not_asked", |_| {}),
        ];
        for (place, (name, _)) in causes.iter().enumerate() {
            let mut facts = healthy();
            causes[place..].iter().for_each(|(_, set)| set(&mut facts));
            assert_eq!(cause(&facts).name(), *name);
        }
        // A forwarded packet has its source before it is routed.
        let mut facts = healthy();
        facts.is_own_address = false;
        facts.forwarded_from = Some("lan1".to_owned());
        facts.without_address = Some("net0".to_owned());
        assert_eq!(cause(&facts).name(), "not_asked");
    }
}
