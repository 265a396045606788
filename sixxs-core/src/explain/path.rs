//! A packet's path out of this host, step by step, from facts that the caller gathered.

use std::net::Ipv6Addr;

use sixxs_common::{decide::Verdict, treatment::Treatment};

use super::{
    Cause, LeakFacts, Packet, cause,
    rules::{self, PolicyRule, RuleEffect},
    verdict::{Decided, treated},
};
use crate::types::{IfName, Metric, Mtu, Prefix, TableId};

/// The known facts about a packet and the host.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The packet.
    pub packet: Packet,
    /// Its length in bytes, if the user gave one.
    pub bytes: Option<u32>,
    /// The tunnel that its source belongs to, and the matching address or prefix.
    pub owner: Option<(IfName, Prefix)>,
    /// Whether that tunnel's interface exists and is up.
    pub is_tunnel_up: bool,
    /// Where that tunnel is silent, as a sentence of the daemon.
    pub silent: Option<String>,
    /// All policy rules.
    pub rules: Vec<PolicyRule>,
    /// The kernel's routing decision.
    pub decision: RoutingDecision,
    /// The programs' verdict according to the configuration, for a packet that leaves.
    pub verdict: Option<Verdict>,
    /// The program at the interface by which it leaves.
    pub program: Program,
    /// Whether the configuration names uplinks, but not the interface by which the packet leaves.
    pub is_unnamed_exit: bool,
    /// The facts for the cause, if it leaves by the wrong interface.
    pub leak_facts: Option<LeakFacts>,
}

/// The kernel's routing decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutingDecision {
    /// It leaves by a route.
    Out(Route),
    /// The destination is an address of this host.
    Here(TableId),
    /// There is no route; the error for the sender, with an explanation.
    Refused(String),
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its table.
    pub table: TableId,
    /// Its destination.
    pub destination: Prefix,
    /// Its source, for a source-specific route; else the prefix of length 0.
    pub from: Prefix,
    /// Its metric.
    pub metric: Metric,
    /// Next hop.
    pub gateway: Option<Ipv6Addr>,
    /// The interface that it leads to.
    pub interface: IfName,
    /// The largest packet that it accepts.
    pub mtu: Mtu,
}

/// The program at the interface by which a packet leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// The program is not attached there.
    None,
    /// Unknown, with the reason.
    Unknown(String),
    /// It is attached; this is its decision, according to its maps.
    Attached(Decided),
}

/// The result for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It leaves by the right interface.
    Leaves,
    /// It leaves by the wrong one.
    Leaks,
    /// It would leave by the wrong interface, but a program redirects it into the tunnel.
    Caught,
    /// It is dropped.
    Dropped,
    /// It is too big.
    TooBig,
    /// It stays on this host.
    Stays,
    /// There is no route for it.
    Refused,
}

impl Outcome {
    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leaves => "leaves",
            Self::Leaks => "leaks",
            Self::Caught => "caught",
            Self::Dropped => "dropped",
            Self::TooBig => "too_big",
            Self::Stays => "stays",
            Self::Refused => "refused",
        }
    }
}

/// An examined object, and its result.
type Step = (&'static str, String);

/// The whole explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The examined objects and their results.
    pub steps: Vec<Step>,
    /// The result for the packet.
    pub outcome: Outcome,
    /// The result as a sentence.
    pub sentence: String,
    /// The reason why it leaves by the wrong interface or is refused, if so.
    pub cause: Option<Cause>,
}

/// The sentence for an outer packet of a tunnel.
const DROPPED: &str = "dropped by the program";

/// The maximum number of rules to show.
const MAX_SHOWN_RULES: usize = 20;

/// Explains the path of a packet.
#[must_use]
pub fn explain(facts: &Facts) -> Explanation {
    let mut steps = vec![("source", source(facts))];
    steps.extend(rule_steps(facts));
    let (route_steps, outcome, sentence) = route(facts);
    steps.extend(route_steps);
    steps.extend(facts.silent.clone().map(|silent| ("outer", silent)));
    let recursion = recursion(facts);
    let (outcome, sentence) = match &recursion {
        Some(_) => (Outcome::Dropped, DROPPED.to_owned()),
        None => (outcome, sentence),
    };
    let is_refused = matches!(facts.decision, RoutingDecision::Refused(_)) && facts.is_tunnel_up;
    let is_leak = matches!(facts.verdict, Some(Verdict::Leak(_)));
    let leak_facts = facts.leak_facts.as_ref();
    let cause = leak_facts.map(cause).filter(|cause| {
        // A refused packet was routed by a rule of sixxs or by one before it: only such a rule can be the cause.
        is_leak || (is_refused && matches!(cause, Cause::Shadowed { certain: true, .. }))
    });
    let cause = recursion.or(cause);
    let sentence = match &cause {
        Some(cause) => format!("{sentence}: {}", cause.sentence()),
        None => sentence,
    };
    Explanation {
        steps,
        outcome,
        sentence,
        cause,
    }
}

