//! The metric families of WireGuard tunnels.

use std::fmt;

use super::{Families, MetricsSnapshot};

impl MetricsSnapshot {
    pub(super) fn wireguard(&self, families: &mut Families<'_>) -> fmt::Result {
        let interfaces = || {
            let tunnels = self.status.tunnels.iter();
            tunnels.filter_map(|tunnel| Some((tunnel.name.as_str(), tunnel.wireguard.as_ref()?)))
        };
        let handshakes = interfaces().flat_map(|(tunnel, wireguard)| {
            wireguard.peers.iter().filter_map(move |peer| {
                let labels = [("tunnel", tunnel), ("peer", peer.public_key.as_str())];
                Some((labels, self.unix(peer.latest_handshake_seconds_ago?)))
            })
        });
        families.gauges(
            "sixxs_wireguard_latest_handshake_timestamp_seconds",
            "When the latest handshake with a peer of a tunnel was",
            handshakes,
        )?;
        let endpoints = interfaces().flat_map(|(tunnel, wireguard)| {
            wireguard.peers.iter().filter_map(move |peer| {
                let endpoint = peer.endpoint.as_deref()?;
                let key = peer.public_key.as_str();
                Some((
                    [("tunnel", tunnel), ("peer", key), ("endpoint", endpoint)],
                    1.0,
                ))
            })
        });
        families.gauges(
            "sixxs_wireguard_endpoint",
            "Where a peer of a tunnel is reached: 1 for the current endpoint",
            endpoints,
        )
    }
}
