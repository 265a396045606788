//! Distinct types for numbers and names that must not be confused.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Number of a routing table.
    TableId
}
number! {
    /// Priority of a rule: lower comes first.
    RulePriority
}
number! {
    /// Index of a network interface, positive.
    IfIndex
}
number! {
    /// Largest IPv6 packet, in bytes.
    Mtu
}
number! {
    /// Metric of a route: lower is preferred.
    Metric
}

/// The routing protocol number that marks the objects of sixxs in the kernel (`rtm_protocol`, `FRA_PROTOCOL`);
/// 116 is unassigned in /etc/iproute2/rt_protos.
pub const PROTOCOL: u8 = 116;

impl Mtu {
    /// The minimum that IPv6 allows (RFC 8200 §5).
    pub const MINIMUM: Self = Self(1280);

    /// The TCP maximum segment size to advertise: the MTU without IPv6 and TCP headers (RFC 6691 §2).
    #[must_use]
    pub const fn advertised_mss(self) -> u32 {
        self.0.saturating_sub(60)
    }
}

/// Name of a network interface: 1 to 15 bytes, valid for the kernel's `dev_valid_name`, and without
/// '%': the kernel turns "sixxs%d" into "sixxs0" (`dev_alloc_name`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(String);

/// The text is not an interface name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an interface name has 1 to 15 characters, none of them blank, '/', ':' or '%'")]
pub struct BadIfName;

impl FromStr for IfName {
    type Err = BadIfName;

    fn from_str(text: &str) -> Result<Self, BadIfName> {
        let fits = (1..=15).contains(&text.len()) && text != "." && text != "..";
        let clean = !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%'));
        if fits && clean {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadIfName)
        }
    }
}

impl IfName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The beginning of the names that a pattern matches (`ppp` for `ppp*`); `None`: it is a name.
    #[must_use]
    pub fn pattern(&self) -> Option<&str> {
        self.0.strip_suffix('*')
    }

    /// Whether it is the name of an interface, or a pattern that matches the name.
    #[must_use]
    pub fn matches(&self, name: &Self) -> bool {
        match self.pattern() {
            Some(start) => name.0.starts_with(start),
            None => self == name,
        }
    }

    /// Whether it has the sign of a pattern.
    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        self.0.contains('*')
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An IPv6 prefix without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: Ipv6Addr,
    bits: u8,
}

impl Prefix {
    /// The prefix of `bits` (0 to 128) bits that contains `address`; a length above 128 means 128.
    #[must_use]
    pub fn containing(address: Ipv6Addr, bits: u8) -> Self {
        let bits = bits.min(128);
        Self {
            address: Ipv6Addr::from_bits(address.to_bits() & mask(bits)),
            bits,
        }
    }

    /// The prefix of a single address.
    #[must_use]
    pub fn host(address: Ipv6Addr) -> Self {
        Self { address, bits: 128 }
    }

    /// The prefix of all addresses.
    pub const ALL: Self = Self {
        address: Ipv6Addr::UNSPECIFIED,
        bits: 0,
    };

    /// Its first address.
    #[must_use]
    pub const fn address(self) -> Ipv6Addr {
        self.address
    }

    /// Its length in bits, 0 to 128.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// Whether it contains `address`.
    #[must_use]
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() & mask(self.bits) == self.address.to_bits()
    }

    /// Whether any address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        if self.bits <= other.bits {
            self.contains(other.address)
        } else {
            other.contains(self.address)
        }
    }
}

const fn mask(bits: u8) -> u128 {
    if bits == 0 {
        0
    } else {
        u128::MAX << (128 - bits as u32)
    }
}

/// In the format of `ip`: without a length for a single address.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == 128 {
            self.address.fmt(f)
        } else {
            write!(f, "{}/{}", self.address, self.bits)
        }
    }
}

/// Whether it is a unicast address by which other hosts can reach this host: not unspecified, loopback,
/// multicast, link-local or IPv4-mapped.
#[must_use]
pub fn is_unicast(address: Ipv6Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_unicast_link_local()
        || address.to_ipv4_mapped().is_some())
}

/// An address with the length of its on-link prefix, in the usual notation: `2001:db8:b::2/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: Ipv6Addr,
    /// Length of the on-link prefix; 128 if none was given.
    pub bits: u8,
}

/// The text is not an IPv6 address or prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPrefix {
    /// Wrong syntax.
    #[error("no IPv6 address with a length from 0 to 128 bits")]
    Syntax,
    /// An IPv4 address or prefix.
    #[error("that is IPv4")]
    Ipv4,
    /// Bits after the prefix length are set.
    #[error("bits after the prefix length are set; the prefix is {0}")]
    HostBits(Prefix),
}

impl FromStr for InterfaceAddress {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let no_address = |_| match address.parse::<Ipv4Addr>() {
            Ok(_) => BadPrefix::Ipv4,
            Err(_) => BadPrefix::Syntax,
        };
        let address = address.parse().map_err(no_address)?;
        let bits = match bits {
            None => 128,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| BadPrefix::Syntax)?
            }
            Some(_) => return Err(BadPrefix::Syntax),
        };
        if bits > 128 {
            return Err(BadPrefix::Syntax);
        }
        Ok(Self { address, bits })
    }
}

impl InterfaceAddress {
    /// Valid prefix lengths for an address of a native tunnel. With a shorter prefix, the kernel would
    /// route addresses of other networks into the tunnel.
    pub const TUNNEL_BITS: RangeInclusive<u8> = 64..=128;
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let InterfaceAddress { address, bits } = text.parse()?;
        let prefix = Self::containing(address, bits);
        if prefix.address == address {
            Ok(prefix)
        } else {
            Err(BadPrefix::HostBits(prefix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names() {
        for good in ["net0", "a", "exactly15chars_", "he-ipv6", "wg0.5"] {
            assert!(good.parse::<IfName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "sixteen_chars_xx",
            "a b",
            "a/b",
            "a:b",
            "sixxs%d",
            "a%b",
            "a\n",
        ] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn prefixes() {
        let prefix = |text: &str| text.parse::<Prefix>();
        assert_eq!(
            prefix("2001:db8::/32").unwrap().to_string(),
            "2001:db8::/32"
        );
        assert_eq!(prefix("2001:db8::1").unwrap().to_string(), "2001:db8::1");
        assert_eq!(prefix("::/0").unwrap().bits(), 0);
        assert_eq!(
            prefix("2001:db8::1/64").unwrap_err(),
            BadPrefix::HostBits(prefix("2001:db8::/64").unwrap())
        );
        for bad in [
            "2001:db8::/129",
            "2001:db8::/",
            "2001:db8::/+4",
            "192.0.2.256",
            "x",
            "::/1/2",
        ] {
            assert_eq!(prefix(bad).unwrap_err(), BadPrefix::Syntax, "{bad}");
        }
        for ipv4 in ["192.0.2.1", "192.0.2.0/24", "192.0.2.1/x"] {
            assert_eq!(prefix(ipv4).unwrap_err(), BadPrefix::Ipv4, "{ipv4}");
        }
    }

    #[test]
    fn overlap_is_containment_of_one_in_the_other() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        assert!(prefix("2001:db8::/32").overlaps(prefix("2001:db8:a::2")));
        assert!(prefix("2001:db8:a::2").overlaps(prefix("2001:db8::/32")));
        assert!(!prefix("2001:db8:a::/48").overlaps(prefix("2001:db8:b::/48")));
        assert!(prefix("::/0").overlaps(prefix("ff00::/8")));
    }
}
