//! Everybody's rules, and which of them a packet meets.

use std::fmt;

use super::Packet;
use crate::types::{Prefix, RulePriority, TableId};

/// The priority of the rule that leads to the main table, on every host.
const MAIN_PRIORITY: RulePriority = RulePriority(32766);

/// A rule of anybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRule {
    /// Its priority.
    pub priority: RulePriority,
    /// Whether it bears our mark.
    pub ours: bool,
    /// What it asks for.
    pub selector: Selector,
    /// What it does.
    pub action: Action,
}

/// What a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// Whether it is for all that is not like this.
    pub not: bool,
    /// Source.
    pub from: Prefix,
    /// Destination.
    pub to: Prefix,
    /// The interface by which a packet came in; `lo` for the host's own.
    pub iif: Option<String>,
    /// The interface that the socket is bound to.
    pub oif: Option<String>,
    /// The mark, and which bits of it count.
    pub mark: Option<(u32, u32)>,
    /// The first and the last owner of the sending socket.
    pub uids: Option<(u32, u32)>,
    /// Whether it asks for what is not known of a packet here: ports, protocol, traffic class, …
    pub more: bool,
}

impl Selector {
    /// What all packets are like.
    pub const ALL: Self = Self {
        not: false,
        from: Prefix::ALL,
        to: Prefix::ALL,
        iif: None,
        oif: None,
        mark: None,
        uids: None,
        more: false,
    };
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Looks in a table. What it finds there counts only if its destination is longer than the given
    /// number of bits.
    Lookup(TableId, Option<u32>),
    /// Goes on at another priority.
    Goto(RulePriority),
    /// Goes on.
    Nop,
    /// Ends with an error, or silently.
    Refuse(&'static str),
    /// Something that is not known here.
    Other,
}

/// Whether a packet is what a rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It is not.
    No,
    /// That depends on what is not known of the packet.
    Perhaps,
    /// It is.
    Yes,
}

impl Match {
    const fn of(known: bool) -> Self {
        if known { Self::Yes } else { Self::No }
    }

    /// Both.
    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Perhaps,
        }
    }

    const fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Perhaps => Self::Perhaps,
            Self::Yes => Self::No,
        }
    }
}

impl SeenRule {
    /// Whether a packet is what it asks for (`fib_rule_match` and `fib6_rule_match` of the kernel).
    #[must_use]
    pub fn matches(&self, packet: &Packet) -> Match {
        let asked = &self.selector;
        let own = "lo".to_owned();
        let iif = packet.iif.as_ref().unwrap_or(&own);
        let mark = match (asked.mark, packet.mark) {
            (None, _) => Match::Yes,
            (Some((value, mask)), Some(mark)) => Match::of((value ^ mark) & mask == 0),
            (Some(_), None) => Match::Perhaps,
        };
        let uid = match (asked.uids, packet.uid) {
            (None, _) => Match::Yes,
            (Some((first, last)), Some(uid)) => Match::of((first..=last).contains(&uid)),
            (Some(_), None) => Match::No,
        };
        let more = if asked.more {
            Match::Perhaps
        } else {
            Match::Yes
        };
        let all = [
            Match::of(asked.from.contains(packet.source)),
            Match::of(asked.to.contains(packet.destination)),
            Match::of(asked.iif.as_ref().is_none_or(|name| name == iif)),
            Match::of(asked.oif.is_none() || asked.oif == packet.oif),
            mark,
            uid,
            more,
        ];
        let all = all.into_iter().fold(Match::Yes, Match::and);
        if asked.not { all.not() } else { all }
    }

    /// As `ip -6 rule add` or `del` take it.
    #[must_use]
    pub fn command(&self, verb: &str) -> String {
        format!("ip -6 rule {verb} {self} priority {}", self.priority)
    }

    /// The commands that put it behind ours, and before the main table's; `None` where it cannot be there:
    /// rules jump only forwards. To lower our priority is no cure:
    /// who names none (as wg-quick does) gets the lowest there is, minus one (`fib_default_rule_pref`).
    #[must_use]
    pub fn behind_ours(&self) -> Option<String> {
        let priority = RulePriority(MAIN_PRIORITY.0 - 1);
        if matches!(self.action, Action::Goto(target) if target <= priority) {
            return None;
        }
        let behind = Self {
            priority,
            ..self.clone()
        };
        Some(format!(
            "{} && {}",
            behind.command("add"),
            self.command("del")
        ))
    }

