//! The endpoints of WireGuard's peers, by generic netlink (`uapi/linux/wireguard.h`).
//!
//! The kernel's answer contains the keys of the interface and of its peers. So only the attributes that matter are read,
//! and the answer is wiped from memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use rtnetlink::packet_core::{NLM_F_DUMP, NlasIterator};
use sixxs_common::packet::UDP;
use sixxs_core::{endpoint::Endpoint, types::IfIndex};
use tracing::debug;

use super::generic::{GenericSocket, attribute};

/// The maximum number of endpoints of an interface: a server has too many peers for one tunnel's statistics.
const MAX_ENDPOINTS: usize = 64;

/// Endpoints are read again after this time.
const READ_INTERVAL: Duration = Duration::from_secs(10);

/// `WG_CMD_GET_DEVICE`, and the version of the family.
const GET_DEVICE: [u8; 2] = [0, 1];

/// `WGDEVICE_A_IFINDEX`.
const IFINDEX: u16 = 1;
/// `WGDEVICE_A_LISTEN_PORT`.
const LISTEN_PORT: u16 = 6;
/// `WGDEVICE_A_PEERS`.
const PEERS: u16 = 8;
/// `WGPEER_A_ENDPOINT`: a `sockaddr_in` or `sockaddr_in6`.
const ENDPOINT: u16 = 4;

/// A socket for requests to WireGuard.
pub(super) struct WireGuard {
    socket: GenericSocket,
    /// The last answers, with their times.
    known: BTreeMap<IfIndex, (Instant, Vec<Endpoint>)>,
}

impl WireGuard {
    /// Opens a socket in the network namespace of this thread.
    pub(super) fn open() -> anyhow::Result<Self> {
        Ok(Self {
            socket: GenericSocket::open("wireguard")?,
            known: BTreeMap::new(),
        })
    }

    /// The endpoints of the peers of an interface. Empty if they cannot be read: that takes CAP_NET_ADMIN.
    pub(super) fn endpoints(&mut self, index: IfIndex) -> Vec<Endpoint> {
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
    remotes: Vec<(IpAddr, u16)>,
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
        let endpoint = |(remote, port): (IpAddr, u16)| Endpoint {
            remote: remote.to_canonical(),
            protocol: Some(UDP),
            remote_port: Some(port),
            local_port: self.local_port,
        };
        self.remotes.into_iter().map(endpoint).collect()
    }
}

/// The address and the port in a `sockaddr_in` or `sockaddr_in6`.
fn socket_address(bytes: &[u8]) -> Option<(IpAddr, u16)> {
    let family = i32::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    let address = match family {
        libc::AF_INET => IpAddr::from(Ipv4Addr::from(*bytes.get(4..)?.first_chunk::<4>()?)),
        libc::AF_INET6 => IpAddr::from(Ipv6Addr::from(*bytes.get(8..)?.first_chunk::<16>()?)),
        _ => return None,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(remote: &str) -> Vec<u8> {
        let remote: std::net::SocketAddr = remote.parse().unwrap();
        let mut bytes = match remote {
            std::net::SocketAddr::V4(_) => libc::AF_INET,
            std::net::SocketAddr::V6(_) => libc::AF_INET6,
        }
        .to_ne_bytes()[..2]
            .to_vec();
        bytes.extend(remote.port().to_be_bytes());
        match remote.ip() {
            IpAddr::V4(address) => bytes.extend([&address.octets()[..], &[0; 8]].concat()),
            IpAddr::V6(address) => {
                bytes.extend([&[0; 4][..], &address.octets(), &[0; 4]].concat());
            }
        }
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
