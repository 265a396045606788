//! Addresses, prefixes and gateways that change: the configuration takes them from the host (`"auto"`).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    ops::RangeInclusive,
    time::Duration,
};

use super::{Config, Follows, MAX_FOLLOWED, NotFollowed, PrefixSource, RuleMode, Tunnel};
use crate::{
    link::{Link, Unusable, is_global},
    routing::{
        Observed, UNREACHABLE_METRIC,
        connected::ConnectedRoute,
        delegations::{Delegation, delegations, prefixes_of},
        observed::{ObservedRoute, ObservedTarget},
        routers,
    },
    types::{IfName, InterfaceAddress, Prefix},
};

/// For this time, the users of an address or prefix that is lost get errors. Then no connection of it is left.
const FORMER: Duration = Duration::from_secs(3600);

/// What one tunnel has at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Present {
    /// What it follows, as the configuration had it then.
    follows: Follows,
    addresses: Vec<InterfaceAddress>,
    tentative: Vec<Ipv6Addr>,
    prefixes: Vec<Prefix>,
    /// Networks on its link.
    on_link: Vec<Prefix>,
    /// Addresses and prefixes that it has lost, and when.
    former: BTreeMap<Prefix, Duration>,
    gateway: Option<Ipv6Addr>,
}

impl Present {
    fn sources(&self) -> impl Iterator<Item = Prefix> {
        let addresses = self.all_addresses().map(Prefix::host);
        addresses.chain(self.prefixes.iter().copied())
    }

    fn all_addresses(&self) -> impl Iterator<Item = Ipv6Addr> {
        let usable = self.addresses.iter().map(|own| own.address);
        usable.chain(self.tentative.iter().copied())
    }
}

/// What the tunnels of a configuration have at present, as far as they take it from the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    present: BTreeMap<IfName, Present>,
    /// Delegated prefixes of an unknown interface, with those that may have it.
    unclear: BTreeMap<Prefix, BTreeSet<IfName>>,
    problems: Vec<NotFollowed>,
}

impl Followed {
    /// What the tunnels of a configuration in force have.
    #[must_use]
    pub fn in_force(config: &Config) -> Self {
        let tunnels = config.tunnels.iter().filter(|t| t.follows.is_any());
        let present = tunnels.map(|tunnel| {
            let present = Present {
                follows: tunnel.follows.clone(),
                addresses: tunnel.addresses.clone(),
                prefixes: tunnel.prefixes.clone(),
                ..Present::default()
            };
            (tunnel.name.clone(), present)
        });
        Self {
            present: present.collect(),
            ..Self::default()
        }
    }

    /// Reads them from the host. `before` is the result of the scan before, `now` a time since the start.
    #[must_use]
    pub fn of(config: &Config, observed: &Observed, before: &Self, now: Duration) -> Self {
        let mut followed = Self::default();
        let follow = || config.tunnels.iter().filter(|t| t.follows.is_any());
        for tunnel in follow() {
            let present = Present {
                follows: tunnel.follows.clone(),
                ..Present::default()
            };
            followed.present.insert(tunnel.name.clone(), present);
        }
        followed.problems.extend(ambiguous(config, observed));
        let mut owners = Owners::of(config);
        followed.find_prefixes(config, observed, before, &mut owners);
        for tunnel in follow() {
            let Some(link) = observed.links.by_name(&tunnel.name) else {
                continue;
            };
            let present = followed.present.entry(tunnel.name.clone()).or_default();
            if tunnel.follows.gateway {
                present.gateway = routers::of_interface(&observed.routers, link.index);
            }
            if tunnel.follows.addresses {
                let is_free = |address: &Ipv6Addr| owners.may_have(&tunnel.name, *address);
                let (addresses, tentative, more) = addresses(link, is_free);
                (present.addresses, present.tentative) = (addresses, tentative);
                owners.add(&tunnel.name, present);
                let is_free = |network| owners.other_owner(&tunnel.name, network).is_none();
                present.on_link = networks(observed, link);
                present.on_link.retain(|network| is_free(*network));
                if more > 0 {
                    let problem = NotFollowed::Addresses(tunnel.name.clone(), more);
                    followed.problems.push(problem);
                }
            }
        }
        followed.find_former(config, observed, before, now);
        followed
    }