/// The rules that the packet matches, and their results.
fn rule_steps(facts: &Facts) -> Vec<Step> {
    let found = match &facts.decision {
        RoutingDecision::Out(route) => Some((route.table, route.destination.bits())),
        RoutingDecision::Here(table) => Some((*table, 128)),
        RoutingDecision::Refused(_) => None,
    };
    let matched = rules::matching_rules(&facts.rules, &facts.packet, found);
    let more = matched.len().saturating_sub(MAX_SHOWN_RULES);
    let mut steps = Vec::new();
    for (rule, matched) in matched.into_iter().take(MAX_SHOWN_RULES) {
        let what = match matched {
            RuleEffect::Taken => "taken",
            // The kernel reports only the route that it chose from a table, and it reports no route that
            // refuses.
            RuleEffect::Passed if found.is_none() => {
                "no route for it there, or a route that refuses it"
            }
            RuleEffect::Passed => "no route for it there",
        };
        steps.push(("rule", format!("{:>5}  {rule}: {what}", rule.priority)));
    }
    if more > 0 {
        steps.push(("rule", format!("and {more} more")));
    }
    steps
}

/// The route, the program and the size, with the result for the packet and its sentence.
fn route(facts: &Facts) -> (Vec<Step>, Outcome, String) {
    let route = match &facts.decision {
        RoutingDecision::Refused(error) => {
            let steps = vec![("route", format!("none: {error}"))];
            return (steps, Outcome::Refused, refused(facts, error));
        }
        RoutingDecision::Here(_) => {
            let steps = vec![("route", "local: the destination is this host's".to_owned())];
            return (steps, Outcome::Stays, "stays on this host".to_owned());
        }
        RoutingDecision::Out(route) => route,
    };
    let mut steps = vec![
        ("route", describe(route)),
        ("program", program(facts, &route.interface)),
    ];
    if let Some(bytes) = facts.bytes {
        let mtu = route.mtu;
        let fits = if bytes <= mtu.0 {
            "fits"
        } else {
            "does not fit"
        };
        steps.push(("size", format!("{bytes} bytes: {fits} {mtu}")));
    }
    let (outcome, sentence) = out(facts, route);
    (steps, outcome, sentence)
}

/// The cause, if the program treats packets like this one as outer packets of the tunnel.
fn recursion(facts: &Facts) -> Option<Cause> {
    let Program::Attached(decided) = &facts.program else {
        return None;
    };
    let (tunnel, _) = facts.owner.as_ref()?;
    Some(Cause::Recursion {
        tunnel: tunnel.clone(),
        endpoint: decided.recursion?,
    })
}

fn source(facts: &Facts) -> String {
    let source = facts.packet.source;
    match &facts.owner {
        None => format!("{source} belongs to no tunnel"),
        Some((tunnel, by)) if by.bits() == 128 => format!("{source} is an address of {tunnel}"),
        Some((tunnel, by)) => format!("{source} is in {by}, which is routed by {tunnel}"),
    }
}

fn describe(route: &Route) -> String {
    let Route {
        table,
        destination,
        from,
        metric,
        interface,
        mtu,
        ..
    } = route;
    let destination = match destination.bits() {
        0 => "default".to_owned(),
        _ => destination.to_string(),
    };
    let from = match from.bits() {
        0 => String::new(),
        _ => format!(" from {from}"),
    };
    let table = match table.0 {
        254 => "main".to_owned(),
        other => other.to_string(),
    };
    let via = route
        .gateway
        .map_or(String::new(), |via| format!(" via {via}"));
    format!("{destination}{from}{via} dev {interface} table {table} metric {metric} mtu {mtu}")
}

fn program(facts: &Facts, interface: &IfName) -> String {
    let decided = match &facts.program {
        Program::None => return format!("no sixxs program at {interface}"),
        Program::Unknown(why) => return format!("unknown at {interface}: {why}"),
        Program::Attached(decided) => decided,
    };
    let says = match decided.verdict {
        None => "inactive there, lets everything pass",
        Some(Verdict::NotOurs) => "no tunnel's source, passes",
        Some(Verdict::Exempt) => "may leave here, passes",
        Some(Verdict::Own) => "the tunnel's own, passes",
        Some(Verdict::Stray) => "a stray, passes",
        Some(Verdict::Loop) => "would be routed back, dropped",
        Some(Verdict::OtherProtocol | Verdict::Unparsed) => "passes",
        Some(Verdict::Leak(_)) => "a leak",
    };
    let stale = if agrees(facts, decided) {
        ""
    } else {
        "; its maps are of another configuration"
    };
    format!("sixxs_egress at {interface}: {says}{stale}")
}

