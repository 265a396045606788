use super::*;

fn packet() -> Packet {
    Packet {
        source: "2001:db8:a::2".parse().unwrap(),
        destination: "2001:db8:ffff::9".parse().unwrap(),
        uid: Some(1000),
        mark: Some(0),
        iif: None,
        oif: None,
    }
}

fn rule(priority: u32, table: u32, set: impl Fn(&mut Selector)) -> PolicyRule {
    let mut selector = Selector::ALL;
    set(&mut selector);
    PolicyRule {
        priority: RulePriority(priority),
        is_ours: false,
        selector,
        action: Action::Lookup(TableId(table), None),
    }
}

#[test]
#[rustfmt::skip] // one table is easier to read
fn selectors_of_rules_match_packets() {
    type Set = fn(&mut Selector);
    let cases: [(&str, Match, Set); 13] = [
        ("all", Match::Yes, |_| {}),
        ("its source", Match::Yes, |s| s.from = "2001:db8:a::/48".parse().unwrap()),
        ("another source", Match::No, |s| s.from = "2001:db8:b::/48".parse().unwrap()),
        ("not its source", Match::No, |s| { s.not = true; s.from = "2001:db8:a::/48".parse().unwrap(); }),
        ("its destination", Match::Yes, |s| s.to = "2001:db8:ffff::/48".parse().unwrap()),
        ("its owner", Match::Yes, |s| s.uids = Some((1000, 1000))),
        ("another owner", Match::No, |s| s.uids = Some((0, 999))),
        ("its mark", Match::Yes, |s| s.mark = Some((0, 0xff))),
        ("another mark", Match::No, |s| s.mark = Some((1, 0xff))),
        ("not another mark", Match::Yes, |s| { s.not = true; s.mark = Some((1, 0xff)); }),
        ("the host's own", Match::Yes, |s| s.iif = Some("lo".into())),
        ("a bound socket", Match::No, |s| s.oif = Some("net0".into())),
        ("ports", Match::Perhaps, |s| s.more = true),
    ];
    for (name, expected, set) in cases {
        assert_eq!(rule(100, 254, set).matches(&packet()), expected, "{name}");
    }
    let mut unknown = packet();
    unknown.mark = None;
    let marked = rule(100, 254, |s| s.mark = Some((1, 1)));
    assert_eq!(marked.matches(&unknown), Match::Perhaps);
}

#[test]
fn matching_rules_end_at_the_rule_that_decides() {
    let ours: Prefix = "2001:db8:a::2".parse().unwrap();
    let mut direct = rule(16382, 254, |s| s.from = ours);
    direct.action = Action::Lookup(TableId(254), Some(0));
    let rules = [
        rule(0, 255, |_| {}),
        rule(100, 300, |s| s.mark = Some((1, 1))),
        direct,
        rule(16383, 200, |s| s.from = ours),
        rule(32766, 254, |_| {}),
    ];
    let met = |found| {
        let met = matching_rules(&rules, &packet(), found).into_iter();
        met.map(|(rule, how)| (rule.priority.0, how == RuleEffect::Taken))
            .collect::<Vec<_>>()
    };
    let table = |table| TableId(table);
    assert_eq!(
        met(Some((table(200), 0))),
        [(0, false), (16382, false), (16383, true)]
    );
    // The main table leads to a LAN behind this host, and has the default route.
    assert_eq!(met(Some((table(254), 64))), [(0, false), (16382, true)]);
    assert_eq!(met(Some((table(254), 0))).last(), Some(&(32766, true)));
    assert_eq!(met(None).len(), 4);
    // A jump skips the rules in between.
    let mut jump = rules.to_vec();
    jump[1] = rule(100, 0, |_| {});
    jump[1].action = Action::Goto(RulePriority(32766));
    let met = matching_rules(&jump, &packet(), Some((table(254), 0)));
    assert_eq!(met.len(), 3);
}