    /// What takes it out of the way, as commands: its removal, and its move behind ours.
    #[must_use]
    pub fn cures(&self) -> String {
        let delete = self.command("del");
        match self.behind_ours() {
            Some(moves) => format!("{delete}; or move it behind ours: {moves}"),
            None => delete,
        }
    }

    /// Whether a packet to far away, which takes a default route, goes on after it though it looks in a
    /// table.
    const fn lets_default_pass(&self) -> bool {
        matches!(self.action, Action::Lookup(_, Some(_)))
    }

    fn leads_to(&self, table: TableId, bits: u8) -> bool {
        match self.action {
            Action::Lookup(own, None) => own == table,
            Action::Lookup(own, Some(suppressed)) => own == table && u32::from(bits) > suppressed,
            _ => false,
        }
    }
}

impl fmt::Display for SeenRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = &self.selector;
        let all = |prefix: Prefix| prefix.bits() == 0;
        if asked.not {
            f.write_str("not ")?;
        }
        match asked.from {
            from if all(from) => f.write_str("from all")?,
            from => write!(f, "from {from}")?,
        }
        if !all(asked.to) {
            write!(f, " to {}", asked.to)?;
        }
        if let Some(iif) = &asked.iif {
            write!(f, " iif {iif}")?;
        }
        if let Some(oif) = &asked.oif {
            write!(f, " oif {oif}")?;
        }
        match asked.mark {
            Some((value, u32::MAX)) => write!(f, " fwmark {value:#x}")?,
            Some((value, mask)) => write!(f, " fwmark {value:#x}/{mask:#x}")?,
            None => {}
        }
        if let Some((first, last)) = asked.uids {
            write!(f, " uidrange {first}-{last}")?;
        }
        match self.action {
            Action::Lookup(table, suppressed) => {
                match table {
                    TableId(254) => f.write_str(" lookup main")?,
                    TableId(255) => f.write_str(" lookup local")?,
                    table => write!(f, " lookup {table}")?,
                }
                match suppressed {
                    Some(bits) => write!(f, " suppress_prefixlength {bits}"),
                    None => Ok(()),
                }
            }
            Action::Goto(priority) => write!(f, " goto {priority}"),
            Action::Nop => f.write_str(" nop"),
            Action::Refuse(how) => write!(f, " {how}"),
            Action::Other => f.write_str(" (something else)"),
        }
    }
}

/// What became of a packet at a rule that it met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// There was nothing for it; it went on.
    Passed,
    /// It was led from here.
    Taken,
}

/// The rules that a packet met, in their order, up to the one that took it: the first that leads to
/// the table in which the kernel found a route with a destination of so many bits. `None`: it found
/// none; then one that refuses took it, or all were met.
#[must_use]
pub fn met<'a>(
    rules: &'a [SeenRule],
    packet: &Packet,
    found: Option<(TableId, u8)>,
) -> Vec<(&'a SeenRule, Met)> {
    let mut met = Vec::new();
    let mut from = RulePriority(0);
    for rule in rules {
        if rule.priority < from || rule.matches(packet) == Match::No {
            continue;
        }
        let refuses = found.is_none()
            && matches!(rule.action, Action::Refuse(_))
            && rule.matches(packet) == Match::Yes;
        if refuses || found.is_some_and(|(table, bits)| rule.leads_to(table, bits)) {
            met.push((rule, Met::Taken));
            return met;
        }
        if let Action::Goto(target) = rule.action
            && is_resolved(rules, target)
        {
            from = target;
        }
        met.push((rule, Met::Passed));
    }
    met
}

/// Whether a jump has somewhere to go: without a rule at its target the kernel passes over it.
fn is_resolved(rules: &[SeenRule], target: RulePriority) -> bool {
    rules.iter().any(|rule| rule.priority == target)
}

