//! Parses the output of `tunnel show` and of the lists.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

use zeroize::Zeroizing;

use super::error::{Problem, printable};
use crate::{
    broker::heartbeat_schedule::{DEFAULT_INTERVAL, INTERVAL_SECONDS},
    secret::Secret,
    types::{InterfaceAddress, Mtu, Prefix},
};

/// Parameters of a tunnel from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Its id at the broker.
    pub id: String,
    /// Its encapsulation.
    pub kind: Kind,
    /// The local inner address.
    pub address: InterfaceAddress,
    /// The broker's inner address.
    pub peer: Ipv6Addr,
    /// The broker's IPv4 address.
    pub remote4: Ipv4Addr,
    /// The local IPv4 address, if the broker has one on record.
    pub local4: Option<Ipv4Addr>,
    /// The key for signatures; present for every kind except [`Kind::SixInFour`].
    pub password: Option<Secret>,
    /// The interval between heartbeats.
    pub heartbeat_interval: Duration,
    /// The largest IPv6 packet, in bytes.
    pub mtu: Mtu,
    /// The broker's name for its server.
    pub pop: String,
}

/// The encapsulation of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 packets (protocol 41) between two fixed addresses.
    SixInFour,
    /// IPv4 packets (protocol 41); heartbeats report the client's address.
    Heartbeat,
    /// Signed UDP datagrams.
    Ayiya,
}

impl Kind {
    /// Its name in the protocol.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SixInFour => "6in4-static",
            Self::Heartbeat => "6in4-heartbeat",
            Self::Ayiya => "ayiya",
        }
    }

    /// Whether the client signs its datagrams with a password.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        match self {
            Self::SixInFour => false,
            Self::Heartbeat | Self::Ayiya => true,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not a kind of tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 6in4-static, 6in4-heartbeat or ayiya")]
pub struct BadKind;

impl FromStr for Kind {
    type Err = BadKind;

    fn from_str(text: &str) -> Result<Self, BadKind> {
        [Self::SixInFour, Self::Heartbeat, Self::Ayiya]
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(text))
            .ok_or(BadKind)
    }
}

/// The Ethernet MTU minus the overhead of 6in4 (RFC 4213 §3.2.1).
pub(super) const MAX_MTU: Mtu = Mtu(1480);

/// A line of `tunnel list`. Its fields are sanitised for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelLine {
    /// The id for `tunnel show`.
    pub id: String,
    /// The local inner address, as the server wrote it.
    pub address: String,
    /// The local IPv4 address, or `ayiya` or `heartbeat`.
    pub local4: String,
    /// The broker's name for its server.
    pub pop: String,
}

impl TunnelLine {
    pub(super) fn read(line: &str) -> Result<Self, Problem> {
        let mut words = line.split_ascii_whitespace().map(printable);
        let mut word = || words.next().ok_or_else(|| unexpected("a tunnel", line));
        Ok(Self {
            id: word()?,
            address: word()?,
            local4: word()?,
            pop: word()?,
        })
    }
}

/// A line of `pop list`. Its fields are sanitised for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PopLine {
    /// The broker's name for its server.
    pub id: String,
    /// The rest of the line.
    pub words: String,
}

impl PopLine {
    pub(super) fn read(line: &str) -> Result<Self, Problem> {
        let line = line.trim();
        let (id, words) = line.split_once(' ').unwrap_or((line, ""));
        if id.is_empty() {
            return Err(unexpected("a PoP", line));
        }
        Ok(Self {
            id: printable(id),
            words: printable(words),
        })
    }
}

fn unexpected(what: &str, line: &str) -> Problem {
    Problem::Garbage(format!("{:?} instead of {what}", printable(line)))
}

/// The lines of `tunnel show`.
pub(super) struct Shown<'a>(pub(super) &'a [Zeroizing<String>]);

