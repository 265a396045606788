use sixxs_common::{layout::Tunnel, treatment::OnLeak};

use super::*;
use crate::{
    explain::{
        Endpoint,
        rules::{Action, Match, Selector},
    },
    routing::Rule,
    types::RulePriority,
};

const LEAK: Verdict = Verdict::Leak(0);

pub(in crate::explain) fn facts(interface: &str, verdict: Verdict, program: Program) -> Facts {
    let tunnel: IfName = "sixxs0".parse().unwrap();
    let own: Prefix = "2001:db8:a::2".parse().unwrap();
    let rule = Rule {
        priority: RulePriority(16383),
        from: own,
        to: None,
        table: TableId(200),
        no_default: false,
    };
    Facts {
        packet: Packet {
            source: own.address(),
            destination: "2001:db8:ffff::9".parse().unwrap(),
            uid: Some(0),
            mark: Some(0),
            iif: None,
            oif: None,
        },
        bytes: None,
        owner: Some((tunnel.clone(), own)),
        is_tunnel_up: true,
        silent: None,
        rules: vec![PolicyRule {
            priority: RulePriority(32766),
            is_ours: false,
            selector: Selector::ALL,
            action: Action::Lookup(TableId(254), None),
        }],
        decision: RoutingDecision::Out(Route {
            table: TableId(254),
            destination: Prefix::ALL,
            from: Prefix::ALL,
            metric: Metric(1024),
            gateway: Some("fe80::1".parse().unwrap()),
            interface: interface.parse().unwrap(),
            mtu: Mtu(1500),
        }),
        is_unnamed_exit: false,
        verdict: Some(verdict),
        program,
        leak_facts: Some(LeakFacts {
            tunnel,
            bound_to: None,
            forwarded_from: None,
            wanted: true,
            daemon: Some(true),
            rule,
            rule_in_place: false,
            route_in_place: true,
            is_own_address: true,
            without_address: None,
            before: None,
        }),
    }
}

pub(in crate::explain) fn reached(verdict: Verdict, on_leak: OnLeak, ifindex: u32) -> Program {
    Program::Attached(Decided {
        verdict: Some(verdict),
        tunnel: Tunnel {
            ifindex,
            mtu: 1400,
            on_leak: on_leak.raw(),
            ..Tunnel::default()
        },
        name: "sixxs0".parse().ok(),
        recursion: None,
    })
}

#[test]
#[rustfmt::skip] // one table is easier to read
fn every_outcome_is_explained() {
    use Outcome::{Caught, Dropped, Leaks, Leaves, Refused, Stays, TooBig};
    type Set = fn(&mut Facts);
    let none: Set = |_| {};
    let big: Set = |f| f.bytes = Some(1501);
    let cases = [
        (Leaves, "leaves by sixxs0 through fe80::1; replies reach", facts("sixxs0", Verdict::Own, Program::None), none),
        (Leaves, "reached without the tunnel", facts("net0", Verdict::Exempt, Program::None), none),
        (Leaves, "its source belongs to no tunnel", facts("net0", Verdict::NotOurs, Program::None), none),
        (Leaks, "the broker drops it", facts("sixxs0", Verdict::Stray, Program::None), none),
        (Dropped, "the program drops it", facts("sixxs0", Verdict::Loop, reached(Verdict::Loop, OnLeak::Redirect, 0)), none),
        (Leaks, "would route it back", facts("sixxs0", Verdict::Loop, Program::None), none),
        (TooBig, "EMSGSIZE", facts("sixxs0", Verdict::Own, Program::None), big),
        (Leaks, "would leak by net0: the rule from 2001:db8:a::2", facts("net0", LEAK, Program::None), none),
        (Leaks, "unless a program is there", facts("net0", LEAK, Program::Unknown("not permitted".into())), none),
        (Caught, "program redirects it into sixxs0: the rule", facts("net0", LEAK, reached(LEAK, OnLeak::Redirect, 7)), none),
        (Dropped, "on_leak", facts("net0", LEAK, reached(LEAK, OnLeak::Drop, 7)), none),
        (Leaks, "counted", facts("net0", LEAK, reached(LEAK, OnLeak::Observe, 7)), none),
        (Dropped, "sixxs0 does not exist", facts("net0", LEAK, reached(LEAK, OnLeak::Redirect, 0)), none),
        (TooBig, "Packet Too Big, mtu 1400", facts("net0", LEAK, reached(LEAK, OnLeak::Redirect, 7)), big),
        (Leaks, "would leak by net0", facts("net0", LEAK, reached(Verdict::NotOurs, OnLeak::Redirect, 7)), none),
        (Stays, "stays on this host", facts("net0", Verdict::NotOurs, Program::None), |f| f.decision = RoutingDecision::Here(TableId(255))),
        (Refused, "goes nowhere: No route", facts("net0", Verdict::Own, Program::None), |f| f.decision = RoutingDecision::Refused("No route to host".into())),
        (Refused, "sixxs0 is down", facts("net0", Verdict::Own, Program::None), |f| { f.decision = RoutingDecision::Refused("No route to host".into()); f.is_tunnel_up = false; }),
    ];
    for (outcome, sentence, mut facts, set) in cases {
        set(&mut facts);
        let explained = explain(&facts);
        assert_eq!(explained.outcome, outcome, "{explained:?}");
        assert!(explained.sentence.contains(sentence), "{}", explained.sentence);
        assert_eq!(explained.cause.is_some(), facts.verdict == Some(LEAK));
    }
}