#[test]
fn rules_that_keep_a_packet_from_the_rules_of_sixxs() {
    let main = Some((TableId(254), 0));
    let last = rule(32766, 254, |_| {});
    let jump = |priority, target| {
        let mut jump = rule(priority, 0, |_| {});
        jump.action = Action::Goto(RulePriority(target));
        jump
    };
    let refusal = {
        let mut refusal = rule(100, 0, |_| {});
        refusal.action = Action::Refuse("blackhole");
        refusal
    };
    let marked = |mut rule: PolicyRule| {
        rule.selector.mark = Some((1, 1));
        rule
    };
    let first = rule(100, 254, |_| {});
    for (name, before, found, expected) in [
        ("none", None, main, None),
        ("one that takes it", Some(first), main, Some(100)),
        ("a jump over ours", Some(jump(100, 32766)), main, Some(100)),
        ("a jump to nothing", Some(jump(100, 20_000)), main, None),
        ("a jump to ours", Some(jump(100, 16383)), main, None),
        (
            "another packet's jump",
            Some(marked(jump(100, 32766))),
            main,
            None,
        ),
        ("one that refuses it", Some(refusal), None, Some(100)),
    ] {
        let rules: Vec<_> = before.into_iter().chain([last.clone()]).collect();
        let found = shadowing(&rules, &packet(), found, RulePriority(16383));
        assert_eq!(found.map(|rule| rule.priority.0), expected, "{name}");
    }
}

#[test]
fn a_jump_is_moved_only_where_it_can_jump_forwards() {
    let mut jump = rule(100, 0, |_| {});
    jump.action = Action::Goto(RulePriority(20_000));
    assert_eq!(jump.behind_ours(), None);
    assert_eq!(
        jump.cures(),
        "ip -6 rule del from all goto 20000 priority 100"
    );
    jump.action = Action::Goto(RulePriority(32766));
    assert!(jump.behind_ours().is_some());
}

#[test]
fn foreign_rules_before_the_rules_of_sixxs() {
    let rules = [
        rule(0, 255, |_| {}),
        rule(50, 254, |s| s.more = true),
        rule(100, 254, |s| s.uids = Some((1000, 1000))),
        rule(32766, 254, |_| {}),
    ];
    let ours = RulePriority(16383);
    let (found, how) = foreign_match(&rules, &packet(), ours).unwrap();
    assert_eq!((found.priority.0, how), (100, Match::Yes));
    let mut other = packet();
    other.uid = None;
    let (found, how) = foreign_match(&rules, &other, ours).unwrap();
    assert_eq!((found.priority.0, how), (50, Match::Perhaps));
    assert_eq!(foreign_match(&rules[2..], &other, ours), None);
    assert_eq!(
        rules[2].command("del"),
        "ip -6 rule del from all uidrange 1000-1000 lookup main priority 100"
    );
}

#[test]
#[rustfmt::skip] // one table is easier to read
fn a_rule_is_printed_as_ip_takes_it() {
    type Set = fn(&mut PolicyRule);
    let cases: [(&str, Set); 17] = [
        ("from all lookup main", |_| {}),
        ("not from all lookup main", |r| r.selector.not = true),
        ("from 2001:db8:a::/48 lookup main", |r| r.selector.from = "2001:db8:a::/48".parse().unwrap()),
        ("from all to 2001:db8:b::/48 lookup main", |r| r.selector.to = "2001:db8:b::/48".parse().unwrap()),
        ("from all iif lan0 lookup main", |r| r.selector.iif = Some("lan0".into())),
        ("from all oif net0 lookup main", |r| r.selector.oif = Some("net0".into())),
        ("from all fwmark 0x77 lookup main", |r| r.selector.mark = Some((0x77, u32::MAX))),
        ("from all fwmark 0x70/0xf0 lookup main", |r| r.selector.mark = Some((0x70, 0xf0))),
        ("from all uidrange 7-9 lookup main", |r| r.selector.uids = Some((7, 9))),
        ("from all lookup local", |r| r.action = Action::Lookup(TableId(255), None)),
        ("from all lookup 300", |r| r.action = Action::Lookup(TableId(300), None)),
        ("from all lookup main suppress_prefixlength 0", |r| r.action = Action::Lookup(TableId(254), Some(0))),
        ("from all lookup 300 suppress_prefixlength 48", |r| r.action = Action::Lookup(TableId(300), Some(48))),
        ("from all goto 32766", |r| r.action = Action::Goto(RulePriority(32766))),
        ("from all nop", |r| r.action = Action::Nop),
        ("from all blackhole", |r| r.action = Action::Refuse("blackhole")),
        ("from all (something else)", |r| r.action = Action::Other),
    ];
    for (expected, set) in cases {
        let mut rule = rule(100, 254, |_| {});
        set(&mut rule);
        assert_eq!(rule.to_string(), expected);
    }
}

