//! What `tunnel show` and the lists say.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

use zeroize::Zeroizing;

use super::error::{Problem, shown};
use crate::{
    secret::Secret,
    types::{InterfaceAddress, Mtu},
};

/// Parameters of a tunnel, as the broker gave them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Its name at the broker.
    pub id: String,
    /// How packets are carried.
    pub kind: Kind,
    /// Our end.
    pub address: InterfaceAddress,
    /// The broker's end.
    pub peer: Ipv6Addr,
    /// The broker's IPv4 address.
    pub remote4: Ipv4Addr,
    /// Our IPv4 address, where the broker has one on record.
    pub local4: Option<Ipv4Addr>,
    /// Signs what we send; there for every kind but [`Kind::SixInFour`].
    pub password: Option<Secret>,
    /// Between two beats.
    pub heartbeat_interval: Duration,
    /// The largest IPv6 packet.
    pub mtu: Mtu,
    /// The broker's name for its server.
    pub pop: String,
}

/// How a tunnel carries packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In IPv4 packets between two addresses that do not change.
    SixInFour,
    /// In IPv4 packets; heartbeats say where we are.
    Heartbeat,
    /// In signed UDP datagrams.
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

    /// Whether what we send is signed with a password.
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

/// No such kind of tunnel.
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

/// Between two beats, unless the broker says otherwise.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Neither a flood, nor so seldom that a beat is as good as none.
pub(super) const HEARTBEAT_SECONDS: std::ops::RangeInclusive<u32> = 1..=3600;

/// What 6in4 leaves of an Ethernet packet (RFC 4213 §3.2.1).
pub(super) const MAX_MTU: Mtu = Mtu(1480);

/// A line of `tunnel list`. Its words are fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelLine {
    /// What `tunnel show` wants.
    pub id: String,
    /// Our end, as the server wrote it.
    pub address: String,
    /// Our IPv4 address, or `ayiya` or `heartbeat`.
    pub local4: String,
    /// The broker's name for its server.
    pub pop: String,
}

impl TunnelLine {
    pub(super) fn read(line: &str) -> Result<Self, Problem> {
        let mut words = line.split_ascii_whitespace().map(shown);
        let mut word = || words.next().ok_or_else(|| unexpected("a tunnel", line));
        Ok(Self {
            id: word()?,
            address: word()?,
            local4: word()?,
            pop: word()?,
        })
    }
}

/// A line of `pop list`. Its words are fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PopLine {
    /// The broker's name for its server.
    pub id: String,
    /// What else the line says.
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
            id: shown(id),
            words: shown(words),
        })
    }
}

fn unexpected(what: &str, line: &str) -> Problem {
    Problem::Garbage(format!("{:?} instead of {what}", shown(line)))
}

/// The lines of `tunnel show`.
pub(super) struct Shown<'a>(pub(super) &'a [Zeroizing<String>]);

impl<'a> Shown<'a> {
    /// The value of a key; none where it is empty.
    fn get(&self, key: &str) -> Option<&'a str> {
        let lines = self.0.iter().filter_map(|line| line.split_once(':'));
        let mut values = lines.filter(|(k, _)| k.trim().eq_ignore_ascii_case(key));
        let (_, value) = values.next()?;
        // One blank separates; a password may have more.
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

    /// A number; 0 or nothing is nothing.
    fn number(&self, key: &str) -> Result<Option<u64>, Problem> {
        if self.get(key).is_none_or(|value| value.trim().is_empty()) {
            return Ok(None);
        }
        let number: u64 = self.parsed(key, "a number")?;
        Ok(Some(number).filter(|number| *number != 0))
    }

    /// All of it, for the tunnel that was asked for.
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
                user: shown(user),
                admin: shown(admin),
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
        if address == peer {
            return Err(unexpected("two ends", &address.to_string()));
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
            heartbeat_interval: self.number("Heartbeat_Interval")?.map_or(HEARTBEAT, |n| {
                let (low, high) = (*HEARTBEAT_SECONDS.start(), *HEARTBEAT_SECONDS.end());
                Duration::from_secs(n.clamp(low.into(), high.into()))
            }),
            mtu: self.mtu()?,
            pop: self.get("POP Id").map(shown).unwrap_or_default(),
        })
    }

    fn local4(&self, kind: Kind) -> Result<Option<Ipv4Addr>, Problem> {
        const KEY: &str = "IPv4 Endpoint";
        if kind == Kind::SixInFour {
            return self.parsed(KEY, "an IPv4 address").map(Some);
        }
        // An address, or a word for "wherever it is".
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
        // Less cannot carry IPv6; of more, the rest would not get through.
        match u32::try_from(number).unwrap_or(u32::MAX) {
            small if small < Mtu::MINIMUM.0 => {
                Err(unexpected("1280 to 1480", &format!("{KEY}: {number}")))
            }
            mtu => Ok(Mtu(mtu.min(MAX_MTU.0))),
        }
    }
}

fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_broadcast())
}
