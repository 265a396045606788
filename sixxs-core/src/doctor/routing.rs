//! Checks of rules, programs, addresses and uplinks: of the objects that route packets, and of those
//! that catch leaks.

use std::net::Ipv6Addr;

use super::{
    Finding, Verdict,
    marked::{self, Marked},
};
use crate::{
    explain::rules::PolicyRule,
    types::{IfIndex, Prefix},
};

/// Facts about rules, programs, addresses and uplinks.
#[derive(Clone, Debug, Default)]
pub struct RoutingFacts {
    /// Whether there is an uplink: one named in the configuration, or an exit.
    pub uplink: Option<bool>,
    /// Problems of the programs, in words, if no daemon reports them.
    pub not_enforced: Vec<String>,
    /// Exits that are neither tunnels nor named in the configuration.
    pub unguarded: Vec<String>,
    /// The uplinks named in the configuration.
    pub named: Vec<String>,
    /// Tunnels whose packets a foreign rule takes.
    pub shadows: Vec<Shadow>,
    /// Foreign rules that take packets of tunnels if these have a mark.
    pub marked: Vec<Marked>,
    /// Uplinks without the program, although the rules of sixxs are in place.
    pub without_program: Vec<String>,
    /// Objects that handle an uplink's packets before the program.
    pub earlier_handlers: Vec<EarlierHandler>,
    /// Unusable addresses of tunnels.
    pub addresses: Vec<Address>,
}

/// A tunnel whose packets a foreign rule takes.
#[derive(Clone, Debug)]
pub struct Shadow {
    /// The tunnel.
    pub tunnel: String,
    /// The source of its packets.
    pub source: Ipv6Addr,
    /// The rule; it comes before the rules of sixxs.
    pub rule: PolicyRule,
    /// The interface to which it leads; `None`: it refuses the packets (`blackhole`, `unreachable`,
    /// …).
    pub leaves_by: Option<IfIndex>,
}

/// An object that handles an uplink's packets before the program.
#[derive(Clone, Debug)]
pub struct EarlierHandler {
    /// The uplink.
    pub interface: String,
    /// Its description.
    pub what: String,
    /// The command that removes it.
    pub fix: String,
}

/// The fault of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressFault {
    /// No interface has it.
    Nowhere,
    /// Another host on the link has it too (`dadfailed`).
    Duplicate,
    /// Duplicate address detection has not ended (`tentative`).
    Tentative,
    /// It is within a prefix on the link of an uplink.
    OnUplink {
        /// The prefix.
        prefix: Prefix,
        /// The uplink.
        interface: String,
    },
}

/// An unusable address of a tunnel.
#[derive(Clone, Debug)]
pub struct Address {
    /// The tunnel.
    pub tunnel: String,
    /// The address.
    pub address: Ipv6Addr,
    /// The length of its prefix.
    pub bits: u8,
    /// Its fault.
    pub fault: AddressFault,
}

pub(super) fn findings(routing: &RoutingFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if routing.uplink == Some(false) {
        findings.push(Finding::not(
            "uplink",
            Verdict::Bad,
            "no route in any table leads to the internet: there is nowhere to catch leaks",
            "add a default route; or name the uplinks in the configuration, by the key `uplinks`",
        ));
    }
    findings.extend(routing.not_enforced.iter().map(|problem| {
        let fix = "correct the configuration; docs/reference.md has every key";
        Finding::not("enforcement", Verdict::Bad, problem, fix)
    }));
    for name in &routing.unguarded {
        let all = routing.named.iter().chain([name]);
        let all: Vec<_> = all.map(|name| format!("\"{name}\"")).collect();
        findings.push(Finding::not(
            "uplink",
            Verdict::Bad,
            format!(
                "{name} is an exit (a route leads to the internet there) and is not among the uplinks: leaks \
                 there are not watched, and pass"
            ),
            format!(
                "uplinks = [{}] in the configuration; or leave uplinks out",
                all.join(", ")
            ),
        ));
    }
    findings.extend(routing.addresses.iter().map(address));
    findings.extend(routing.shadows.iter().map(shadow));
    findings.extend(marked::findings(&routing.marked));
    findings.extend(routing.without_program.iter().map(|name| {
        Finding::not(
            "program",
            Verdict::Bad,
            format!("{name} has no program of sixxs: leaks there pass"),
            "sixxs run; if it runs already, sixxs status shows why",
        )
    }));
    findings.extend(routing.earlier_handlers.iter().map(|before| {
        let EarlierHandler {
            interface,
            what,
            fix,
        } = before;
        Finding::not(
            "program order",
            Verdict::Bad,
            format!(
                "{what} gets the packets that leave by {interface} before the program of sixxs does: \
                 where it decides about them, leaks are not detected"
            ),
            fix,
        )
    }));
    findings
}

fn shadow(shadow: &Shadow) -> Finding {
    let Shadow {
        tunnel,
        source,
        rule,
        leaves_by: _,
    } = shadow;
    Finding::not(
        "shadowed",
        Verdict::Bad,
        format!(
            "packets of {tunnel} from {source} are routed elsewhere by a rule before the rules of sixxs: {}: {rule}",
            rule.priority
        ),
        rule.cures(),
    )
}

fn address(address: &Address) -> Finding {
    let Address {
        tunnel,
        address,
        bits,
        fault,
    } = address;
    let add = format!("ip -6 address replace {address}/{bits} dev {tunnel} nodad");
    let (verdict, detail, fix) = match fault {
        AddressFault::Nowhere => (
            Verdict::Bad,
            format!("no interface has {address} of {tunnel}: this host does not answer for it"),
            add,
        ),
        AddressFault::Duplicate => (
            Verdict::Bad,
            format!("{address} of {tunnel} is not in use: another host on the link has it, too"),
            format!("ip -6 address del {address}/{bits} dev {tunnel}; {add}"),
        ),
        AddressFault::Tentative => (
            Verdict::Note,
            format!(
                "{address} of {tunnel} is not in use yet: duplicate address detection has not ended"
            ),
            add,
        ),
        AddressFault::OnUplink { prefix, interface } => (
            Verdict::Note,
            format!(
                "{address} of {tunnel} is within {prefix}, which is on the link of {interface}: hosts there look for it \
                 on that link, and one of them may have it"
            ),
            format!(
                "another address for {tunnel}; nothing, if {prefix} is routed to this host and the address belongs to it"
            ),
        ),
    };
    Finding::not("address", verdict, detail, fix)
}
