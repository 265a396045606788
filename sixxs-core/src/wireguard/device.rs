//! The observed configuration of an interface, and the changes that lead to the desired one.
//!
//! The changes contain only what differs: to set a private key again, or to replace a peer, would end its
//! sessions and lose packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    num::NonZeroU16,
    time::Duration,
};

use super::{
    key::{PublicKey, SecretKey},
    settings::{AllowedIp, Peer, Settings},
};

/// An interface, as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its private key, if it has one.
    pub private_key: Option<SecretKey>,
    /// The public key of the private one.
    pub public_key: Option<PublicKey>,
    /// Its UDP port; 0 while it has none.
    pub listen_port: u16,
    /// The mark of its outer packets; 0 for none.
    pub fwmark: u32,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, DevicePeer>,
}

/// A peer, as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DevicePeer {
    /// The key that both ends share in addition to their own.
    pub preshared_key: Option<SecretKey>,
    /// The source of its last packet, or the configured endpoint.
    pub endpoint: Option<SocketAddr>,
    /// The addresses behind it.
    pub allowed_ips: BTreeSet<AllowedIp>,
    /// The seconds between keepalives.
    pub keepalive: Option<NonZeroU16>,
    /// The time of the latest handshake, since 1970.
    pub latest_handshake: Option<Duration>,
}

/// A change of an interface. `Display` names what it changes, without values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Of the interface itself.
    Interface(InterfaceChange),
    /// Removes a peer.
    Remove(PublicKey),
    /// Adds a peer, or changes it.
    Peer(PublicKey, PeerChange),
}

impl Change {
    /// Whether it changes only the endpoint of a peer.
    #[must_use]
    pub fn is_endpoint_alone(&self) -> bool {
        let Self::Peer(_, change) = self else {
            return false;
        };
        let without = PeerChange {
            endpoint: None,
            ..change.clone()
        };
        change.endpoint.is_some() && without.is_nothing()
    }
}

/// A change of the interface itself: what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceChange {
    /// The private key. Setting it ends all sessions.
    pub private_key: Option<SecretKey>,
    /// The UDP port.
    pub listen_port: Option<NonZeroU16>,
    /// The mark of outer packets; 0 for none.
    pub fwmark: Option<u32>,
}

/// A change of a peer: what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerChange {
    /// Whether the kernel does not have the peer.
    pub is_new: bool,
    /// The preshared key; `Some(None)` removes it.
    pub preshared_key: Option<Option<SecretKey>>,
    /// The endpoint.
    pub endpoint: Option<SocketAddr>,
    /// The seconds between keepalives; 0 for none.
    pub keepalive: Option<u16>,
    /// Whether `allowed_ips` are all that the peer is to have; otherwise they are added.
    pub replaces_allowed_ips: bool,
    /// Addresses behind the peer.
    pub allowed_ips: BTreeSet<AllowedIp>,
}

impl PeerChange {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |parts: &[(bool, &'static str)]| {
            let named = parts.iter().filter(|(is_changed, _)| *is_changed);
            named.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::Interface(change) => f.write_str(&list(&[
                (change.private_key.is_some(), "private key"),
                (change.listen_port.is_some(), "listen port"),
                (change.fwmark.is_some(), "fwmark"),
            ])),
            Self::Remove(key) => write!(f, "peer {key} removed"),
            Self::Peer(key, PeerChange { is_new: true, .. }) => write!(f, "peer {key} added"),
            Self::Peer(key, change) => {
                let has_allowed = change.replaces_allowed_ips || !change.allowed_ips.is_empty();
                let parts = list(&[
                    (change.preshared_key.is_some(), "preshared key"),
                    (change.endpoint.is_some(), "endpoint"),
                    (change.keepalive.is_some(), "keepalive"),
                    (has_allowed, "allowed IPs"),
                ]);
                write!(f, "peer {key}: {parts}")
            }
        }
    }
}

