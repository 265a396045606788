//! The WireGuard part of a tunnel's status. Pure. Contains public keys, and no others.

use std::{net::SocketAddr, time::Duration};

use sixxs_core::wireguard::handshakes::{PeerView, View};

use crate::control::api;

/// The status of an interface and its peers. `since_boot`: the time.
pub(super) fn wireguard(view: &View, since_boot: Duration) -> api::WireGuard {
    let latest = view.latest();
    let peers = view.peers.iter();
    api::WireGuard {
        public_key: view.public_key.map(|key| key.to_string()),
        listen_port: Some(view.listen_port).filter(|port| *port != 0),
        latest_handshake_seconds_ago: latest.and_then(|peer| ago(peer, since_boot)),
        endpoint: latest.and_then(endpoint),
        peers: peers
            .map(|(key, peer)| api::WireGuardPeer {
                public_key: key.to_string(),
                endpoint: endpoint(peer),
                latest_handshake_seconds_ago: ago(peer, since_boot),
                keepalive_seconds: peer.keepalive.map(Into::into),
            })
            .collect(),
    }
}

fn ago(peer: &PeerView, since_boot: Duration) -> Option<f64> {
    peer.age(since_boot).map(|age| age.as_secs_f64())
}

fn endpoint(peer: &PeerView) -> Option<String> {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    peer.endpoint.map(|address| canonical(address).to_string())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use sixxs_core::wireguard::PublicKey;

    use super::*;

    #[test]
    fn the_latest_handshake_and_its_endpoint_stand_first() {
        let seconds = Duration::from_secs;
        let peer = |at: Option<u64>, endpoint: &str| PeerView {
            endpoint: Some(endpoint.parse().unwrap()),
            keepalive: NonZeroU16::new(25),
            latest_handshake: at.map(seconds),
            reachable_since: None,
        };
        let keys = [1, 2, 3].map(|byte| PublicKey::new([byte; 32]));
        let peers = [
            peer(Some(900), "198.51.100.1:1"),
            peer(Some(990), "[::ffff:198.51.100.2]:2"),
            peer(None, "[2001:db8::3]:3"),
        ];
        let view = View {
            public_key: Some(keys[0]),
            listen_port: 51820,
            peers: keys.into_iter().zip(peers).collect(),
        };
        let shown = wireguard(&view, seconds(1000));
        assert_eq!(shown.latest_handshake_seconds_ago, Some(10.0));
        assert_eq!(shown.endpoint.as_deref(), Some("198.51.100.2:2"));
        let of = |at: usize| {
            let peer = &shown.peers[at];
            (
                peer.endpoint.as_deref(),
                peer.latest_handshake_seconds_ago,
                peer.keepalive_seconds,
            )
        };
        assert_eq!(of(0), (Some("198.51.100.1:1"), Some(100.0), Some(25)));
        assert_eq!(of(2), (Some("[2001:db8::3]:3"), None, Some(25)));
        let shown = wireguard(&View::default(), seconds(1000));
        assert_eq!(
            (shown.listen_port, shown.endpoint, shown.peers.len()),
            (None, None, 0)
        );
    }
}