/// Whether a program's decision matches the configuration. The comparison uses names, since slots in the
/// maps and in a configuration differ.
fn agrees(facts: &Facts, decided: &Decided) -> bool {
    match (decided.verdict, facts.verdict) {
        (Some(Verdict::Leak(_)), Some(Verdict::Leak(_))) => {
            let owner = facts.owner.as_ref().map(|(tunnel, _)| tunnel);
            decided.name.as_ref() == owner
        }
        (None, _) => true,
        (said, wanted) => said == wanted,
    }
}

fn refused(facts: &Facts, error: &str) -> String {
    match &facts.owner {
        Some((tunnel, _)) if !facts.is_tunnel_up => {
            format!("goes nowhere: {tunnel} is down, and its packets have no other route ({error})")
        }
        _ => format!("goes nowhere: {error}"),
    }
}

fn out(facts: &Facts, route: &Route) -> (Outcome, String) {
    let name = &route.interface;
    let via = route
        .gateway
        .map_or(String::new(), |via| format!(" through {via}"));
    let too_big = facts
        .bytes
        .filter(|bytes| *bytes > route.mtu.0)
        .map(|bytes| {
            let sender = match &facts.packet.iif {
                Some(_) => "the sender gets Packet Too Big",
                None => "it is fragmented, or the sender gets EMSGSIZE",
            };
            let mtu = route.mtu;
            (
                Outcome::TooBig,
                format!("{bytes} bytes are too big for {name}, which takes {mtu}: {sender}"),
            )
        });
    let leaves = match facts.verdict {
        Some(Verdict::Leak(_)) => return wrong_way(facts, name),
        Some(Verdict::Own) => format!("leaves by {name}{via}; replies reach the source"),
        Some(Verdict::Exempt) => {
            format!(
                "leaves by {name}{via}, as it may: its destination is reached without the tunnel"
            )
        }
        Some(Verdict::Loop) => return goes_round(facts, name),
        Some(Verdict::Stray) => {
            let text = format!(
                "leaves by {name}{via}, and the broker drops it: its source belongs to no tunnel"
            );
            return (Outcome::Leaks, text);
        }
        _ => format!("leaves by {name}{via}; its source belongs to no tunnel"),
    };
    too_big.unwrap_or((Outcome::Leaves, leaves))
}

fn goes_round(facts: &Facts, name: &IfName) -> (Outcome, String) {
    let round = format!("would leave by {name}, and a tunnel would route it back");
    match &facts.program {
        Program::Attached(decided) if decided.verdict == Some(Verdict::Loop) => {
            (Outcome::Dropped, format!("{round}: the program drops it"))
        }
        Program::Unknown(_) => (
            Outcome::Leaks,
            format!("{round}, unless a program is there"),
        ),
        Program::None | Program::Attached(_) => (Outcome::Leaks, round),
    }
}

fn wrong_way(facts: &Facts, name: &IfName) -> (Outcome, String) {
    let tunnel = facts
        .owner
        .as_ref()
        .map_or("its tunnel", |(tunnel, _)| tunnel.as_str());
    let unnamed = match facts.is_unnamed_exit {
        true => {
            format!(" ({name} is an exit that `uplinks` does not name: nothing is caught there)")
        }
        false => String::new(),
    };
    let decided = match &facts.program {
        Program::None => return (Outcome::Leaks, format!("would leak by {name}{unnamed}")),
        Program::Unknown(_) => {
            return (
                Outcome::Leaks,
                format!("would leak by {name}, unless a program is there"),
            );
        }
        Program::Attached(decided) => decided,
    };
    if !matches!(decided.verdict, Some(Verdict::Leak(_))) {
        return (Outcome::Leaks, format!("would leak by {name}{unnamed}"));
    }
    let decision = treated(decided, facts.bytes.unwrap_or_default());
    match decision.treatment {
        Treatment::Redirected => {
            let text = format!("would leak by {name}, and the program redirects it into {tunnel}");
            (Outcome::Caught, text)
        }
        Treatment::Dropped => (
            Outcome::Dropped,
            format!("would leak by {name}, and is dropped (on_leak = \"drop\")"),
        ),
        Treatment::Observed => (
            Outcome::Leaks,
            format!("leaks by {name}, and is counted (on_leak = \"observe\")"),
        ),
        Treatment::NoTunnel => (
            Outcome::Dropped,
            format!("would leak by {name}, and is dropped, as {tunnel} does not exist"),
        ),
        Treatment::TooBig | Treatment::TooBigDropped => {
            let mtu = decision.mtu;
            let text = format!(
                "would leak by {name}, and is too big for {tunnel}: Packet Too Big, mtu {mtu}"
            );
            (Outcome::TooBig, text)
        }
        Treatment::Recursion => (Outcome::Dropped, DROPPED.to_owned()),
    }
}

#[cfg(test)]
#[path = "path_tests.rs"]
pub(super) mod tests;