/// The rules of others before those at `ours` that keep a packet from ours: the one that took it, or the one
/// that jumps over ours. `found` as in [`met`].
#[must_use]
pub fn shadowing<'a>(
    rules: &'a [SeenRule],
    packet: &Packet,
    found: Option<(TableId, u8)>,
    ours: RulePriority,
) -> Option<&'a SeenRule> {
    let is_before = |rule: &SeenRule| !rule.ours && rule.priority.0 > 0 && rule.priority < ours;
    if found.is_none() {
        let (rule, how) = before(rules, packet, ours)?;
        return (how == Match::Yes).then_some(rule);
    }
    let met = met(rules, packet, found);
    let (last, became) = met.last()?;
    if *became == Met::Taken && is_before(last) {
        return Some(last);
    }
    let jumps_over = |rule: &&SeenRule| {
        let jumps = matches!(rule.action, Action::Goto(target)
            if target > ours && is_resolved(rules, target));
        jumps && is_before(rule) && rule.matches(packet) == Match::Yes
    };
    met.iter().map(|(rule, _)| *rule).find(jumps_over)
}

/// The rule of somebody else's that a packet meets before those at `ours`, other than the local
/// table's; one that it certainly meets rather than one that it may.
#[must_use]
pub fn before<'a>(
    rules: &'a [SeenRule],
    packet: &Packet,
    ours: RulePriority,
) -> Option<(&'a SeenRule, Match)> {
    let is_before = |rule: &&SeenRule| {
        let leads = !matches!(rule.action, Action::Nop);
        !rule.ours && leads && rule.priority.0 > 0 && rule.priority < ours.min(MAIN_PRIORITY)
    };
    let met = || {
        let met = rules.iter().filter(is_before);
        met.map(|rule| match rule.matches(packet) {
            Match::Yes if rule.lets_default_pass() => (rule, Match::Perhaps),
            how => (rule, how),
        })
    };
    met()
        .find(|(_, how)| *how == Match::Yes)
        .or_else(|| met().find(|(_, how)| *how == Match::Perhaps))
}

#[cfg(test)]
mod tests {
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

    fn rule(priority: u32, table: u32, set: impl Fn(&mut Selector)) -> SeenRule {
        let mut selector = Selector::ALL;
        set(&mut selector);
        SeenRule {
            priority: RulePriority(priority),
            ours: false,
            selector,
            action: Action::Lookup(TableId(table), None),
        }
    }

    #[test]
    #[rustfmt::skip] // a table reads best as one
    fn what_rules_ask_for() {
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
    fn rules_are_met_up_to_the_one_that_leads_away() {
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
            let met = met(&rules, &packet(), found).into_iter();
            met.map(|(rule, how)| (rule.priority.0, how == Met::Taken))
                .collect::<Vec<_>>()
        };
        let table = |table| TableId(table);
        assert_eq!(
            met(Some((table(200), 0))),
            [(0, false), (16382, false), (16383, true)]
        );
        // A LAN behind this host by the main table, and the default route there.
        assert_eq!(met(Some((table(254), 64))), [(0, false), (16382, true)]);
        assert_eq!(met(Some((table(254), 0))).last(), Some(&(32766, true)));
        assert_eq!(met(None).len(), 4);
        // A jump leaves out what is between.
        let mut jump = rules.to_vec();
        jump[1] = rule(100, 0, |_| {});
        jump[1].action = Action::Goto(RulePriority(32766));
        let met = super::met(&jump, &packet(), Some((table(254), 0)));
        assert_eq!(met.len(), 3);
    }

    #[test]
    fn rules_that_keep_a_packet_from_ours() {
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
        let marked = |mut rule: SeenRule| {
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
    fn rules_of_others_before_ours() {
        let rules = [
            rule(0, 255, |_| {}),
            rule(50, 254, |s| s.more = true),
            rule(100, 254, |s| s.uids = Some((1000, 1000))),
            rule(32766, 254, |_| {}),
        ];
        let ours = RulePriority(16383);
        let (found, how) = before(&rules, &packet(), ours).unwrap();
        assert_eq!((found.priority.0, how), (100, Match::Yes));
        let mut other = packet();
        other.uid = None;
        let (found, how) = before(&rules, &other, ours).unwrap();
        assert_eq!((found.priority.0, how), (50, Match::Perhaps));
        assert_eq!(before(&rules[2..], &other, ours), None);
        assert_eq!(
            rules[2].command("del"),
            "ip -6 rule del from all uidrange 1000-1000 lookup main priority 100"
        );
    }
}
