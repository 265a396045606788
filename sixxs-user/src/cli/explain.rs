//! `sixxs explain`: the way that a packet would take, and why.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use sixxs_core::{
    config::{Config, RuleMode, Tunnel},
    enforce::Enforcement,
    explain::{
        Circumstances, Packet,
        path::{self, Explanation, Facts, Program, Route, Way},
        rules::{self, Action, SeenRule},
    },
    link::{Link, Links},
    routing::{Observed, Rule, SUBTREES_TABLE, observed::ObservedTarget},
    types::{IfIndex, InterfaceAddress, Mtu, Prefix},
};

use super::show;
use crate::{
    api::Status,
    bpf, client, config_file,
    netlink::{self, Netlink, Question, Scope, tc::Direction},
    paths::Paths,
};

/// What is asked.
#[derive(Args)]
pub(super) struct Asked {
    /// The packet's source, an IPv6 address.
    #[arg(value_name = "SRC")]
    source: String,
    /// Its destination; link-local ones with their interface: fe80::1%net0.
    #[arg(value_name = "DST")]
    destination: String,
    /// Owner of the sending process; default: yours.
    #[arg(long, value_name = "NUMBER", conflicts_with = "iif")]
    uid: Option<u32>,
    /// The packet's mark: 7 or 0x7.
    #[arg(long, value_name = "MARK", value_parser = mark)]
    mark: Option<u32>,
    /// The interface that the sending socket is bound to.
    #[arg(long, value_name = "INTERFACE", conflicts_with = "iif")]
    oif: Option<String>,
    /// The interface by which it comes in, to be forwarded.
    #[arg(long, value_name = "INTERFACE")]
    iif: Option<String>,
    /// Its length in bytes, headers included.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(40..=65575))]
    size: Option<u32>,
}

/// What is asked makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadArgument(String);

fn mark(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "expected a number, such as 7 or 0x7".to_owned())
}

/// As it is told.
#[derive(Serialize)]
struct Told<'a> {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    tunnel: Option<&'a str>,
    interface: Option<&'a str>,
    steps: Vec<Step<'a>>,
    outcome: &'static str,
    sentence: &'a str,
    cause: Option<&'static str>,
    cure: Option<String>,
}

#[derive(Serialize)]
struct Step<'a> {
    about: &'a str,
    detail: &'a str,
}

