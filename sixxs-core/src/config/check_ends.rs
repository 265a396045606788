//! The addresses that the inside test uses: the source of its requests, which is of another host, and addresses behind this host.

use std::net::Ipv6Addr;

use super::section::{Field, List, Located};
use crate::{
    diagnostics::Diagnostics,
    types::{InterfaceAddress, Prefix, is_unicast},
};

/// Checks `check_source` of a tunnel with these addresses and prefixes.
pub(super) fn check_source(
    source: &Field<Ipv6Addr>,
    addresses: &List<InterfaceAddress>,
    prefixes: &List<Prefix>,
    diagnostics: &mut Diagnostics,
) {
    let Some(Located { value, location }) = source.as_set() else {
        return;
    };
    let mut addresses = addresses.items().iter();
    let mut prefixes = prefixes.items().iter();
    let is_own = addresses.any(|own| own.value.address == *value)
        || prefixes.any(|own| own.value.contains(*value));
    if is_own || !is_unicast(*value) {
        let message = format!(
            "expected an address outside, from which somebody may ping this tunnel, found {value}; leave the key out for \
             one of a documentation prefix"
        );
        diagnostics.add(location, message);
    }
}

/// Checks `check_address` of a tunnel with these prefixes. Prefixes that it takes from the host are not known here.
pub(super) fn check_addresses(
    behind: &List<Ipv6Addr>,
    prefixes: &List<Prefix>,
    are_from_host: bool,
    diagnostics: &mut Diagnostics,
) {
    for Located { value, location } in behind.items() {
        let mut prefixes = prefixes.items().iter();
        let is_routed = are_from_host || prefixes.any(|prefix| prefix.value.contains(*value));
        if !is_routed || !is_unicast(*value) {
            let message = format!(
                "expected the address of a host in the prefixes of this tunnel, found {value}"
            );
            diagnostics.add(location, message);
        }
    }
}