    /// Finds the prefixes of tunnels that do not have them in the file.
    fn find_prefixes<'a>(
        &mut self,
        config: &'a Config,
        observed: &Observed,
        before: &Self,
        owners: &mut Owners<'a>,
    ) {
        let mut found: BTreeMap<&IfName, BTreeSet<Prefix>> = BTreeMap::new();
        let tunnels = || config.tunnels.iter();
        for tunnel in tunnels() {
            if let PrefixSource::Interfaces(interfaces) = &tunnel.follows.prefixes {
                let links = interfaces.iter();
                let links = links.filter_map(|name| observed.links.by_name(name));
                let prefixes = links.flat_map(|link| prefixes_of(observed, link));
                found.entry(&tunnel.name).or_default().extend(prefixes);
            }
        }
        // The file names the owners of these.
        let from_interfaces: BTreeSet<_> = found.values().flatten().copied().collect();
        let has_owner = |prefix| {
            let mut known = from_interfaces.iter();
            known.any(|other| other.overlaps(prefix)) || owners.have_whole(prefix)
        };
        for (prefix, delegation) in delegations(config, observed, &before.unclear) {
            if has_owner(prefix) {
                continue;
            }
            let name = match delegation {
                Delegation::Of(name) => name,
                Delegation::Unclear(interfaces) => {
                    // Another interface that may get prefixes now takes none away.
                    if let Some(name) = interfaces.iter().find(|name| before.had(name, prefix)) {
                        name.clone()
                    } else {
                        self.unclear.insert(prefix, interfaces.clone());
                        let problem = NotFollowed::Unclear(prefix, interfaces);
                        self.problems.push(problem);
                        continue;
                    }
                }
            };
            if let Some(owner) = tunnels().find(|tunnel| tunnel.name == name) {
                found.entry(&owner.name).or_default().insert(prefix);
            }
        }
        for tunnel in tunnels().filter(|tunnel| tunnel.follows.prefixes.is_host()) {
            let prefixes = outermost(found.remove(&tunnel.name).unwrap_or_default());
            self.take_prefixes(tunnel, prefixes, owners);
        }
    }

    /// Gives a tunnel those of these prefixes that it may have.
    fn take_prefixes<'a>(
        &mut self,
        tunnel: &'a Tunnel,
        mut prefixes: Vec<Prefix>,
        owners: &mut Owners<'a>,
    ) {
        let name = &tunnel.name;
        if prefixes.is_empty() {
            self.problems.push(match &tunnel.follows.prefixes {
                PrefixSource::Interfaces(interfaces) => {
                    NotFollowed::NoNetwork(name.clone(), interfaces.clone())
                }
                _ => NotFollowed::NotDelegated(name.clone()),
            });
        }
        let more = prefixes.len().saturating_sub(MAX_FOLLOWED);
        if more > 0 {
            self.problems
                .push(NotFollowed::Prefixes(name.clone(), more));
            prefixes.truncate(MAX_FOLLOWED);
        }
        let present = self.present.entry(name.clone()).or_default();
        for prefix in prefixes {
            match owners.other_owner(name, prefix) {
                Some(other) => {
                    let problem = NotFollowed::Overlap(name.clone(), prefix, other.clone());
                    self.problems.push(problem);
                }
                None => {
                    present.prefixes.push(prefix);
                    owners.prefixes.push((prefix, name));
                }
            }
        }
    }

    /// Finds the sources that tunnels have lost, if no tunnel or interface has them since.
    fn find_former(&mut self, config: &Config, observed: &Observed, before: &Self, now: Duration) {
        let on_host = observed.links.iter().flat_map(|link| &link.addresses);
        let own = config.tunnels.iter().flat_map(Tunnel::sources);
        let taken: BTreeSet<_> = self
            .present
            .values()
            .flat_map(Present::sources)
            .chain(own)
            .collect();
        let taken_whole: BTreeSet<_> = on_host.map(|own| Prefix::host(*own)).collect();
        let is_lost = |source: Prefix| {
            !taken_whole.contains(&source)
                && !taken.iter().any(|other| other.overlaps(source))
                // It is still delegated, by an interface that is not known.
                && !observed.rejects.iter().any(|route| route.destination == source)
        };
        for (name, present) in &mut self.present {
            let earlier_run = || Present {
                follows: present.follows.clone(),
                former: lost_before(config, name, observed, now),
                ..Present::default()
            };
            let before = before.present.get(name).cloned();
            let before = before.unwrap_or_else(earlier_run);
            // A source that a reload removes from the configuration is not lost.
            if before.follows == present.follows {
                present.former = former(&before, is_lost, now);
            }
        }
    }

    /// Whether a tunnel had this prefix.
    fn had(&self, name: &IfName, prefix: Prefix) -> bool {
        let present = self.present.get(name);
        present.is_some_and(|present| present.prefixes.contains(&prefix))
    }

    /// What cannot be followed.
    #[must_use]
    pub fn problems(&self) -> &[NotFollowed] {
        &self.problems
    }
}

