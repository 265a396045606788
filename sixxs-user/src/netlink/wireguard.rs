//! The endpoints of WireGuard's peers, by generic netlink (`uapi/linux/wireguard.h`).
//!
//! The kernel's answer contains the keys of the interface and of its peers. So only the attributes that matter are read,
//! and the answer is wiped from memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use rtnetlink::{
    packet_core::{
        NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload, NlasIterator,
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC},
};
use sixxs_common::packet::UDP;
use sixxs_core::{endpoint::Endpoint, types::IfIndex};
use tracing::debug;
use zeroize::Zeroizing;

/// The maximum number of endpoints of an interface: a server has too many peers for one tunnel's statistics.
const MAX_ENDPOINTS: usize = 64;

/// The maximum number of reads for an answer: the kernel sends several messages for an interface with many peers.
const MAX_READS: usize = 16;

/// Endpoints are read again after this time.
const READ_INTERVAL: Duration = Duration::from_secs(10);

/// The name of the family.
const FAMILY: &str = "wireguard";

/// `WG_CMD_GET_DEVICE`, and the version of the family.
const GET_DEVICE: [u8; 4] = [0, 1, 0, 0];

/// `WGDEVICE_A_IFINDEX`.
const IFINDEX: u16 = 1;
/// `WGDEVICE_A_LISTEN_PORT`.
const LISTEN_PORT: u16 = 6;
/// `WGDEVICE_A_PEERS`.
const PEERS: u16 = 8;
/// `WGPEER_A_ENDPOINT`: a `sockaddr_in` or `sockaddr_in6`.
const ENDPOINT: u16 = 4;

/// Lengths of the headers of netlink and of generic netlink, in bytes.
const HEADER_BYTES: usize = 16;
const GENERIC_HEADER_BYTES: usize = 4;

/// A socket for requests to WireGuard. The kernel answers while it takes a request, so that nothing waits.
pub(super) struct WireGuard {
    socket: Socket,
    /// The number of WireGuard's family, once it is known. It changes if the module is loaded again.
    family: Option<u16>,
    /// The last answers, with their times.
    known: BTreeMap<IfIndex, (Instant, Vec<Endpoint>)>,
}

impl WireGuard {
    /// Opens a socket in the network namespace of this thread.
    pub(super) fn open() -> anyhow::Result<Self> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_GENERIC)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().context("open a generic netlink socket")?,
            family: None,
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
            self.family = None;
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
        let family = match self.family {
            Some(family) => family,
            None => self.find_family()?,
        };
        self.family = Some(family);
        self.send(&device_request(family, index))?;
        let mut found = Found::default();
        for _ in 0..MAX_READS {
            let bytes = self.receive()?;
            let mut rest = bytes.as_slice();
            while let Some((message, more)) = next_message(rest) {
                rest = more;
                match message.message_type() {
                    // NLMSG_ERROR and NLMSG_DONE.
                    2 | 3 => return Ok(found.endpoints()),
                    _ => found.read(message.payload()),
                }
            }
        }
        Ok(found.endpoints())
    }

    fn find_family(&self) -> anyhow::Result<u16> {
        let mut message = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_owned())],
        });
        message.finalize();
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.send(&bytes)?;
        let answer = self.receive()?;
        let answer = NetlinkMessage::<GenlMessage<GenlCtrl>>::deserialize(&answer);
        match answer.context("parse an answer")?.payload {
            NetlinkPayload::InnerMessage(message) => {
                let mut attributes = message.payload.nlas.into_iter();
                let family = attributes.find_map(|attribute| match attribute {
                    GenlCtrlAttrs::FamilyId(family) => Some(family),
                    _ => None,
                });
                family.context("the kernel did not give WireGuard's number")
            }
            NetlinkPayload::Error(error) => bail!(error.to_io()),
            _ => bail!("the kernel did not give WireGuard's number"),
        }
    }

    /// Sends a request, after what an earlier one has left is read.
    fn send(&self, request: &[u8]) -> anyhow::Result<()> {
        while self.receive().is_ok() {}
        self.socket.send(request, 0).context("send a request")?;
        Ok(())
    }

    fn receive(&self) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let (bytes, _) = self.socket.recv_from_full().context("read an answer")?;
        Ok(Zeroizing::new(bytes))
    }
}

/// The request for everything about an interface.
fn device_request(family: u16, index: IfIndex) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    bytes.extend(28_u32.to_ne_bytes());
    bytes.extend(family.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(GET_DEVICE);
    bytes.extend(8_u16.to_ne_bytes());
    bytes.extend(IFINDEX.to_ne_bytes());
    bytes.extend(index.0.to_ne_bytes());
    bytes
}

/// The first message in these bytes, and the bytes behind it. `None`: there is no whole message.
fn next_message(bytes: &[u8]) -> Option<(NetlinkBuffer<&[u8]>, &[u8])> {
    let message = NetlinkBuffer::new_checked(bytes).ok()?;
    let length = usize::try_from(message.length()).ok()?;
    if length < HEADER_BYTES {
        return None;
    }
    let message = NetlinkBuffer::new_checked(bytes.get(..length)?).ok()?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((message, rest))
}

/// What the messages about an interface contain.
#[derive(Default)]
struct Found {
    local_port: Option<u16>,
    remotes: Vec<(IpAddr, u16)>,
}

impl Found {
    /// Reads the payload of a message; what is malformed ends it.
    fn read(&mut self, payload: &[u8]) {
        let attributes = payload.get(GENERIC_HEADER_BYTES..).unwrap_or_default();
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

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

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

    /// The payload of an answer.
    fn answer() -> Vec<u8> {
        let never_seen = attribute(0x8000, &attribute(1, &[2; 32]));
        let peers = [
            peer("198.51.100.1:443"),
            never_seen,
            peer("[2001:db8:f::1]:51820"),
            peer("[::ffff:198.51.100.2]:1"),
        ];
        [
            vec![0; GENERIC_HEADER_BYTES],
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

    #[test]
    fn messages_are_read_one_after_the_other() {
        let one = device_request(30, IfIndex(7));
        assert_eq!(one.len(), 28);
        let two = [&one[..], &one].concat();
        let (message, rest) = next_message(&two).unwrap();
        assert_eq!((message.message_type(), rest), (30, &one[..]));
        let (_, rest) = next_message(rest).unwrap();
        assert!(rest.is_empty() && next_message(rest).is_none());
        for wrong in [0_u32, 15, 29, u32::MAX] {
            let mut bytes = one.clone();
            bytes[..4].copy_from_slice(&wrong.to_ne_bytes());
            assert!(next_message(&bytes).is_none(), "{wrong}");
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
