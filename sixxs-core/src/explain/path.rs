//! A packet's way out of this host, step by step, from facts that somebody else gathered.

use std::net::Ipv6Addr;

use sixxs_common::{
    address::Address,
    decide::{self, Verdict, decide},
    layout::{ANY_UPLINK, ON_LEAK_DROP, ON_LEAK_OBSERVE, Source, Tunnel},
    packet::Ipv6,
};

use super::{
    Cause, Circumstances, Packet, cause,
    rules::{self, Met, SeenRule},
};
use crate::{
    enforce::{Enforcement, Home, Role},
    types::{IfIndex, IfName, Metric, Mtu, Prefix, TableId},
};

/// What is known of a packet and of the host.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The packet.
    pub packet: Packet,
    /// Its length, if that is asked for.
    pub bytes: Option<u32>,
    /// The tunnel that its source belongs to, and by which address or prefix.
    pub owner: Option<(IfName, Prefix)>,
    /// Whether that tunnel's interface is there and up.
    pub is_tunnel_up: bool,
    /// Everybody's rules.
    pub rules: Vec<SeenRule>,
    /// What the kernel says.
    pub way: Way,
    /// What a packet would be to the programs, by the configuration; for one that leaves.
    pub verdict: Option<Verdict>,
    /// The program where it leaves.
    pub program: Program,
    /// Why it leaves by the wrong interface, if it does.
    pub circumstances: Option<Circumstances>,
}

/// What the kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It leaves by a route.
    Out(Route),
    /// The destination is an address of this host.
    Here(TableId),
    /// There is none; the error that the sender sees.
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
    /// The largest packet that it takes.
    pub mtu: Mtu,
}

/// The program where a packet leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// There is none of ours.
    None,
    /// Not to be found out, and why.
    Unknown(String),
    /// It is there, and says this by its maps.
    There(Decided),
}

/// What a program says of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// What it is; `None`: the interface is not in use as uplink or tunnel, and everything passes.
    pub verdict: Option<Verdict>,
    /// Of a leak: the tunnel's entry.
    pub tunnel: Tunnel,
    /// Of a leak: the tunnel's name.
    pub name: Option<IfName>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It leaves by the right interface.
    Leaves,
    /// It leaves by the wrong one.
    Leaks,
    /// It would, and a program puts it into the tunnel.
    Caught,
    /// It is dropped.
    Dropped,
    /// It is too big.
    TooBig,
    /// It stays on this host.
    Stays,
    /// There is no way for it.
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

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was looked at, and what came of it.
    pub steps: Vec<(&'static str, String)>,
    /// What becomes of the packet.
    pub outcome: Outcome,
    /// The same in words.
    pub sentence: String,
    /// Why it leaves by the wrong interface, if it does.
    pub cause: Option<Cause>,
}

/// Rules shown, at most.
const SHOWN: usize = 20;

