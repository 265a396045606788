//! Finds foreign rules that come before the rules of sixxs and route elsewhere. It queries the kernel: the effect
//! of a rule depends on more than its own contents.

use std::net::Ipv6Addr;

use sixxs_core::{
    config::{Config, OnLeak, Tunnel},
    doctor::{
        marked::{self, Fate, Marked, MarkedTunnel},
        routing::Shadow,
    },
    enforce,
    explain::{
        Packet,
        rules::{self, PolicyRule},
    },
    link::{Link, Links},
    routing::desired::leading_rule,
    types::{IfIndex, Prefix, RulePriority},
};

use crate::netlink::{GLOBAL, Netlink, RouteQuery, RouteResult};

/// Tunnels accepted by `wanted` whose packets are routed elsewhere by foreign rules. Uses the rules of the
/// last observation.
pub(crate) async fn shadows(
    netlink: &Netlink,
    config: &Config,
    links: &Links,
    wanted: impl Fn(&Tunnel) -> bool,
) -> anyhow::Result<Vec<Shadow>> {
    // This includes the priority of the rules for `direct`, one below: there the older rule comes first.
    let own_priority = config.rule_priority;
    let is_before = |rule: &&PolicyRule| rule.priority.0 > 0 && rule.priority < own_priority;
    let mut shadows = Vec::new();
    if !netlink.foreign_rules().iter().any(|rule| is_before(&rule)) {
        return Ok(shadows);
    }
    for (tunnel, link, source) in tunnels_up(config, links).filter(|(tunnel, ..)| wanted(tunnel)) {
        if let Some((rule, leaves_by)) =
            shadowing_rule(netlink, own_priority, link, source, None).await?
        {
            shadows.push(Shadow {
                tunnel: tunnel.name.to_string(),
                source,
                rule: rule.clone(),
                leaves_by,
            });
        }
    }
    Ok(shadows)
}

/// Foreign rules that route packets of tunnels elsewhere if the packets have a mark.
pub(crate) async fn marked(
    netlink: &Netlink,
    config: &Config,
    links: &Links,
) -> anyhow::Result<Vec<Marked>> {
    let own_priority = config.rule_priority;
    let marks = marked::marks(netlink.foreign_rules(), own_priority);
    let mut all = Vec::new();
    for (tunnel, link, source) in tunnels_up(config, links).filter(|_| !marks.is_empty()) {
        // A rule for all packets is reported by `shadows`.
        if shadowing_rule(netlink, own_priority, link, source, None)
            .await?
            .is_some()
        {
            continue;
        }
        for mark in &marks {
            let taken = shadowing_rule(netlink, own_priority, link, source, Some(*mark)).await?;
            let Some((rule, leaves_by)) = taken.filter(|(rule, _)| rule.selector.mark.is_some())
            else {
                continue;
            };
            let tunnel = MarkedTunnel {
                name: tunnel.name.to_string(),
                source,
                table: leading_rule(config, tunnel, Prefix::host(source)).table,
            };
            marked::add(&mut all, rule, fate(config, links, leaves_by), tunnel);
        }
    }
    Ok(all)
}

fn fate(config: &Config, links: &Links, leaves_by: Option<IfIndex>) -> Fate {
    let Some(index) = leaves_by else {
        return Fate::Refused;
    };
    let link = links.by_index(index);
    let name = link.map(|link| link.name.to_string());
    let is_tunnel = |link: &Link| config.tunnels.iter().any(|t| t.name == link.name);
    let mut uplinks = enforce::uplinks(config, links).into_iter();
    let has_program = link.is_some_and(is_tunnel) || uplinks.any(|uplink| uplink.index == index);
    if has_program && config.on_leak == OnLeak::Redirect {
        Fate::Redirected
    } else {
        Fate::Lost(name.unwrap_or_else(|| format!("interface {index}")))
    }
}

/// Tunnels that are up, with their first address.
fn tunnels_up<'a>(
    config: &'a Config,
    links: &'a Links,
) -> impl Iterator<Item = (&'a Tunnel, &'a Link, Ipv6Addr)> {
    config.tunnels.iter().filter_map(|tunnel| {
        let link = links.by_name(&tunnel.name)?;
        let source = tunnel.addresses.first()?.address;
        (link.up && link.addresses.contains(&source)).then_some((tunnel, link, source))
    })
}

/// The rule that routes a packet of a tunnel elsewhere, and the interface by which it leaves then; `None` if
/// the packet takes the tunnel.
async fn shadowing_rule<'a>(
    netlink: &'a Netlink,
    own_priority: RulePriority,
    link: &Link,
    source: Ipv6Addr,
    mark: Option<u32>,
) -> anyhow::Result<Option<(&'a PolicyRule, Option<IfIndex>)>> {
    let question = RouteQuery {
        source: Some(source),
        mark,
        ..RouteQuery::default()
    };
    let (found, leaves_by) = match netlink.query_route(question).await? {
        RouteResult::By(found) if found.index == Some(link.index) => return Ok(None),
        RouteResult::By(found) => (Some((found.table, found.destination.bits())), found.index),
        RouteResult::Refused(_) => (None, None),
    };
    let packet = Packet {
        source,
        destination: GLOBAL,
        uid: Some(nix::unistd::geteuid().as_raw()),
        mark: Some(mark.unwrap_or(0)),
        iif: None,
        oif: None,
    };
    let rule = rules::shadowing(netlink.foreign_rules(), &packet, found, own_priority);
    Ok(rule.map(|rule| (rule, found.and(leaves_by))))
}
