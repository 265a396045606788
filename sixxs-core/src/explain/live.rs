//! What the kernel did with a packet that this host really sent, beside the prediction (`sixxs explain --live`).

use sixxs_common::inside_test::Way;

use super::path::{Facts, Program, RoutingDecision};
use crate::inside_test::drops::DropEvent;

/// The loopback interface, to which the kernel routes packets for this host.
const LOOPBACK: &str = "lo";

/// What became of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The kernel refuses to send it, with its error.
    Refused(String),
    /// A program received it at the interface that it was about to leave by, and dropped it there; or `sixxs_hold` did.
    Seen(Way),
    /// Something else dropped it; `None`: the kernel does not report what did.
    Lost(Option<DropEvent>),
}

/// What the kernel did with the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// The interface that it was routed to; `None`: it did not pass the routing.
    pub interface: Option<String>,
    /// What became of it.
    pub fate: Fate,
    /// Why the kernel's drop reasons are not known, as a message.
    pub untraced: Option<String>,
}

/// What the kernel did, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The word for scripts.
    pub outcome: &'static str,
    /// The sentence.
    pub sentence: String,
    /// What to do, if it was dropped.
    pub cure: Option<String>,
    /// How it differs from the prediction; `None`: it does not.
    pub difference: Option<String>,
}

/// Describes what the kernel did, and compares it with the prediction.
#[must_use]
pub fn compare(facts: &Facts, live: &Live) -> Comparison {
    let (outcome, sentence, cure) = describe(live);
    let predicted = Predicted::of(facts);
    let difference = (!predicted.has(live)).then(|| {
        format!(
            "predicted: {predicted}. Other software may change packets behind the routing (a chain of type route, a mangle table, NAT, an IPsec policy); \
             else this is a bug of sixxs"
        )
    });
    let sentence = match &live.untraced {
        Some(reason) if matches!(live.fate, Fate::Lost(None)) => {
            format!("{sentence} (the kernel's reasons are not known: {reason})")
        }
        _ => sentence,
    };
    Comparison {
        outcome,
        sentence,
        cure,
        difference,
    }
}

fn describe(live: &Live) -> (&'static str, String, Option<String>) {
    let at = live.interface.as_deref().unwrap_or("no interface");
    let program = |does: &str| format!("routed to {at}, where the program {does}");
    match &live.fate {
        Fate::Refused(error) => ("refused", format!("the kernel refuses it: {error}"), None),
        Fate::Seen(Way::Own) => ("leaves", program("finds it to be the tunnel's own"), None),
        Fate::Seen(Way::Exempt) => ("leaves", program("lets it leave"), None),
        Fate::Seen(Way::Leak) => ("leaks", program("finds a leak"), None),
        Fate::Seen(Way::Loop) => (
            "dropped",
            program("drops it: a tunnel would route it back"),
            None,
        ),
        Fate::Seen(Way::Unknown) => ("leaves", program("knows no tunnel with its source"), None),
        Fate::Seen(Way::Held) if at == LOOPBACK => ("stays", "stays on this host".to_owned(), None),
        Fate::Seen(Way::Held) => (
            "leaves",
            format!("routed to {at}, where no program decides about it"),
            None,
        ),
        Fate::Lost(Some(drop)) => {
            let (what, cure) = dropped(drop, at);
            ("dropped", format!("{drop}: {what}"), Some(cure))
        }
        Fate::Lost(None) if live.interface.is_some() => (
            "late",
            format!("routed to {at}, and got to no program there: its next hop may not answer"),
            Some(format!(
                "ip -6 neigh show dev {at}; tc filter show dev {at} egress"
            )),
        ),
        Fate::Lost(None) => (
            "dropped",
            "dropped before it passed the routing".to_owned(),
            Some("nft list ruleset; ip xfrm policy list".to_owned()),
        ),
    }
}

/// A kernel's reason, what it means for a packet that leaves, and what shows more; `{}` stands for the interface.
type Row = (&'static str, &'static str, &'static str);

/// The reasons with a meaning of their own.
const REASONS: &[Row] = &[
    (
        "NETFILTER_DROP",
        "a packet filter drops it",
        "nft list ruleset shows the chains at output and postrouting",
    ),
    (
        "BPF_CGROUP_EGRESS",
        "a program of other software at a control group drops it",
        "bpftool cgroup tree shows the programs",
    ),
    (
        "TC_EGRESS",
        "a program or filter of other software at the egress of {} drops it",
        "tc filter show dev {} egress; bpftool net show",
    ),
];

/// What a drop means, and what shows more.
fn dropped(drop: &DropEvent, interface: &str) -> (String, String) {
    let known = REASONS.iter().find(|(reason, ..)| *reason == drop.reason);
    let (_, what, cure) = known.copied().unwrap_or((
        "",
        "the kernel drops it",
        "sixxs doctor looks for what may drop it",
    ));
    let named = |text: &str| text.replace("{}", interface);
    (named(what), named(cure))
}

/// The prediction for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Predicted {
    /// The kernel refuses it.
    Refused,
    /// It is routed to this interface; the program there does this. `None`: it decides nothing.
    Routed(String, Option<Way>),
    /// It is routed to this interface; what the program there does is unknown.
    Unknown(String),
}

impl std::fmt::Display for Predicted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused => f.write_str("the kernel refuses it"),
            Self::Routed(interface, way) => {
                let does = match way {
                    Some(Way::Own) => "where the program finds it to be the tunnel's own",
                    Some(Way::Exempt) => "where the program lets it leave",
                    Some(Way::Leak) => "where the program finds a leak",
                    Some(Way::Loop) => "where the program drops it",
                    Some(Way::Unknown | Way::Held) | None => "where no program decides about it",
                };
                write!(f, "routed to {interface}, {does}")
            }
            Self::Unknown(interface) => write!(f, "routed to {interface}"),
        }
    }
}

