//! Gathers the facts: the configuration, the rules, the kernel's route, the program's verdict.

use std::{borrow::Cow, net::Ipv6Addr};

use anyhow::bail;
use sixxs_core::{
    config::{Config, Tunnel},
    enforce::Enforcement,
    explain::{
        LeakFacts, Packet,
        path::{Facts, Program, Route, RoutingDecision},
        rules::{self, Action, PolicyRule},
        verdict::verdict,
    },
    link::{Link, Links},
    routing::{Observed, desired::leading_rule, observed::ObservedTarget},
    types::{IfName, Mtu, Prefix},
};

use super::arguments::{Arguments, BadArgument, address, interface};
use crate::{
    bpf,
    cli::{broker_overlay, output},
    control::api::{State, Status},
    control::client,
    host::config_file,
    host::paths::Paths,
    netlink::{self, Netlink, RouteQuery, Scope, tc::Direction},
};

/// The observed state of the host.
struct View<'a> {
    config: &'a Config,
    observed: &'a Observed,
    rules: &'a [PolicyRule],
    status: Option<&'a Status>,
    /// Whether a daemon runs; `None` if unknown.
    daemon: Option<bool>,
}

/// Observes the host, and queries the kernel. Returns the interfaces too.
pub(super) async fn gather(paths: &Paths, arguments: &Arguments) -> anyhow::Result<(Facts, Links)> {
    let (source, destination, oif) = addresses(arguments)?;
    let config = config_or_default(paths)?;
    let (status, daemon) = ask_daemon(paths).await;
    let config = broker_overlay::with_broker_parameters(&config, paths, status.as_ref()).await;
    let mut netlink = Netlink::open()?;
    let observed = netlink.observe(&Scope::of(&config)).await?;
    let config = broker_overlay::with_host(config, &observed);
    let links = &observed.links;
    let (oif, oif_index) = interface(links, oif.as_ref())?;
    let (iif, iif_index) = interface(links, arguments.iif.as_ref())?;
    let own = nix::unistd::geteuid().as_raw();
    let packet = Packet {
        source,
        destination,
        uid: arguments.uid.or(iif.is_none().then_some(own)),
        mark: Some(arguments.mark.unwrap_or_default()),
        iif,
        oif,
    };
    let question = RouteQuery {
        source: Some(source),
        destination: Some(destination),
        uid: packet.uid,
        mark: arguments.mark,
        iif: iif_index,
        oif: oif_index,
    };
    let rules = netlink.all_rules().await?;
    let (decision, exit) = query_route(&netlink, links, question).await?;
    let view = View {
        config: &config,
        observed: &observed,
        rules: &rules,
        status: status.as_ref(),
        daemon,
    };
    let enforcement = Enforcement::new(&config, links, |_| true);
    let owner = owner(&config, source);
    let owner = owner.as_ref();
    let facts = Facts {
        bytes: arguments.size,
        is_tunnel_up: owner
            .and_then(|(tunnel, _)| links.by_name(&tunnel.name))
            .is_some_and(|link| link.up),
        silent: owner.and_then(|(tunnel, _)| silent(view.status, &tunnel.name)),
        leak_facts: owner.map(|(tunnel, by)| leak_facts(&view, tunnel, *by, &packet)),
        owner: owner.map(|(tunnel, by)| (tunnel.name.clone(), *by)),
        is_unnamed_exit: exit.is_some_and(|link| is_not_guarded(&config, &link.name)),
        verdict: exit.map(|link| verdict(&enforcement, &packet, &link.name, link.index)),
        program: match exit {
            Some(link) => program(paths, &netlink, link, &packet).await,
            None => Program::None,
        },
        decision,
        rules,
        packet,
    };
    Ok((facts, observed.links))
}

/// The daemon's status, and whether it runs; `None` if unknown.
async fn ask_daemon(paths: &Paths) -> (Option<Status>, Option<bool>) {
    match client::status_soon(&paths.socket()).await {
        Ok(status) => (Some(status), Some(true)),
        Err(error) => (None, error.is::<client::NoDaemon>().then_some(false)),
    }
}

/// The daemon's sentence about where a tunnel is silent.
fn silent(status: Option<&Status>, name: &IfName) -> Option<String> {
    let mut tunnels = status?.tunnels.iter();
    let tunnel = tunnels.find(|tunnel| tunnel.name == name.as_str())?;
    tunnel.outer.as_ref()?.sentence.clone()
}

/// Source, destination, and the interface that the socket is bound to.
fn addresses(arguments: &Arguments) -> anyhow::Result<(Ipv6Addr, Ipv6Addr, Option<String>)> {
    let (source, zone) = address(&arguments.source)?;
    let (destination, scope) = address(&arguments.destination)?;
    if source.is_unicast_link_local() {
        bail!(BadArgument(format!(
            "{source}: a link-local address belongs to no tunnel, and is distinguished by its interface only"
        )));
    }
    if let Some(zone) = zone {
        bail!(BadArgument(format!(
            "{}: a zone does not belong here; to bind the socket to an interface: --oif {zone}",
            arguments.source
        )));
    }
    let oif = arguments.oif.clone().or(scope);
    if destination.is_unicast_link_local() && oif.is_none() {
        bail!(BadArgument(format!(
            "{destination}: a link-local address needs its interface: {destination}%net0"
        )));
    }
    Ok((source, destination, oif))
}

