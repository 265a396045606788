//! Foreign rules that come before the rules of sixxs and match a firewall mark. Software that sets the mark (a
//! filter, a socket) diverts packets from their tunnel; packets without the mark do not show this.

use std::net::Ipv6Addr;

use super::{Finding, Verdict};
use crate::{
    explain::rules::{Action, PolicyRule},
    types::{RulePriority, TableId},
};

/// The maximum number of marks to try.
const MAX_MARKS: usize = 64;

/// A foreign rule before the rules of sixxs, and its effect on packets with its mark.
#[derive(Clone, Debug)]
pub struct Marked {
    /// The rule.
    pub rule: PolicyRule,
    /// The result for these packets.
    pub fate: Fate,
    /// The tunnels whose packets it takes.
    pub tunnels: Vec<MarkedTunnel>,
}

/// A tunnel whose marked packets go elsewhere.
#[derive(Clone, Debug)]
pub struct MarkedTunnel {
    /// Its name.
    pub name: String,
    /// The source of its packets.
    pub source: Ipv6Addr,
    /// The table that leads them into it.
    pub table: TableId,
}

/// The result for marked packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The kernel refuses them.
    Refused,
    /// They leave by this interface, where no program redirects them.
    Lost(String),
    /// They leave by an interface whose program redirects them into the tunnel.
    Redirected,
}

/// The marks that foreign rules before `own_priority` match, each once. Marks that match unmarked packets are left
/// out: other checks show where these packets go.
#[must_use]
pub fn marks(rules: &[PolicyRule], own_priority: RulePriority) -> Vec<u32> {
    let mut marks = Vec::new();
    for rule in rules {
        let leads = matches!(
            rule.action,
            Action::Lookup(_, None) | Action::Refuse(_) | Action::Goto(_) | Action::Other
        );
        let is_before = !rule.is_ours && rule.priority.0 > 0 && rule.priority < own_priority;
        if let Some((value, mask)) = rule.selector.mark
            && value & mask != 0
            && !rule.selector.not
            && leads
            && is_before
            && !marks.contains(&value)
            && marks.len() < MAX_MARKS
        {
            marks.push(value);
        }
    }
    marks
}

/// Adds a tunnel to the entry with the same rule and result.
pub fn add(all: &mut Vec<Marked>, rule: &PolicyRule, fate: Fate, tunnel: MarkedTunnel) {
    let same = all
        .iter_mut()
        .find(|marked| marked.rule == *rule && marked.fate == fate);
    match same {
        Some(marked) if marked.tunnels.iter().any(|t| t.source == tunnel.source) => {}
        Some(marked) => marked.tunnels.push(tunnel),
        None => all.push(Marked {
            rule: rule.clone(),
            fate,
            tunnels: vec![tunnel],
        }),
    }
}

/// Redirected packets are not reported: VPNs mark packets of their own sockets so that they leave by the
/// uplink, and these have the uplink's address.
pub(super) fn findings(all: &[Marked]) -> impl Iterator<Item = Finding> {
    all.iter().filter_map(finding)
}

fn finding(marked: &Marked) -> Option<Finding> {
    let Marked {
        rule,
        fate,
        tunnels,
    } = marked;
    let names: Vec<_> = tunnels.iter().map(|tunnel| &*tunnel.name).collect();
    let fate = match fate {
        Fate::Refused => "refused".to_owned(),
        Fate::Lost(interface) => format!("routed to {interface}"),
        Fate::Redirected => return None,
    };
    let detail = format!(
        "packets of {} with a mark are {fate} by a rule before the rules of sixxs: {}: {rule}",
        names.join(", "),
        rule.priority
    );
    let cures = cures(rule, tunnels);
    Some(Finding::not("marked", Verdict::Note, detail, cures))
}