#[test]
fn outer_packets_of_a_tunnel_are_named() {
    for (interface, verdict) in [("net0", LEAK), ("sixxs0", Verdict::Own)] {
        let mut facts = facts(interface, verdict, reached(verdict, OnLeak::Redirect, 7));
        if let Program::Attached(decided) = &mut facts.program {
            let address = facts.packet.destination;
            decided.recursion = Some(Endpoint {
                address,
                port: 51820,
            });
        }
        let explained = explain(&facts);
        assert_eq!(explained.outcome, Outcome::Dropped);
        let sentence = explained.sentence;
        assert!(sentence.contains("[2001:db8:ffff::9]:51820"), "{sentence}");
        let cause = explained.cause.unwrap();
        assert_eq!(cause.name(), "recursion");
        assert!(
            cause.cure().contains("2001:db8:ffff::9 via GATEWAY"),
            "{}",
            cause.cure()
        );
    }
}

#[test]
fn an_exit_that_is_not_a_configured_uplink_is_reported() {
    let mut facts = facts("ts1", LEAK, Program::None);
    facts.is_unnamed_exit = true;
    let sentence = explain(&facts).sentence;
    let expected = "would leak by ts1 (ts1 is an exit that `uplinks` does not name";
    assert!(sentence.starts_with(expected), "{sentence}");
}

#[test]
fn a_rule_that_refuses_is_named() {
    let mut facts = facts("net0", Verdict::Own, Program::None);
    facts.decision =
        RoutingDecision::Refused("a `blackhole` rule or route drops it: Invalid argument".into());
    let foreign = PolicyRule {
        priority: RulePriority(100),
        is_ours: false,
        selector: Selector::ALL,
        action: Action::Refuse("blackhole"),
    };
    facts.rules.insert(0, foreign.clone());
    if let Some(leak_facts) = &mut facts.leak_facts {
        leak_facts.before = Some((foreign, Match::Yes));
    }
    let explained = explain(&facts);
    let mut steps = explained.steps.iter().rev();
    let last = steps.find(|(about, _)| *about == "rule");
    let last = last.map(|(_, text)| text.as_str());
    assert_eq!(last, Some("  100  from all blackhole: taken"));
    let cause = explained
        .cause
        .map(|cause| cause.cure())
        .unwrap_or_default();
    assert!(
        cause.starts_with("ip -6 rule del from all blackhole priority 100"),
        "{cause}"
    );
}

