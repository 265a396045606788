//! Addresses and gateways that change: the configuration takes them from the host (`"auto"`).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv6Addr,
    time::Duration,
};

use super::{Config, Follows};
use crate::{
    link::Link,
    routing::{Observed, routers},
    types::{IfName, InterfaceAddress, Prefix},
};

/// The maximum number of addresses that a tunnel takes from its interface.
pub const MAX_FOLLOWED: usize = 256;

/// For this time, the users of an address that an interface has lost get errors. Then no connection of it is left.
const FORMER: Duration = Duration::from_secs(3600);

/// What one tunnel has at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Present {
    addresses: Vec<InterfaceAddress>,
    /// Addresses that it has lost, and when.
    former: BTreeMap<Ipv6Addr, Duration>,
    gateway: Option<Ipv6Addr>,
    /// Number of addresses above [`MAX_FOLLOWED`].
    more: usize,
}

/// What the tunnels of a configuration have at present, as far as they take it from the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed(BTreeMap<IfName, Present>);

/// A tunnel lacks something, or has too much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFollowed {
    tunnel: IfName,
    more: usize,
}

impl fmt::Display for NotFollowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tunnel, more } = self;
        write!(
            f,
            "{tunnel}: its interface has {more} addresses more than {MAX_FOLLOWED}: packets from them are not steered; \
             write their prefix into `prefixes`"
        )
    }
}

impl Followed {
    /// Reads them from the host. `before` is the result of the scan before, `now` a time since the start.
    #[must_use]
    pub fn of(config: &Config, observed: &Observed, before: &Self, now: Duration) -> Self {
        let on_host: BTreeSet<_> = observed
            .links
            .iter()
            .flat_map(|link| &link.addresses)
            .collect();
        let mut owners = Owners::of(config);
        let tunnels = config
            .tunnels
            .iter()
            .filter(|t| t.follows != Follows::default());
        let present = tunnels.map(|tunnel| {
            let link = observed.links.by_name(&tunnel.name);
            let mut present = Present::default();
            if let Some(link) = link.filter(|_| tunnel.follows.addresses) {
                let is_free = |address: &Ipv6Addr| owners.may_have(&tunnel.name, *address);
                (present.addresses, present.more) = addresses(link, is_free);
                owners.add(&tunnel.name, &present.addresses);
            }
            if let Some(link) = link.filter(|_| tunnel.follows.gateway) {
                present.gateway = routers::of_interface(&observed.routers, link.index);
            }
            if let Some(before) = before
                .0
                .get(&tunnel.name)
                .filter(|_| tunnel.follows.addresses)
            {
                present.former = former(before, &on_host, now);
            }
            (tunnel.name.clone(), present)
        });
        Self(present.collect())
    }

    /// What cannot be followed.
    pub fn problems(&self) -> impl Iterator<Item = NotFollowed> {
        let many = self.0.iter().filter(|(_, present)| present.more > 0);
        many.map(|(tunnel, present)| NotFollowed {
            tunnel: tunnel.clone(),
            more: present.more,
        })
    }
}

/// The addresses of a tunnel that no interface has any more, the latest of them if they are many.
fn former(
    before: &Present,
    on_host: &BTreeSet<&Ipv6Addr>,
    now: Duration,
) -> BTreeMap<Ipv6Addr, Duration> {
    let lost = before.addresses.iter().map(|own| (own.address, now));
    let earlier = before
        .former
        .iter()
        .map(|(address, since)| (*address, *since));
    let mut former: Vec<_> = lost
        .chain(earlier)
        .filter(|(address, since)| {
            !on_host.contains(address) && now.saturating_sub(*since) < FORMER
        })
        .collect();
    former.sort_unstable_by_key(|(address, since)| (Reverse(*since), *address));
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

    fn add(&mut self, name: &'a IfName, addresses: &[InterfaceAddress]) {
        for own in addresses {
            self.addresses.entry(own.address).or_insert(name);
        }
    }
}

/// The global addresses that an interface can use, and the number of further ones.
fn addresses(link: &Link, is_free: impl Fn(&Ipv6Addr) -> bool) -> (Vec<InterfaceAddress>, usize) {
    let usable = link.global_addresses();
    let usable = usable.filter(|address| !link.unusable.contains_key(address) && is_free(address));
    let mut addresses: Vec<_> = usable.copied().collect();
    addresses.sort_unstable();
    addresses.dedup();
    let more = addresses.len().saturating_sub(MAX_FOLLOWED);
    addresses.truncate(MAX_FOLLOWED);
    let whole = |address| InterfaceAddress { address, bits: 128 };
    (addresses.into_iter().map(whole).collect(), more)
}

impl Config {
    /// The configuration with the lost addresses of another one, for tunnels that still follow theirs.
    #[must_use]
    pub fn with_former_of(mut self, other: &Self) -> Self {
        for tunnel in self
            .tunnels
            .iter_mut()
            .filter(|tunnel| tunnel.follows.addresses)
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
            let Some(present) = followed.0.get(&tunnel.name) else {
                continue;
            };
            if tunnel.follows.addresses {
                tunnel.addresses.clone_from(&present.addresses);
                tunnel.former = present.former.keys().copied().collect();
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
        link::Unusable,
        routing::routers::Router,
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
        assert_eq!(followed.problems().count(), 0);
        let whole = config.clone().with_followed(&followed);
        let [first, second] = &whole.tunnels[..] else {
            panic!("two tunnels");
        };
        let own = first.addresses.iter().map(|own| own.address.to_string());
        assert_eq!(own.collect::<Vec<_>>(), ["2001:db8:1::1", "2001:db8:1::2"]);
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

    #[test]
    fn too_many_addresses_are_a_problem() {
        let config = parse("f", CONFIG).unwrap();
        let all: Vec<_> = (0..258).map(|at| format!("2001:db8:1::1:{at:x}")).collect();
        let followed = follow(&config, &observed(&all));
        let problems: Vec<_> = followed.problems().map(|p| p.to_string()).collect();
        assert!(problems[0].starts_with("net1: its interface has 2 addresses more than 256"));
        assert_eq!(
            config.with_followed(&followed).tunnels[0].addresses.len(),
            256
        );
    }
}
