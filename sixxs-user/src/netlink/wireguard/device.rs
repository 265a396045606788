//! Reads and changes the configuration of a WireGuard interface.

use std::{net::IpAddr, time::Duration};

use anyhow::Context as _;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NlasIterator};
use sixxs_core::{
    types::IfIndex,
    wireguard::{
        AllowedIp, Change, Device, DevicePeer, PublicKey, SecretKey,
        device::{InterfaceChange, PeerChange},
        key::KEY_BYTES,
    },
};
use zeroize::Zeroizing;

use super::{
    GET_DEVICE, SET_DEVICE, allowed_ip, encode_socket_address, family, interface, peer,
    socket_address,
};
use crate::netlink::generic::GenericSocket;

/// The maximum number of prefixes in a message.
const PREFIXES_PER_MESSAGE: usize = 64;

/// Size of a message: more than the prefixes and everything else take. It is never reallocated, since that would
/// leave copies of keys.
const MESSAGE_BYTES: usize = 4096;

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// A socket for requests about interfaces.
pub(crate) struct DeviceSocket(GenericSocket);

impl DeviceSocket {
    /// Opens a socket in the network namespace of this thread.
    pub(crate) fn open() -> anyhow::Result<Self> {
        Ok(Self(GenericSocket::open("wireguard")?))
    }

    /// Whether the kernel has WireGuard, perhaps as a module that it has loaded for this question.
    pub(crate) fn is_supported(&self) -> bool {
        self.0.has_family()
    }

    /// The configuration of an interface.
    pub(crate) fn read(&mut self, index: IfIndex) -> anyhow::Result<Device> {
        let mut device = Device::default();
        let mut request = Message::new();
        request.put(interface::IFINDEX, &index.0.to_ne_bytes());
        self.0
            .request(NLM_F_DUMP, GET_DEVICE, &request.0, |attributes| {
                read_device(&mut device, attributes);
            })
            .context("read the configuration of WireGuard")?;
        Ok(device)
    }

    /// Carries out changes.
    pub(crate) fn apply(&mut self, index: IfIndex, changes: &[Change]) -> anyhow::Result<()> {
        for message in changes.iter().flat_map(|change| encode(index, change)) {
            self.0
                .request(NLM_F_ACK, SET_DEVICE, &message.0, |_| {})
                .context("configure WireGuard")?;
        }
        Ok(())
    }
}

/// The attributes of a request.
struct Message(Zeroizing<Vec<u8>>);

impl Message {
    fn new() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(MESSAGE_BYTES)))
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        self.within(kind, |message| message.0.extend(value));
    }

    fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        self.within(NESTED | kind, inner);
    }

    /// Adds an attribute, whose value `inner` appends.
    fn within(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let at = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        inner(self);
        // A message is far shorter than what a length can express.
        let length = u16::try_from(self.0.len() - at).unwrap_or(u16::MAX);
        self.0[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        let padded = self.0.len().next_multiple_of(4);
        self.0.resize(padded, 0);
        debug_assert!(padded <= MESSAGE_BYTES);
    }
}

/// The messages for a change: one, or more for very many prefixes.
fn encode(index: IfIndex, change: &Change) -> Vec<Message> {
    match change {
        Change::Interface(change) => vec![encode_interface(index, change)],
        Change::Remove(key) => vec![encode_peer(index, key, peer::REMOVE_ME, |_| {})],
        Change::Peer(key, change) => encode_peer_change(index, key, change),
    }
}

fn encode_interface(index: IfIndex, change: &InterfaceChange) -> Message {
    let mut message = Message::new();
    message.put(interface::IFINDEX, &index.0.to_ne_bytes());
    if let Some(key) = &change.private_key {
        message.put(interface::PRIVATE_KEY, key.expose());
    }
    if let Some(port) = change.listen_port {
        message.put(interface::LISTEN_PORT, &port.get().to_ne_bytes());
    }
    if let Some(mark) = change.fwmark {
        message.put(interface::FWMARK, &mark.to_ne_bytes());
    }
    message
}

fn encode_peer(
    index: IfIndex,
    key: &PublicKey,
    flags: u32,
    more: impl FnOnce(&mut Message),
) -> Message {
    let mut message = Message::new();
    message.put(interface::IFINDEX, &index.0.to_ne_bytes());
    message.nest(interface::PEERS, |peers| {
        peers.nest(0, |message| {
            message.put(peer::PUBLIC_KEY, key.bytes());
            message.put(peer::FLAGS, &flags.to_ne_bytes());
            more(message);
        });
    });
    message
}

