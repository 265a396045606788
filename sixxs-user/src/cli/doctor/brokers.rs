//! Facts about brokers: the paths to them, the clock, the connect limit.

use std::{net::Ipv6Addr, thread};

use sixxs_core::{
    config::{Config, Kind},
    doctor::{
        brokers::{Brokers, Clock, Standing},
        paths::Path,
    },
};

use super::HostView;
use crate::{control::api, host::clock, host::ping};

/// Part of a tunnel's reason if its broker refused it because of the clock.
const CLOCK_IS_OFF: &str = "this host's clock is";

/// Maximum number of tunnels to try, all in parallel: more tunnels give no more information about the host.
const TRIED: usize = 64;

/// The largest packets through tunnels that have an address to ping. Lost packets take time.
pub(super) async fn paths(view: &HostView) -> Vec<Path> {
    let mut routing = Vec::new();
    for tunnel in &view.config.tunnels {
        let link = view.links.by_name(&tunnel.name).filter(|link| link.up);
        let target = tunnel.check_target.or(tunnel.peer);
        let source = tunnel.addresses.first().map(|address| address.address);
        if let (Some(link), Some(target), Some(source)) = (link, target, source) {
            let mtu = tunnel.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)).0;
            routing.push((tunnel.name.to_string(), source, target, mtu));
        }
    }
    let tried = tokio::task::spawn_blocking(move || {
        thread::scope(|scope| {
            let routing = routing.iter().take(TRIED);
            let running: Vec<_> = routing.map(|way| scope.spawn(|| path(way))).collect();
            let done = running.into_iter().filter_map(|thread| thread.join().ok()?);
            done.collect::<Vec<_>>()
        })
    });
    tried.await.unwrap_or_default()
}

/// Tries one tunnel. `None` without permission to ping, or without any reply.
fn path((tunnel, source, target, mtu): &(String, Ipv6Addr, Ipv6Addr, u32)) -> Option<Path> {
    let fits = ping::largest(*source, *target, *mtu).ok()??;
    Some(Path {
        tunnel: tunnel.clone(),
        mtu: *mtu,
        fits,
    })
}

pub(super) fn brokers(view: &HostView) -> Brokers {
    let tunnels = || view.status.iter().flat_map(|status| &status.tunnels);
    let wrong = |tunnel: &api::Tunnel| {
        let reason = tunnel.reason.clone()?;
        (reason.contains(CLOCK_IS_OFF)).then(|| (tunnel.name.clone(), reason))
    };
    let refused = |tunnel: &api::Tunnel| Some((tunnel.name.clone(), *tunnel.refused.get("time")?));
    let standings = view.status.iter().flat_map(|status| &status.brokers);
    Brokers {
        clock: view.depends_on_clock.then(|| Clock {
            synchronised: clock::is_synchronised(),
            wrong: tunnels().filter_map(wrong).collect(),
            refused: tunnels().filter_map(refused).collect(),
        }),
        standings: standings
            .map(|broker| Standing {
                name: broker.name.clone(),
                locked_out_until: broker.locked_out_until.clone(),
                has_slot: broker.slots_left > 0,
            })
            .collect(),
    }
}

/// Whether there are tunnels with timestamps in their packets, or with a broker that compares clocks.
pub(super) fn depends_on_clock(config: &Config) -> bool {
    config.tunnels.iter().any(|tunnel| match &tunnel.kind {
        Kind::Ayiya(_) | Kind::Account(_) => true,
        Kind::SixInFour(kind) => kind.heartbeat.is_some(),
        // Its handshakes have the time in them, which only has to grow.
        Kind::WireGuard(_) | Kind::Interface | Kind::Command { .. } => false,
    })
}