pub(super) async fn explain(paths: &Paths, json: bool, asked: Asked) -> anyhow::Result<ExitCode> {
    let facts = gather(paths, &asked).await?;
    let Explanation {
        steps,
        outcome,
        sentence,
        cause,
    } = path::explain(&facts);
    let cure = cause.as_ref().map(|cause| cause.cure());
    if json {
        let told = Told {
            source: facts.packet.source,
            destination: facts.packet.destination,
            tunnel: facts.owner.as_ref().map(|(name, _)| name.as_str()),
            interface: match &facts.way {
                Way::Out(route) => Some(route.interface.as_str()),
                Way::Here(_) | Way::Refused(_) => None,
            },
            steps: steps
                .iter()
                .map(|(about, detail)| Step { about, detail })
                .collect(),
            outcome: outcome.name(),
            sentence: &sentence,
            cause: cause.as_ref().map(|cause| cause.name()),
            cure,
        };
        show::print(&show::line(&told)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut before = "";
    for (about, detail) in &steps {
        let label = if *about == before { "" } else { about };
        show::print(&wrapped(label, detail))?;
        before = about;
    }
    show::print(&wrapped("so it", &sentence))?;
    if let Some(cure) = cure {
        show::print(&wrapped("cure", &cure))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A label, and a text behind it in lines of 80 columns.
fn wrapped(label: &str, text: &str) -> String {
    const WIDTH: usize = 80;
    const INDENT: usize = 9;
    let mut out = format!("{label:<INDENT$}");
    let mut column = INDENT;
    // What the text begins with keeps its place: numbers stand below each other.
    let start = text.len() - text.trim_start().len();
    out += &text[..start];
    column += start;
    for (number, word) in text[start..].split(' ').enumerate() {
        let length = word.chars().count();
        if number > 0 && column + 1 + length > WIDTH {
            out += &format!("\n{:INDENT$}  ", "");
            column = INDENT + 2;
        } else if number > 0 {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += length;
    }
    out + "\n"
}

async fn gather(paths: &Paths, asked: &Asked) -> anyhow::Result<Facts> {
    let source = address(&asked.source)?.0;
    let (destination, scope) = address(&asked.destination)?;
    if source.is_unicast_link_local() {
        bail!(BadArgument(format!(
            "{source}: a link-local address belongs to no tunnel, and is told apart by its interface alone"
        )));
    }
    let oif = asked.oif.clone().or(scope);
    if destination.is_unicast_link_local() && oif.is_none() {
        bail!(BadArgument(format!(
            "{destination}: a link-local address needs its interface: {destination}%net0"
        )));
    }
    let mut config = match config_file::read(&paths.config) {
        Ok(config) => config,
        // Of a host without, the kernel's answer is still one.
        Err(_) if !paths.config.exists() => Config::default(),
        Err(wrong) => return Err(wrong.into()),
    };
    let (status, daemon) = match client::get::<Status>(&paths.socket(), "/v1/status").await {
        Ok(status) => (Some(status), Some(true)),
        Err(error) => (None, error.is::<client::NoDaemon>().then_some(false)),
    };
    if let Some(status) = &status {
        learn(&mut config, status);
    }
    let mut netlink = Netlink::open()?;
    let observed = netlink.observe(&Scope::of(&config)).await?;
    let links = &observed.links;
    let (oif, oif_index) = interface(links, oif.as_ref())?;
    let (iif, iif_index) = interface(links, asked.iif.as_ref())?;
    let own = nix::unistd::geteuid().as_raw();
    let packet = Packet {
        source,
        destination,
        uid: asked.uid.or(iif.is_none().then_some(own)),
        mark: Some(asked.mark.unwrap_or_default()),
        iif,
        oif,
    };
    let question = Question {
        source: Some(source),
        destination: Some(destination),
        uid: packet.uid,
        mark: asked.mark,
        iif: iif_index,
        oif: oif_index,
    };
    let rules = netlink.everybodys_rules().await?;
    let (way, exit) = way(&netlink, links, question).await?;
    let is_wanted = |tunnel: &Tunnel| is_wanted(status.as_ref(), tunnel);
    let enforcement = Enforcement::new(&config, links, |_| true);
    let owner = owner(&config, source);
    Ok(Facts {
        bytes: asked.size,
        is_tunnel_up: owner
            .and_then(|(tunnel, _)| links.by_name(&tunnel.name))
            .is_some_and(|link| link.up),
        circumstances: owner.map(|(tunnel, by)| {
            let wanted = is_wanted(tunnel);
            circumstances(
                &config, tunnel, by, wanted, daemon, &packet, &observed, &rules,
            )
        }),
        owner: owner.map(|(tunnel, by)| (tunnel.name.clone(), by)),
        verdict: exit.map(|link| path::verdict(&enforcement, &packet, &link.name, link.index)),
        program: match exit {
            Some(link) => program(paths, &netlink, link, &packet).await,
            None => Program::None,
        },
        way,
        rules,
        packet,
    })
}

/// An address, and behind a `%` its interface.
fn address(text: &str) -> Result<(Ipv6Addr, Option<String>), BadArgument> {
    let (address, scope) = match text.split_once('%') {
        Some((address, scope)) => (address, Some(scope.to_owned())),
        None => (text, None),
    };
    let expected = |what: &str| BadArgument(format!("{text:?}: {what}"));
    if address.parse::<Ipv4Addr>().is_ok() {
        return Err(expected("that is IPv4; only IPv6 is led by tunnels' rules"));
    }
    let address: Ipv6Addr = address
        .parse()
        .map_err(|_| expected("expected an IPv6 address, such as 2001:db8::1"))?;
    if address.is_multicast() {
        return Err(expected("expected an address of one host, not a group's"));
    }
    if address.is_unspecified() {
        return Err(expected("expected an address of a host"));
    }
    Ok((address, scope))
}

/// An interface by its name, if one is asked for.
fn interface(
    links: &Links,
    name: Option<&String>,
) -> Result<(Option<String>, Option<IfIndex>), BadArgument> {
    let Some(name) = name else {
        return Ok((None, None));
    };
    let link = name.parse().ok().and_then(|name| links.by_name(&name));
    let link = link.ok_or_else(|| BadArgument(format!("there is no interface {name:?}")))?;
    Ok((Some(name.clone()), Some(link.index)))
}

/// Takes from the daemon what brokers said of tunnels of which the configuration has no address.
fn learn(config: &mut Config, status: &Status) {
    for tunnel in &mut config.tunnels {
        let name = tunnel.name.as_str();
        let said = status.tunnels.iter().find(|said| said.name == name);
        if let Some(said) = said.filter(|_| tunnel.addresses.is_empty()) {
            let addresses = said.addresses.iter();
            let whole = |address: &Ipv6Addr| InterfaceAddress {
                address: *address,
                bits: 128,
            };
            tunnel.addresses = addresses.map(whole).collect();
        }
    }
}

fn is_wanted(status: Option<&Status>, tunnel: &Tunnel) -> bool {
    let said = status.into_iter().flat_map(|status| &status.tunnels);
    let mut own = said.filter(|said| said.name == tunnel.name.as_str());
    own.all(|said| said.state != "down")
}

/// The tunnel that a source belongs to, by the longest address or prefix.
fn owner(config: &Config, source: Ipv6Addr) -> Option<(&Tunnel, Prefix)> {
    let own = |tunnel| Tunnel::sources(tunnel).map(move |by| (tunnel, by));
    let all = config.tunnels.iter().flat_map(own);
    all.filter(|(_, by)| by.contains(source))
        .max_by_key(|(_, by)| by.bits())
}

/// The kernel's answer, and the interface that the packet leaves by.
async fn way<'a>(
    netlink: &Netlink,
    links: &'a Links,
    question: Question,
) -> anyhow::Result<(Way, Option<&'a Link>)> {
    let mut answer = netlink.way(question).await?;
    if let Some(oif) = question.oif
        && !matches!(&answer, netlink::Way::By(found) if found.index == Some(oif))
    {
        // To a request with a source the interface is a wish, to a bound socket it is an order; as it is
        // to a request without one.
        let strictly = Question {
            source: None,
            ..question
        };
        answer = netlink.way(strictly).await?;
    }
    let found = match answer {
        netlink::Way::Refused(error) => return Ok((Way::Refused(error.to_string()), None)),
        netlink::Way::By(found) if found.is_local => return Ok((Way::Here(found.table), None)),
        netlink::Way::By(found) => found,
    };
    let Some(link) = found.index.and_then(|index| links.by_index(index)) else {
        let gone = "it leads to an interface that is not there".to_owned();
        return Ok((Way::Refused(gone), None));
    };
    let mtu = found.mtu.filter(|mtu| *mtu > 0).map_or(link.mtu, Mtu);
    let route = Route {
        table: found.table,
        destination: found.destination,
        from: found.from,
        metric: found.metric,
        gateway: found.gateway,
        interface: link.name.clone(),
        mtu: mtu.min(link.mtu),
    };
    Ok((Way::Out(route), Some(link)))
}

/// What our program at an interface says.
async fn program(paths: &Paths, netlink: &Netlink, link: &Link, packet: &Packet) -> Program {
    if !nix::unistd::geteuid().is_root() {
        return Program::Unknown("only root may look".to_owned());
    }
    let seen = bpf::seen_at(netlink, &link.name, link.index, Direction::Egress).await;
    match seen {
        Err(error) => Program::Unknown(format!("{error:#}")),
        Ok(seen) if seen.iter().all(|seen| !seen.ours) => Program::None,
        Ok(_) => match bpf::decided(&paths.pin_dir, link.index, packet) {
            Ok(decided) => Program::There(decided),
            Err(error) => Program::Unknown(format!("{error:#}")),
        },
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "all of it is what there is to be known"
)]
fn circumstances(
    config: &Config,
    tunnel: &Tunnel,
    by: Prefix,
    wanted: bool,
    daemon: Option<bool>,
    packet: &Packet,
    observed: &Observed,
    rules: &[SeenRule],
) -> Circumstances {
    let (from, table) = match config.rule_mode {
        RuleMode::Rules => (by, tunnel.table),
        RuleMode::Subtrees => (Prefix::ALL, SUBTREES_TABLE),
    };
    let priority = config.rule_priority;
    let is_ours = |rule: &SeenRule| {
        let leads = rule.action == Action::Lookup(table, None);
        rule.ours && rule.priority == priority && rule.selector.from == from && leads
    };
    let index = observed.links.by_name(&tunnel.name).map(|link| link.index);
    let leads_there = |target: &ObservedTarget| matches!(target, ObservedTarget::Interface { index: to, .. } if Some(*to) == index);
    let routes = || observed.routes.iter();
    let route_in_place = routes().any(|route| {
        let is_its = route.source.bits() == 0 || route.source == by;
        route.is_ours() && route.table == table && is_its && leads_there(&route.target)
    });
    let before = rules::before(rules, packet, priority);
    Circumstances {
        tunnel: tunnel.name.clone(),
        bound_to: packet.oif.clone(),
        forwarded_from: packet.iif.clone(),
        wanted,
        daemon,
        rule: Rule {
            priority,
            from,
            to: None,
            table,
            no_default: false,
        },
        rule_in_place: rules.iter().any(is_ours),
        route_in_place,
        before: before.map(|(rule, how)| (rule.clone(), how)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_said() {
        for (text, expected) in [
            ("192.0.2.1", "IPv4"),
            ("nonsense", "expected an IPv6 address"),
            ("2001:db8::1/64", "expected an IPv6 address"),
            ("ff02::1", "not a group's"),
            ("::", "of a host"),
        ] {
            let error = address(text).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(text), "{error}");
        }
        assert_eq!(address("fe80::1%net0").unwrap().1.as_deref(), Some("net0"));
    }

    #[test]
    fn long_lines_are_wrapped() {
        let text = wrapped("rule", &format!("    0  {}", "word ".repeat(40).trim_end()));
        assert!(text.lines().count() > 2);
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(text.starts_with("rule         0  word"), "{text}");
        let unbroken = "x".repeat(100);
        assert_eq!(wrapped("", &unbroken).lines().count(), 1);
    }
}
