//! Which tests a request asks for.

use std::{collections::BTreeMap, net::Ipv6Addr};

use anyhow::{bail, ensure};
use sixxs_core::{
    config::{Config, Tunnel},
    endpoint::Endpoint,
    enforce::{Enforcement, Role},
    link::{Link, LinkLayer, Links},
    outside_test::{
        cause::End,
        pairs::{MOST_PAIRS, ring},
        request::LARGEST_BYTES,
    },
    types::{IfIndex, IfName},
};

use crate::control::api;

/// The tests of a request.
pub(in crate::daemon) struct Plan {
    /// The links.
    pub(super) ends: Vec<Planned>,
    /// The pairs, by index.
    pub(super) pairs: Vec<(usize, usize)>,
    /// The links that cannot be tested, if the client names none.
    pub(super) left_out: Vec<api::LeftOut>,
    /// The names of interfaces, for where packets arrive.
    pub(super) names: BTreeMap<u32, IfName>,
}

/// A link.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) end: End,
    /// Where packets leave and arrive; an error, as a message, if the link cannot be tested.
    pub(super) port: Result<Port, String>,
    /// The address whose answer shows that the tunnel works.
    pub(super) target: Option<Ipv6Addr>,
    /// The far ends of its outer packets, as far as they are known.
    pub(super) endpoints: Vec<Endpoint>,
}

/// Its interface.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) index: IfIndex,
    pub(super) has_link_layer: bool,
    /// Its next hop, if the configuration has it.
    pub(super) gateway: Option<Ipv6Addr>,
    /// The largest packet that is tried.
    pub(super) mtu: u32,
    /// Why no program is at its ingress, as a message; `None`: one is there.
    pub(super) unheard: Option<String>,
}

/// What the daemon knows about the host.
pub(in crate::daemon) struct Host<'a> {
    pub(in crate::daemon) config: &'a Config,
    pub(in crate::daemon) links: &'a Links,
    pub(in crate::daemon) enforcement: &'a Enforcement,
    /// The endpoints of tunnels.
    pub(in crate::daemon) endpoints: BTreeMap<IfName, Vec<Endpoint>>,
    /// Whether all programs of an interface are attached.
    pub(in crate::daemon) has_program: &'a dyn Fn(&IfName) -> bool,
    /// Whether one is attached to the ingress of an interface.
    pub(in crate::daemon) listens: &'a dyn Fn(IfIndex) -> bool,
}

impl Plan {
    /// The pairs of the links that a client names; of all if it names none.
    pub(in crate::daemon) fn new(
        host: &Host<'_>,
        asked: &api::OutsideRequest,
    ) -> anyhow::Result<Self> {
        let mut all = host.tunnels();
        all.extend(host.uplinks());
        let mut left_out = Vec::new();
        let ends = match &asked.links[..] {
            [] => {
                let (possible, others): (Vec<_>, Vec<_>) =
                    all.into_iter().partition(|planned| planned.port.is_ok());
                left_out.extend(others.into_iter().filter_map(Planned::left_out));
                possible
            }
            [first, second] => vec![find(&all, first)?, find(&all, second)?],
            _ => bail!("name two links, or none"),
        };
        let is_tunnel: Vec<_> = ends.iter().map(|planned| planned.end.is_tunnel).collect();
        let pairs = ring(&is_tunnel);
        ensure!(
            !pairs.is_empty(),
            "there is nothing to test: that takes two tunnels that are up, or a tunnel and an uplink with a global address"
        );
        ensure!(
            pairs.len() <= MOST_PAIRS,
            "there are {} pairs, and at most {MOST_PAIRS} are tested at a time; name two links",
            pairs.len()
        );
        if let [first, second] = &ends[..] {
            ensure!(
                first.end.name != second.end.name,
                "{} is one link; name two",
                first.end.name
            );
        }
        let names = host.links.iter();
        let names = names.map(|link| (link.index.0, link.kernel_name().clone()));
        Ok(Self {
            ends,
            pairs,
            left_out,
            names: names.collect(),
        })
    }

    pub(super) fn name(&self, index: u32) -> String {
        let known = self.names.get(&index);
        known.map_or_else(|| format!("interface {index}"), ToString::to_string)
    }
}

impl Planned {
    fn left_out(self) -> Option<api::LeftOut> {
        Some(api::LeftOut {
            link: self.end.name.to_string(),
            reason: self.port.err()?,
        })
    }
}

