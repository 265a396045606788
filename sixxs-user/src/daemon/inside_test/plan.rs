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
    /// The tunnel that the source of the request belongs to; it should be none.
    pub(super) owner: Option<IfName>,
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
        let tcp = asked.tcp.iter().copied().map(Probe::Tcp);
        let udp = asked.udp.iter().copied().map(Probe::Udp);
        let probes: Vec<_> = [Probe::Ping].into_iter().chain(tcp).chain(udp).collect();
        let mut tests = Vec::new();
        for tunnel in config.tunnels.iter().filter(is_wanted) {
            let link = links.by_name(&tunnel.name).filter(|link| link.up);
            if let Some(link) = link
                && has_program(&tunnel.name)
            {
                tests.extend(planned(config, tunnel, link, &probes));
            }
        }
        let names = links
            .iter()
            .map(|link| (link.index.0, link.kernel_name().clone()));
        Self {
            tests,
            names: names.collect(),
        }
    }

    pub(super) fn name(&self, index: u32) -> String {
        let known = self.names.get(&index);
        known.map_or_else(|| format!("interface {index}"), ToString::to_string)
    }
}

fn planned(config: &Config, tunnel: &Tunnel, link: &Link, probes: &[Probe]) -> Vec<Planned> {
    let mac = match link.layer {
        LinkLayer::None => None,
        LinkLayer::Ethernet(mac) => Some(mac),
        // The programs cannot read its packets.
        LinkLayer::Unsupported(_) => return Vec::new(),
    };
    let source = tunnel.check_source.unwrap_or(DEFAULT_SOURCE);
    let has_it = |other: &&Tunnel| other.sources().any(|own| own.contains(source));
    let owner = config.tunnels.iter().find(has_it);
    let test = |address: Ipv6Addr, probe: Probe| Planned {
        subject: Subject {
            tunnel: tunnel.name.clone(),
            address,
            source,
            probe,
            on_leak: config.on_leak,
            can_redirect: mac.is_none() || tunnel.gateway.is_some(),
        },
        device: link.kernel_name().clone(),
        index: link.index,
        mac,
        owner: owner.map(|owner| owner.name.clone()),
    };
    let addresses = tunnel.addresses.iter().map(|own| own.address);
    let all = |address| probes.iter().map(move |probe| (address, *probe));
    let both = addresses.flat_map(all);
    both.map(|(address, probe)| test(address, probe)).collect()
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
        assert!(first.subject.can_redirect && first.owner.is_none());
        // It has a link layer and no gateway, and a source that the other tunnel has.
        assert!(!last.subject.can_redirect);
        assert_eq!(last.owner.as_ref().map(IfName::as_str), Some("sixxs0"));
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
}
