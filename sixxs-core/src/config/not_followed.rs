//! The reasons why a tunnel does not follow something of the host, as sentences with a cure.

use std::{collections::BTreeSet, fmt};

use crate::types::{IfName, Prefix};

/// The maximum number of addresses that a tunnel takes from its interface, and of prefixes from the host.
pub const MAX_FOLLOWED: usize = 256;

/// A tunnel lacks something, or has too much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFollowed {
    /// Its interface has more addresses than [`MAX_FOLLOWED`].
    Addresses(IfName, usize),
    /// There are more prefixes for it than [`MAX_FOLLOWED`].
    Prefixes(IfName, usize),
    /// No prefix is delegated to it.
    NotDelegated(IfName),
    /// These interfaces have no network with a global prefix.
    NoNetwork(IfName, Vec<IfName>),
    /// One of these interfaces has got the prefix.
    Unclear(Prefix, BTreeSet<IfName>),
    /// Besides the interface that it has, these match its pattern.
    Ambiguous(IfName, IfName, Vec<IfName>),
    /// Its prefix overlaps a source of another tunnel.
    Overlap(IfName, Prefix, IfName),
}

impl fmt::Display for NotFollowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses(tunnel, more) => write!(
                f,
                "{tunnel}: its interface has {more} addresses more than {MAX_FOLLOWED}: there are no rules for \
                 them; write their prefix into `prefixes`"
            ),
            Self::Prefixes(tunnel, more) => write!(
                f,
                "{tunnel}: there are {more} prefixes more than {MAX_FOLLOWED} for it: there are no rules for \
                 them; write a prefix that contains them into `prefixes`"
            ),
            Self::NotDelegated(tunnel) => write!(
                f,
                "{tunnel}: no delegated prefix is known (`prefixes = \"auto\"`): no DHCPv6 client has made an \
                 unreachable or blackhole route for one. If the client makes no such route, which is usual for a \
                 prefix of 64 bits, write `prefix_from` with the interface that has the prefix"
            ),
            Self::NoNetwork(tunnel, interfaces) => write!(
                f,
                "{tunnel}: no global address on {} (`prefix_from`); give it one from the delegated prefix, or correct \
                 `prefix_from`",
                interfaces
                    .iter()
                    .map(IfName::as_str)
                    .collect::<Vec<_>>()
                    .join(" or ")
            ),
            Self::Unclear(prefix, interfaces) => write!(
                f,
                "{prefix} is delegated to this host, by one of {}, and nothing shows which: there is no rule for \
                 it. Write it into `prefixes` of one of them, or `prefix_from`; `prefixes = []` takes an interface out",
                names(interfaces)
            ),
            Self::Ambiguous(tunnel, taken, others) => write!(
                f,
                "{tunnel}: it uses {taken}, the newest interface that is up and has an address; {} also match. If those are \
                 separate links, give each its own [[link]] with its name",
                names(others)
            ),
            Self::Overlap(tunnel, prefix, other) => write!(
                f,
                "{tunnel}: its prefix {prefix} overlaps an address or prefix of {other}: there is no rule for it; \
                 remove it from one of the two in the configuration"
            ),
        }
    }
}

fn names<'a>(names: impl IntoIterator<Item = &'a IfName>) -> String {
    let names: Vec<_> = names.into_iter().map(IfName::as_str).collect();
    names.join(", ")
}
