//! All policy rules of the host, and those that a packet matches.

use std::fmt;

use super::Packet;
use crate::{
    routing::{LOCAL_TABLE, MAIN_TABLE},
    types::{Prefix, RulePriority, TableId},
};

/// The priority of the rule for the main table, on every host.
const MAIN_PRIORITY: RulePriority = RulePriority(32766);

/// A policy rule of sixxs, or a foreign one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Its priority.
    pub priority: RulePriority,
    /// Whether it is a rule of sixxs: it carries the protocol number of sixxs.
    pub is_ours: bool,
    /// Its conditions.
    pub selector: Selector,
    /// Its action.
    pub action: Action,
}

/// The conditions of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// Whether it matches all packets that do not meet the conditions.
    pub not: bool,
    /// Source.
    pub from: Prefix,
    /// Destination.
    pub to: Prefix,
    /// The interface by which a packet arrived; `lo` for the host's own packets.
    pub iif: Option<String>,
    /// The interface that the socket is bound to.
    pub oif: Option<String>,
    /// The mark and its mask.
    pub mark: Option<(u32, u32)>,
    /// The first and the last user ID of the sending socket.
    pub uids: Option<(u32, u32)>,
    /// Whether it has conditions on unknown properties of a packet: ports, protocol, traffic class, …
    pub more: bool,
}

impl Selector {
    /// The conditions that all packets meet.
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

/// The action of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Looks up a table. A route counts only if its destination is longer than the given number of bits.
    Lookup(TableId, Option<u32>),
    /// Continues at another priority.
    Goto(RulePriority),
    /// Continues with the next rule.
    Nop,
    /// Ends with an error, or silently.
    Refuse(&'static str),
    /// An unknown action.
    Other,
}

/// Whether a packet meets the conditions of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It does not.
    No,
    /// It depends on unknown properties of the packet.
    Perhaps,
    /// It does.
    Yes,
}

impl Match {
    const fn of(known: bool) -> Self {
        if known { Self::Yes } else { Self::No }
    }

    /// The conjunction of two results.
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

impl PolicyRule {
    /// Whether a packet meets the conditions (`fib_rule_match` and `fib6_rule_match` in the kernel).
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

    /// Whether it looks up the local table for every packet, as the kernel's first rule does.
    #[must_use]
    pub fn looks_up_local_table(&self) -> bool {
        self.selector == Selector::ALL && self.action == Action::Lookup(LOCAL_TABLE, None)
    }

    /// As an `ip -6 rule add` or `del` command.
    #[must_use]
    pub fn command(&self, verb: &str) -> String {
        format!("ip -6 rule {verb} {self} priority {}", self.priority)
    }

    /// The commands that move it behind the rules of sixxs and before the rule for the main table. `None` if it
    /// cannot be there, since rules jump only forwards. A lower number for the rules of sixxs would not help: a rule
    /// added without a priority (as by wg-quick) gets the lowest existing number, minus one
    /// (`fib_default_rule_pref`).
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

    /// The commands that resolve the conflict: its removal, or its move behind the rules of sixxs.
    #[must_use]
    pub fn cures(&self) -> String {
        let delete = self.command("del");
        match self.behind_ours() {
            Some(moves) => format!("{delete}; or move it behind the rules of sixxs: {moves}"),
            None => delete,
        }
    }

    /// Whether a packet that takes a default route continues after this rule, although the rule looks up a
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

impl fmt::Display for PolicyRule {
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
                    MAIN_TABLE => f.write_str(" lookup main")?,
                    LOCAL_TABLE => f.write_str(" lookup local")?,
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

/// The result at a rule that a packet matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleEffect {
    /// The rule had no route for the packet, which continued.
    Passed,
    /// The rule routed the packet.
    Taken,
}

/// The rules that a packet matches, in order, up to the one that takes it. That is the first one for the table in
/// which the kernel found a route. `found` has that table and the length of the route's destination. `None`:
/// the kernel found no route; then a refusing rule took the packet, or it passed all rules.
#[must_use]
pub fn matching_rules<'a>(
    rules: &'a [PolicyRule],
    packet: &Packet,
    found: Option<(TableId, u8)>,
) -> Vec<(&'a PolicyRule, RuleEffect)> {
    let mut matched = Vec::new();
    let mut from = RulePriority(0);
    for rule in rules {
        if rule.priority < from || rule.matches(packet) == Match::No {
            continue;
        }
        let refuses = found.is_none()
            && matches!(rule.action, Action::Refuse(_))
            && rule.matches(packet) == Match::Yes;
        if refuses || found.is_some_and(|(table, bits)| rule.leads_to(table, bits)) {
            matched.push((rule, RuleEffect::Taken));
            return matched;
        }
        if let Action::Goto(target) = rule.action
            && is_resolved(rules, target)
        {
            from = target;
        }
        matched.push((rule, RuleEffect::Passed));
    }
    matched
}

/// Whether a jump has a target: the kernel ignores a jump without a rule at its target.
fn is_resolved(rules: &[PolicyRule], target: RulePriority) -> bool {
    rules.iter().any(|rule| rule.priority == target)
}

/// The foreign rule before `own_priority` that keeps a packet from the rules of sixxs: the one that takes it, or the
/// one that jumps over them. `found` as in [`matching_rules`].
#[must_use]
pub fn shadowing<'a>(
    rules: &'a [PolicyRule],
    packet: &Packet,
    found: Option<(TableId, u8)>,
    own_priority: RulePriority,
) -> Option<&'a PolicyRule> {
    let is_before =
        |rule: &PolicyRule| !rule.is_ours && rule.priority.0 > 0 && rule.priority < own_priority;
    if found.is_none() {
        let (rule, how) = foreign_match(rules, packet, own_priority)?;
        return (how == Match::Yes).then_some(rule);
    }
    let matched = matching_rules(rules, packet, found);
    let (last, became) = matched.last()?;
    if *became == RuleEffect::Taken && is_before(last) {
        return Some(last);
    }
    let jumps_over = |rule: &&PolicyRule| {
        let jumps = matches!(rule.action, Action::Goto(target)
            if target > own_priority && is_resolved(rules, target));
        jumps && is_before(rule) && rule.matches(packet) == Match::Yes
    };
    matched.iter().map(|(rule, _)| *rule).find(jumps_over)
}

/// The foreign rule before `own_priority` that a packet matches, except rules for the local table. A certain match is
/// preferred to a possible one.
#[must_use]
pub fn foreign_match<'a>(
    rules: &'a [PolicyRule],
    packet: &Packet,
    own_priority: RulePriority,
) -> Option<(&'a PolicyRule, Match)> {
    let is_before = |rule: &&PolicyRule| {
        let leads = !matches!(rule.action, Action::Nop) && !rule.looks_up_local_table();
        !rule.is_ours
            && leads
            && rule.priority.0 > 0
            && rule.priority < own_priority.min(MAIN_PRIORITY)
    };
    let matched = || {
        let matched = rules.iter().filter(is_before);
        matched.map(|rule| match rule.matches(packet) {
            Match::Yes if rule.lets_default_pass() => (rule, Match::Perhaps),
            how => (rule, how),
        })
    };
    matched()
        .find(|(_, how)| *how == Match::Yes)
        .or_else(|| matched().find(|(_, how)| *how == Match::Perhaps))
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
