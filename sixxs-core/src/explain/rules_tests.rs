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
