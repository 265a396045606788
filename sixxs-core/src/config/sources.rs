//! Checks of addresses and prefixes as sources.

use std::net::Ipv6Addr;

use crate::types::Prefix;

/// Prefixes, for messages.
pub(super) const PREFIXES: &str = "IPv6 prefixes, such as 2001:db8:bb::/48";

/// Why a prefix cannot belong to a tunnel or a group, as a message.
pub(super) fn unusable_prefix(prefix: Prefix) -> Option<String> {
    if !is_unicast(prefix.address()) {
        return Some(format!("expected global unicast addresses, found {prefix}"));
    }
    (prefix.bits() < 16).then(|| {
        format!(
            "expected a prefix of 16 bits or more, found {prefix}: it would catch foreign packets"
        )
    })
}

/// Whether it is a unicast address by which other hosts can reach this host: not unspecified, loopback,
/// multicast, link-local or IPv4-mapped.
pub(super) fn is_unicast(address: Ipv6Addr) -> bool {
    let first = address.segments()[0];
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || first & 0xffc0 == 0xfe80
        || address.to_ipv4_mapped().is_some())
}