#[test]
#[rustfmt::skip] // one table is easier to read
fn one_condition_that_fails_is_enough() {
    type Set = fn(&mut Selector);
    let cases: [(&str, Match, Set); 12] = [
        ("ports, from another source", Match::No, |s| { s.more = true; s.from = "2001:db8:b::/48".parse().unwrap(); }),
        ("ports, to another destination", Match::No, |s| { s.more = true; s.to = "2001:db8:b::/48".parse().unwrap(); }),
        ("not with ports", Match::Perhaps, |s| { s.not = true; s.more = true; }),
        ("another interface", Match::No, |s| s.iif = Some("lan0".into())),
        ("an owner at the end of a range", Match::Yes, |s| s.uids = Some((7, 1000))),
        ("an owner at its start", Match::Yes, |s| s.uids = Some((1000, 2000))),
        ("an owner below", Match::No, |s| s.uids = Some((1001, 2000))),
        ("bits outside the mask", Match::Yes, |s| s.mark = Some((0xf0, 0x0f))),
        ("bits inside the mask", Match::No, |s| s.mark = Some((0xf0, 0x10))),
        ("not another interface", Match::Yes, |s| { s.not = true; s.iif = Some("lan0".into()); }),
        ("not all", Match::No, |s| s.not = true),
        ("its source, and another's mark", Match::No, |s| { s.from = "2001:db8:a::/48".parse().unwrap(); s.mark = Some((1, 1)); }),
    ];
    for (name, expected, set) in cases {
        assert_eq!(rule(100, 254, set).matches(&packet()), expected, "{name}");
    }
    // A forwarded packet has an interface and no owner.
    let mut forwarded = packet();
    forwarded.iif = Some("lan0".to_owned());
    forwarded.uid = None;
    forwarded.oif = Some("net0".to_owned());
    let cases: [(&str, Match, Set); 5] = [
        ("from there", Match::Yes, |s| s.iif = Some("lan0".into())),
        ("the host's own", Match::No, |s| s.iif = Some("lo".into())),
        ("an owner", Match::No, |s| s.uids = Some((0, u32::MAX))),
        ("to there", Match::Yes, |s| s.oif = Some("net0".into())),
        ("to elsewhere", Match::No, |s| s.oif = Some("net1".into())),
    ];
    for (name, expected, set) in cases {
        assert_eq!(rule(100, 254, set).matches(&forwarded), expected, "{name}");
    }
}

#[test]
fn the_local_table_is_asked_for_every_packet_or_not() {
    type Set = fn(&mut PolicyRule);
    let cases: [(bool, Set); 4] = [
        (true, |_| {}),
        (false, |r| r.selector.uids = Some((0, 0))),
        (false, |r| r.action = Action::Lookup(TableId(254), None)),
        (false, |r| r.action = Action::Lookup(TableId(255), Some(0))),
    ];
    for (expected, set) in cases {
        let mut rule = rule(0, 255, |_| {});
        set(&mut rule);
        assert_eq!(rule.looks_up_local_table(), expected, "{rule}");
    }
}

