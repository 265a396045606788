//! Which tests a request asks for.

use std::{collections::BTreeMap, net::Ipv6Addr};

use sixxs_core::{
    config::{Config, Tunnel},
    inside_test::{DEFAULT_SOURCE, Probe, Subject},
    link::{Link, LinkLayer, Links},
    types::{IfIndex, IfName},
};

use crate::control::api;

/// The tests of a request.
pub(in crate::daemon) struct Plan {
    pub(super) tests: Vec<Planned>,
    /// Whether answers are sent.
    pub(super) lets_go: bool,
    /// The names of interfaces, for where replies leave.
    names: BTreeMap<u32, IfName>,
}

/// The test of an address.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) subject: Subject,
    /// The interface's name in the kernel.
    pub(super) device: IfName,
    pub(super) index: IfIndex,
    pub(super) mac: Option<[u8; 6]>,
    /// Why it is not possible, as a message.
    pub(super) refused: Option<String>,
}

impl Plan {
    /// Tests of the addresses of the tunnels that a client names, or of all if it names none. Tunnels whose interface is not up are left
    /// out, and those without programs, since nothing would record the reply.
    pub(in crate::daemon) fn new(
        config: &Config,
        links: &Links,
        has_program: impl Fn(&IfName) -> bool,
        asked: &api::InsideRequest,
    ) -> Self {
        let names = &asked.tunnels;
        let is_wanted = |tunnel: &&Tunnel| {
            names.is_empty() || names.iter().any(|name| name == tunnel.name.as_str())
        };
        let mut tests = Vec::new();
        for tunnel in config.tunnels.iter().filter(is_wanted) {
            let link = links.by_name(&tunnel.name).filter(|link| link.up);
            if let Some(link) = link
                && has_program(&tunnel.name)
            {
                tests.extend(planned(config, tunnel, link, asked));
            }
        }
        let names = links
            .iter()
            .map(|link| (link.index.0, link.kernel_name().clone()));
        Self {
            tests,
            lets_go: asked.let_go,
            names: names.collect(),
        }
    }

    pub(super) fn name(&self, index: u32) -> String {
        let known = self.names.get(&index);
        known.map_or_else(|| format!("interface {index}"), ToString::to_string)
    }
}

/// The tests of a tunnel.
fn planned(
    config: &Config,
    tunnel: &Tunnel,
    link: &Link,
    asked: &api::InsideRequest,
) -> Vec<Planned> {
    let mac = match link.layer {
        LinkLayer::None => None,
        LinkLayer::Ethernet(mac) => Some(mac),
        // The programs cannot read its packets.
        LinkLayer::Unsupported(_) => return Vec::new(),
    };
    let source = source(config, tunnel, asked.let_go);
    let test = |address: Ipv6Addr, is_behind: bool, probe: Probe| Planned {
        subject: Subject {
            tunnel: tunnel.name.clone(),
            address,
            source: *source.as_ref().unwrap_or(&DEFAULT_SOURCE),
            probe,
            on_leak: config.on_leak,
            can_redirect: mac.is_none() || tunnel.gateway.is_some(),
            is_behind,
        },
        device: link.kernel_name().clone(),
        index: link.index,
        mac,
        refused: source.as_ref().err().cloned().or_else(|| {
            let is_routed = tunnel.prefixes.iter().any(|own| own.contains(address));
            (is_behind && !is_routed).then(|| format!("{} has no prefix with it", tunnel.name))
        }),
    };
    let own = tunnel.addresses.iter().map(|own| (own.address, false));
    let behind = tunnel.check_addresses.iter().filter(|_| asked.behind);
    let behind = behind.map(|address| (*address, true));
    let probes = probes(asked);
    let all = |(address, is_behind)| {
        let test = &test;
        let probes = probes.iter();
        probes.map(move |probe| test(address, is_behind, *probe))
    };
    own.chain(behind).flat_map(all).collect()
}

/// The packets to each address.
fn probes(asked: &api::InsideRequest) -> Vec<Probe> {
    let tcp = asked.tcp.iter().copied().map(Probe::Tcp);
    let udp = asked.udp.iter().copied().map(Probe::Udp);
    [Probe::Ping].into_iter().chain(tcp).chain(udp).collect()
}

/// The source of the requests, or why there is none. It belongs to no tunnel. Answers are sent to the peer only.
fn source(config: &Config, tunnel: &Tunnel, lets_go: bool) -> Result<Ipv6Addr, String> {
    if lets_go {
        let advice = "set peer: answers are let go to the tunnel's peer only";
        return tunnel.peer.ok_or_else(|| advice.to_owned());
    }
    let source = tunnel.check_source.unwrap_or(DEFAULT_SOURCE);
    let has_it = |other: &&Tunnel| other.sources().any(|own| own.contains(source));
    match config.tunnels.iter().find(has_it) {
        None => Ok(source),
        Some(owner) => Err(format!(
            "{source} belongs to {}; set check_source to an address outside",
            owner.name
        )),
    }
}

#[cfg(test)]
mod tests {
    use sixxs_core::{config, types::Mtu};

    use super::*;

