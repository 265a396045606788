//! Checks of prefixes as sources.

use crate::types::{Prefix, is_unicast};

/// Prefixes, for messages.
pub(super) const PREFIXES: &str = "IPv6 prefixes, such as 2001:db8:bb::/48";

/// Why a prefix cannot belong to a tunnel or a group, as a message.
pub(super) fn unusable_prefix(prefix: Prefix) -> Option<String> {
    if prefix.bits() < 16 {
        return Some(format!(
            "expected a prefix of 16 bits or more, found {prefix}: it would catch foreign packets"
        ));
    }
    (!is_unicast(prefix.address()))
        .then(|| format!("expected global unicast addresses, found {prefix}"))
}