/// The way of a packet.
#[must_use]
pub fn explain(facts: &Facts) -> Explanation {
    let mut steps = vec![("source", source(facts))];
    let found = match &facts.way {
        Way::Out(route) => Some((route.table, route.destination.bits())),
        Way::Here(table) => Some((*table, 128)),
        Way::Refused(_) => None,
    };
    let met = rules::met(&facts.rules, &facts.packet, found);
    let more = met.len().saturating_sub(SHOWN);
    for (rule, met) in met.into_iter().take(SHOWN) {
        let what = match met {
            Met::Taken => "taken",
            Met::Passed => "nothing there for it",
        };
        steps.push(("rule", format!("{:>5}  {rule}: {what}", rule.priority)));
    }
    if more > 0 {
        steps.push(("rule", format!("and {more} more")));
    }
    let (outcome, sentence) = match &facts.way {
        Way::Refused(error) => {
            steps.push(("route", format!("none: {error}")));
            (Outcome::Refused, refused(facts, error))
        }
        Way::Here(_) => {
            steps.push(("route", "local: the destination is this host's".to_owned()));
            (Outcome::Stays, "stays on this host".to_owned())
        }
        Way::Out(route) => {
            steps.push(("route", described(route)));
            steps.push(("program", program(facts, &route.interface)));
            if let Some(bytes) = facts.bytes {
                let mtu = route.mtu;
                let fits = if bytes <= mtu.0 {
                    "fits"
                } else {
                    "does not fit"
                };
                steps.push(("size", format!("{bytes} bytes: {fits} {mtu}")));
            }
            out(facts, route)
        }
    };
    let goes_wrong = matches!(facts.verdict, Some(Verdict::Leak(_)));
    let cause = facts
        .circumstances
        .as_ref()
        .filter(|_| goes_wrong)
        .map(cause);
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

fn source(facts: &Facts) -> String {
    let source = facts.packet.source;
    match &facts.owner {
        None => format!("{source} belongs to no tunnel"),
        Some((tunnel, by)) if by.bits() == 128 => format!("{source} is an address of {tunnel}"),
        Some((tunnel, by)) => format!("{source} is in {by}, which is routed by {tunnel}"),
    }
}

fn described(route: &Route) -> String {
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
        Program::None => return format!("none of ours at {interface}"),
        Program::Unknown(why) => return format!("not found out at {interface}: {why}"),
        Program::There(decided) => decided,
    };
    let says = match decided.verdict {
        None => "in no use there, lets everything pass",
        Some(Verdict::NotOurs) => "of no tunnel, passes",
        Some(Verdict::Exempt) => "may leave here, passes",
        Some(Verdict::Own) => "the tunnel's own, passes",
        Some(Verdict::Stray) => "a stray, passes",
        Some(Verdict::OtherProtocol | Verdict::Unparsed) => "passes",
        Some(Verdict::Leak(_)) => "a leak",
    };
    let stale = if agrees(facts, decided) {
        ""
    } else {
        "; its maps are not of this configuration"
    };
    format!("sixxs_egress at {interface}: {says}{stale}")
}

/// Whether a program says what it should by the configuration. Slots are no names: those of the maps and
/// of a configuration differ.
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
            format!("goes nowhere: {tunnel} is down, and its packets take no other way ({error})")
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
                None => "it is cut, or the sender gets EMSGSIZE",
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
        Some(Verdict::Stray) => {
            let text = format!(
                "leaves by {name}{via}, and the broker drops it: its source is of no tunnel"
            );
            return (Outcome::Leaks, text);
        }
        _ => format!("leaves by {name}{via}; its source is of no tunnel"),
    };
    too_big.unwrap_or((Outcome::Leaves, leaves))
}

fn wrong_way(facts: &Facts, name: &IfName) -> (Outcome, String) {
    let tunnel = facts
        .owner
        .as_ref()
        .map_or("its tunnel", |(tunnel, _)| tunnel.as_str());
    let decided = match &facts.program {
        Program::None => return (Outcome::Leaks, format!("would leak by {name}")),
        Program::Unknown(_) => {
            return (
                Outcome::Leaks,
                format!("would leak by {name}, unless a program is there"),
            );
        }
        Program::There(decided) => decided,
    };
    if !matches!(decided.verdict, Some(Verdict::Leak(_))) {
        return (Outcome::Leaks, format!("would leak by {name}"));
    }
    match fate(&decided.tunnel, facts.bytes.unwrap_or_default()) {
        Fate::Redirect => {
            let text = format!("would leak by {name}, and is put into {tunnel} by the program");
            (Outcome::Caught, text)
        }
        Fate::Drop => (
            Outcome::Dropped,
            format!("would leak by {name}, and is dropped (on_leak = \"drop\")"),
        ),
        Fate::Observe => (
            Outcome::Leaks,
            format!("leaks by {name}, and is counted (on_leak = \"observe\")"),
        ),
        Fate::NoTunnel => (
            Outcome::Dropped,
            format!("would leak by {name}, and is dropped, as {tunnel} is not there"),
        ),
        Fate::TooBig(mtu) => (
            Outcome::TooBig,
            format!("would leak by {name}, and is too big for {tunnel}: Packet Too Big, mtu {mtu}"),
        ),
    }
}