/// The tunnels whose patterns match several interfaces.
fn ambiguous(config: &Config, observed: &Observed) -> impl Iterator<Item = NotFollowed> {
    config.tunnels.iter().filter_map(|tunnel| {
        let link = observed.links.by_name(&tunnel.name)?;
        let is_named = |name: &IfName| config.names().any(|other| other == name);
        let others = observed.links.also_match(&tunnel.name);
        let others: Vec<_> = others
            .map(|other| other.name.clone())
            .filter(|name| !is_named(name))
            .collect();
        (!others.is_empty()).then(|| {
            let taken = link.kernel_name().clone();
            NotFollowed::Ambiguous(tunnel.name.clone(), taken, others)
        })
    })
}

/// The sources that a tunnel had lost in an earlier run: its table refuses packets from them. With subtrees, nothing shows
/// whose they were.
fn lost_before(
    config: &Config,
    name: &IfName,
    observed: &Observed,
    now: Duration,
) -> BTreeMap<Prefix, Duration> {
    let mut tunnels = config.tunnels.iter();
    let Some(tunnel) = tunnels.find(|tunnel| tunnel.name == *name) else {
        return BTreeMap::new();
    };
    let is_refused = |route: &&ObservedRoute| {
        route.is_ours()
            && route.target == ObservedTarget::Unreachable
            && (route.table, route.metric) == (tunnel.table, UNREACHABLE_METRIC)
            && route.destination == Prefix::ALL
            && route.source != Prefix::ALL
    };
    let refused = observed.routes.iter().filter(is_refused);
    let of_tunnel = refused.filter(|_| config.rule_mode == RuleMode::Rules);
    of_tunnel.map(|route| (route.source, now)).collect()
}

/// The networks on the link of an interface, as far as no other interface has an address in them: whose an address is that
/// no interface has yet, they show. Those in which it has an address come first.
fn networks(observed: &Observed, link: &Link) -> Vec<Prefix> {
    /// Shorter ones are routed networks, longer ones are single hosts.
    const BITS: RangeInclusive<u8> = 48..=120;
    /// A router may advertise any number of them.
    const MOST: usize = 32;
    let is_elsewhere = |network: Prefix| {
        let mut others = observed
            .links
            .iter()
            .filter(|other| other.index != link.index);
        others.any(|other| other.addresses.iter().any(|own| network.contains(*own)))
    };
    let here = |all: &[ConnectedRoute]| -> BTreeSet<Prefix> {
        let here = all.iter().filter(|network| network.index == link.index);
        here.map(|network| network.destination).collect()
    };
    let with_address = here(&observed.on_link);
    let others = here(&observed.connected);
    let all = with_address.iter().chain(others.difference(&with_address));
    let usable = all.filter(|network| {
        let (bits, address) = (network.bits(), network.address());
        BITS.contains(&bits) && is_global(&address) && !is_elsewhere(**network)
    });
    usable.take(MOST).copied().collect()
}

/// The prefixes that no other of them contains.
fn outermost(prefixes: BTreeSet<Prefix>) -> Vec<Prefix> {
    let mut sorted: Vec<_> = prefixes.into_iter().collect();
    sorted.sort_unstable_by_key(|prefix| (prefix.bits(), prefix.address()));
    let mut outermost: Vec<Prefix> = Vec::new();
    for prefix in sorted {
        if !outermost.iter().any(|outer| outer.overlaps(prefix)) {
            outermost.push(prefix);
        }
    }
    outermost
}

/// The sources of a tunnel that are lost, the latest of them if they are many.
fn former(
    before: &Present,
    is_lost: impl Fn(Prefix) -> bool,
    now: Duration,
) -> BTreeMap<Prefix, Duration> {
    let lost = before.sources().map(|source| (source, now));
    let earlier = before
        .former
        .iter()
        .map(|(source, since)| (*source, *since));
    let mut former: Vec<_> = lost
        .chain(earlier)
        .filter(|(source, since)| now.saturating_sub(*since) < FORMER && is_lost(*source))
        .collect();
    former.sort_unstable_by_key(|(source, since)| (Reverse(*since), *source));
    former.truncate(MAX_FOLLOWED);
    former.into_iter().collect()
}

/// The tunnels and groups by their sources. A source may belong to one tunnel only: to that of the file, or else to the first one.
struct Owners<'a> {
    addresses: BTreeMap<Ipv6Addr, &'a IfName>,
    prefixes: Vec<(Prefix, &'a IfName)>,
}