impl Predicted {
    fn of(facts: &Facts) -> Self {
        let route = match &facts.decision {
            RoutingDecision::Refused(_) => return Self::Refused,
            RoutingDecision::Here(_) => return Self::Routed(LOOPBACK.to_owned(), None),
            RoutingDecision::Out(route) => route,
        };
        if facts.bytes.is_some_and(|bytes| bytes > route.mtu.0) {
            return Self::Refused;
        }
        let interface = route.interface.to_string();
        match &facts.program {
            Program::None => Self::Routed(interface, None),
            Program::Unknown(_) => Self::Unknown(interface),
            Program::Attached(decided) => {
                let way = decided.verdict.map(Way::of);
                Self::Routed(interface, way.filter(decides))
            }
        }
    }

    /// Whether the kernel did this. A packet that something else dropped passed the routing before, or did not get there.
    fn has(&self, live: &Live) -> bool {
        let is_routed_to = |interface: &String| live.interface.as_ref() == Some(interface);
        match (self, &live.fate) {
            (Self::Refused, fate) => matches!(fate, Fate::Refused(_)),
            (_, Fate::Refused(_)) => false,
            (Self::Routed(to, _) | Self::Unknown(to), Fate::Lost(_)) => {
                live.interface.is_none() || is_routed_to(to)
            }
            (Self::Unknown(to), Fate::Seen(_)) => is_routed_to(to),
            (Self::Routed(to, predicted), Fate::Seen(way)) => {
                is_routed_to(to) && *predicted == Some(*way).filter(decides)
            }
        }
    }
}

/// Whether the program decides about a packet on this way. Else it passes there, or `sixxs_hold` drops it before.
const fn decides(way: &Way) -> bool {
    !matches!(way, Way::Unknown | Way::Held)
}

#[cfg(test)]
mod tests {
    use sixxs_common::{decide::Verdict, treatment::OnLeak};

    use super::*;
    use crate::explain::path::tests::{facts, reached};

    fn live(interface: Option<&str>, fate: Fate) -> Live {
        Live {
            interface: interface.map(str::to_owned),
            fate,
            untraced: None,
        }
    }

    /// The prediction for a packet that the program at an interface decides about like this.
    fn decided(interface: &str, verdict: Verdict) -> Facts {
        facts(interface, verdict, reached(verdict, OnLeak::Redirect, 7))
    }

    fn bare(interface: &str) -> Facts {
        facts(interface, Verdict::NotOurs, Program::None)
    }

    #[test]
    fn the_same_decision_is_no_difference() {
        let own = decided("sixxs0", Verdict::Own);
        let leak = decided("net0", Verdict::Leak(3));
        let other = decided("net0", Verdict::NotOurs);
        let bare_one = bare("eth7");
        let mut refused = bare("net0");
        refused.decision = RoutingDecision::Refused("no route".to_owned());
        for (facts, seen, outcome) in [
            (&own, live(Some("sixxs0"), Fate::Seen(Way::Own)), "leaves"),
            (&leak, live(Some("net0"), Fate::Seen(Way::Leak)), "leaks"),
            (&other, live(Some("net0"), Fate::Seen(Way::Held)), "leaves"),
            (
                &other,
                live(Some("net0"), Fate::Seen(Way::Unknown)),
                "leaves",
            ),
            (
                &bare_one,
                live(Some("eth7"), Fate::Seen(Way::Held)),
                "leaves",
            ),
            (
                &refused,
                live(None, Fate::Refused("no".to_owned())),
                "refused",
            ),
            (&own, live(Some("sixxs0"), Fate::Lost(None)), "late"),
        ] {
            let compared = compare(facts, &seen);
            assert_eq!(
                (compared.outcome, compared.difference),
                (outcome, None),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn another_decision_is_a_difference() {
        let own = decided("sixxs0", Verdict::Own);
        for seen in [
            live(Some("net0"), Fate::Seen(Way::Leak)),
            live(Some("sixxs0"), Fate::Seen(Way::Held)),
            live(None, Fate::Refused("no".to_owned())),
            live(Some("net0"), Fate::Lost(None)),
        ] {
            let difference = compare(&own, &seen).difference.unwrap();
            assert!(
                difference.contains("predicted: routed to sixxs0"),
                "{difference}"
            );
        }
    }

    #[test]
    fn a_packet_that_is_too_big_is_refused() {
        let mut facts = bare("sixxs0");
        facts.bytes = Some(60_000);
        let seen = live(None, Fate::Refused("Message too long".to_owned()));
        assert_eq!(compare(&facts, &seen).difference, None);
    }

    #[test]
    fn drops_are_explained() {
        let drop = |reason: &str| {
            Fate::Lost(Some(DropEvent {
                reason: reason.to_owned(),
                location: Some("f".to_owned()),
            }))
        };
        let own = bare("sixxs0");
        for (reason, words) in [
            ("NETFILTER_DROP", "packet filter"),
            ("TC_EGRESS", "egress of sixxs0"),
            ("BPF_CGROUP_EGRESS", "control group"),
            (
                "NEWER_THAN_THIS",
                "NEWER_THAN_THIS at f: the kernel drops it",
            ),
        ] {
            let compared = compare(&own, &live(Some("sixxs0"), drop(reason)));
            assert!(compared.sentence.contains(words), "{}", compared.sentence);
            assert!(compared.sentence.starts_with(reason) && compared.cure.is_some());
        }
        let untraced = Live {
            untraced: Some("no tracefs".to_owned()),
            ..live(None, Fate::Lost(None))
        };
        assert!(compare(&own, &untraced).sentence.contains("no tracefs"));
    }
}
