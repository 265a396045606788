//! Sysctls below /proc/sys/net.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use sixxs_core::{
    config::{Kind, Remote},
    doctor::settings::{Icmp, Outer, Settings, Uplink},
    enforce,
    types::IfIndex,
};

use super::{HostView, read};
use crate::netlink::{RouteQuery, RouteResult};

/// Protocol of routes from router advertisements (`RTPROT_RA`).
const BY_ADVERTISEMENT: u8 = 9;

pub(super) async fn settings(view: &HostView) -> Settings {
    let tunnels = || view.config.tunnels.iter();
    let uplinks = enforce::uplinks(&view.config, &view.links);
    let kernel_name = |name| {
        let link = view.links.by_name(name);
        link.map_or_else(|| name.to_string(), |link| link.kernel_name().to_string())
    };
    let ours = tunnels().map(|tunnel| kernel_name(&tunnel.name));
    let all: BTreeSet<_> = uplinks
        .iter()
        .map(|l| l.name.to_string())
        .chain(ours)
        .collect();
    let is_disabled = |name: &String| number(&format!("ipv6/conf/{name}/disable_ipv6")) == Some(1);
    let mut disabled: Vec<_> = ["all", "default"].map(str::to_owned).into();
    disabled.extend(all);
    disabled.retain(is_disabled);
    // `all` includes every interface.
    if disabled.first().is_some_and(|name| name == "all") {
        disabled.truncate(1);
    }
    let is_tunnel = |name: &str| tunnels().any(|tunnel| tunnel.name.as_str() == name);
    let mut behind = Vec::new();
    for link in view.links.iter().filter(|link| link.name.as_str() != "lo") {
        for tunnel in tunnels() {
            let mut addresses = link.addresses.iter();
            let has_net = addresses.any(|a| tunnel.prefixes.iter().any(|p| p.contains(*a)));
            if has_net && !is_tunnel(link.name.as_str()) {
                behind.push((link.name.to_string(), tunnel.name.to_string()));
            }
        }
    }
    let mut seen = Vec::new();
    for uplink in uplinks {
        let name = uplink.name.to_string();
        seen.push(Uplink {
            accept_ra: number(&format!("ipv6/conf/{name}/accept_ra")),
            forwarding: number(&format!("ipv6/conf/{name}/forwarding")) == Some(1),
            has_lasting_default: has_lasting_default(view, uplink.index).await,
            name,
        });
    }
    Settings {
        disabled,
        forwarding: number("ipv6/conf/all/forwarding").map(|value| value != 0),
        behind,
        uplinks: seen,
        icmp: Icmp {
            echo_ignore_all: number("ipv6/icmp/echo_ignore_all") == Some(1),
            ratelimit_ms: number("ipv6/icmp/ratelimit"),
            ratemask: text("ipv6/icmp/ratemask"),
        },
        outer: outer(view).await,
    }
}

/// Whether an interface has a default route that is not from a router advertisement.
async fn has_lasting_default(view: &HostView, index: IfIndex) -> bool {
    let question = RouteQuery {
        oif: Some(index),
        ..RouteQuery::default()
    };
    match view.netlink.query_route(question).await {
        Ok(RouteResult::By(found)) => found.protocol != BY_ADVERTISEMENT,
        Ok(RouteResult::Refused(_)) | Err(_) => false,
    }
}

/// The routes of outer packets, for tunnels with a configured outer address.
async fn outer(view: &HostView) -> Vec<Outer> {
    let mut routing = Vec::new();
    for tunnel in &view.config.tunnels {
        let ends = match &tunnel.kind {
            Kind::SixInFour(kind) => kind.local4.map(|local| (local, kind.remote4)),
            Kind::Ayiya(kind) => match kind.remote {
                Remote::Address(IpAddr::V4(remote)) => kind.local4.map(|local| (local, remote)),
                _ => None,
            },
            _ => None,
        };
        let Some((local, remote)) = ends else {
            continue;
        };
        let leaves = view
            .netlink
            .egress_interface4(local, remote)
            .await
            .ok()
            .flatten();
        let leaves = leaves.and_then(|index| view.links.by_index(index));
        if let (Some(comes_by), Some(leaves)) = (holder(local), leaves) {
            let own = number(&format!("ipv4/conf/{comes_by}/rp_filter"));
            routing.push(Outer {
                tunnel: tunnel.name.to_string(),
                rp_filter: own
                    .max(number("ipv4/conf/all/rp_filter"))
                    .unwrap_or_default(),
                comes_by,
                leaves_by: leaves.name.to_string(),
            });
        }
    }
    routing
}

/// The interface that has an IPv4 address.
fn holder(address: Ipv4Addr) -> Option<String> {
    let mut all = nix::ifaddrs::getifaddrs().ok()?;
    let found = all.find(|interface| {
        let own = interface.address.as_ref().and_then(|a| a.as_sockaddr_in());
        own.is_some_and(|own| own.ip() == address)
    });
    found.map(|interface| interface.interface_name)
}

fn text(name: &str) -> Option<String> {
    Some(read(Path::new("/proc/sys/net").join(name))).filter(|text| !text.is_empty())
}

fn number(name: &str) -> Option<u32> {
    text(name)?.trim().parse().ok()
}