impl<'a> Owners<'a> {
    fn of(config: &'a Config) -> Self {
        let tunnels = || config.tunnels.iter();
        Self {
            addresses: tunnels()
                .flat_map(|tunnel| tunnel.addresses.iter().map(|a| (a.address, &tunnel.name)))
                .collect(),
            prefixes: tunnels()
                .flat_map(|tunnel| tunnel.prefixes.iter().map(|prefix| (*prefix, &tunnel.name)))
                .chain(config.group_prefixes())
                .collect(),
        }
    }

    fn may_have(&self, name: &IfName, address: Ipv6Addr) -> bool {
        let of_others =
            |(prefix, owner): &(Prefix, &IfName)| *owner != name && prefix.contains(address);
        self.addresses
            .get(&address)
            .is_none_or(|owner| *owner == name)
            && !self.prefixes.iter().any(of_others)
    }

    /// Another tunnel with a source in a prefix, or around it.
    fn other_owner(&self, name: &IfName, prefix: Prefix) -> Option<&'a IfName> {
        let addresses = self.addresses.range(prefix.address()..);
        let addresses = addresses.take_while(|(address, _)| prefix.contains(**address));
        let prefixes = self.prefixes.iter();
        let prefixes = prefixes.filter(|(other, _)| other.overlaps(prefix));
        let of_addresses = addresses.map(|(_, owner)| *owner);
        let mut all = of_addresses.chain(prefixes.map(|(_, owner)| *owner));
        all.find(|owner| *owner != name)
    }

    /// Whether a tunnel has all of a prefix.
    fn have_whole(&self, prefix: Prefix) -> bool {
        let mut prefixes = self.prefixes.iter();
        prefixes.any(|(other, _)| other.bits() <= prefix.bits() && other.overlaps(prefix))
    }

    fn add(&mut self, name: &'a IfName, present: &Present) {
        for address in present.all_addresses() {
            self.addresses.entry(address).or_insert(name);
        }
    }
}

/// The global addresses of an interface: those that it can use, those that it will be able to use, and the number of
/// further ones.
fn addresses(
    link: &Link,
    is_free: impl Fn(&Ipv6Addr) -> bool,
) -> (Vec<InterfaceAddress>, Vec<Ipv6Addr>, usize) {
    let is_duplicate =
        |address: &Ipv6Addr| link.unusable.get(address) == Some(&Unusable::Duplicate);
    let own = link.global_addresses();
    let own = own.filter(|address| !is_duplicate(address) && is_free(address));
    let mut own: Vec<_> = own.copied().collect();
    own.sort_unstable_by_key(|address| (link.unusable.contains_key(address), *address));
    own.dedup();
    let more = own.len().saturating_sub(MAX_FOLLOWED);
    own.truncate(MAX_FOLLOWED);
    let is_usable = |address: &Ipv6Addr| !link.unusable.contains_key(address);
    let (usable, tentative): (Vec<_>, Vec<_>) = own.into_iter().partition(is_usable);
    let whole = |address| InterfaceAddress { address, bits: 128 };
    (usable.into_iter().map(whole).collect(), tentative, more)
}

impl Config {
    /// The configuration with the lost sources of another one, for tunnels that still follow theirs.
    #[must_use]
    pub fn with_former_of(mut self, other: &Self) -> Self {
        for tunnel in self
            .tunnels
            .iter_mut()
            .filter(|tunnel| tunnel.follows.is_any())
        {
            if let Some(other) = other.tunnels.iter().find(|other| other.name == tunnel.name) {
                tunnel.former.clone_from(&other.former);
            }
        }
        self
    }

    /// The configuration with what its tunnels have at present.
    #[must_use]
    pub fn with_followed(mut self, followed: &Followed) -> Self {
        for tunnel in &mut self.tunnels {
            let Some(present) = followed.present.get(&tunnel.name) else {
                continue;
            };
            tunnel.former = present.former.keys().copied().collect();
            tunnel.on_link.clone_from(&present.on_link);
            if tunnel.follows.addresses {
                tunnel.addresses.clone_from(&present.addresses);
                tunnel.tentative.clone_from(&present.tentative);
            }
            if tunnel.follows.prefixes.is_host() {
                tunnel.prefixes.clone_from(&present.prefixes);
                if tunnel.follows.direct {
                    tunnel.direct.clone_from(&present.prefixes);
                }
            }
            if tunnel.follows.gateway {
                tunnel.gateway = present.gateway;
            }
        }
        self
    }
}

#[cfg(test)]
#[path = "followed_tests.rs"]
mod tests;