fn encode_peer_change(index: IfIndex, key: &PublicKey, change: &PeerChange) -> Vec<Message> {
    let mut flags = 0;
    if !change.is_new {
        // Other software may have removed it just now: then the next look adds it with everything.
        flags |= peer::UPDATE_ONLY;
    }
    if change.replaces_allowed_ips {
        flags |= peer::REPLACE_ALLOWED_IPS;
    }
    let allowed: Vec<_> = change.allowed_ips.iter().copied().collect();
    let (first, others) = allowed.split_at(allowed.len().min(PREFIXES_PER_MESSAGE));
    let message = encode_peer(index, key, flags, |message| {
        if let Some(secret) = &change.preshared_key {
            let none = [0; KEY_BYTES];
            let bytes = secret.as_ref().map_or(&none, SecretKey::expose);
            message.put(peer::PRESHARED_KEY, bytes);
        }
        if let Some(endpoint) = change.endpoint {
            message.put(peer::ENDPOINT, &encode_socket_address(endpoint));
        }
        if let Some(seconds) = change.keepalive {
            message.put(peer::KEEPALIVE, &seconds.to_ne_bytes());
        }
        put_allowed_ips(message, first);
    });
    let more = others.chunks(PREFIXES_PER_MESSAGE).map(|chunk| {
        encode_peer(index, key, peer::UPDATE_ONLY, |message| {
            put_allowed_ips(message, chunk)
        })
    });
    [message].into_iter().chain(more).collect()
}

fn put_allowed_ips(message: &mut Message, allowed: &[AllowedIp]) {
    if allowed.is_empty() {
        return;
    }
    message.nest(peer::ALLOWED_IPS, |list| {
        for one in allowed {
            list.nest(0, |message| {
                message.put(allowed_ip::FAMILY, &family(one.address()).to_ne_bytes());
                match one.address() {
                    IpAddr::V4(address) => message.put(allowed_ip::ADDRESS, &address.octets()),
                    IpAddr::V6(address) => message.put(allowed_ip::ADDRESS, &address.octets()),
                }
                message.put(allowed_ip::BITS, &[one.bits()]);
            });
        }
    });
}

/// Reads a message about an interface; a peer may continue in the next one. What is malformed ends it.
fn read_device(device: &mut Device, attributes: &[u8]) {
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        let value = attribute.value();
        match attribute.kind() {
            interface::PRIVATE_KEY => device.private_key = secret(value),
            interface::PUBLIC_KEY => device.public_key = key(value),
            interface::LISTEN_PORT => device.listen_port = u16_of(value).unwrap_or(0),
            interface::FWMARK => {
                device.fwmark = value.try_into().map(u32::from_ne_bytes).unwrap_or(0);
            }
            interface::PEERS => {
                for one in NlasIterator::new(value).map_while(Result::ok) {
                    read_peer(device, one.value());
                }
            }
            _ => {}
        }
    }
}

fn read_peer(device: &mut Device, attributes: &[u8]) {
    let parts = || NlasIterator::new(attributes).map_while(Result::ok);
    let mut keys = parts().filter(|part| part.kind() == peer::PUBLIC_KEY);
    let Some(key) = keys.next().and_then(|part| key(part.value())) else {
        return;
    };
    let known: &mut DevicePeer = device.peers.entry(key).or_default();
    for part in parts() {
        let value = part.value();
        match part.kind() {
            peer::PRESHARED_KEY => known.preshared_key = secret(value),
            peer::ENDPOINT => known.endpoint = socket_address(value),
            peer::KEEPALIVE => known.keepalive = u16_of(value).and_then(|s| s.try_into().ok()),
            peer::LAST_HANDSHAKE => known.latest_handshake = time(value),
            peer::ALLOWED_IPS => {
                let list = NlasIterator::new(value).map_while(Result::ok);
                let prefixes = list.filter_map(|one| read_allowed_ip(one.value()));
                known.allowed_ips.extend(prefixes);
            }
            _ => {}
        }
    }
}

fn read_allowed_ip(attributes: &[u8]) -> Option<AllowedIp> {
    let (mut address, mut bits) = (None, None);
    for part in NlasIterator::new(attributes).map_while(Result::ok) {
        match part.kind() {
            allowed_ip::ADDRESS => {
                let value = part.value();
                let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
                address = v4
                    .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
                    .ok();
            }
            allowed_ip::BITS => bits = part.value().first().copied(),
            _ => {}
        }
    }
    AllowedIp::containing(address?, bits?)
}

fn key(value: &[u8]) -> Option<PublicKey> {
    value.try_into().ok().map(PublicKey::new)
}

/// A key of zeros is none.
fn secret(value: &[u8]) -> Option<SecretKey> {
    SecretKey::new(value.try_into().ok()?)
}

fn u16_of(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_ne_bytes)
}

