//! The desired configuration of a WireGuard interface and of its peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    num::NonZeroU16,
    str::FromStr,
};

use super::key::{PublicKey, SecretKey};
use crate::remote::{BadRemote, Remote};

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its private key.
    pub private_key: SecretKey,
    /// Its UDP port; `None`: the kernel chooses one.
    pub listen_port: Option<NonZeroU16>,
    /// The mark of its outer packets; 0 for none.
    pub fwmark: u32,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, Peer>,
}

/// A peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The key that both ends share in addition to their own.
    pub preshared_key: Option<SecretKey>,
    /// Where it is reached; `None`: it connects itself.
    pub endpoint: Option<PeerEndpoint>,
    /// The addresses behind it.
    pub allowed_ips: BTreeSet<AllowedIp>,
    /// The seconds without a packet to it after which an empty one is sent; `None`: never.
    pub keepalive: Option<NonZeroU16>,
}

/// Where a peer is reached: `198.51.100.2:51820`, `[2001:db8::2]:51820` or `vpn.example.net:51820`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEndpoint {
    /// Its address or name.
    pub host: Remote,
    /// Its UDP port.
    pub port: NonZeroU16,
}

/// The text is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// The port is missing, or no number from 1 to 65535.
    #[error("it does not end with a port (`:` and 1 to 65535)")]
    Port,
    /// An IPv6 address without brackets.
    #[error("an IPv6 address needs brackets: [2001:db8::2]:51820")]
    Brackets,
    /// The part before the port is neither an address nor a name.
    #[error(transparent)]
    Host(#[from] BadRemote),
    /// No host can have the address.
    #[error("not a unicast address")]
    NotUnicast,
}

impl FromStr for PeerEndpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let (host, port) = text.rsplit_once(':').ok_or(BadEndpoint::Port)?;
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| is_number);
        let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match inner {
            Some(inner) => match inner.parse().map_err(|_| BadRemote)? {
                address @ IpAddr::V6(_) => Remote::Address(address),
                IpAddr::V4(_) => return Err(BadRemote.into()),
            },
            None if host.contains(':') => return Err(BadEndpoint::Brackets),
            None => host.parse()?,
        };
        if let Remote::Address(address) = &host
            && (address.is_unspecified() || address.is_multicast())
        {
            return Err(BadEndpoint::NotUnicast);
        }
        let port = port.ok_or(BadEndpoint::Port)?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for PeerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Remote::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// Addresses behind a peer: a prefix of IPv4 or IPv6. Bits after its length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AllowedIp {
    address: IpAddr,
    bits: u8,
}

/// The text is no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an IPv4 or IPv6 prefix")]
pub struct BadAllowedIp;

impl AllowedIp {
    /// The prefix of this length that contains `address`; `None`: it is too long.
    #[must_use]
    pub fn containing(address: IpAddr, bits: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if bits <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) if bits <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
            _ => return None,
        };
        Some(Self { address, bits })
    }

    /// Its first address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Its length.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.bits
    }
}

/// Bits after the prefix length are cleared, as `wg` does.
impl FromStr for AllowedIp {
    type Err = BadAllowedIp;

    fn from_str(text: &str) -> Result<Self, BadAllowedIp> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| BadAllowedIp)?;
        let bits = match bits {
            None if address.is_ipv4() => 32,
            None => 128,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| BadAllowedIp)?
            }
            Some(_) => return Err(BadAllowedIp),
        };
        Self::containing(address, bits).ok_or(BadAllowedIp)
    }
}

impl fmt::Display for AllowedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A peer of an interface that another peer makes useless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerConflict {
    /// Another peer before it has the same public key.
    SameKey,
    /// Another peer before it has this prefix, and the kernel would pass it to the last one alone.
    SameAllowedIp(AllowedIp),
}

impl fmt::Display for PeerConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameKey => write!(
                f,
                "expected one peer for each public key, found another one before it with this key"
            ),
            Self::SameAllowedIp(allowed) => write!(
                f,
                "expected each prefix at one peer, found {allowed} at a peer before it too; packets could go to \
                 one of them only"
            ),
        }
    }
}

/// How the peer with this key conflicts with these other peers.
#[must_use]
pub fn conflict(
    others: &BTreeMap<PublicKey, Peer>,
    key: &PublicKey,
    peer: &Peer,
) -> Option<PeerConflict> {
    if others.contains_key(key) {
        return Some(PeerConflict::SameKey);
    }
    let mut theirs = others.values().flat_map(|other| &other.allowed_ips);
    let shared = theirs.find(|allowed| peer.allowed_ips.contains(allowed));
    shared.map(|allowed| PeerConflict::SameAllowedIp(*allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for good in [
            "198.51.100.2:51820",
            "[2001:db8::2]:1",
            "vpn.example.net:65535",
        ] {
            let endpoint: PeerEndpoint = good.parse().unwrap();
            assert_eq!(endpoint.to_string(), good);
        }
        for (bad, expected) in [
            ("", BadEndpoint::Port),
            ("198.51.100.2", BadEndpoint::Port),
            ("198.51.100.2:", BadEndpoint::Port),
            ("198.51.100.2:0", BadEndpoint::Port),
            ("198.51.100.2:65536", BadEndpoint::Port),
            ("198.51.100.2:+1", BadEndpoint::Port),
            ("vpn.example.net:wireguard", BadEndpoint::Port),
            ("2001:db8::2", BadEndpoint::Brackets),
            ("[2001:db8::2]", BadEndpoint::Brackets),
            ("[198.51.100.2]:1", BadEndpoint::Host(BadRemote)),
            ("[vpn.example.net]:1", BadEndpoint::Host(BadRemote)),
            ("a b:1", BadEndpoint::Host(BadRemote)),
            (":1", BadEndpoint::Host(BadRemote)),
            ("0.0.0.0:1", BadEndpoint::NotUnicast),
            ("[ff02::1]:1", BadEndpoint::NotUnicast),
        ] {
            assert_eq!(bad.parse::<PeerEndpoint>(), Err(expected), "{bad:?}");
        }
    }

    #[test]
    fn allowed_ips() {
        for (text, expected) in [
            ("::/0", "::/0"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("2001:db8::7", "2001:db8::7/128"),
            ("2001:db8:0:1::7/48", "2001:db8::/48"),
        ] {
            let allowed: AllowedIp = text.parse().unwrap();
            assert_eq!(allowed.to_string(), expected);
        }
        for bad in [
            "",
            "/0",
            "::/",
            "::/129",
            "192.0.2.1/33",
            "::/+1",
            "a",
            "+::/0",
        ] {
            assert_eq!(bad.parse::<AllowedIp>(), Err(BadAllowedIp), "{bad:?}");
        }
    }

    #[test]
    fn peers_share_neither_keys_nor_prefixes() {
        let peer = |allowed: &[&str]| Peer {
            allowed_ips: allowed.iter().map(|text| text.parse().unwrap()).collect(),
            ..Peer::default()
        };
        let key = |byte| PublicKey::new([byte; 32]);
        let others = [(key(1), peer(&["::/0", "192.0.2.0/24"]))].into();
        let of = |byte, allowed: &[&str]| conflict(&others, &key(byte), &peer(allowed));
        assert_eq!(of(1, &[]), Some(PeerConflict::SameKey));
        assert_eq!(of(2, &["2001:db8::/32", "192.0.2.0/25"]), None);
        let shared = of(2, &["192.0.2.0/24"]).unwrap();
        assert!(shared.to_string().contains("192.0.2.0/24"), "{shared}");
    }
}