#[test]
fn maps_of_another_configuration_are_reported() {
    let program = |verdict, name: &str| {
        let mut facts = facts("net0", LEAK, reached(verdict, OnLeak::Redirect, 7));
        if let Program::Attached(decided) = &mut facts.program {
            decided.name = name.parse().ok();
        }
        explain(&facts)
            .steps
            .into_iter()
            .any(|(_, text)| text.contains("of another configuration"))
    };
    // A tunnel's slot is not its position in the configuration.
    assert!(!program(Verdict::Leak(7), "sixxs0"));
    assert!(program(Verdict::Leak(0), "sixxs1"));
    assert!(program(Verdict::NotOurs, "sixxs0"));
}

#[test]
fn outcomes_have_names() {
    use Outcome::{Caught, Dropped, Leaks, Leaves, Refused, Stays, TooBig};
    let all = [Leaves, Leaks, Caught, Dropped, TooBig, Stays, Refused];
    assert_eq!(
        all.map(Outcome::name),
        [
            "leaves", "leaks", "caught", "dropped", "too_big", "stays", "refused"
        ]
    );
}

/// The text of the only step about a subject.
fn step(facts: &Facts, subject: &str) -> String {
    let steps = explain(facts).steps.into_iter();
    let mut texts = steps.filter(|(about, _)| *about == subject);
    let (_, text) = texts.next().unwrap();
    assert_eq!(texts.next(), None);
    text
}

#[test]
#[rustfmt::skip] // one table is easier to read
fn what_the_program_says() {
    let says = |verdict| Program::Attached(Decided {
        verdict,
        tunnel: Tunnel::default(),
        name: "sixxs0".parse().ok(),
        recursion: None,
    });
    let stale = "; its maps are of another configuration";
    for (program, wanted, expected) in [
        (Program::None, LEAK, "no sixxs program at net0".to_owned()),
        (Program::Unknown("why".into()), LEAK, "unknown at net0: why".to_owned()),
        (says(None), LEAK, "sixxs_egress at net0: inactive there, lets everything pass".to_owned()),
        (says(Some(Verdict::NotOurs)), Verdict::NotOurs, "sixxs_egress at net0: no tunnel's source, passes".to_owned()),
        (says(Some(Verdict::Exempt)), Verdict::Exempt, "sixxs_egress at net0: may leave here, passes".to_owned()),
        (says(Some(Verdict::Own)), Verdict::Own, "sixxs_egress at net0: the tunnel's own, passes".to_owned()),
        (says(Some(Verdict::Stray)), Verdict::Stray, "sixxs_egress at net0: a stray, passes".to_owned()),
        (says(Some(Verdict::Loop)), Verdict::Loop, "sixxs_egress at net0: would be routed back, dropped".to_owned()),
        (says(Some(Verdict::Unparsed)), Verdict::Unparsed, "sixxs_egress at net0: passes".to_owned()),
        (says(Some(LEAK)), LEAK, "sixxs_egress at net0: a leak".to_owned()),
        (says(Some(Verdict::Exempt)), Verdict::Own, format!("sixxs_egress at net0: may leave here, passes{stale}")),
        (says(Some(LEAK)), Verdict::Own, format!("sixxs_egress at net0: a leak{stale}")),
    ] {
        assert_eq!(step(&facts("net0", wanted, program), "program"), expected);
    }
}

#[test]
fn whose_the_source_is() {
    for (prefix, expected) in [
        (None, "2001:db8:a::2 belongs to no tunnel"),
        (
            Some("2001:db8:a::2"),
            "2001:db8:a::2 is an address of sixxs0",
        ),
        (
            Some("2001:db8:a::/48"),
            "2001:db8:a::2 is in 2001:db8:a::/48, which is routed by sixxs0",
        ),
    ] {
        let mut facts = facts("net0", LEAK, Program::None);
        let prefix: Option<Prefix> = prefix.map(|prefix| prefix.parse().unwrap());
        facts.owner = prefix.map(|prefix| ("sixxs0".parse().unwrap(), prefix));
        assert_eq!(step(&facts, "source"), expected);
        let sentence = explain(&facts).sentence;
        assert!(sentence.starts_with("would leak by net0"), "{sentence}");
    }
}

