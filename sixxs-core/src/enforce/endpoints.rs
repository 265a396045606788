//! The endpoints of tunnels: whose outer packets the programs count at the uplinks.

use std::collections::{BTreeMap, btree_map::Entry};

use sixxs_common::endpoint::ENDPOINTS;

use super::{Enforcement, Role};
use crate::{config::Config, endpoint::Endpoint, link::Links, tunnel::OuterPath, types::IfName};

/// The endpoints of all tunnels. A native tunnel's is from its driver; until that has found the broker, from the outer
/// path of an earlier run. Else it is from the configuration, else from the kernel, like those of every WireGuard.
#[must_use]
pub fn endpoints(
    config: &Config,
    links: &Links,
    by_drivers: &BTreeMap<IfName, Endpoint>,
    paths: &BTreeMap<IfName, OuterPath>,
) -> BTreeMap<IfName, Vec<Endpoint>> {
    let mut all = BTreeMap::new();
    for tunnel in &config.tunnels {
        let endpoints = if !tunnel.kind.has_endpoints_in_kernel() {
            let path = paths.get(&tunnel.name);
            let by_path = path.map(|path| Endpoint::six_in_four(path.remote.into()));
            let by_driver = by_drivers.get(&tunnel.name).copied();
            by_driver.or(by_path).into_iter().collect()
        } else if let Some(remote) = tunnel.remote {
            remote.endpoints()
        } else {
            let link = links.by_name(&tunnel.name);
            link.map_or_else(Vec::new, |link| link.endpoints.clone())
        };
        if !endpoints.is_empty() {
            all.insert(tunnel.name.clone(), endpoints);
        }
    }
    all
}

