//! Rules, programs, addresses and uplinks.

use std::collections::BTreeMap;

use sixxs_core::{
    doctor::routing::{Address, AddressFault, EarlierHandler, RoutingFacts},
    enforce::{self, Enforcement},
    link::Link,
};

use super::HostView;
use crate::{
    bpf::{self, Hook, Seen},
    netlink::tc::Direction,
    rule_shadowing,
};

pub(super) async fn routing(view: &HostView) -> RoutingFacts {
    let HostView {
        config,
        links,
        netlink,
        ..
    } = view;
    if config.tunnels.is_empty() {
        return RoutingFacts::default();
    }
    let uplinks = enforce::uplinks(config, links);
    let is_tunnel = |link: &Link| config.tunnels.iter().any(|tunnel| tunnel.name == link.name);
    let named = config.uplinks.as_deref().unwrap_or_default();
    let is_unguarded = |link: &&Link| {
        let is_named = config.uplinks.is_none() || named.contains(&link.name);
        link.is_exit && !is_named && !is_tunnel(link)
    };
    let unguarded = links.iter().filter(is_unguarded);
    let (mut earlier_handlers, mut without_program) = (Vec::new(), Vec::new());
    // Only root can list programs.
    for uplink in uplinks.iter().filter(|_| nix::unistd::geteuid().is_root()) {
        let seen = bpf::seen_at(netlink, &uplink.name, uplink.index, Direction::Egress).await;
        let Ok(seen) = seen else {
            continue;
        };
        earlier_handlers.extend(before(uplink, &seen));
        if view.has_rules && seen.iter().all(|seen| !seen.is_ours) {
            without_program.push(uplink.name.to_string());
        }
    }
    // A daemon reports these itself. If no uplinks are configured and none is found, `uplink` shows that.
    let not_enforced = match &view.status {
        None if config.uplinks.is_some() || !uplinks.is_empty() => {
            Enforcement::new(config, links, |_| true).problems
        }
        _ => Vec::new(),
    };
    let shadows = rule_shadowing::shadows(netlink, config, links, |_| true).await;
    let marked = rule_shadowing::marked(netlink, config, links).await;
    RoutingFacts {
        uplink: Some(!uplinks.is_empty() || enforce::has_exit(config, links)),
        not_enforced,
        unguarded: unguarded.map(|link| link.name.to_string()).collect(),
        named: named.iter().map(ToString::to_string).collect(),
        shadows: shadows.unwrap_or_default(),
        marked: marked.unwrap_or_default(),
        without_program,
        earlier_handlers,
        addresses: addresses(view).await,
    }
}

/// Programs and filters before ours; none if ours is missing.
fn before(uplink: &Link, seen: &[Seen]) -> Vec<EarlierHandler> {
    let interface = uplink.name.to_string();
    let ours = seen
        .iter()
        .position(|seen| seen.is_ours)
        .unwrap_or_default();
    let before = seen[..ours].iter().map(|other| {
        let Seen { name, number, .. } = other;
        let (what, fix) = match other.hook {
            Hook::Tcx => (
                format!("the program {name:?} (number {number})"),
                "sixxs down, then sixxs run: it puts its program first".to_owned(),
            ),
            Hook::Clsact => (
                format!("a filter of kind {name} (priority {number})"),
                format!(
                    "tc filter del dev {interface} egress pref {number}; then sixxs down and sixxs run, \
                     and that filter again with a higher pref"
                ),
            ),
        };
        EarlierHandler {
            interface: interface.clone(),
            what,
            fix,
        }
    });
    before.collect()
}

/// Problems with addresses of tunnels whose interface is up.
async fn addresses(view: &HostView) -> Vec<Address> {
    let Ok(seen) = view.netlink.seen_addresses().await else {
        return Vec::new();
    };
    let uplinks = enforce::uplinks(&view.config, &view.links);
    let on_uplink = |address| {
        let mut others = seen.iter().filter(|seen| seen.prefix.contains(address));
        others.find_map(|seen| {
            let uplink = uplinks.iter().find(|uplink| uplink.index == seen.index)?;
            Some(AddressFault::OnUplink {
                prefix: seen.prefix,
                interface: uplink.name.to_string(),
            })
        })
    };
    let by_address: BTreeMap<_, _> = seen.iter().map(|seen| (seen.address, seen)).collect();
    let mut ailing = Vec::new();
    for tunnel in &view.config.tunnels {
        let link = view.links.by_name(&tunnel.name);
        if tunnel.addresses_by_others || !link.is_some_and(|link| link.up) {
            continue;
        }
        for address in &tunnel.addresses {
            let fault = match by_address.get(&address.address) {
                None => Some(AddressFault::Nowhere),
                Some(seen) if seen.is_duplicate => Some(AddressFault::Duplicate),
                Some(seen) if seen.is_tentative => Some(AddressFault::Tentative),
                Some(_) if tunnel.kind.is_native() => on_uplink(address.address),
                Some(_) => None,
            };
            let Some(fault) = fault else {
                continue;
            };
            ailing.push(Address {
                tunnel: tunnel.name.to_string(),
                address: address.address,
                bits: address.bits,
                fault,
            });
        }
    }
    ailing
}
