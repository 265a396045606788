//! The tunnels whose packets the programs carry: their outer paths, and the interfaces that lead to brokers.

use std::collections::BTreeMap;

use super::{Enforcement, Role};
use crate::{
    config::{Config, Kind},
    link::{LinkLayer, Links},
    tunnel::{OuterPath, OuterReport},
    types::{IfIndex, IfName},
};

/// The outer paths that the drivers report. Until a driver reports, its tunnel keeps the `present` path of an earlier
/// run, if the configuration agrees.
#[must_use]
pub fn choose(
    config: &Config,
    mut present: BTreeMap<IfName, OuterPath>,
    reports: &BTreeMap<IfName, OuterReport>,
) -> BTreeMap<IfName, OuterPath> {
    let paths = reports.iter().filter_map(|(name, report)| {
        let path = match report {
            OuterReport::Pending => present
                .remove(name)
                .filter(|path| agrees(config, name, path))?,
            OuterReport::NoPath => return None,
            OuterReport::Path(path) => *path,
        };
        Some((name.clone(), path))
    });
    paths.collect()
}

/// Whether a tunnel may have this path.
fn agrees(config: &Config, name: &IfName, path: &OuterPath) -> bool {
    let mut tunnels = config.tunnels.iter();
    let tunnel = tunnels.find(|tunnel| tunnel.name == *name);
    tunnel.is_some_and(|tunnel| match &tunnel.kind {
        Kind::SixInFour(outer) => {
            outer.remote4 == path.remote && outer.local4.is_none_or(|local4| local4 == path.local)
        }
        // The broker decides.
        Kind::Account(_) => true,
        Kind::Ayiya(_) | Kind::WireGuard(_) | Kind::Interface | Kind::Command { .. } => false,
    })
}

impl Enforcement {
    /// Has the programs carry the tunnels with these outer paths, as far as they can. Those that the configuration does
    /// not want to be carried so are left out.
    #[must_use]
    pub fn with_outer_paths(
        mut self,
        config: &Config,
        links: &Links,
        paths: &BTreeMap<IfName, OuterPath>,
    ) -> Self {
        for tunnel in config.tunnels.iter().filter(|t| t.carrier.is_by_programs()) {
            let (Some(path), Some(target)) =
                (paths.get(&tunnel.name), self.tunnels.get(&tunnel.name))
            else {
                continue;
            };
            // The interface must exist and be up, and packets begin with the IP header.
            let is_there = target.index.is_some() && target.mac.is_none();
            if is_there && self.add_underlay(path.index, links) {
                self.outer_paths.insert(tunnel.name.clone(), *path);
            }
        }
        self
    }