/// The time in a `__kernel_timespec`; `None` if it is zero.
fn time(value: &[u8]) -> Option<Duration> {
    let seconds = i64::from_ne_bytes(*value.first_chunk()?);
    let nanoseconds = i64::from_ne_bytes(*value.get(8..)?.first_chunk()?);
    let seconds = u64::try_from(seconds).ok()?;
    let nanoseconds = u32::try_from(nanoseconds).ok()?;
    let time =
        Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanoseconds.into()))?;
    (!time.is_zero()).then_some(time)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    const INDEX: IfIndex = IfIndex(7);
    const KEY: PublicKey = PublicKey::new([1; 32]);

    fn secret_key(byte: u8) -> SecretKey {
        SecretKey::new(&[byte; 32]).unwrap()
    }

    fn prefix(text: &str) -> AllowedIp {
        text.parse().unwrap()
    }

    /// Everything that a peer can get.
    fn whole() -> PeerChange {
        PeerChange {
            is_new: true,
            preshared_key: Some(Some(secret_key(5))),
            endpoint: Some("[2001:db8::2]:51820".parse().unwrap()),
            keepalive: Some(25),
            replaces_allowed_ips: false,
            allowed_ips: ["::/0", "192.0.2.0/24"].map(prefix).into(),
        }
    }

    /// The kernel's answer has the same attributes as a request.
    fn read_back(changes: &[Change]) -> Device {
        let mut device = Device::default();
        for message in changes.iter().flat_map(|change| encode(INDEX, change)) {
            read_device(&mut device, &message.0);
        }
        device
    }

    #[test]
    fn what_is_written_is_read() {
        let interface = InterfaceChange {
            private_key: Some(secret_key(9)),
            listen_port: NonZeroU16::new(51820),
            fwmark: Some(0xca6c),
        };
        let device = read_back(&[Change::Interface(interface), Change::Peer(KEY, whole())]);
        assert_eq!(device.private_key, Some(secret_key(9)));
        assert_eq!((device.listen_port, device.fwmark), (51820, 0xca6c));
        let peer = &device.peers[&KEY];
        assert_eq!(peer.preshared_key, Some(secret_key(5)));
        assert_eq!(peer.endpoint, whole().endpoint);
        assert_eq!(peer.keepalive, NonZeroU16::new(25));
        assert_eq!(peer.allowed_ips, whole().allowed_ips);
        let no_key = PeerChange {
            preshared_key: Some(None),
            endpoint: Some("198.51.100.2:1".parse().unwrap()),
            ..PeerChange::default()
        };
        let device = read_back(&[Change::Peer(KEY, no_key.clone())]);
        assert_eq!(device.peers[&KEY].preshared_key, None);
        assert_eq!(device.peers[&KEY].endpoint, no_key.endpoint);
    }

    /// The bytes that the kernel gets, written out by hand.
    #[test]
    fn a_removal_has_the_attributes_of_the_kernel() {
        let [message] = &encode(INDEX, &Change::Remove(KEY))[..] else {
            panic!("one message");
        };
        let mut expected = vec![8, 0, 1, 0, 7, 0, 0, 0];
        expected.extend([52, 0, 8, 0x80, 48, 0, 0, 0x80, 36, 0, 1, 0]);
        expected.extend([1; 32]);
        expected.extend([8, 0, 3, 0, 1, 0, 0, 0]);
        if cfg!(target_endian = "little") {
            assert_eq!(**message.0, expected);
        }
    }

    #[test]
    fn many_prefixes_take_several_messages_without_a_reallocation() {
        let all = (0..1000_u32).map(|n| AllowedIp::containing(IpAddr::from(n.to_be_bytes()), 32));
        let change = PeerChange {
            allowed_ips: all.flatten().collect(),
            ..whole()
        };
        let messages = encode(INDEX, &Change::Peer(KEY, change.clone()));
        assert_eq!(messages.len(), 16);
        let is_small = |message: &Message| message.0.capacity() == MESSAGE_BYTES;
        assert!(messages.iter().all(is_small));
        let device = read_back(&[Change::Peer(KEY, change.clone())]);
        assert_eq!(device.peers[&KEY].allowed_ips, change.allowed_ips);
    }

    #[test]
    fn a_handshake_that_never_was_is_none() {
        let at = |seconds: i64, nanoseconds: i64| {
            time(&[seconds.to_ne_bytes(), nanoseconds.to_ne_bytes()].concat())
        };
        assert_eq!(at(0, 0), None);
        assert_eq!(at(5, 7), Some(Duration::new(5, 7)));
        assert_eq!(at(-1, 0), None);
        assert_eq!(at(i64::MAX, i64::MAX), None);
        assert_eq!(time(&[1; 15]), None);
    }

    #[test]
    fn what_is_cut_off_or_changed_does_no_harm() {
        let [message] = &encode(INDEX, &Change::Peer(KEY, whole()))[..] else {
            panic!("one message");
        };
        for end in 0..message.0.len() {
            read_device(&mut Device::default(), &message.0[..end]);
        }
        for at in 0..message.0.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = message.0.to_vec();
                changed[at] = value;
                read_device(&mut Device::default(), &changed);
            }
        }
    }

    /// This kernel may lack WireGuard, and the loopback interface is none.
    #[test]
    fn what_is_no_wireguard_interface_is_an_error() {
        let mut socket = DeviceSocket::open().unwrap();
        assert!(socket.read(IfIndex(1)).is_err());
        assert!(socket.apply(IfIndex(1), &[Change::Remove(KEY)]).is_err());
    }
}
