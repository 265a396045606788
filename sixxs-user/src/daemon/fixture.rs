//! Fixtures for the tests of the parts: configurations, hosts and snapshots.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sixxs_core::{
    config::{self, Config},
    echo_health::EchoHealth,
    link::Link,
    link_quality::Quality,
    routing::{Observed, Plan},
    tunnel,
    types::{IfIndex, Mtu},
};

use super::{
    readings::Readings,
    snapshot::{Snapshot, TunnelState},
    tunnels::TunnelView,
};

/// A configuration with these tunnels, the first of which has the address 2001:db8:a0::1.
pub(super) fn config(names: &[&str]) -> Config {
    let mut text = "uplinks = [\"net0\"]\n".to_owned();
    for (number, name) in (0xa0..).zip(names) {
        text += &format!(
            "[[tunnel]]\nname = \"{name}\"\nkind = \"interface\"\naddress = \"2001:db8:{number:x}::1/64\"\n"
        );
    }
    config::parse("test", &text).unwrap()
}

/// An interface that is up.
pub(super) fn link(index: u32, name: &str) -> Link {
    Link::up(IfIndex(index), name.parse().unwrap(), Mtu(1500))
}

/// A host with these interfaces, which have indexes from 3.
pub(super) fn host(names: &[&str]) -> Observed {
    let links = (3..).zip(names).map(|(index, name)| link(index, name));
    Observed {
        links: links.collect(),
        ..Observed::default()
    }
}

/// A snapshot in which every tunnel is up, and nothing is attached or counted.
pub(super) fn snapshot<'a>(config: &'a Config, host: &'a Observed, plan: &'a Plan) -> Snapshot<'a> {
    let names: BTreeSet<_> = config.tunnels.iter().map(|t| t.name.clone()).collect();
    let up = TunnelState {
        view: TunnelView {
            state: tunnel::State::Up,
            endpoint: None,
            carrier: None,
            refused: BTreeMap::new(),
            wireguard: None,
        },
        account: None,
        update: None,
        deprecated: Vec::new(),
        echo_health: EchoHealth::Fine,
        unanswered_in_a_row: 0,
        leaks: None,
        endpoints: Vec::new(),
        silent: None,
        no_answer: None,
        quality: Quality::Good,
        probes: None,
    };
    let tunnels = names.iter().map(|name| (name.clone(), up.clone()));
    Snapshot {
        config,
        links: &host.links,
        plan,
        shadows: &[],
        hooks: BTreeMap::new(),
        xdp: BTreeMap::new(),
        tunnels: tunnels.collect(),
        groups: BTreeMap::new(),
        started: names,
        readings: Readings::default(),
        echo_times: BTreeMap::new(),
        last_days: BTreeMap::new(),
        now: Duration::ZERO,
        since_boot: Duration::ZERO,
        corrections: 0,
        problems: Vec::new(),
    }
}
