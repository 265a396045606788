//! Policy rules: those of sixxs as plain data, foreign ones as far as they can be parsed.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context as _, bail};
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use sixxs_core::{
    explain::rules::{Action, PolicyRule, Selector},
    routing::{Rule, observed::ObservedRule},
    types::{PROTOCOL, Prefix, RulePriority, TableId},
};

use super::{DUMP, Netlink, RequestError};

/// The kernel has no policy rules for IPv6.
#[derive(Debug, thiserror::Error)]
#[error("this kernel has no rules for IPv6 (CONFIG_IPV6_MULTIPLE_TABLES)")]
pub struct NoPolicyRules;

impl Netlink {
    /// The rules of sixxs, with their messages, and the foreign rules.
    pub(super) async fn rules(
        &self,
    ) -> anyhow::Result<(Vec<(ObservedRule, RuleMessage)>, Vec<PolicyRule>)> {
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for (position, message) in self.rule_messages().await?.into_iter().enumerate() {
            if is_ours(&message) {
                let known =
                    rule(&message).map_or(ObservedRule::Foreign(position), ObservedRule::Plain);
                ours.push((known, message));
            } else {
                others.push(parse_rule(&message));
            }
        }
        Ok((ours, others))
    }

    /// All rules, in the order in which the kernel evaluates them.
    pub async fn all_rules(&self) -> anyhow::Result<Vec<PolicyRule>> {
        Ok(self.rule_messages().await?.iter().map(parse_rule).collect())
    }

    /// Foreign rules from the last observation.
    #[must_use]
    pub fn foreign_rules(&self) -> &[PolicyRule] {
        &self.foreign_rules
    }

    async fn rule_messages(&self) -> anyhow::Result<Vec<RuleMessage>> {
        let mut request = RuleMessage::default();
        request.header.family = AddressFamily::Inet6;
        let answers = match self
            .request(RouteNetlinkMessage::GetRule(request), DUMP)
            .await
        {
            Err(RequestError::Kernel(error))
                if error.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
            {
                bail!(NoPolicyRules);
            }
            answers => answers.context("list the rules")?,
        };
        let messages = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRule(message) => Some(message),
            _ => None,
        });
        Ok(messages.collect())
    }
}

fn is_ours(message: &RuleMessage) -> bool {
    message.attributes.iter().any(|attribute| {
        matches!(attribute, RuleAttribute::Protocol(protocol) if u8::from(*protocol) == PROTOCOL)
    })
}

/// A rule that selects by addresses only and looks up a table; `None` for any other.
fn rule(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    if header.action != RuleAction::ToTable
        || header.tos != 0
        || header.flags.contains(RuleFlags::Invert)
    {
        return None;
    }
    let mut from = Ipv6Addr::UNSPECIFIED;
    let mut to = None;
    let mut table = u32::from(header.table);
    let mut priority = 0;
    let mut no_default = false;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(IpAddr::V6(address)) => from = *address,
            RuleAttribute::Destination(IpAddr::V6(address)) => to = Some(*address),
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::SuppressPrefixLen(0) => no_default = true,
            // Default values, which the kernel sends with every rule: nothing is suppressed.
            RuleAttribute::Protocol(_)
            | RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            _ => return None,
        }
    }
    Some(Rule {
        priority: RulePriority(priority),
        from: Prefix::containing(from, header.src_len),
        to: to.map(|to| Prefix::containing(to, header.dst_len)),
        table: TableId(table),
        no_default,
    })
}

/// Parses any rule, as far as possible.
fn parse_rule(message: &RuleMessage) -> PolicyRule {
    let header = &message.header;
    let mut selector = Selector {
        not: header.flags.contains(RuleFlags::Invert),
        more: header.tos != 0,
        ..Selector::ALL
    };
    let mut table = u32::from(header.table);
    let mut priority = 0;
    let mut suppressed = None;
    let mut goto = None;
    let (mut mark, mut mask) = (None, u32::MAX);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(IpAddr::V6(address)) => {
                selector.from = Prefix::containing(*address, header.src_len);
            }
            RuleAttribute::Destination(IpAddr::V6(address)) => {
                selector.to = Prefix::containing(*address, header.dst_len);
            }
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Goto(value) => goto = Some(*value),
            RuleAttribute::Iifname(name) => selector.iif = Some(name.clone()),
            RuleAttribute::Oifname(name) => selector.oif = Some(name.clone()),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = *value,
            RuleAttribute::UidRange(range) => selector.uids = Some((range.start, range.end)),
            RuleAttribute::SuppressPrefixLen(bits) => {
                // The default value, which the kernel sends with every rule: nothing is suppressed.
                suppressed = Some(*bits).filter(|bits| *bits != u32::MAX);
            }
            RuleAttribute::Protocol(_) | RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            _ => selector.more = true,
        }
    }
    selector.mark = mark.map(|mark| (mark, mask));
    PolicyRule {
        priority: RulePriority(priority),
        is_ours: is_ours(message),
        selector,
        action: match (header.action, goto) {
            (RuleAction::ToTable, _) => Action::Lookup(TableId(table), suppressed),
            (RuleAction::Goto, Some(priority)) => Action::Goto(RulePriority(priority)),
            (RuleAction::Nop, _) => Action::Nop,
            (RuleAction::Unreachable, _) => Action::Refuse("unreachable"),
            (RuleAction::Prohibit, _) => Action::Refuse("prohibit"),
            (RuleAction::Blackhole, _) => Action::Refuse("blackhole"),
            _ => Action::Other,
        },
    }
}