    fn config(more: &str) -> Config {
        let text = format!(
            "[[tunnel]]\nname = \"sixxs0\"\nkind = \"interface\"\naddress = [\"2001:db8:a::2\", \"2001:db8:a::3\"]\n{more}\n\
             [[tunnel]]\nname = \"sixxs1\"\nkind = \"interface\"\naddress = \"2001:db8:b::2\"\ncheck_source = \"2001:db8:a::3\"\n"
        );
        config::parse("f", &text).unwrap()
    }

    fn links() -> Links {
        let link = |index, name: &str| Link::up(IfIndex(index), name.parse().unwrap(), Mtu(1280));
        let veth = Link {
            layer: LinkLayer::Ethernet([2, 0, 0, 0, 0, 1]),
            ..link(8, "sixxs1")
        };
        [link(7, "sixxs0"), veth].into_iter().collect()
    }

    #[test]
    fn each_address_of_a_tunnel_that_is_up_is_tested() {
        let addresses = |names: &[&str], program: &str| -> Vec<String> {
            let asked = api::InsideRequest {
                tunnels: names.iter().map(ToString::to_string).collect(),
                ..api::InsideRequest::default()
            };
            let has_program = |name: &IfName| program.contains(name.as_str());
            let plan = Plan::new(&config(""), &links(), has_program, &asked);
            let tests = plan.tests.iter();
            tests.map(|test| test.subject.address.to_string()).collect()
        };
        let both = "sixxs0 sixxs1";
        assert_eq!(addresses(&[], both).len(), 3);
        assert_eq!(addresses(&["sixxs1"], both), ["2001:db8:b::2"]);
        assert_eq!(addresses(&[], "sixxs0"), ["2001:db8:a::2", "2001:db8:a::3"]);
        assert!(addresses(&["sixxs1"], "sixxs0").is_empty());
    }

    #[test]
    fn the_source_and_the_way_of_leaks_are_those_of_the_configuration() {
        let outside = "check_source = \"2001:db8:ffff::9\"";
        let all = api::InsideRequest::default();
        let plan = Plan::new(&config(outside), &links(), |_| true, &all);
        let [first, _, last] = &plan.tests[..] else {
            panic!("{:?}", plan.tests)
        };
        assert_eq!(first.subject.source.to_string(), "2001:db8:ffff::9");
        assert!(first.subject.can_redirect && first.refused.is_none());
        // It has a link layer and no gateway, and a source that the other tunnel has.
        assert!(!last.subject.can_redirect);
        let refused = last.refused.as_deref().unwrap_or_default();
        assert!(
            refused.starts_with("2001:db8:a::3 belongs to sixxs0; "),
            "{refused}"
        );
        assert_eq!(
            (plan.name(8), plan.name(9)),
            ("sixxs1".to_owned(), "interface 9".to_owned())
        );
        let plan = Plan::new(&config(""), &links(), |_| true, &all);
        assert_eq!(plan.tests[0].subject.source, DEFAULT_SOURCE);
        let ports = api::InsideRequest {
            tcp: vec![443],
            udp: vec![53, 123],
            ..all
        };
        let plan = Plan::new(&config(""), &links(), |_| true, &ports);
        let probes: Vec<_> = plan.tests[..4]
            .iter()
            .map(|test| test.subject.probe)
            .collect();
        let expected = [
            Probe::Ping,
            Probe::Tcp(443),
            Probe::Udp(53),
            Probe::Udp(123),
        ];
        assert_eq!(probes, expected);
        assert_eq!(plan.tests.len(), 3 * 4);
    }

    #[test]
    fn hosts_behind_this_one_are_tested_on_request() {
        let behind = "prefixes = \"2001:db8:a0::/48\"\ncheck_address = [\"2001:db8:a0::7\"]";
        let mut config = config(behind);
        let tests = |config: &Config, behind| {
            let asked = api::InsideRequest {
                tunnels: vec!["sixxs0".to_owned()],
                behind,
                ..api::InsideRequest::default()
            };
            Plan::new(config, &links(), |_| true, &asked).tests
        };
        assert_eq!(tests(&config, false).len(), 2);
        let found = tests(&config, true);
        let last = found.last().unwrap();
        assert_eq!(last.subject.address.to_string(), "2001:db8:a0::7");
        assert!(last.subject.is_behind && last.refused.is_none());
        assert!(!found[0].subject.is_behind && found.len() == 3);
        // A prefix that came from the host is gone.
        config.tunnels[0].prefixes.clear();
        assert!(tests(&config, true).last().unwrap().refused.is_some());
    }

    #[test]
    fn answers_are_let_go_to_the_peer_only() {
        let asked = api::InsideRequest {
            let_go: true,
            ..api::InsideRequest::default()
        };
        let plan = Plan::new(
            &config("peer = \"2001:db8:a::1\""),
            &links(),
            |_| true,
            &asked,
        );
        assert!(plan.lets_go);
        let [first, _, last] = &plan.tests[..] else {
            panic!("{:?}", plan.tests)
        };
        assert_eq!(first.subject.source.to_string(), "2001:db8:a::1");
        assert!(first.refused.is_none());
        assert!(last.refused.as_ref().unwrap().starts_with("set peer"));
    }
}