impl<'a> Shown<'a> {
    /// The value of a key; `None` if it is missing or empty.
    fn get(&self, key: &str) -> Option<&'a str> {
        let lines = self.0.iter().filter_map(|line| line.split_once(':'));
        let mut values = lines.filter(|(k, _)| k.trim().eq_ignore_ascii_case(key));
        let (_, value) = values.next()?;
        // One blank is the separator; further blanks may belong to a password.
        let value = value.strip_prefix(' ').unwrap_or(value);
        Some(value).filter(|value| !value.is_empty())
    }

    fn needed(&self, key: &str) -> Result<&'a str, Problem> {
        let value = self.get(key).map(str::trim).filter(|v| !v.is_empty());
        value.ok_or_else(|| Problem::Garbage(format!("parameters without {key}")))
    }

    fn parsed<T: FromStr>(&self, key: &str, expected: &str) -> Result<T, Problem> {
        let value = self.needed(key)?;
        value
            .parse()
            .map_err(|_| unexpected(expected, &format!("{key}: {value}")))
    }

    /// A number; `None` if it is 0 or missing.
    fn number(&self, key: &str) -> Result<Option<u64>, Problem> {
        if self.get(key).is_none_or(|value| value.trim().is_empty()) {
            return Ok(None);
        }
        let number: u64 = self.parsed(key, "a number")?;
        Ok(Some(number).filter(|number| *number != 0))
    }

    /// Reads all parameters, and checks that they belong to tunnel `id`.
    pub(super) fn read(&self, id: &str) -> Result<Parameters, Problem> {
        if let Some(other) = self.get("TunnelId").map(str::trim)
            && !other.eq_ignore_ascii_case(id)
        {
            return Err(unexpected(&format!("tunnel {id}"), other));
        }
        let [user, admin] = [self.needed("UserState")?, self.needed("AdminState")?];
        if ![user, admin]
            .iter()
            .all(|s| s.eq_ignore_ascii_case("enabled"))
        {
            return Err(Problem::NotEnabled {
                id: id.to_owned(),
                user: printable(user),
                admin: printable(admin),
            });
        }
        const LENGTH: &str = "a length of 64 to 128 bits";
        let kind: Kind = self.parsed("Type", "6in4-static, 6in4-heartbeat or ayiya")?;
        let bits: u8 = self.parsed("IPv6 PrefixLength", LENGTH)?;
        if !InterfaceAddress::TUNNEL_BITS.contains(&bits) {
            return Err(unexpected(LENGTH, &bits.to_string()));
        }
        let address = self.unicast("IPv6 Endpoint")?;
        let peer = self.unicast("IPv6 POP")?;
        if !may_be_ends(address, peer) {
            let expected = format!("another address in the /64 of {address}");
            return Err(unexpected(&expected, &peer.to_string()));
        }
        let remote4: Ipv4Addr = self.parsed("IPv4 POP", "an IPv4 address")?;
        if !is_host(remote4) {
            return Err(unexpected("a host's IPv4 address", &remote4.to_string()));
        }
        if kind.is_signed() {
            self.needed("Password")?;
        }
        let password = self.get("Password").map(Secret::from);
        Ok(Parameters {
            id: id.to_owned(),
            kind,
            address: InterfaceAddress { address, bits },
            peer,
            remote4,
            local4: self.local4(kind)?,
            password,
            heartbeat_interval: self.heartbeat_interval()?,
            mtu: self.mtu()?,
            pop: self.get("POP Id").map(printable).unwrap_or_default(),
        })
    }

    fn heartbeat_interval(&self) -> Result<Duration, Problem> {
        let seconds = self.number("Heartbeat_Interval")?;
        let (low, high) = INTERVAL_SECONDS.into_inner();
        let within = |seconds: u64| Duration::from_secs(seconds.clamp(low.into(), high.into()));
        Ok(seconds.map_or(DEFAULT_INTERVAL, within))
    }

    fn local4(&self, kind: Kind) -> Result<Option<Ipv4Addr>, Problem> {
        const KEY: &str = "IPv4 Endpoint";
        if kind == Kind::SixInFour {
            return self.parsed(KEY, "an IPv4 address").map(Some);
        }
        // An address, or a word for a dynamic address.
        Ok(self.get(KEY).and_then(|value| value.trim().parse().ok()))
    }

    fn unicast(&self, key: &str) -> Result<Ipv6Addr, Problem> {
        const EXPECTED: &str = "a global IPv6 address";
        let address: Ipv6Addr = self.parsed(key, EXPECTED)?;
        let odd = address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || address.is_unicast_link_local()
            || address.to_ipv4_mapped().is_some();
        if odd {
            return Err(unexpected(EXPECTED, &format!("{key}: {address}")));
        }
        Ok(address)
    }

    fn mtu(&self) -> Result<Mtu, Problem> {
        const KEY: &str = "Tunnel MTU";
        let Some(number) = self.number(KEY)? else {
            return Ok(Mtu::MINIMUM);
        };
        // A smaller MTU cannot carry IPv6. A larger one would not fit the path.
        match u32::try_from(number).unwrap_or(u32::MAX) {
            small if small < Mtu::MINIMUM.0 => {
                Err(unexpected("1280 to 1480", &format!("{KEY}: {number}")))
            }
            mtu => Ok(Mtu(mtu.min(MAX_MTU.0))),
        }
    }
}

/// Whether a tunnel may have these ends. The peer gets a route in the main table. So it must be in the tunnel's own
/// network: another address would take packets from a foreign host.
pub(super) fn may_be_ends(address: Ipv6Addr, peer: Ipv6Addr) -> bool {
    let network = Prefix::containing(address, *InterfaceAddress::TUNNEL_BITS.start());
    address != peer && network.contains(peer)
}

fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_broadcast())
}