/// The changes from what the kernel has to the settings, and to these endpoints. In their order, no prefix is
/// without its peer in between: a prefix that another peer is to have moves there by itself.
#[must_use]
pub fn diff(
    settings: &Settings,
    endpoints: &BTreeMap<PublicKey, SocketAddr>,
    device: &Device,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let interface = InterfaceChange {
        private_key: Some(&settings.private_key)
            .filter(|wanted| device.private_key.as_ref() != Some(wanted))
            .cloned(),
        listen_port: settings
            .listen_port
            .filter(|port| port.get() != device.listen_port),
        fwmark: Some(settings.fwmark).filter(|mark| *mark != device.fwmark),
    };
    if interface != InterfaceChange::default() {
        changes.push(Change::Interface(interface));
    }
    // The kernel ignores a peer with the interface's own key.
    let peers = settings.peers.iter();
    for (key, wanted) in peers.filter(|(key, _)| device.public_key != Some(**key)) {
        let to_others = settings.peers.iter().filter(|(other, _)| *other != key);
        let to_others = to_others
            .flat_map(|(_, other)| &other.allowed_ips)
            .collect();
        let endpoint = endpoints.get(key).copied();
        let change = match device.peers.get(key) {
            Some(peer) => peer_change(wanted, endpoint, peer, &to_others),
            None => PeerChange {
                is_new: true,
                ..peer_change(wanted, endpoint, &DevicePeer::default(), &to_others)
            },
        };
        if !change.is_nothing() {
            changes.push(Change::Peer(*key, change));
        }
    }
    let gone = device.peers.keys();
    let gone = gone.filter(|key| !settings.peers.contains_key(key));
    changes.extend(gone.map(|key| Change::Remove(*key)));
    changes
}