/// Suggests rules before it for these packets, if a priority is free, so that the rule stays unchanged for
/// all others.
fn cures(rule: &PolicyRule, tunnels: &[MarkedTunnel]) -> String {
    let (Some(before), Some((value, mask))) = (
        rule.priority.0.checked_sub(1).filter(|p| *p > 0),
        rule.selector.mark,
    ) else {
        return rule.cures();
    };
    let mark = match mask {
        u32::MAX => format!("{value:#x}"),
        mask => format!("{value:#x}/{mask:#x}"),
    };
    let lines: Vec<_> = tunnels
        .iter()
        .map(|MarkedTunnel { source, table, .. }| {
            format!("ip -6 rule add from {source} fwmark {mark} lookup {table} priority {before}")
        })
        .collect();
    let first = lines.join(" && ");
    match rule.behind_ours() {
        Some(moves) => format!("{first}; or move it behind the rules of sixxs: {moves}"),
        None => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::rules::Selector;

    fn rule(priority: u32, mark: Option<(u32, u32)>, action: Action) -> PolicyRule {
        PolicyRule {
            priority: RulePriority(priority),
            is_ours: false,
            selector: Selector {
                mark,
                ..Selector::ALL
            },
            action,
        }
    }

    const MAIN: Action = Action::Lookup(TableId(254), None);
    const REFUSE: Action = Action::Refuse("unreachable");

    #[test]
    fn only_marks_that_matter_are_tried() {
        let own_priority = RulePriority(16383);
        let mut not = rule(90, Some((9, u32::MAX)), MAIN);
        not.selector.not = true;
        let rules = [
            rule(0, None, Action::Lookup(TableId(255), None)),
            rule(10, Some((1, u32::MAX)), MAIN),
            rule(20, Some((1, 0xff)), REFUSE),
            rule(30, Some((2, 0xff)), Action::Lookup(TableId(254), Some(0))),
            rule(40, Some((0, 0xff)), REFUSE),
            rule(50, None, REFUSE),
            not,
            rule(100, Some((0x3d00, 0x3f00)), Action::Refuse("blackhole")),
            rule(16383, Some((3, u32::MAX)), REFUSE),
            rule(32764, Some((4, u32::MAX)), REFUSE),
        ];
        assert_eq!(marks(&rules, own_priority), [1, 0x3d00]);
        assert_eq!(marks(&rules[7..8], RulePriority(100)), [0; 0]);
    }

    #[test]
    fn refused_tunnels_share_a_finding() {
        let refusal = rule(100, Some((7, u32::MAX)), REFUSE);
        let tunnel = |name: &str, source: &str, table| MarkedTunnel {
            name: name.to_owned(),
            source: source.parse().unwrap(),
            table: TableId(table),
        };
        let mut all = Vec::new();
        let (a, b) = (
            tunnel("sixxs0", "2001:db8:a::2", 200),
            tunnel("sixxs1", "2001:db8:b::2", 201),
        );
        for (rule, fate, tunnel) in [
            (&refusal, Fate::Refused, &a),
            (&refusal, Fate::Refused, &a),
            (&refusal, Fate::Refused, &b),
            (&rule(50, Some((8, 0xff)), MAIN), Fate::Redirected, &a),
            (
                &rule(1, Some((9, 0xff)), MAIN),
                Fate::Lost("net1".to_owned()),
                &a,
            ),
        ] {
            add(&mut all, rule, fate, tunnel.clone());
        }
        let found: Vec<_> = findings(&all)
            .map(|finding| (finding.detail, finding.fix.unwrap()))
            .collect();
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0].0,
            "packets of sixxs0, sixxs1 with a mark are refused by a rule before the rules of sixxs: 100: from all fwmark 0x7 unreachable"
        );
        assert!(found[0].1.starts_with(
            "ip -6 rule add from 2001:db8:a::2 fwmark 0x7 lookup 200 priority 99 && \
             ip -6 rule add from 2001:db8:b::2 fwmark 0x7 lookup 201 priority 99; or move it behind the rules of sixxs: "
        ));
        assert!(found[1].0.contains("routed to net1"));
        // No priority is free before it.
        assert!(found[1].1.starts_with("ip -6 rule del"));
    }

    #[test]
    fn a_mark_of_a_rule_that_takes_no_packet_from_ours_is_left_out() {
        type Set = fn(&mut PolicyRule);
        let cases: [(&str, &[u32], Set); 8] = [
            ("a rule before ours", &[7], |_| {}),
            ("just before ours", &[7], |r| {
                r.priority = RulePriority(16382)
            }),
            ("at our place", &[], |r| r.priority = RulePriority(16383)),
            ("the kernel's own", &[], |r| r.priority = RulePriority(0)),
            ("our own", &[], |r| r.is_ours = true),
            ("a jump", &[7], |r| {
                r.action = Action::Goto(RulePriority(20_000))
            }),
            ("nothing to do", &[], |r| r.action = Action::Nop),
            ("no bits in the mask", &[], |r| {
                r.selector.mark = Some((7, 8))
            }),
        ];
        for (name, expected, set) in cases {
            let mut rule = rule(100, Some((7, u32::MAX)), MAIN);
            set(&mut rule);
            assert_eq!(marks(&[rule], RulePriority(16383)), expected, "{name}");
        }
        let many: Vec<_> = (1..200)
            .map(|mark| rule(100, Some((mark, u32::MAX)), MAIN))
            .collect();
        assert_eq!(marks(&many, RulePriority(16383)).len(), MAX_MARKS);
    }

    #[test]
    fn a_rule_that_cannot_be_moved_gets_rules_before_it_only() {
        let jump = Action::Goto(RulePriority(20_000));
        let marked = Marked {
            rule: rule(100, Some((0x70, 0xf0)), jump),
            fate: Fate::Refused,
            tunnels: vec![MarkedTunnel {
                name: "sixxs0".to_owned(),
                source: "2001:db8:a::2".parse().unwrap(),
                table: TableId(200),
            }],
        };
        let found = findings(std::slice::from_ref(&marked)).next().unwrap();
        let expected = "ip -6 rule add from 2001:db8:a::2 fwmark 0x70/0xf0 lookup 200 priority 99";
        assert_eq!(found.fix.as_deref(), Some(expected));
    }
}