/// What the program does about a leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Redirect,
    Drop,
    Observe,
    NoTunnel,
    TooBig(u32),
}

/// As the kernel program has it (`leak.rs` there), for a packet that is no batch.
fn fate(tunnel: &Tunnel, bytes: u32) -> Fate {
    match tunnel.on_leak {
        ON_LEAK_DROP => Fate::Drop,
        ON_LEAK_OBSERVE => Fate::Observe,
        _ if tunnel.ifindex == 0 => Fate::NoTunnel,
        _ if bytes > Mtu::MINIMUM.0 && bytes > tunnel.mtu => {
            Fate::TooBig(tunnel.mtu.max(Mtu::MINIMUM.0))
        }
        _ => Fate::Redirect,
    }
}

/// What a packet that leaves by an interface would be to the programs, by what they should know. An
/// interface that is neither uplink nor tunnel counts as an uplink.
#[must_use]
pub fn verdict(wanted: &Enforcement, packet: &Packet, name: &IfName, index: IfIndex) -> Verdict {
    let tables = Wanted(wanted);
    let role = wanted.interfaces.get(name).map(|interface| interface.role);
    let exit = match (role, tables.slot(name)) {
        (Some(Role::Tunnel), Some(slot)) => decide::Exit::Tunnel(slot),
        _ => decide::Exit::Uplink(index.0),
    };
    decide(Ok(&header(packet)), exit, &tables)
}

/// The header of a packet, as far as a decision asks.
#[must_use]
pub fn header(packet: &Packet) -> Ipv6 {
    Ipv6 {
        offset: 0,
        source: Address::from_octets(packet.source.octets()),
        destination: Address::from_octets(packet.destination.octets()),
        payload_bytes: 0,
        next_header: 59,
    }
}

/// What the programs should know, as tables; a tunnel's slot is its place in their order.
struct Wanted<'a>(&'a Enforcement);

impl Wanted<'_> {
    fn slot(&self, tunnel: &IfName) -> Option<u32> {
        let place = self.0.tunnels.keys().position(|name| name == tunnel)?;
        u32::try_from(place).ok()
    }
}