    /// Has the programs see what arrives at an interface; false if they cannot.
    fn add_underlay(&mut self, index: IfIndex, links: &Links) -> bool {
        let Some(link) = links.by_index(index).filter(|link| link.up) else {
            return false;
        };
        match self.interfaces.get_mut(&link.name) {
            // What arrives there is what another tunnel carries.
            Some(interface) if interface.role == Role::Tunnel => return false,
            Some(interface) if interface.role != Role::Candidate => interface.is_underlay = true,
            _ if matches!(link.layer, LinkLayer::Unsupported(_)) => return false,
            _ => self.add_interface(link, Role::Underlay, None),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::parse,
        link::{Candidate, Link},
        types::Mtu,
    };

    const NATIVE: &str = r#"
        [[tunnel]]
        name = "sixxs0"
        kind = "6in4"
        remote4 = "198.51.100.1"
        address = "2001:db8:a::2/64"
        mtu = 1400
    "#;

    fn config(text: &str) -> Config {
        parse("test", text).unwrap()
    }

    fn link(index: u32, name: &str) -> Link {
        Link {
            layer: LinkLayer::Ethernet([2, 0, 0, 0, 0, 9]),
            ..Link::up(IfIndex(index), name.parse().unwrap(), Mtu(1500))
        }
    }

    fn by(index: u32) -> OuterPath {
        OuterPath {
            index: IfIndex(index),
            local: [192, 0, 2, 10].into(),
            remote: [198, 51, 100, 1].into(),
            largest_inner: 1480,
        }
    }

    #[test]
    fn a_path_of_an_earlier_run_stays_until_the_driver_reports() {
        let name: IfName = "sixxs0".parse().unwrap();
        let (old, new) = (by(2), by(3));
        let other_local = NATIVE.replacen("mtu", "local4 = \"192.0.2.11\"\nmtu", 1);
        let same_local = other_local.replace("2.11", "2.10");
        let other_remote = NATIVE.replace("198.51.100.1", "198.51.100.9");
        let other_kind =
            "[[tunnel]]\nname = \"sixxs0\"\nkind = \"interface\"\naddress = \"2001:db8::2/64\"\n";
        for (text, report, expected) in [
            (NATIVE, OuterReport::Pending, Some(old)),
            (NATIVE, OuterReport::NoPath, None),
            (NATIVE, OuterReport::Path(new), Some(new)),
            (&same_local, OuterReport::Pending, Some(old)),
            (&other_local, OuterReport::Pending, None),
            (&other_remote, OuterReport::Pending, None),
            (&other_remote, OuterReport::Path(new), Some(new)),
            (other_kind, OuterReport::Pending, None),
        ] {
            let present = [(name.clone(), old)].into();
            let chosen = choose(&config(text), present, &[(name.clone(), report)].into());
            assert_eq!(chosen.get(&name).copied(), expected, "{report:?} {text}");
        }
        // A tunnel that is not configured any more has no report.
        let present = [(name, old)].into();
        assert!(choose(&config(NATIVE), present, &BTreeMap::new()).is_empty());
    }

    /// The programs see outer packets where they arrive, and keep the role of that interface.
    #[test]
    fn what_leads_to_a_broker_is_an_underlay() {
        let mut net0 = link(2, "net0");
        net0.is_exit = true;
        let mut fresh = link(5, "fresh0");
        fresh.candidate = Candidate::Fresh;
        let mut odd = link(6, "odd0");
        odd.layer = LinkLayer::Unsupported(32);
        let mut down = link(7, "down0");
        down.up = false;
        let mut other = link(8, "sixxs8");
        other.layer = LinkLayer::None;
        let tunnel = Link {
            layer: LinkLayer::None,
            ..link(3, "sixxs0")
        };
        let lan = link(4, "lan0");
        let all = [net0, tunnel, lan, fresh, odd, down, other];
        let text = format!(
            "{NATIVE}[[tunnel]]\nname = \"sixxs8\"\nkind = \"interface\"\naddress = \"2001:db8:8::2/64\"\n"
        );
        let carried = |text: &str, links: &[Link], index| {
            let (config, links): (_, Links) = (config(text), links.iter().cloned().collect());
            let paths = [("sixxs0".parse().unwrap(), by(index))].into();
            Enforcement::new(&config, &links, |_| true).with_outer_paths(&config, &links, &paths)
        };
        for (index, name, expected) in [
            (2, "net0", Some(Role::Uplink)),
            (4, "lan0", Some(Role::Underlay)),
            (5, "fresh0", Some(Role::Newcomer)),
            (6, "odd0", None),
            (7, "down0", None),
            (8, "sixxs8", None),
            (3, "sixxs0", None),
            (99, "net0", None),
        ] {
            let found = carried(&text, &all, index);
            let underlay = found.interfaces.iter().find(|(_, i)| i.is_underlay);
            let underlay = underlay.map(|(name, interface)| (name.as_str(), interface.role));
            assert_eq!(underlay, expected.map(|role| (name, role)), "{index}");
            assert_eq!(found.outer_paths.len(), usize::from(expected.is_some()));
        }
        // The configuration decides, and a tunnel without an interface is not carried.
        for (carrier, expected) in [("auto", 1), ("ebpf", 1), ("sit", 0), ("tun", 0)] {
            let text = text.replacen("mtu", &format!("carrier = \"{carrier}\"\nmtu"), 1);
            assert_eq!(
                carried(&text, &all, 2).outer_paths.len(),
                expected,
                "{carrier}"
            );
        }
        assert!(carried(&text, &all[..1], 2).outer_paths.is_empty());
    }
}