fn config_or_default(paths: &Paths) -> anyhow::Result<Config> {
    match config_file::read(&paths.config) {
        Ok(config) => Ok(config),
        // Without a configuration the kernel's route is still useful.
        Err(wrong) if wrong.is_missing() => {
            output::message(&format!(
                "there is no {}: no tunnel's sources are known",
                paths.config.display()
            ));
            Ok(Config::default())
        }
        Err(wrong) => Err(wrong.into()),
    }
}

/// Whether leaks at an interface are not detected because the configuration names other uplinks.
fn is_not_guarded(config: &Config, name: &IfName) -> bool {
    let is_named = |names: &Vec<IfName>| names.contains(name);
    config
        .uplinks
        .as_ref()
        .is_some_and(|names| !is_named(names))
        && config.tunnels.iter().all(|tunnel| tunnel.name != *name)
}

fn is_wanted(status: Option<&Status>, tunnel: &Tunnel) -> bool {
    let tunnels = status.into_iter().flat_map(|status| &status.tunnels);
    let mut own = tunnels.filter(|reported| reported.name == tunnel.name.as_str());
    own.all(|reported| reported.state != State::Down)
}

/// The tunnel that owns a source, by the longest matching address or prefix. For a prefix of a group: its active link,
/// with the group's prefixes and table.
fn owner(config: &Config, source: Ipv6Addr) -> Option<(Cow<'_, Tunnel>, Prefix)> {
    let tunnels = config.tunnels.iter().map(Cow::Borrowed);
    let groups = config.groups_as_tunnels();
    let groups = groups.map(|(_, tunnel)| Cow::Owned(tunnel));
    let matching = tunnels.chain(groups).filter_map(|tunnel| {
        let sources = tunnel.sources().filter(|by| by.contains(source));
        let longest = sources.max_by_key(|by| by.bits())?;
        Some((tunnel, longest))
    });
    matching.max_by_key(|(_, by)| by.bits())
}

/// The kernel's route, and the interface by which the packet leaves.
async fn query_route<'a>(
    netlink: &Netlink,
    links: &'a Links,
    question: RouteQuery,
) -> anyhow::Result<(RoutingDecision, Option<&'a Link>)> {
    let mut answer = netlink.query_route(question).await?;
    if let Some(oif) = question.oif
        && !matches!(&answer, netlink::RouteResult::By(found) if found.index == Some(oif))
    {
        // In a request with a source the kernel only prefers the interface, but a bound socket requires it. A
        // request without a source requires it too.
        let strictly = RouteQuery {
            source: None,
            ..question
        };
        answer = netlink.query_route(strictly).await?;
    }
    let found = match answer {
        netlink::RouteResult::Refused(error) => {
            return Ok((RoutingDecision::Refused(netlink::route_error(&error)), None));
        }
        netlink::RouteResult::By(found) if found.is_local => {
            return Ok((RoutingDecision::Here(found.table), None));
        }
        netlink::RouteResult::By(found) => found,
    };
    let Some(link) = found.index.and_then(|index| links.by_index(index)) else {
        let gone = "it leads to an interface that is not there".to_owned();
        return Ok((RoutingDecision::Refused(gone), None));
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
    Ok((RoutingDecision::Out(route), Some(link)))
}

/// The verdict of the program at an interface.
async fn program(paths: &Paths, netlink: &Netlink, link: &Link, packet: &Packet) -> Program {
    if !nix::unistd::geteuid().is_root() {
        return Program::Unknown("only root may read it".to_owned());
    }
    let seen = bpf::seen_at(netlink, link.kernel_name(), link.index, Direction::Egress).await;
    match seen {
        Err(error) => Program::Unknown(format!("{error:#}")),
        Ok(seen) if seen.iter().all(|seen| !seen.is_ours) => Program::None,
        Ok(_) => match bpf::dry_run(&paths.pin_dir, link.index, packet) {
            Ok(decided) => Program::Attached(decided),
            Err(error) => Program::Unknown(format!("{error:#}")),
        },
    }
}

/// The state that matters for routing a tunnel's packet, by the address or prefix that contains its source.
fn leak_facts(view: &View<'_>, tunnel: &Tunnel, by: Prefix, packet: &Packet) -> LeakFacts {
    let View {
        config,
        observed,
        rules,
        status,
        daemon,
    } = view;
    let leading = leading_rule(config, tunnel, by);
    let is_ours = |rule: &PolicyRule| {
        let leads = rule.action == Action::Lookup(leading.table, None);
        let is_it = rule.priority == leading.priority && rule.selector.from == leading.from;
        rule.is_ours && is_it && leads
    };
    let index = observed.links.by_name(&tunnel.name).map(|link| link.index);
    let leads_there = |target: &ObservedTarget| matches!(target, ObservedTarget::Interface { index: to, .. } if Some(*to) == index);
    let routes = || observed.routes.iter();
    let route_in_place = routes().any(|route| {
        let is_its = route.source.bits() == 0 || route.source == by;
        route.is_ours() && route.table == leading.table && is_its && leads_there(&route.target)
    });
    let before = rules::foreign_match(rules, packet, leading.priority);
    let links = &observed.links;
    LeakFacts {
        tunnel: tunnel.name.clone(),
        bound_to: packet.oif.clone(),
        forwarded_from: packet.iif.clone(),
        wanted: is_wanted(*status, tunnel),
        daemon: *daemon,
        rule: leading,
        rule_in_place: rules.iter().any(is_ours),
        route_in_place,
        is_own_address: links
            .iter()
            .any(|link| link.addresses.contains(&packet.source)),
        // `explain` has a given source, so the kernel's source selection does not matter.
        without_address: None,
        before: before.map(|(rule, how)| (rule.clone(), how)),
    }
}