/// `to_others`: prefixes that other peers are to have; the kernel takes them from this one.
fn peer_change(
    wanted: &Peer,
    endpoint: Option<SocketAddr>,
    peer: &DevicePeer,
    to_others: &BTreeSet<&AllowedIp>,
) -> PeerChange {
    let mut surplus = peer.allowed_ips.difference(&wanted.allowed_ips);
    let replaces = surplus.any(|allowed| !to_others.contains(allowed));
    let is_same_key = wanted.preshared_key == peer.preshared_key;
    PeerChange {
        is_new: false,
        preshared_key: (!is_same_key).then(|| wanted.preshared_key.clone()),
        endpoint: endpoint.filter(|endpoint| peer.endpoint != Some(*endpoint)),
        keepalive: (wanted.keepalive != peer.keepalive)
            .then(|| wanted.keepalive.map_or(0, NonZeroU16::get)),
        replaces_allowed_ips: replaces,
        allowed_ips: match replaces {
            true => wanted.allowed_ips.clone(),
            false => wanted
                .allowed_ips
                .difference(&peer.allowed_ips)
                .copied()
                .collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PublicKey {
        PublicKey::new([byte; 32])
    }

    fn secret(byte: u8) -> SecretKey {
        SecretKey::new(&[byte; 32]).unwrap()
    }

    fn prefixes(texts: &[&str]) -> BTreeSet<AllowedIp> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Two peers: 1 has everything set, 2 the least.
    fn settings() -> Settings {
        let first = Peer {
            preshared_key: Some(secret(11)),
            endpoint: Some("198.51.100.2:51820".parse().unwrap()),
            allowed_ips: prefixes(&["::/0", "192.0.2.0/24"]),
            keepalive: NonZeroU16::new(25),
        };
        let second = Peer {
            allowed_ips: prefixes(&["2001:db8:2::/48"]),
            ..Peer::default()
        };
        Settings {
            private_key: secret(9),
            listen_port: NonZeroU16::new(51820),
            fwmark: 7,
            peers: [(key(1), first), (key(2), second)].into(),
        }
    }

    fn endpoint(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn endpoints() -> BTreeMap<PublicKey, SocketAddr> {
        [(key(1), endpoint("198.51.100.2:51820"))].into()
    }

    /// A kernel that carries out changes.
    fn apply(device: &mut Device, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Interface(change) => {
                    if let Some(key) = &change.private_key {
                        device.private_key = Some(key.clone());
                    }
                    device.listen_port = change
                        .listen_port
                        .map_or(device.listen_port, NonZeroU16::get);
                    device.fwmark = change.fwmark.unwrap_or(device.fwmark);
                }
                Change::Remove(key) => {
                    device.peers.remove(key);
                }
                Change::Peer(key, change) => {
                    assert_eq!(change.is_new, !device.peers.contains_key(key));
                    for peer in device.peers.values_mut() {
                        peer.allowed_ips
                            .retain(|allowed| !change.allowed_ips.contains(allowed));
                    }
                    let peer = device.peers.entry(*key).or_default();
                    if let Some(key) = &change.preshared_key {
                        peer.preshared_key = key.clone();
                    }
                    peer.endpoint = change.endpoint.or(peer.endpoint);
                    if let Some(seconds) = change.keepalive {
                        peer.keepalive = NonZeroU16::new(seconds);
                    }
                    if change.replaces_allowed_ips {
                        peer.allowed_ips.clear();
                    }
                    peer.allowed_ips.extend(&change.allowed_ips);
                }
            }
        }
    }

    fn configured() -> Device {
        let mut device = Device::default();
        let changes = diff(&settings(), &endpoints(), &device);
        apply(&mut device, &changes);
        device
    }

    #[test]
    fn a_new_interface_gets_everything_and_then_nothing_more() {
        let changes = diff(&settings(), &endpoints(), &Device::default());
        let texts: Vec<_> = changes.iter().map(ToString::to_string).collect();
        let (one, two) = (key(1), key(2));
        assert_eq!(
            texts,
            [
                "private key, listen port, fwmark".to_owned(),
                format!("peer {one} added"),
                format!("peer {two} added"),
            ]
        );
        assert_eq!(diff(&settings(), &endpoints(), &configured()), []);
        assert!(!format!("{changes:?}").contains("11, 11"), "{changes:?}");
    }

    /// The kernel ignores it, so it would be missing for ever.
    #[test]
    fn a_peer_with_the_interfaces_own_key_is_not_added_again() {
        let mut device = configured();
        device.public_key = Some(key(2));
        device.peers.remove(&key(2));
        assert_eq!(diff(&settings(), &endpoints(), &device), []);
    }

    /// Each case changes the kernel's configuration, and expects these restoring changes.
    #[test]
    fn only_differences_are_restored() {
        let one = key(1);
        let first = |change: PeerChange| vec![Change::Peer(key(1), change)];
        let interface = |change: InterfaceChange| vec![Change::Interface(change)];
        type Damage = fn(&mut Device);
        let cases: [(&str, Damage, Vec<Change>); 11] = [
            ("nothing", |_| {}, Vec::new()),
            (
                "private key",
                |device| device.private_key = Some(secret(8)),
                interface(InterfaceChange {
                    private_key: Some(secret(9)),
                    ..InterfaceChange::default()
                }),
            ),
            (
                "no private key, other mark",
                |device| (device.private_key, device.fwmark) = (None, 0),
                interface(InterfaceChange {
                    private_key: Some(secret(9)),
                    fwmark: Some(7),
                    ..InterfaceChange::default()
                }),
            ),
            (
                "listen port",
                |device| device.listen_port = 1,
                interface(InterfaceChange {
                    listen_port: NonZeroU16::new(51820),
                    ..InterfaceChange::default()
                }),
            ),
            (
                "preshared key",
                |device| device.peers.get_mut(&key(1)).unwrap().preshared_key = None,
                first(PeerChange {
                    preshared_key: Some(Some(secret(11))),
                    ..PeerChange::default()
                }),
            ),
            (
                "keepalive",
                |device| device.peers.get_mut(&key(1)).unwrap().keepalive = None,
                first(PeerChange {
                    keepalive: Some(25),
                    ..PeerChange::default()
                }),
            ),
            (
                "endpoint",
                |device| device.peers.get_mut(&key(1)).unwrap().endpoint = None,
                first(PeerChange {
                    endpoint: Some(endpoint("198.51.100.2:51820")),
                    ..PeerChange::default()
                }),
            ),
            (
                "a prefix is missing",
                |device| device.peers.get_mut(&key(1)).unwrap().allowed_ips = prefixes(&["::/0"]),
                first(PeerChange {
                    allowed_ips: prefixes(&["192.0.2.0/24"]),
                    ..PeerChange::default()
                }),
            ),
            (
                "a prefix too many",
                |device| {
                    let peer = device.peers.get_mut(&key(1)).unwrap();
                    peer.allowed_ips.extend(prefixes(&["0.0.0.0/0"]));
                },
                first(PeerChange {
                    replaces_allowed_ips: true,
                    allowed_ips: prefixes(&["::/0", "192.0.2.0/24"]),
                    ..PeerChange::default()
                }),
            ),
            (
                "a prefix at the wrong peer moves back by itself",
                |device| {
                    let moved = prefixes(&["2001:db8:2::/48"]);
                    device
                        .peers
                        .get_mut(&key(1))
                        .unwrap()
                        .allowed_ips
                        .extend(&moved);
                    device.peers.get_mut(&key(2)).unwrap().allowed_ips.clear();
                },
                vec![Change::Peer(
                    key(2),
                    PeerChange {
                        allowed_ips: prefixes(&["2001:db8:2::/48"]),
                        ..PeerChange::default()
                    },
                )],
            ),
            (
                "a strange peer",
                |device| {
                    device.peers.insert(key(3), DevicePeer::default());
                },
                vec![Change::Remove(key(3))],
            ),
        ];
        for (name, damage, expected) in cases {
            let mut device = configured();
            damage(&mut device);
            let changes = diff(&settings(), &endpoints(), &device);
            assert_eq!(changes, expected, "{name}");
            let is_endpoint = changes.first().is_some_and(Change::is_endpoint_alone);
            assert_eq!(is_endpoint, name == "endpoint", "{name}");
            apply(&mut device, &changes);
            assert_eq!(device, configured(), "{name}");
        }
        let mut device = configured();
        device.peers.remove(&one);
        let changes = diff(&settings(), &endpoints(), &device);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].to_string(), format!("peer {one} added"));
        apply(&mut device, &changes);
        assert_eq!(device, configured());
    }

    #[test]
    fn a_port_that_the_kernel_chose_and_an_endpoint_that_nobody_wants_changed_stay() {
        let mut device = configured();
        device.listen_port = 40000;
        device.peers.get_mut(&key(1)).unwrap().endpoint = Some(endpoint("203.0.113.9:1"));
        let mut settings = settings();
        settings.listen_port = None;
        assert_eq!(diff(&settings, &BTreeMap::new(), &device), []);
    }

    #[test]
    fn a_reload_can_drop_each_setting() {
        let mut less = settings();
        let first = less.peers.get_mut(&key(1)).unwrap();
        (first.preshared_key, first.keepalive) = (None, None);
        first.allowed_ips.clear();
        less.fwmark = 0;
        let mut device = configured();
        let changes = diff(&less, &BTreeMap::new(), &device);
        let texts: Vec<_> = changes.iter().map(ToString::to_string).collect();
        let peer = format!("peer {}: preshared key, keepalive, allowed IPs", key(1));
        assert_eq!(texts, ["fwmark".to_owned(), peer]);
        apply(&mut device, &changes);
        assert_eq!(diff(&less, &BTreeMap::new(), &device), []);
        let peer = &device.peers[&key(1)];
        assert!(peer.allowed_ips.is_empty() && peer.keepalive.is_none());
    }
}
