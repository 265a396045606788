//! The routes and rules of groups.

use super::{
    tests::{apply, both_up},
    *,
};
use crate::{
    config::{self, Config, Tunnel},
    routing::Owners,
};

/// A group of both tunnels, of which this one is active.
fn group(mode: &str, active: &str) -> Config {
    let mut config = config::parse(
        "test",
        &format!(
            r#"
            rule_mode = "{mode}"
            [[link]]
            name = "sixxs0"
            kind = "interface"
            address = "2001:db8:a::2/64"
            peer = "2001:db8:a::1"
            mtu = 1280
            [[link]]
            name = "sixxs1"
            kind = "interface"
            address = "2001:db8:b::2/64"
            peer = "2001:db8:b::1"
            gateway = "fe80::1"
            [[group]]
            links = ["sixxs0", "sixxs1"]
            prefixes = ["2001:db8:bb::/48", "2001:db8:cc::/48"]
            direct = []
            "#
        ),
    )
    .unwrap();
    config.groups[0].active = active.parse().unwrap();
    config
}

/// The plan from one configuration to another, as commands.
fn change(from: &Desired, to: &Desired) -> Vec<String> {
    let state = apply(&diff(from, &both_up()), both_up());
    let plan = diff(to, &state);
    assert_eq!(plan.problems, vec![]);
    plan.steps.iter().map(ToString::to_string).collect()
}

#[test]
fn another_link_of_a_group_takes_over_by_one_route() {
    let all = |config: &Config| Desired::new(config, |_| true);
    let [first, second] = ["sixxs0", "sixxs1"].map(|active| group("rules", active));
    assert_eq!(
        change(&all(&first), &all(&second)),
        ["ip -6 route replace default via fe80::1 dev sixxs1 table 202 proto 116 metric 1024"]
    );
    assert_eq!(
        change(&all(&second), &all(&first)),
        [
            "ip -6 route replace default dev sixxs0 table 202 proto 116 metric 1024 mtu 1280 advmss 1220"
        ]
    );
    // All share one table: there is a route for each prefix.
    let [first, second] = ["sixxs0", "sixxs1"].map(|active| group("subtrees", active));
    assert_eq!(change(&all(&first), &all(&second)).len(), 2);
}

#[test]
fn a_group_without_a_started_active_link_refuses_packets() {
    let config = group("rules", "sixxs0");
    let started = |name: &'static str| move |tunnel: &Tunnel| tunnel.name.as_str() == name;
    let of_group = |desired: &Desired| {
        let routes = desired.routes.iter();
        let its = routes.filter(|(key, _)| key.table == TableId(202));
        its.map(|(_, target)| target.clone()).collect::<Vec<_>>()
    };
    let by_both = of_group(&Desired::new(&config, |_| true));
    assert!(by_both.iter().any(|target| *target != Target::Unreachable));
    let standby = Desired::new(&config, started("sixxs1"));
    assert!(standby.rules.iter().any(|rule| rule.table == TableId(202)));
    let by_standby = of_group(&standby);
    assert!(!by_standby.is_empty());
    assert!(
        by_standby
            .iter()
            .all(|target| *target == Target::Unreachable)
    );
    let none = Desired::new(&config, |_| false);
    assert_eq!((of_group(&none).len(), none.rules.len()), (0, 0));
}

#[test]
fn what_belongs_to_a_group_has_its_name() {
    let config = group("rules", "sixxs1");
    let owners = Owners::of(&config);
    let plan = diff(&Desired::new(&config, |_| true), &both_up());
    let mut of_group = plan
        .steps
        .iter()
        .filter(|step| step.to_string().contains("table 202"));
    assert!(of_group.all(|step| step.tunnel(&owners).unwrap().as_str() == "group0"));
    let (group, tunnel) = config.groups_as_tunnels().next().unwrap();
    assert_eq!(group.active, tunnel.name);
    assert!(!plan.is_complete_for(&tunnel));
    assert!(Plan::default().is_complete_for(&tunnel));
}