#[test]
fn which_jumps_can_stand_behind_ours() {
    for (target, can) in [(100, false), (32765, false), (32766, true), (40_000, true)] {
        let mut jump = rule(50, 0, |_| {});
        jump.action = Action::Goto(RulePriority(target));
        let moves = jump.behind_ours();
        let expected = format!(
            "ip -6 rule add from all goto {target} priority 32765 && \
             ip -6 rule del from all goto {target} priority 50"
        );
        assert_eq!(moves, can.then_some(expected), "{target}");
    }
}

#[test]
#[rustfmt::skip] // one table is easier to read
fn rules_that_do_not_come_before_ours() {
    type Set = fn(&mut PolicyRule);
    let cases: [(&str, Option<Match>, Set); 11] = [
        ("one for all", Some(Match::Yes), |_| {}),
        ("our own", None, |r| r.is_ours = true),
        ("the kernel's", None, |r| r.priority = RulePriority(0)),
        ("one just before ours", Some(Match::Yes), |r| r.priority = RulePriority(16382)),
        ("one at our place", None, |r| r.priority = RulePriority(16383)),
        ("one behind", None, |r| r.priority = RulePriority(20_000)),
        ("one that does nothing", None, |r| r.action = Action::Nop),
        ("one for the local table", None, |r| r.action = Action::Lookup(TableId(255), None)),
        ("one without default routes", Some(Match::Perhaps), |r| r.action = Action::Lookup(TableId(254), Some(0))),
        ("another packet's", None, |r| r.selector.uids = Some((0, 0))),
        ("one for some ports", Some(Match::Perhaps), |r| r.selector.more = true),
    ];
    for (name, expected, set) in cases {
        let mut theirs = rule(100, 254, |_| {});
        set(&mut theirs);
        let rules = [theirs];
        let found = foreign_match(&rules, &packet(), RulePriority(16383));
        assert_eq!(found.map(|(_, how)| how), expected, "{name}");
    }
    // The rule for the main table is on every host, and never to blame.
    let main = [rule(32766, 254, |_| {})];
    assert_eq!(foreign_match(&main, &packet(), RulePriority(40_000)), None);
}

#[test]
fn a_refusal_takes_a_packet_only_if_the_kernel_found_no_route() {
    let mut refusal = rule(100, 0, |_| {});
    refusal.action = Action::Refuse("prohibit");
    let mut perhaps = refusal.clone();
    perhaps.selector.more = true;
    let last = || rule(32766, 254, |_| {});
    let main = Some((TableId(254), 0));
    for (name, rules, found, expected) in [
        (
            "nothing found",
            [refusal.clone(), last()],
            None,
            &[true][..],
        ),
        ("another table", [refusal, last()], main, &[false, true]),
        (
            "a refusal of some",
            [perhaps, last()],
            None,
            &[false, false],
        ),
    ] {
        let met = matching_rules(&rules, &packet(), found);
        let taken: Vec<_> = met
            .iter()
            .map(|(_, how)| *how == RuleEffect::Taken)
            .collect();
        assert_eq!(taken, expected, "{name}");
    }
}

#[test]
fn a_rule_without_short_routes_takes_only_longer_ones() {
    for (suppressed, bits, table, taken) in [
        (None, 0, 254, true),
        (None, 0, 300, false),
        (Some(0), 0, 254, false),
        (Some(0), 1, 254, true),
        (Some(48), 48, 254, false),
        (Some(48), 49, 254, true),
        (Some(48), 64, 300, false),
    ] {
        let mut rule = rule(100, 0, |_| {});
        rule.action = Action::Lookup(TableId(254), suppressed);
        let rules = [rule];
        let met = matching_rules(&rules, &packet(), Some((TableId(table), bits)));
        let expected = if taken {
            RuleEffect::Taken
        } else {
            RuleEffect::Passed
        };
        assert_eq!(met[0].1, expected, "{suppressed:?} {bits} {table}");
    }
}