impl Enforcement {
    /// Has the programs count the outer packets of tunnels with these endpoints, at every uplink. An endpoint of
    /// several tunnels is left out: their packets look alike. The uplinks have the program as soon as some tunnel may
    /// have an endpoint, since drivers report theirs late.
    #[must_use]
    pub fn with_endpoints(
        mut self,
        config: &Config,
        endpoints: &BTreeMap<IfName, Vec<Endpoint>>,
    ) -> Self {
        let mut owners: BTreeMap<Endpoint, Option<&IfName>> = BTreeMap::new();
        let started = |name: &&IfName| self.tunnels.contains_key(*name);
        for name in endpoints.keys().filter(started) {
            for endpoint in &endpoints[name] {
                match owners.entry(*endpoint) {
                    Entry::Vacant(free) => {
                        free.insert(Some(name));
                    }
                    Entry::Occupied(mut taken) if *taken.get() != Some(name) => {
                        taken.insert(None);
                    }
                    Entry::Occupied(_) => {}
                }
            }
        }
        let owned = owners
            .into_iter()
            .filter_map(|(endpoint, owner)| Some((endpoint, owner?.clone())));
        self.endpoints = owned.take(ENDPOINTS as usize).collect();
        let is_started = |name| self.tunnels.contains_key(name);
        let mut tunnels = config.tunnels.iter();
        let may_have_one =
            tunnels.any(|tunnel| tunnel.kind.is_native() && is_started(&tunnel.name));
        if may_have_one || !self.endpoints.is_empty() {
            let uplinks = self.interfaces.values_mut();
            for uplink in uplinks.filter(|interface| interface.role == Role::Uplink) {
                uplink.is_underlay = true;
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
        link::Link,
        types::{IfIndex, Mtu},
    };

    const CONFIG: &str = r#"
        uplinks = ["net0"]
        [[tunnel]]
        name = "sixxs0"
        kind = "6in4"
        remote4 = "198.51.100.1"
        address = "2001:db8:a::2/64"
        [[tunnel]]
        name = "wg0"
        kind = "interface"
        address = "2001:db8:b::2/64"
        [[tunnel]]
        name = "vpn0"
        kind = "interface"
        remote = "198.51.100.3:1194"
        address = "2001:db8:c::2/64"
    "#;

    fn endpoint(remote: &str, protocol: u8, port: Option<u16>) -> Endpoint {
        Endpoint {
            remote: remote.parse().unwrap(),
            protocol: Some(protocol),
            remote_port: port,
            local_port: None,
        }
    }

    fn is_seen(enforcement: &Enforcement) -> bool {
        enforcement.interfaces[&"net0".parse::<IfName>().unwrap()].is_underlay
    }

    fn host(kernel: &[Endpoint]) -> Links {
        let names = ["net0", "sixxs0", "wg0", "vpn0"];
        let links = (2..).zip(names).map(|(index, name)| Link {
            endpoints: match name {
                "net0" => Vec::new(),
                _ => kernel.to_vec(),
            },
            ..Link::up(IfIndex(index), name.parse().unwrap(), Mtu(1500))
        });
        links.collect()
    }

    #[test]
    fn an_endpoint_comes_from_the_driver_or_the_configuration_or_the_kernel() {
        let config = parse("test", CONFIG).unwrap();
        let kernel = [endpoint("198.51.100.2", 17, Some(51820))];
        let driver = endpoint("198.51.100.1", 41, None);
        let by_drivers = [("sixxs0".parse().unwrap(), driver)].into();
        let found = endpoints(&config, &host(&kernel), &by_drivers, &BTreeMap::new());
        let of = |name: &str| found[&name.parse::<IfName>().unwrap()].clone();
        assert_eq!(of("sixxs0"), [driver]);
        assert_eq!(of("wg0"), kernel);
        assert_eq!(
            of("vpn0"),
            [
                endpoint("198.51.100.3", 17, Some(1194)),
                endpoint("198.51.100.3", 6, Some(1194)),
            ]
        );
        // The driver has not found its broker yet.
        let none = BTreeMap::new();
        let found = endpoints(&config, &host(&[]), &none, &BTreeMap::new());
        assert_eq!(found.len(), 1);
        let path = OuterPath {
            index: IfIndex(2),
            local: [192, 0, 2, 10].into(),
            remote: [198, 51, 100, 1].into(),
            largest_inner: 1480,
        };
        let paths = [("sixxs0".parse().unwrap(), path)].into();
        let found = endpoints(&config, &host(&[]), &none, &paths);
        assert_eq!(found[&"sixxs0".parse::<IfName>().unwrap()], [driver]);
    }

    #[test]
    fn uplinks_see_outer_packets_once_there_are_endpoints() {
        // A native tunnel has an endpoint sooner or later.
        let foreign = CONFIG
            .replace("6in4", "interface")
            .replace("remote4 = \"198.51.100.1\"", "");
        let native = parse("test", CONFIG).unwrap();
        let config = parse("test", &foreign).unwrap();
        let host = host(&[]);
        let by_native = Enforcement::new(&native, &host, |_| true);
        assert!(is_seen(
            &by_native.with_endpoints(&native, &BTreeMap::new())
        ));
        let with = |endpoints: &[(&str, Endpoint)]| {
            let mut all: BTreeMap<IfName, Vec<Endpoint>> = BTreeMap::new();
            for (name, endpoint) in endpoints {
                all.entry(name.parse().unwrap())
                    .or_default()
                    .push(*endpoint);
            }
            let is_started = |tunnel: &crate::config::Tunnel| tunnel.name.as_str() != "vpn0";
            Enforcement::new(&config, &host, is_started).with_endpoints(&config, &all)
        };
        let (one, other) = (
            endpoint("198.51.100.1", 41, None),
            endpoint("198.51.100.2", 41, None),
        );
        let none = with(&[]);
        assert!(!is_seen(&none) && none.endpoints.is_empty());
        let two = with(&[("sixxs0", one), ("wg0", other)]);
        assert!(is_seen(&two));
        assert_eq!(two.endpoints.len(), 2);
        assert_eq!(two.endpoints[&one].as_str(), "sixxs0");
        // Packets of both would look alike.
        let same = with(&[("sixxs0", one), ("wg0", one)]);
        assert!(!is_seen(&same) && same.endpoints.is_empty());
        // The same endpoint twice is no conflict.
        assert_eq!(with(&[("sixxs0", one), ("sixxs0", one)]).endpoints.len(), 1);
        // A tunnel that is not started does not count.
        assert!(with(&[("vpn0", one)]).endpoints.is_empty());
    }
}
