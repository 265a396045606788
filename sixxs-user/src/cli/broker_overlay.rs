//! Parameters from brokers, for tunnels of accounts: saved in the state directory, where only root can read
//! them, and available from the daemon if one runs.

use std::{net::Ipv6Addr, time::Duration};

use sixxs_core::{
    config::{Config, Followed, HostPrefixes},
    routing::{Observed, connected::local_networks},
    types::InterfaceAddress,
};

use crate::{broker::cache::Cache, control::api::Status, driver, host::paths::Paths};

/// The configuration with the parameters from brokers.
pub(super) async fn with_broker_parameters(
    config: &Config,
    paths: &Paths,
    status: Option<&Status>,
) -> Config {
    let kept = driver::stored_parameters(&Cache::new(&paths.state_dir), config).await;
    // The daemon reports conflicts.
    let (mut whole, _conflicts) = config.with_learned(&kept, &HostPrefixes::new(), config);
    if let Some(status) = status {
        overlay_addresses(&mut whole, status);
    }
    whole
}

/// The configuration with what the host has: addresses and routers that it follows, local networks, and the active links
/// of groups. If there are too
/// many, only the daemon reports that.
pub(super) fn with_host(config: Config, observed: &Observed) -> Config {
    let followed = Followed::of(&config, observed, &Followed::default(), Duration::ZERO);
    let config = config.with_followed(&followed);
    let networks = local_networks(&config, &observed.links, &observed.connected);
    let active = config.active_links(observed);
    config
        .with_direct(&networks.unwrap_or_default())
        .with_active(&active)
}

/// Takes addresses from the daemon's status, for tunnels without any.
fn overlay_addresses(config: &mut Config, status: &Status) {
    for tunnel in &mut config.tunnels {
        let name = tunnel.name.as_str();
        let reported = status.tunnels.iter().find(|tunnel| tunnel.name == name);
        if let Some(reported) = reported.filter(|_| tunnel.addresses.is_empty()) {
            let addresses = reported.addresses.iter();
            let whole = |address: &Ipv6Addr| InterfaceAddress {
                address: *address,
                bits: 128,
            };
            tunnel.addresses = addresses.map(whole).collect();
        }
    }
}
