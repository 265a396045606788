//! Addresses, prefixes and gateways that change: the configuration takes them from the host (`"auto"`).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv6Addr,
    time::Duration,
};

use super::{Config, Follows, PrefixSource, Tunnel};
use crate::{
    link::{Link, Unusable},
    routing::{
        Observed,
        delegations::{Delegation, delegations, prefixes_of},
        routers,
    },
    types::{IfName, InterfaceAddress, Prefix},
};

/// The maximum number of addresses that a tunnel takes from its interface, and of prefixes from the host.
pub const MAX_FOLLOWED: usize = 256;

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
            // A source that a reload removes from the configuration is not lost.
            let before = before.present.get(name);
            if let Some(before) = before.filter(|before| before.follows == present.follows) {
                present.former = former(before, is_lost, now);
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

/// The tunnels by their sources. A source may belong to one tunnel only: to that of the file, or else to the first one.
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
mod tests {
    use super::*;
    use crate::{
        config::parse,
        routing::{connected::ConnectedRoute, observed::RejectRoute, routers::Router},
        types::{IfIndex, Metric, Mtu, TableId},
    };

    const CONFIG: &str = r#"
        [[tunnel]]
        name = "net1"
        kind = "interface"
        address = "auto"
        gateway = "auto"
        [[tunnel]]
        name = "net2"
        kind = "interface"
        address = "2001:db8:2::2"
        prefixes = ["2001:db8:3::/48"]
        gateway = "fe80::2"
    "#;

    fn observed(addresses: &[String]) -> Observed {
        let link = |index, name: &str| Link {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            unusable: [
                ("2001:db8:1::d".parse().unwrap(), Unusable::Duplicate),
                ("2001:db8:1::e".parse().unwrap(), Unusable::Tentative),
            ]
            .into(),
            ..Link::up(IfIndex(index), name.parse().unwrap(), Mtu(1500))
        };
        let router = |index, address: &str| Router {
            index: IfIndex(index),
            address: address.parse().unwrap(),
            table: TableId(254),
            metric: Metric(1024),
            preference: routers::Preference::Medium,
        };
        Observed {
            links: [link(2, "net1"), link(3, "net2")].into_iter().collect(),
            routers: vec![router(2, "fe80::9"), router(3, "fe80::8")],
            ..Observed::default()
        }
    }

    #[test]
    fn usable_global_addresses_and_the_router_are_taken() {
        let config = parse("f", CONFIG).unwrap();
        assert!(config.tunnels[0].addresses.is_empty());
        let all = [
            "2001:db8:1::2",
            "fe80::1",
            "fd00::1",
            "2001:db8:1::d",
            "2001:db8:1::e",
            // Of the other tunnel, and of its prefix.
            "2001:db8:2::2",
            "2001:db8:3::7",
            "2001:db8:1::1",
        ];
        let all = all.map(str::to_owned);
        let followed = follow(&config, &observed(&all));
        assert_eq!(followed.problems(), []);
        let whole = config.clone().with_followed(&followed);
        let [first, second] = &whole.tunnels[..] else {
            panic!("two tunnels");
        };
        let own = first.addresses.iter().map(|own| own.address.to_string());
        assert_eq!(own.collect::<Vec<_>>(), ["2001:db8:1::1", "2001:db8:1::2"]);
        assert_eq!(
            first.tentative,
            ["2001:db8:1::e".parse::<Ipv6Addr>().unwrap()]
        );
        let sources: Vec<_> = first.sources().map(|source| source.to_string()).collect();
        assert_eq!(sources, ["2001:db8:1::1", "2001:db8:1::2", "2001:db8:1::e"]);
        assert_eq!(first.gateway, "fe80::9".parse().ok());
        assert_eq!(*second, config.tunnels[1]);
        // The interface is gone.
        let none = whole.with_followed(&follow(&config, &Observed::default()));
        assert!(none.tunnels[0].addresses.is_empty() && none.tunnels[0].gateway.is_none());
    }

    fn follow(config: &Config, observed: &Observed) -> Followed {
        Followed::of(config, observed, &Followed::default(), Duration::ZERO)
    }

    #[test]
    fn lost_addresses_are_remembered_for_an_hour() {
        let config = parse("f", CONFIG).unwrap();
        let [one, two] = ["2001:db8:1::1", "2001:db8:1::2"].map(str::to_owned);
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let mut followed = Followed::default();
        for (at, addresses, former) in [
            (0, &[one.clone(), two.clone()][..], &[][..]),
            (1, std::slice::from_ref(&one), &[&two]),
            (30, &[], &[&one, &two]),
            (60, &[], &[&one, &two]),
            (61, &[], &[&one]),
            (62, std::slice::from_ref(&one), &[]),
        ] {
            followed = Followed::of(&config, &observed(addresses), &followed, minutes(at));
            let whole = config.clone().with_followed(&followed);
            let found = whole.tunnels[0].former.iter().map(ToString::to_string);
            assert_eq!(
                found.collect::<Vec<_>>().iter().collect::<Vec<_>>(),
                former,
                "{at}"
            );
        }
    }

    const PREFIXES: &str = r#"
        [[link]]
        name = "net1"
        kind = "interface"
        address = "auto"
        prefixes = "auto"
        [[link]]
        name = "net2"
        kind = "interface"
        address = "2001:db8:2::2"
        prefix_from = ["lan0", "lan1"]
        direct = "2001:db8:dd::/48"
    "#;

    /// The host has these delegated prefixes, and these networks on `lan0`.
    fn with_prefixes(delegated: &[&str], lan: &[&str]) -> Observed {
        let mut observed = observed(&["2001:db8:1::1".to_owned()]);
        let lan0 = Link::up(IfIndex(4), "lan0".parse().unwrap(), Mtu(1500));
        observed.links = observed.links.iter().cloned().chain([lan0]).collect();
        let rejects = delegated.iter().map(|destination| RejectRoute {
            destination: destination.parse().unwrap(),
            is_by_dhcp: true,
        });
        observed.rejects = rejects.collect();
        let on_link = lan.iter().map(|destination| ConnectedRoute {
            destination: destination.parse().unwrap(),
            index: IfIndex(4),
        });
        observed.on_link = on_link.collect();
        observed
    }

    #[test]
    fn prefixes_are_taken_from_delegations_and_from_networks() {
        let config = parse("f", PREFIXES).unwrap();
        let observed = with_prefixes(
            &["2001:db8:100::/56", "2001:db8:200::/56"],
            &[
                "2001:db8:200:1::/64",
                "2001:db8:200:2::/64",
                "2001:db8:300::/64",
            ],
        );
        let followed = follow(&config, &observed);
        assert_eq!(followed.problems(), []);
        let whole = config.clone().with_followed(&followed);
        let texts =
            |prefixes: &[Prefix]| -> Vec<_> { prefixes.iter().map(ToString::to_string).collect() };
        let [first, second] = &whole.tunnels[..] else {
            panic!("two tunnels");
        };
        assert_eq!(texts(&first.prefixes), ["2001:db8:100::/56"]);
        assert_eq!(texts(&first.direct), ["2001:db8:100::/56"]);
        let both = ["2001:db8:200::/56", "2001:db8:300::/64"];
        assert_eq!(texts(&second.prefixes), both);
        assert_eq!(texts(&second.direct), ["2001:db8:dd::/48"]);

        // They are lost: their users get errors, until somebody has a part of them.
        let minute = Duration::from_secs(60);
        let less = with_prefixes(&["2001:db8:100:80::/57"], &["2001:db8:300::/64"]);
        let followed = Followed::of(&config, &less, &followed, minute);
        let whole = config.clone().with_followed(&followed);
        let former = whole.tunnels.iter().map(|tunnel| texts(&tunnel.former));
        assert_eq!(
            former.collect::<Vec<_>>(),
            [vec![], vec!["2001:db8:200::/56".to_owned()]]
        );
    }

    /// An interface that may get prefixes too neither takes one away nor gives one.
    #[test]
    fn a_new_candidate_changes_nothing() {
        let text = PREFIXES.replace("prefix_from = [\"lan0\", \"lan1\"]", "prefixes = []");
        let config = parse("f", &text).unwrap();
        let observed = |has_uplink: bool| {
            let mut observed = with_prefixes(&["2001:db8:100::/56"], &[]);
            let net0 = Link {
                is_exit: has_uplink,
                ..Link::up(IfIndex(9), "net0".parse().unwrap(), Mtu(1500))
            };
            observed.links = observed.links.iter().cloned().chain([net0]).collect();
            observed
        };
        let prefixes = |followed: &Followed| {
            let whole = config.clone().with_followed(followed);
            (
                whole.tunnels[0].prefixes.len(),
                whole.tunnels[0].former.len(),
            )
        };
        let alone = follow(&config, &observed(false));
        assert_eq!(prefixes(&alone), (1, 0));
        let second = Duration::from_secs(1);
        let beside = Followed::of(&config, &observed(true), &alone, second);
        assert_eq!((prefixes(&beside), beside.problems()), ((1, 0), &[][..]));
        // The daemon's configuration is all that a preview of a reload has.
        let whole = config.clone().with_followed(&alone);
        let preview = Followed::of(
            &config,
            &observed(true),
            &Followed::in_force(&whole),
            second,
        );
        assert_eq!(prefixes(&preview), (1, 0));
        let unclear = follow(&config, &observed(true));
        assert_eq!((prefixes(&unclear), unclear.problems().len()), ((0, 0), 2));
        let still = Followed::of(&config, &observed(false), &unclear, second);
        assert_eq!((prefixes(&still), still.problems().len()), ((0, 0), 2));
        // The configuration takes it away.
        let none = parse("f", &text.replace("prefixes = \"auto\"", "prefixes = []")).unwrap();
        let gone = Followed::of(&none, &observed(false), &alone, second);
        assert_eq!(none.with_followed(&gone).tunnels[0].former, []);
    }

    #[test]
    fn prefixes_that_cannot_be_followed_are_problems() {
        let auto = "prefixes = \"auto\"";
        for (text, delegated, lan, expected) in [
            (
                PREFIXES.to_owned(),
                &[][..],
                &[][..],
                &[
                    "net1: no delegated prefix is known (`prefixes = \"auto\"`)",
                    "net2: no global address on lan0 or lan1 (`prefix_from`); give",
                ][..],
            ),
            (
                PREFIXES.replace("prefix_from = [\"lan0\", \"lan1\"]", auto),
                &["2001:db8:100::/56"],
                &[],
                &[
                    "2001:db8:100::/56 is delegated to this host, by one of net1, net2, and nothing",
                    "net1: no delegated",
                    "net2: no delegated",
                ],
            ),
            (
                PREFIXES.to_owned(),
                &["2001:db8::/32"],
                &["2001:db8:2::/64", "2001:db8:9::/64"],
                &["net1: no delegated"],
            ),
            (
                PREFIXES.replace("\"2001:db8:2::2\"", "\"2001:db8:100::2\""),
                &["2001:db8:100::/56"],
                &["2001:db8:300::/64"],
                &["net1: its prefix 2001:db8:100::/56 overlaps an address or prefix of net2"],
            ),
            (
                PREFIXES.replace(
                    "prefix_from = [\"lan0\", \"lan1\"]",
                    "prefixes = \"2001:db8:100::/48\"",
                ),
                &["2001:db8:100::/56"],
                &[],
                &["net1: no delegated"],
            ),
        ] {
            let config = parse("f", &text).unwrap();
            let followed = follow(&config, &with_prefixes(delegated, lan));
            let problems: Vec<_> = followed
                .problems()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(problems.len(), expected.len(), "{problems:?}");
            for (problem, expected) in problems.iter().zip(expected) {
                assert!(problem.starts_with(expected), "{problem}");
            }
        }
        let many: Vec<_> = (0..258).map(|at| format!("2001:db8:{at:x}::/48")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let text = PREFIXES.replace("prefix_from = [\"lan0\", \"lan1\"]", "prefixes = []");
        let text = text.replace("2001:db8:2::2", "2001:db9::2");
        let config = parse("f", &text).unwrap();
        let followed = follow(&config, &with_prefixes(&many, &[]));
        let problem = followed.problems()[0].to_string();
        assert!(
            problem.starts_with("net1: there are 2 prefixes more than 256"),
            "{problem}"
        );
        assert_eq!(
            config.with_followed(&followed).tunnels[0].prefixes.len(),
            256
        );
    }

    #[test]
    fn too_many_addresses_are_a_problem() {
        let config = parse("f", CONFIG).unwrap();
        let all: Vec<_> = (0..258).map(|at| format!("2001:db8:1::1:{at:x}")).collect();
        let followed = follow(&config, &observed(&all));
        let problems: Vec<_> = followed
            .problems()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(problems[0].starts_with("net1: its interface has 2 addresses more than 256"));
        assert_eq!(
            config.with_followed(&followed).tunnels[0].addresses.len(),
            256
        );
    }
}