#[test]
fn a_route_is_described_like_ip_does() {
    type Set = fn(&mut Route);
    let cases: [(&str, Set); 4] = [
        (
            "default via fe80::1 dev net0 table main metric 1024 mtu 1500",
            |_| {},
        ),
        ("default dev net0 table 300 metric 1024 mtu 1500", |r| {
            r.gateway = None;
            r.table = TableId(300);
        }),
        (
            "2001:db8::/32 via fe80::1 dev net0 table main metric 7 mtu 1280",
            |r| {
                r.destination = "2001:db8::/32".parse().unwrap();
                r.metric = Metric(7);
                r.mtu = Mtu(1280);
            },
        ),
        (
            "default from 2001:db8:a::/48 via fe80::1 dev net0 table main metric 1024 mtu 1500",
            |r| {
                r.from = "2001:db8:a::/48".parse().unwrap();
            },
        ),
    ];
    for (expected, set) in cases {
        let mut facts = facts("net0", Verdict::NotOurs, Program::None);
        if let RoutingDecision::Out(route) = &mut facts.decision {
            set(route);
        }
        assert_eq!(step(&facts, "route"), expected);
    }
}

#[test]
fn a_length_is_compared_with_the_mtu() {
    for (bytes, iif, size, outcome, sentence) in [
        (
            1499,
            None,
            "1499 bytes: fits 1500",
            Outcome::Leaves,
            "leaves by net0 through fe80::1",
        ),
        (
            1500,
            None,
            "1500 bytes: fits 1500",
            Outcome::Leaves,
            "leaves by net0 through fe80::1",
        ),
        (
            1501,
            None,
            "1501 bytes: does not fit 1500",
            Outcome::TooBig,
            "it is fragmented",
        ),
        (
            1501,
            Some("lan0"),
            "1501 bytes: does not fit 1500",
            Outcome::TooBig,
            "the sender gets",
        ),
    ] {
        let mut facts = facts("net0", Verdict::Own, Program::None);
        facts.bytes = Some(bytes);
        facts.packet.iif = iif.map(str::to_owned);
        assert_eq!(step(&facts, "size"), size);
        let explained = explain(&facts);
        assert_eq!(explained.outcome, outcome, "{bytes}");
        assert!(
            explained.sentence.contains(sentence),
            "{}",
            explained.sentence
        );
    }
}

#[test]
fn of_very_many_rules_the_first_are_shown() {
    for (count, expected, last) in [
        (20, 20, "32766  from all lookup main: taken"),
        (21, 21, "and 1 more"),
        (30, 21, "and 10 more"),
    ] {
        let mut facts = facts("net0", Verdict::NotOurs, Program::None);
        let main = facts.rules.remove(0);
        let nop = |priority| PolicyRule {
            priority: RulePriority(priority),
            action: Action::Nop,
            ..main.clone()
        };
        facts.rules = (1..count).map(nop).chain([main.clone()]).collect();
        let steps = explain(&facts).steps.into_iter();
        let rules: Vec<_> = steps.filter(|(about, _)| *about == "rule").collect();
        assert_eq!(rules.len(), expected, "{count}");
        assert_eq!(rules[0].1, "    1  from all nop: no route for it there");
        assert_eq!(rules[expected - 1].1.trim(), last, "{count}");
    }
}

#[test]
fn a_loop_is_dropped_where_the_program_sees_it() {
    let leaf = |program| explain(&facts("sixxs0", Verdict::Loop, program));
    for (program, outcome, end) in [
        (
            Program::None,
            Outcome::Leaks,
            "a tunnel would route it back",
        ),
        (
            Program::Unknown("no".to_owned()),
            Outcome::Leaks,
            "a tunnel would route it back, unless a program is there",
        ),
        (
            reached(Verdict::Own, OnLeak::Redirect, 0),
            Outcome::Leaks,
            "a tunnel would route it back",
        ),
        (
            reached(Verdict::Loop, OnLeak::Redirect, 0),
            Outcome::Dropped,
            "a tunnel would route it back: the program drops it",
        ),
    ] {
        let explained = leaf(program);
        assert_eq!(explained.outcome, outcome);
        assert!(explained.sentence.ends_with(end), "{}", explained.sentence);
    }
}