impl decide::Tables for Wanted<'_> {
    fn source(&self, address: Address) -> Option<Source> {
        let address = Ipv6Addr::from(address.octets());
        let mut sources = self.0.sources.iter();
        let source = sources.find(|source| source.prefix.contains(address))?;
        let home = match source.home {
            Home::Nowhere => 0,
            Home::Uplink(index) => index.0,
            Home::Several => ANY_UPLINK,
        };
        Some(Source::new(
            self.slot(&source.tunnel)?,
            source.prefix.bits(),
            home,
        ))
    }

    fn is_direct(&self, tunnel: u32, destination: Address) -> bool {
        let destination = Ipv6Addr::from(destination.octets());
        let mut directs = self.0.directs.iter();
        directs
            .any(|(name, prefix)| self.slot(name) == Some(tunnel) && prefix.contains(destination))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        explain::rules::{Action, Selector},
        routing::Rule,
        types::RulePriority,
    };

    const LEAK: Verdict = Verdict::Leak(0);

    fn facts(interface: &str, verdict: Verdict, program: Program) -> Facts {
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
            rules: vec![SeenRule {
                priority: RulePriority(32766),
                ours: false,
                selector: Selector::ALL,
                action: Action::Lookup(TableId(254), None),
            }],
            way: Way::Out(Route {
                table: TableId(254),
                destination: Prefix::ALL,
                from: Prefix::ALL,
                metric: Metric(1024),
                gateway: Some("fe80::1".parse().unwrap()),
                interface: interface.parse().unwrap(),
                mtu: Mtu(1500),
            }),
            verdict: Some(verdict),
            program,
            circumstances: Some(Circumstances {
                tunnel,
                bound_to: None,
                forwarded_from: None,
                wanted: true,
                daemon: Some(true),
                rule,
                rule_in_place: false,
                route_in_place: true,
                before: None,
            }),
        }
    }

    fn there(verdict: Verdict, on_leak: u8, ifindex: u32) -> Program {
        Program::There(Decided {
            verdict: Some(verdict),
            tunnel: Tunnel {
                ifindex,
                mtu: 1400,
                on_leak,
                ..Tunnel::default()
            },
            name: "sixxs0".parse().ok(),
        })
    }

    #[test]
    #[rustfmt::skip] // a table reads best as one
    fn every_end() {
        use Outcome::{Caught, Dropped, Leaks, Leaves, Refused, Stays, TooBig};
        type Set = fn(&mut Facts);
        let none: Set = |_| {};
        let big: Set = |f| f.bytes = Some(1501);
        let cases = [
            (Leaves, "leaves by sixxs0 through fe80::1; replies reach", facts("sixxs0", Verdict::Own, Program::None), none),
            (Leaves, "reached without the tunnel", facts("net0", Verdict::Exempt, Program::None), none),
            (Leaves, "its source is of no tunnel", facts("net0", Verdict::NotOurs, Program::None), none),
            (Leaks, "the broker drops it", facts("sixxs0", Verdict::Stray, Program::None), none),
            (TooBig, "EMSGSIZE", facts("sixxs0", Verdict::Own, Program::None), big),
            (Leaks, "would leak by net0: the rule from 2001:db8:a::2", facts("net0", LEAK, Program::None), none),
            (Leaks, "unless a program is there", facts("net0", LEAK, Program::Unknown("not permitted".into())), none),
            (Caught, "put into sixxs0 by the program: the rule", facts("net0", LEAK, there(LEAK, 0, 7)), none),
            (Dropped, "on_leak", facts("net0", LEAK, there(LEAK, ON_LEAK_DROP, 7)), none),
            (Leaks, "counted", facts("net0", LEAK, there(LEAK, ON_LEAK_OBSERVE, 7)), none),
            (Dropped, "sixxs0 is not there", facts("net0", LEAK, there(LEAK, 0, 0)), none),
            (TooBig, "Packet Too Big, mtu 1400", facts("net0", LEAK, there(LEAK, 0, 7)), big),
            (Leaks, "would leak by net0", facts("net0", LEAK, there(Verdict::NotOurs, 0, 7)), none),
            (Stays, "stays on this host", facts("net0", Verdict::NotOurs, Program::None), |f| f.way = Way::Here(TableId(255))),
            (Refused, "goes nowhere: No route", facts("net0", Verdict::Own, Program::None), |f| f.way = Way::Refused("No route to host".into())),
            (Refused, "sixxs0 is down", facts("net0", Verdict::Own, Program::None), |f| { f.way = Way::Refused("No route to host".into()); f.is_tunnel_up = false; }),
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
    fn maps_of_another_configuration_are_told() {
        let program = |verdict, name: &str| {
            let mut facts = facts("net0", LEAK, there(verdict, 0, 7));
            if let Program::There(decided) = &mut facts.program {
                decided.name = name.parse().ok();
            }
            explain(&facts)
                .steps
                .into_iter()
                .any(|(_, text)| text.contains("not of this"))
        };
        // A tunnel's slot is not its place in the configuration.
        assert!(!program(Verdict::Leak(7), "sixxs0"));
        assert!(program(Verdict::Leak(0), "sixxs1"));
        assert!(program(Verdict::NotOurs, "sixxs0"));
    }
}