fn find(all: &[Planned], name: &str) -> anyhow::Result<Planned> {
    match all.iter().find(|planned| planned.end.name.as_str() == name) {
        Some(planned) => Ok(planned.clone()),
        None => {
            let known: Vec<_> = all.iter().map(|known| known.end.name.as_str()).collect();
            bail!(
                "no tunnel or uplink {name:?}; there are {}",
                known.join(", ")
            )
        }
    }
}

impl Host<'_> {
    fn tunnels(&self) -> Vec<Planned> {
        let endpoints = |tunnel: &Tunnel| {
            let known = self.endpoints.get(&tunnel.name);
            known.cloned().unwrap_or_default()
        };
        // A tunnel without an address has only prefixes, whose packets other hosts answer.
        let with_address = self.config.tunnels.iter().filter_map(|tunnel| {
            let address = tunnel.addresses.first()?.address;
            Some((tunnel, address))
        });
        with_address
            .map(|(tunnel, address)| Planned {
                end: End {
                    name: tunnel.name.clone(),
                    is_tunnel: true,
                    address,
                },
                port: self.port(&tunnel.name).map(|port| Port {
                    gateway: tunnel.gateway,
                    ..port
                }),
                target: tunnel.check_target.or(tunnel.peer),
                endpoints: endpoints(tunnel),
            })
            .collect()
    }

    /// The uplinks with an address of their own.
    fn uplinks(&self) -> Vec<Planned> {
        let uplinks = self.enforcement.interfaces.iter();
        let uplinks = uplinks.filter(|(_, interface)| interface.role == Role::Uplink);
        uplinks
            .filter_map(|(name, _)| {
                let link = self.links.by_name(name)?;
                Some(Planned {
                    end: End {
                        name: name.clone(),
                        is_tunnel: false,
                        address: self.own_address(link)?,
                    },
                    port: self.port(name),
                    target: None,
                    endpoints: Vec::new(),
                })
            })
            .collect()
    }

    /// A global address of a link that can be used, and belongs to no tunnel.
    fn own_address(&self, link: &Link) -> Option<Ipv6Addr> {
        let is_own = |address: &&Ipv6Addr| {
            let mut tunnels = self.config.tunnels.iter();
            !link.unusable.contains_key(*address)
                && !tunnels.any(|tunnel| tunnel.sources().any(|own| own.contains(**address)))
        };
        link.global_addresses().find(is_own).copied()
    }

    fn port(&self, name: &IfName) -> Result<Port, String> {
        let Some(link) = self.links.by_name(name) else {
            return Err("it has no interface".to_owned());
        };
        let has_link_layer = match link.layer {
            LinkLayer::None => false,
            LinkLayer::Ethernet(_) => true,
            LinkLayer::Unsupported(_) => {
                return Err("the programs cannot read its packets".to_owned());
            }
        };
        if !link.up {
            return Err("its interface is down".to_owned());
        }
        if !(self.has_program)(name) {
            return Err("its programs are not attached".to_owned());
        }
        Ok(Port {
            index: link.index,
            has_link_layer,
            gateway: None,
            mtu: link.mtu.0.min(LARGEST_BYTES),
            unheard: (!(self.listens)(link.index)).then(|| "it has none".to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use sixxs_core::{config, types::Mtu};

    use super::*;

    fn config() -> Config {
        let text = "uplinks = [\"net0\"]\n\
             [[tunnel]]\nname = \"sixxs0\"\nkind = \"interface\"\naddress = \"2001:db8:a::2\"\npeer = \"2001:db8:a::1\"\n\
             [[tunnel]]\nname = \"sixxs1\"\nkind = \"interface\"\naddress = \"2001:db8:b::2\"\ngateway = \"fe80::1\"\ncheck_target = \"2001:db8::9\"\n\
             [[tunnel]]\nname = \"lan\"\nkind = \"interface\"\nprefixes = [\"2001:db8:cc::/48\"]\n";
        config::parse("f", text).unwrap()
    }

    fn link(index: u32, name: &str) -> Link {
        Link::up(IfIndex(index), name.parse().unwrap(), Mtu(9000))
    }

    fn links(uplink_addresses: &[&str]) -> Links {
        let sixxs1 = Link {
            layer: LinkLayer::Ethernet([2, 0, 0, 0, 0, 1]),
            mtu: Mtu(1400),
            ..link(8, "sixxs1")
        };
        let addresses = uplink_addresses.iter().map(|text| text.parse().unwrap());
        let net0 = Link {
            layer: LinkLayer::Ethernet([2, 0, 0, 0, 0, 2]),
            addresses: addresses.collect(),
            ..link(9, "net0")
        };
        [link(7, "sixxs0"), sixxs1, net0].into_iter().collect()
    }

    fn plan(links: &Links, program: &str, asked: &[&str]) -> anyhow::Result<Plan> {
        let config = config();
        let host = Host {
            config: &config,
            links,
            enforcement: &Enforcement::new(&config, links, |_| true),
            endpoints: BTreeMap::new(),
            has_program: &|name| program.contains(name.as_str()),
            listens: &|index| index != IfIndex(9),
        };
        let links = asked.iter().map(ToString::to_string).collect();
        Plan::new(&host, &api::OutsideRequest { links })
    }

    fn names(plan: &Plan) -> Vec<String> {
        let name = |at: usize| plan.ends[at].end.name.to_string();
        let pairs = plan.pairs.iter();
        pairs
            .map(|(first, second)| format!("{} {}", name(*first), name(*second)))
            .collect()
    }

    const ALL: &str = "sixxs0 sixxs1 net0";

    #[test]
    fn links_that_can_be_tested_are_a_ring() {
        let own = links(&["fe80::2", "2001:db8:cc::1", "2001:db8:1::1"]);
        let all = plan(&own, ALL, &[]).unwrap();
        assert_eq!(names(&all), ["sixxs0 sixxs1", "sixxs1 net0", "net0 sixxs0"]);
        let [first, second, uplink] = &all.ends[..] else {
            panic!("{:?}", all.ends)
        };
        // The uplink's own address belongs to no tunnel.
        assert_eq!(uplink.end.address.to_string(), "2001:db8:1::1");
        assert!(uplink.port.as_ref().unwrap().unheard.is_some());
        assert_eq!(first.target.unwrap().to_string(), "2001:db8:a::1");
        assert_eq!(second.target.unwrap().to_string(), "2001:db8::9");
        let ports = [first, second].map(|planned| planned.port.clone().unwrap());
        assert_eq!((ports[0].mtu, ports[1].mtu), (3500, 1400));
        assert_eq!((ports[0].gateway, ports[0].has_link_layer), (None, false));
        assert!(ports[1].gateway.is_some() && ports[1].unheard.is_none());
        assert_eq!(
            (all.name(8), all.name(3)),
            ("sixxs1".to_owned(), "interface 3".to_owned())
        );
        // Without an address, or without a program, a link is left out.
        assert_eq!(
            names(&plan(&links(&[]), ALL, &[]).unwrap()),
            ["sixxs0 sixxs1"]
        );
        assert_eq!(
            names(&plan(&own, "sixxs1 net0", &[]).unwrap()),
            ["sixxs1 net0"]
        );
        let left_out = plan(&own, "sixxs1 net0", &[]).unwrap().left_out;
        let left_out: Vec<_> = left_out.iter().map(|link| link.link.as_str()).collect();
        assert_eq!(left_out, ["sixxs0"]);
        assert!(plan(&own, ALL, &[]).unwrap().left_out.is_empty());
    }

    #[test]
    fn wrong_requests_are_refused() {
        let none = links(&[]);
        for (program, asked, expected) in [
            (ALL, &["sixxs0"][..], "name two links, or none"),
            (
                ALL,
                &["sixxs0", "sixxs1", "sixxs0"],
                "name two links, or none",
            ),
            (ALL, &["sixxs0", "sixxs0"], "sixxs0 is one link; name two"),
            // It has only a prefix.
            (
                ALL,
                &["sixxs0", "lan"],
                "no tunnel or uplink \"lan\"; there are sixxs0, sixxs1",
            ),
            ("sixxs1", &[], "there is nothing to test"),
        ] {
            let error = plan(&none, program, asked).err().unwrap().to_string();
            assert!(error.starts_with(expected), "{asked:?}: {error}");
        }
        // A named link that cannot be tested is reported.
        let named = plan(&none, "sixxs1", &["sixxs0", "sixxs1"]).unwrap();
        assert_eq!(
            named.ends[0].port.as_ref().err().map(String::as_str),
            Some("its programs are not attached")
        );
    }
}
