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

#[cfg(test)]
mod tests {
    use crate::{
        control::api::{Status, WireGuard, WireGuardPeer},
        metrics::{MetricsSnapshot, tests::page},
    };

    #[test]
    fn a_peer_has_its_handshake_and_its_endpoint() {
        let mut tunnel = serde_json::json!({"name": "wg0", "kind": "wireguard", "state": "up",
            "addresses": [], "prefixes": [], "ifindex": 7, "table": 200, "mtu": 1420,
            "routing": "in_place", "program": "attached",
            "packets": {"in": 0, "out": 0}, "bytes": {"in": 0, "out": 0},
            "echo": {"requests_in": 0, "replies_out": 0, "requests_out": 0, "replies_in": 0,
                "last_request_in_seconds_ago": null, "last_reply_out_seconds_ago": null},
            "leaks": {"redirected": 0, "dropped": 0, "observed": 0, "too_big": 0}, "strays": 0});
        tunnel["wireguard"] = serde_json::to_value(WireGuard {
            peers: vec![
                WireGuardPeer {
                    public_key: "A=".to_owned(),
                    endpoint: Some("[2001:db8::2]:1".to_owned()),
                    latest_handshake_seconds_ago: Some(60.0),
                    keepalive_seconds: None,
                },
                WireGuardPeer {
                    public_key: "B=".to_owned(),
                    ..WireGuardPeer::default()
                },
            ],
            ..WireGuard::default()
        })
        .unwrap();
        let text = MetricsSnapshot {
            status: Status {
                healthy: true,
                corrections: 0,
                tunnels: vec![serde_json::from_value(tunnel).unwrap()],
                groups: Vec::new(),
                uplinks: Vec::new(),
                brokers: Vec::new(),
                problems: Vec::new(),
            },
            ..page()
        }
        .write()
        .unwrap();
        for line in [
            "sixxs_wireguard_latest_handshake_timestamp_seconds{tunnel=\"wg0\",peer=\"A=\"} 999999940.0\n",
            "sixxs_wireguard_endpoint{tunnel=\"wg0\",peer=\"A=\",endpoint=\"[2001:db8::2]:1\"} 1.0\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("peer=\"B=\""), "{text}");
    }
}
