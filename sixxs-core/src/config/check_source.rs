//! The source of the inside test's requests, which is an address of another host.

use std::net::Ipv6Addr;

use super::section::List;
use crate::types::{InterfaceAddress, Prefix, is_unicast};

/// What is wrong with the source, for a tunnel with these addresses and prefixes.
pub(super) fn fault(
    source: Ipv6Addr,
    addresses: &List<InterfaceAddress>,
    prefixes: &List<Prefix>,
) -> Option<String> {
    let mut addresses = addresses.items().iter();
    let mut prefixes = prefixes.items().iter();
    let is_own = addresses.any(|own| own.value.address == source)
        || prefixes.any(|own| own.value.contains(source));
    (is_own || !is_unicast(source)).then(|| {
        format!(
            "expected an address outside, from which somebody may ping this tunnel, found {source}; leave the key out for \
             one of a documentation prefix"
        )
    })
}
