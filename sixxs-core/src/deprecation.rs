//! Which addresses are deprecated because their link fails, and which lifetimes are restored afterwards.
//!
//! While a link fails, its addresses have a preferred lifetime of zero (RFC 4862 §5.5.4). Then programs select another
//! source address for new connections (RFC 6724 §5, rule 3); existing connections continue.
//!
//! Pure. A [`Record`] contains the addresses that sixxs has deprecated, with their former lifetimes. It outlives the
//! process. Two times of the kernel identify what it describes: an address that was made at another time is another
//! address, and lifetimes that were set at another time are not those that sixxs has set. So an address that other
//! software deprecates is never changed, and what other software sets stays.

use std::{collections::BTreeMap, fmt, net::Ipv6Addr, time::Duration};

use crate::{
    config::Config,
    link::Links,
    types::{IfIndex, IfName, Prefix},
};

mod failing_links;
mod record;

pub use failing_links::FailingLinks;
pub use record::{Entry, Former, Record};

/// How long an address is still preferred, or valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lifetime {
    /// This number of seconds.
    Seconds(u32),
    /// Without an end.
    Forever,
}

impl Lifetime {
    /// It is over.
    pub const OVER: Self = Self::Seconds(0);

    /// From the kernel's number, which has a value for "without an end" (`INFINITY_LIFE_TIME`).
    #[must_use]
    pub const fn from_kernel(seconds: u32) -> Self {
        match seconds {
            u32::MAX => Self::Forever,
            seconds => Self::Seconds(seconds),
        }
    }

    /// The kernel's number.
    #[must_use]
    pub const fn to_kernel(self) -> u32 {
        match self {
            Self::Forever => u32::MAX,
            Self::Seconds(seconds) => seconds,
        }
    }

    /// The lifetime that is left after a time.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        match self {
            Self::Forever => Self::Forever,
            Self::Seconds(seconds) => {
                let time = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
                Self::Seconds(seconds.saturating_sub(time))
            }
        }
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("forever"),
            Self::Seconds(seconds) => write!(f, "{seconds} s"),
        }
    }
}

/// An address of an interface, as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedAddress {
    /// The interface.
    pub index: IfIndex,
    /// The address.
    pub address: Ipv6Addr,
    /// How long it is preferred.
    pub preferred: Lifetime,
    /// How long it is valid.
    pub valid: Lifetime,
    /// When it was made (`ifa_cacheinfo.cstamp`), in hundredths of a second since boot.
    pub created: u32,
    /// When its lifetimes were set last (`ifa_cacheinfo.tstamp`), in the same unit.
    pub changed: u32,
    /// Whether it can be a source address: duplicate address detection has ended, without a duplicate.
    pub is_usable: bool,
    /// Whether it is a temporary address (RFC 8981). The kernel sets its lifetimes together with those of the address that
    /// it was made for.
    pub is_temporary: bool,
}

impl ListedAddress {
    const fn key(&self) -> (IfIndex, Ipv6Addr) {
        (self.index, self.address)
    }

    fn is_deprecated(&self) -> bool {
        self.preferred == Lifetime::OVER
    }

    /// The kernel refuses to change an address whose valid lifetime is over.
    fn can_be_changed(&self) -> bool {
        self.is_usable && !self.is_temporary && self.valid != Lifetime::OVER
    }
}

/// The sources of links that fail, by interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailingSources(BTreeMap<IfIndex, (IfName, Vec<Prefix>)>);

impl FailingSources {
    /// The sources of the links that have the option and fail.
    #[must_use]
    pub fn of(config: &Config, links: &Links, is_failing: impl Fn(&IfName) -> bool) -> Self {
        let tunnels = config.tunnels.iter();
        let failing =
            tunnels.filter(|tunnel| tunnel.deprecate_when_failing && is_failing(&tunnel.name));
        let sources = failing.filter_map(|tunnel| {
            let link = links.by_name(&tunnel.name)?;
            Some((
                link.index,
                (tunnel.name.clone(), tunnel.sources().collect()),
            ))
        });
        Self(sources.collect())
    }

    /// Whether no link fails.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The failing link that an address belongs to.
    fn owner(&self, listed: &ListedAddress) -> Option<&IfName> {
        let (name, sources) = self.0.get(&listed.index)?;
        let is_its = sources.iter().any(|source| source.contains(listed.address));
        is_its.then_some(name)
    }
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Deprecates an address.
    Deprecate,
    /// Deprecates it again: other software has set its lifetimes, for example by a router advertisement.
    DeprecateAgain,
    /// Restores its former preferred lifetime.
    Restore,
}

/// A change of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The link that it belongs to.
    pub tunnel: IfName,
    /// The address, as the kernel listed it.
    pub address: ListedAddress,
    /// What is done.
    pub change: Change,
    /// Its new preferred lifetime.
    pub preferred: Lifetime,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tunnel, address) = (&self.tunnel, self.address.address);
        match self.change {
            Change::Deprecate | Change::DeprecateAgain => {
                write!(f, "{tunnel}: deprecate {address}")
            }
            Change::Restore => {
                let preferred = self.preferred;
                write!(f, "{tunnel}: make {address} preferred again: {preferred}")
            }
        }
    }
}

/// The result of a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The record that has to be on disk before the first step.
    pub record: Record,
    /// The changes.
    pub steps: Vec<Step>,
}

/// Decides what changes. `listed` are all addresses of the host, `now` is a time since boot.
///
/// A step is not recorded as done: the next decision finds its effect in the kernel. So it may fail, and the process may
/// end after any step.
#[must_use]
pub fn decide(
    record: &Record,
    listed: &[ListedAddress],
    failing: &FailingSources,
    now: Duration,
) -> Decision {
    let mut decision = Decision {
        record: record.unlisted(listed),
        steps: Vec::new(),
    };
    for address in listed {
        let entry = record.of(address);
        let owner = failing.owner(address);
        if address.is_deprecated() {
            if let Some(entry) = entry.filter(|entry| entry.is_of_sixxs(address)) {
                decision.keep_or_restore(entry, address, owner, now);
            }
        } else if let Some(owner) = owner.filter(|_| address.can_be_changed()) {
            let was_deprecated = entry.is_some_and(|entry| entry.changed.is_some());
            decision.steps.push(Step {
                tunnel: owner.clone(),
                address: *address,
                change: match was_deprecated {
                    true => Change::DeprecateAgain,
                    false => Change::Deprecate,
                },
                preferred: Lifetime::OVER,
            });
            decision
                .record
                .insert(address, Entry::new(owner.clone(), address, now));
        }
    }
    decision
}

impl Decision {
    /// For an address that sixxs has deprecated. `owner` is the link, if it still fails.
    fn keep_or_restore(
        &mut self,
        entry: &Entry,
        address: &ListedAddress,
        owner: Option<&IfName>,
        now: Duration,
    ) {
        if owner.is_none() {
            let preferred = entry.former.preferred_now(address.valid, now);
            if preferred == Lifetime::OVER {
                // It would be deprecated now in any case.
                return;
            }
            if address.can_be_changed() {
                self.steps.push(Step {
                    tunnel: entry.tunnel.clone(),
                    address: *address,
                    change: Change::Restore,
                    preferred,
                });
            }
        }
        self.record.insert(
            address,
            Entry {
                changed: Some(address.changed),
                is_missing: false,
                ..entry.clone()
            },
        );
    }
}

#[cfg(test)]
#[path = "deprecation_tests.rs"]
mod tests;
