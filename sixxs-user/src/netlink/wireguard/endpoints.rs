//! The endpoints of WireGuard's peers.
//!
//! The kernel's answer contains the keys of the interface and of its peers. So only the attributes that matter are read,
//! and the answer is wiped from memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use rtnetlink::packet_core::{NLM_F_DUMP, NlasIterator};
use sixxs_common::packet::UDP;
use sixxs_core::{endpoint::Endpoint, types::IfIndex};
use tracing::debug;

use super::{
    GET_DEVICE,
    interface::{IFINDEX, LISTEN_PORT, PEERS},
    peer::ENDPOINT,
    socket_address,
};
use crate::netlink::generic::{GenericSocket, attribute};

/// The maximum number of endpoints of an interface: a server has too many peers for one tunnel's statistics.
const MAX_ENDPOINTS: usize = 64;

/// Endpoints are read again after this time.
const READ_INTERVAL: Duration = Duration::from_secs(10);

/// A socket for requests to WireGuard.
pub(in crate::netlink) struct WireGuard {
    socket: GenericSocket,
    /// The last answers, with their times.
    known: BTreeMap<IfIndex, (Instant, Vec<Endpoint>)>,
}

impl WireGuard {
    /// Opens a socket in the network namespace of this thread.
    pub(in crate::netlink) fn open() -> anyhow::Result<Self> {
        Ok(Self {
            socket: GenericSocket::open("wireguard")?,
            known: BTreeMap::new(),
        })
    }

    /// The endpoints of the peers of an interface. Empty if they cannot be read: that takes CAP_NET_ADMIN.
    pub(in crate::netlink) fn endpoints(&mut self, index: IfIndex) -> Vec<Endpoint> {
        self.known
            .retain(|_, (then, _)| then.elapsed() < READ_INTERVAL);
        if let Some((_, known)) = self.known.get(&index) {
            return known.clone();
        }
        let endpoints = self.read(index).unwrap_or_else(|error| {
            debug!("read the endpoints of WireGuard: {error:#}");
            BTreeSet::new()
        });
        let endpoints: Vec<_> = endpoints.into_iter().take(MAX_ENDPOINTS).collect();
        // An interface gets its peers after it is made.
        if !endpoints.is_empty() {
            self.known
                .insert(index, (Instant::now(), endpoints.clone()));
        }
        endpoints
    }

    fn read(&mut self, index: IfIndex) -> anyhow::Result<BTreeSet<Endpoint>> {
        let mut found = Found::default();
        let device = attribute(IFINDEX, &index.0.to_ne_bytes());
        self.socket
            .request(NLM_F_DUMP, GET_DEVICE, &device, |message| {
                found.read(message);
            })?;
        Ok(found.endpoints())
    }
}

/// What the messages about an interface contain.
#[derive(Default)]
struct Found {
    local_port: Option<u16>,
    remotes: Vec<SocketAddr>,
}

impl Found {
    /// Reads the attributes of a message; what is malformed ends it.
    fn read(&mut self, attributes: &[u8]) {
        for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
            match attribute.kind() {
                LISTEN_PORT => {
                    let port = <[u8; 2]>::try_from(attribute.value()).map(u16::from_ne_bytes);
                    self.local_port = port.ok().filter(|port| *port != 0);
                }
                PEERS => {
                    for peer in NlasIterator::new(attribute.value()).map_while(Result::ok) {
                        let facts = NlasIterator::new(peer.value()).map_while(Result::ok);
                        let endpoints = facts.filter(|fact| fact.kind() == ENDPOINT);
                        self.remotes
                            .extend(endpoints.filter_map(|fact| socket_address(fact.value())));
                    }
                }
                _ => {}
            }
        }
    }

    fn endpoints(self) -> BTreeSet<Endpoint> {
        let endpoint = |remote: SocketAddr| Endpoint {
            remote: remote.ip().to_canonical(),
            protocol: Some(UDP),
            remote_port: Some(remote.port()),
            local_port: self.local_port,
        };
        self.remotes.into_iter().map(endpoint).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::wireguard::encode_socket_address;

    fn peer(remote: &str) -> Vec<u8> {
        let bytes = encode_socket_address(remote.parse().unwrap());
        let key = attribute(1, &[1; 32]);
        attribute(0x8000, &[key, attribute(ENDPOINT, &bytes)].concat())
    }

    /// The attributes of an answer.
    fn answer() -> Vec<u8> {
        let never_seen = attribute(0x8000, &attribute(1, &[2; 32]));
        let peers = [
            peer("198.51.100.1:443"),
            never_seen,
            peer("[2001:db8:f::1]:51820"),
            peer("[::ffff:198.51.100.2]:1"),
        ];
        [
            attribute(3, &[7; 32]),
            attribute(LISTEN_PORT, &51820_u16.to_ne_bytes()),
            attribute(0x8000 | PEERS, &peers.concat()),
        ]
        .concat()
    }

    #[test]
    fn every_peer_has_an_endpoint_with_the_ports_of_both_ends() {
        let mut found = Found::default();
        found.read(&answer());
        let endpoint = |remote: &str, port| Endpoint {
            remote: remote.parse().unwrap(),
            protocol: Some(UDP),
            remote_port: Some(port),
            local_port: Some(51820),
        };
        let expected = [
            endpoint("198.51.100.1", 443),
            endpoint("198.51.100.2", 1),
            endpoint("2001:db8:f::1", 51820),
        ];
        assert_eq!(found.endpoints(), expected.into());
    }

    #[test]
    fn what_is_cut_off_or_changed_is_no_endpoint() {
        let answer = answer();
        for end in 0..answer.len() {
            let mut found = Found::default();
            found.read(&answer[..end]);
            assert!(found.endpoints().len() <= 3);
        }
        for at in 0..answer.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = answer.clone();
                changed[at] = value;
                let mut found = Found::default();
                found.read(&changed);
                assert!(found.endpoints().len() <= 8);
            }
        }
    }

    /// This kernel may lack WireGuard, and the loopback interface is none.
    #[test]
    fn what_is_no_wireguard_interface_has_no_endpoints() {
        let mut wireguard = WireGuard::open().unwrap();
        assert_eq!(wireguard.endpoints(IfIndex(1)), []);
        assert_eq!(wireguard.endpoints(IfIndex(1)), []);
    }
}
