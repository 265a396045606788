use super::*;
use crate::{
    config::{self, Config, RuleMode, Tunnel},
    explain::rules::{Action, PolicyRule, Selector},
    link::Link,
    routing::{
        DEFAULT_METRIC, InPlace, LOCAL_TABLE, Owners, connected::ConnectedRoute,
        observed::LocalTable,
    },
    types::{PROTOCOL, Prefix, RulePriority},
};

pub(super) fn config() -> Config {
    config::parse(
        "test",
        r#"
        [[tunnel]]
        name = "sixxs0"
        kind = "interface"
        address = "2001:db8:a::2/64"
        mtu = 1280
        [[tunnel]]
        name = "sixxs1"
        kind = "interface"
        address = "2001:db8:b::2/64"
        prefixes = ["2001:db8:bb::/48"]
        gateway = "fe80::1"
        "#,
    )
    .unwrap()
}

pub(super) fn link(index: u32, name: &str, up: bool) -> Link {
    Link {
        up,
        ..Link::up(IfIndex(index), name.parse().unwrap(), Mtu(1500))
    }
}

pub(super) fn both_up() -> Observed {
    Observed {
        links: [link(3, "sixxs0", true), link(4, "sixxs1", true)]
            .into_iter()
            .collect(),
        ..Observed::default()
    }
}

#[test]
fn the_plan_reads_as_commands() {
    let config = config();
    let plan = diff(&Desired::new(&config, |_| true), &both_up());
    assert_eq!(plan.problems, vec![]);
    let lines: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "ip -6 route add default dev sixxs0 table 200 proto 116 metric 1024 mtu 1280 advmss 1220",
            "ip -6 route add unreachable default table 200 proto 116 metric 4278198272",
            "ip -6 route add unreachable 2001:db8:bb::/48 table 200 proto 116 metric 4278198272",
            "ip -6 route add default via fe80::1 dev sixxs1 table 201 proto 116 metric 1024",
            "ip -6 route add unreachable default table 201 proto 116 metric 4278198272",
            "ip -6 route add unreachable 2001:db8:bb::/48 table 201 proto 116 metric 4278198272",
            "ip -6 rule add from 2001:db8:a::2 to 2001:db8:bb::/48 lookup main suppress_prefixlength 0 priority 16382 protocol 116",
            "ip -6 rule add from 2001:db8:b::2 to 2001:db8:bb::/48 lookup main suppress_prefixlength 0 priority 16382 protocol 116",
            "ip -6 rule add from 2001:db8:bb::/48 to 2001:db8:bb::/48 lookup main suppress_prefixlength 0 priority 16382 protocol 116",
            "ip -6 rule add from 2001:db8:a::2 lookup 200 priority 16383 protocol 116",
            "ip -6 rule add from 2001:db8:b::2 lookup 201 priority 16383 protocol 116",
            "ip -6 rule add from 2001:db8:bb::/48 lookup 201 priority 16383 protocol 116",
        ]
    );
}

/// One rule leads to all of them, with two more if there are direct destinations.
#[test]
fn the_plan_with_subtrees() {
    let mut config = config();
    config.rule_mode = RuleMode::Subtrees;
    let plan = diff(&Desired::new(&config, |_| true), &both_up());
    assert_eq!(plan.problems, vec![]);
    let lines: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "ip -6 route add default from 2001:db8:a::2 dev sixxs0 table 200 proto 116 metric 1024 mtu 1280 advmss 1220",
            "ip -6 route add default from 2001:db8:b::2 via fe80::1 dev sixxs1 table 200 proto 116 metric 1024",
            "ip -6 route add default from 2001:db8:bb::/48 via fe80::1 dev sixxs1 table 200 proto 116 metric 1024",
            "ip -6 route add throw 2001:db8:bb::/48 from 2001:db8:a::2 table 200 proto 116 metric 1024",
            "ip -6 route add throw 2001:db8:bb::/48 from 2001:db8:b::2 table 200 proto 116 metric 1024",
            "ip -6 route add throw 2001:db8:bb::/48 from 2001:db8:bb::/48 table 200 proto 116 metric 1024",
            "ip -6 route add unreachable default from 2001:db8:a::2 table 200 proto 116 metric 4278198272",
            "ip -6 route add unreachable default from 2001:db8:b::2 table 200 proto 116 metric 4278198272",
            "ip -6 route add unreachable default from 2001:db8:bb::/48 table 200 proto 116 metric 4278198272",
            "ip -6 route add unreachable 2001:db8:bb::/48 from 2001:db8:a::2 table 201 proto 116 metric 4278198272",
            "ip -6 route add unreachable 2001:db8:bb::/48 from 2001:db8:b::2 table 201 proto 116 metric 4278198272",
            "ip -6 route add unreachable 2001:db8:bb::/48 from 2001:db8:bb::/48 table 201 proto 116 metric 4278198272",
            "ip -6 rule add from all lookup 200 priority 16383 protocol 116",
            "ip -6 rule add from all lookup main suppress_prefixlength 0 priority 16384 protocol 116",
            "ip -6 rule add from all lookup 201 priority 16385 protocol 116",
        ]
    );
}

/// A rule of sixxs looks up the local table only if no foreign rule before it does.
#[test]
fn the_local_table_comes_before_the_rules_of_sixxs() {
    let mut config = config();
    let others = |priority, bits| PolicyRule {
        priority: RulePriority(priority),
        is_ours: false,
        selector: Selector {
            from: Prefix::containing("2001:db8::".parse().unwrap(), bits),
            ..Selector::ALL
        },
        action: Action::Lookup(LOCAL_TABLE, None),
    };
    let sources = ["2001:db8:a::2", "2001:db8:b::2", "2001:db8:bb::/48"];
    for (mode, rules, expected) in [
        (RuleMode::Rules, vec![others(0, 0)], &[][..]),
        (RuleMode::Rules, vec![others(0, 32), others(16381, 0)], &[]),
        (
            RuleMode::Rules,
            vec![others(0, 32), others(16382, 0)],
            &sources,
        ),
        (RuleMode::Rules, vec![others(32765, 0)], &sources),
        (RuleMode::Rules, vec![], &sources),
        (RuleMode::Subtrees, vec![others(16382, 0)], &[]),
        (RuleMode::Subtrees, vec![others(16383, 0)], &["all"]),
    ] {
        config.rule_mode = mode;
        let observed = Observed {
            local_table: LocalTable::of(&rules),
            ..both_up()
        };
        let desired = Desired::new(&config, |_| true);
        let plan = diff(&desired, &observed);
        let lines: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
        let lines: Vec<_> = lines
            .iter()
            .filter(|l| l.contains("lookup local"))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|from| {
                format!("ip -6 rule add from {from} lookup local priority 16381 protocol 116")
            })
            .collect();
        assert_eq!(
            lines,
            expected.iter().collect::<Vec<_>>(),
            "{mode:?} {rules:?}"
        );
        // They are removed when they are no longer needed.
        let then = apply(&plan, observed);
        let then = Observed {
            local_table: LocalTable::default(),
            ..then
        };
        let steps = diff(&desired, &then).steps;
        assert_eq!(steps.len(), expected.len());
        assert!(steps.iter().all(|step| matches!(step, Step::DeleteRule(_))));
    }
}

/// Destinations that the tunnels' sources reach by the main table or not at all, for all tunnels.
fn local_destinations(desired: &Desired) -> Vec<String> {
    let rules = desired.rules.iter();
    let pairs = rules.filter_map(|rule| Some(format!("{} to {}", rule.from, rule.to?)));
    pairs.collect()
}

/// Packets to prefixes behind this host, by any tunnel, leave by no tunnel, regardless of `direct`,
/// and even if that tunnel is stopped.
#[test]
fn traffic_to_networks_behind_the_host_takes_no_tunnel() {
    let mut config = config();
    config.tunnels[0].prefixes = vec!["2001:db8:aa::/48".parse().unwrap()];
    config.tunnels[1].direct = vec!["2001:db8:5::/64".parse().unwrap()];
    let first = |tunnel: &Tunnel| tunnel.name.as_str() == "sixxs0";
    assert_eq!(
        local_destinations(&Desired::new(&config, first)),
        [
            "2001:db8:a::2 to 2001:db8:aa::/48",
            "2001:db8:a::2 to 2001:db8:bb::/48",
            "2001:db8:aa::/48 to 2001:db8:aa::/48",
            "2001:db8:aa::/48 to 2001:db8:bb::/48",
        ]
    );
    let second = Desired::new(&config, |tunnel| !first(tunnel));
    assert_eq!(
        local_destinations(&second)[..3],
        [
            "2001:db8:b::2 to 2001:db8:5::/64",
            "2001:db8:b::2 to 2001:db8:aa::/48",
            "2001:db8:b::2 to 2001:db8:bb::/48",
        ]
    );
    for to in ["2001:db8:5::/64", "2001:db8:aa::/48", "2001:db8:bb::/48"] {
        let refused = |(key, target): (&RouteKey, &Target)| {
            key.destination == to.parse().unwrap() && *target == Target::Unreachable
        };
        assert!(second.routes.iter().any(refused), "{to}");
    }
    // A prefix that means "all sources" does not count as being behind this host.
    config.tunnels[0].prefixes = vec!["2000::/3".parse().unwrap()];
    config.tunnels[1].prefixes.clear();
    config.tunnels[1].direct.clear();
    assert_eq!(
        local_destinations(&Desired::new(&config, |_| true)),
        Vec::<String>::new()
    );
}

/// The number of rules and routes for pairs is limited.
#[test]
fn too_many_pairs_are_left_to_the_programs() {
    let tunnels = |count: u16| {
        let tunnel = |number| {
            format!(
                "[[tunnel]]\nname = \"t{number}\"\nkind = \"interface\"\n\
                 address = \"2001:db8:a::{number:x}\"\nprefixes = [\"2001:db8:{number:x}00::/40\"]\n"
            )
        };
        let text: String = (0x10..0x10 + count).map(tunnel).collect();
        config::parse("test", &text).unwrap()
    };
    let rules = |count| Desired::new(&tunnels(count), |_| true).rules.len();
    assert_eq!(rules(45), 2 * 45 + 2 * 45 * 45);
    // Each tunnel still has rules for its own prefix.
    assert_eq!(rules(46), 2 * 46 + 2 * 46);
}

#[test]
fn an_mtu_below_the_ipv6_minimum_is_reported() {
    let mut small = link(3, "sixxs0", true);
    small.mtu = Mtu(1000);
    let observed = Observed {
        links: [small].into_iter().collect(),
        ..Observed::default()
    };
    let plan = diff(&Desired::new(&config(), |_| true), &observed);
    assert_eq!(
        plan.problems[0].to_string(),
        "interface sixxs0 has an MTU of 1000 bytes, and the kernel has no IPv6 on an interface with less \
         than 1280; set it with `ip link set sixxs0 mtu 1280`"
    );
    let after = apply(&plan, observed);
    assert_eq!(after.routes.len(), 4);
}

#[test]
fn a_missing_or_downed_interface_keeps_its_unreachable_route() {
    let config = config();
    let observed = Observed {
        links: [link(3, "sixxs0", false)].into_iter().collect(),
        ..Observed::default()
    };
    let plan = diff(&Desired::new(&config, |_| true), &observed);
    assert_eq!(
        plan.problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [
            "interface sixxs0 is down",
            "interface sixxs1 does not exist"
        ]
    );
    let after = apply(&plan, observed);
    assert_eq!(after.routes.len(), 4);
    assert!(
        after
            .routes
            .iter()
            .all(|r| r.target == ObservedTarget::Unreachable)
    );
    assert_eq!(after.rules.len(), 6);
}

#[test]
fn a_foreign_route_with_the_same_key_stays_and_is_reported() {
    let config = config();
    let mut observed = both_up();
    let foreign = ObservedRoute {
        table: TableId(200),
        destination: Prefix::ALL,
        source: Prefix::ALL,
        metric: DEFAULT_METRIC,
        protocol: 4,
        target: ObservedTarget::Other,
    };
    observed.routes.push(foreign.clone());
    let first = |tunnel: &Tunnel| tunnel.name.as_str() == "sixxs0";
    let plan = diff(&Desired::new(&config, first), &observed);
    assert_eq!(plan.problems.len(), 1);
    let after = apply(&plan, observed);
    assert!(after.routes.contains(&foreign));

    // A foreign route before the route of sixxs is reported too, and the route of sixxs is added behind it.
    let mut observed = both_up();
    observed.routes.push(ObservedRoute {
        metric: Metric(100),
        ..foreign
    });
    let plan = diff(&Desired::new(&config, first), &observed);
    assert_eq!(plan.problems.len(), 1);
    assert!(apply(&plan, observed).routes.iter().any(|ours| {
        ours.is_ours() && ours.metric == DEFAULT_METRIC && ours.destination == Prefix::ALL
    }));
}

/// A native tunnel's interface is set up by the plan; what exists already does not change.
#[test]
fn an_interface_that_sixxs_has_made_is_set_up() {
    let config = config::parse(
        "f",
        r#"
        [[tunnel]]
        name = "sixxs0"
        kind = "ayiya"
        remote4 = "198.51.100.1"
        password = "secret"
        address = "2001:db8:a::2/64"
        peer = "2001:db8:a::1"
        mtu = 1428
        "#,
    )
    .unwrap();
    let mut desired = Desired::new(&config, |_| true);
    desired.set_up(&config.tunnels[0]);
    assert_eq!(
        diff(&desired, &Observed::default()).steps.len(),
        2,
        "not yet made"
    );
    let observed = Observed {
        links: [link(3, "sixxs0", false)].into_iter().collect(),
        ..Observed::default()
    };
    let plan = diff(&desired, &observed);
    let lines: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines[..3],
        [
            "ip link set sixxs0 mtu 1428 up",
            "ip -6 address add 2001:db8:a::2 peer 2001:db8:a::1/64 dev sixxs0 nodad noprefixroute",
            "ip -6 address add fe80::cb8:a:0:2/64 dev sixxs0 nodad",
        ]
    );
    // A route needs an interface that is up: the next round adds it.
    let up = apply(&plan, observed);
    let done = apply(&diff(&desired, &up), up);
    assert!(diff(&desired, &done).is_empty());
    // One removed address is restored, and nothing else changes.
    let mut damaged = done;
    change_link(&mut damaged, IfIndex(3), |link| {
        link.addresses.remove(0);
    });
    let lines: Vec<_> = diff(&desired, &damaged)
        .steps
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        lines,
        ["ip -6 address add 2001:db8:a::2 peer 2001:db8:a::1/64 dev sixxs0 nodad noprefixroute"]
    );
}

/// The kernel loses it if the interface goes down while the address is added.
#[test]
fn a_missing_route_to_a_peer_is_restored() {
    let config = config::parse(
        "test",
        "[[tunnel]]\nname = \"sixxs0\"\nkind = \"ayiya\"\nremote4 = \"192.0.2.1\"\npassword = \"p\"\n\
         address = \"2001:db8:a::2/64\"\npeer = \"2001:db8:a::1\"\n",
    )
    .unwrap();
    let mut desired = Desired::new(&config, |_| true);
    desired.set_up(&config.tunnels[0]);
    let start = Observed {
        links: [link(3, "sixxs0", false)].into_iter().collect(),
        ..Observed::default()
    };
    let up = apply(&diff(&desired, &start), start);
    let done = apply(&diff(&desired, &up), up);
    assert!(diff(&desired, &done).is_empty(), "routes were not read");
    let damaged = Observed {
        connected_is_complete: true,
        ..done
    };
    let plan = diff(&desired, &damaged);
    let lines: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        ["ip -6 route add 2001:db8:a::1 dev sixxs0 proto kernel metric 256"]
    );
    let owners = Owners::of(&config);
    let name = &config.tunnels[0].name;
    assert_eq!(plan.steps[0].tunnel(&owners), Some(name));
    assert!(!plan.is_complete_for(&config.tunnels[0]));
    let before = InPlace::of(&desired, &damaged, &plan);
    assert!(!before.is_restored_by(&plan.steps[0], &desired));
    let whole = apply(&plan, damaged.clone());
    assert!(diff(&desired, &whole).is_empty());
    let before = InPlace::of(&desired, &whole, &Plan::default());
    assert!(before.is_restored_by(&plan.steps[0], &desired));
    // The kernel adds it with the address.
    let mut other = damaged;
    change_link(&mut other, IfIndex(3), |link| link.addresses.clear());
    let steps = diff(&desired, &other).steps;
    assert!(
        steps
            .iter()
            .all(|step| matches!(step, Step::AddAddress(..)))
    );
}

/// A model of the kernel.
pub(super) fn apply(plan: &Plan, mut state: Observed) -> Observed {
    for step in &plan.steps {
        match step {
            Step::SetUp(index, _, mtu) => change_link(&mut state, *index, |link| {
                link.up = true;
                link.mtu = *mtu;
            }),
            Step::AddAddress(index, _, own) => change_link(&mut state, *index, |link| {
                let address = own.address;
                assert!(!link.addresses.contains(&address.address), "EEXIST: {step}");
                link.addresses.push(address.address);
            }),
            Step::AddPeerRoute(index, _, peer) => state.connected.push(ConnectedRoute {
                destination: Prefix::host(*peer),
                index: *index,
            }),
            Step::AddRoute(route) => {
                let taken = |r: &ObservedRoute| r.key() == route.key;
                assert!(!state.routes.iter().any(taken), "EEXIST: {step}");
                state.routes.push(made(route));
            }
            Step::ReplaceRoute(route) => {
                let at = state
                    .routes
                    .iter()
                    .position(|r| r.key() == route.key)
                    .expect("something to replace");
                assert!(state.routes[at].is_ours(), "not ours: {step}");
                state.routes[at] = made(route);
            }
            Step::KeepNeighbour(index, _, neighbour) => {
                let is_it =
                    |n: &ObservedNeighbour| (n.index, n.address) == (*index, neighbour.address);
                assert!(
                    !state
                        .neighbours
                        .iter()
                        .any(|n| is_it(n) && n.stays_resolved && !n.is_ours),
                    "not ours: {step}"
                );
                state.neighbours.retain(|n| !is_it(n));
                state.neighbours.push(ObservedNeighbour {
                    index: *index,
                    address: neighbour.address,
                    is_ours: true,
                    stays_resolved: true,
                });
            }
            Step::DeleteNeighbour(neighbour, _) => {
                assert!(neighbour.is_ours, "not ours: {step}");
                state.neighbours.retain(|n| n != neighbour);
            }
            Step::AddRule(rule) => state.rules.push(ObservedRule::Plain(*rule)),
            Step::DeleteRule(rule) => {
                let at = state.rules.iter().position(|r| r == rule).expect("ENOENT");
                state.rules.remove(at);
            }
            Step::DeleteRoute(route) => {
                assert!(route.is_ours(), "not ours: {step}");
                let at = state.routes.iter().position(|r| r == route).expect("ESRCH");
                state.routes.remove(at);
            }
        }
    }
    state
}

fn change_link(state: &mut Observed, index: IfIndex, change: impl Fn(&mut Link)) {
    let links = state.links.iter().cloned().map(|mut link| {
        if link.index == index {
            change(&mut link);
        }
        link
    });
    state.links = links.collect();
}

fn made(route: &Route) -> ObservedRoute {
    ObservedRoute {
        table: route.key.table,
        destination: route.key.destination,
        source: route.key.source,
        metric: route.key.metric,
        protocol: PROTOCOL,
        target: match &route.to {
            RouteTarget::Unreachable => ObservedTarget::Unreachable,
            RouteTarget::Throw => ObservedTarget::Throw,
            RouteTarget::Interface(via) => ObservedTarget::Interface {
                index: via.index,
                gateway: via.gateway,
                mtu: via.mtu.map_or(0, |mtu| mtu.0),
                advertised_mss: via.mtu.map_or(0, Mtu::advertised_mss),
            },
        },
    }
}

#[test]
fn a_route_with_another_target_is_replaced() {
    let config = config();
    let desired = Desired::new(&config, |_| true);
    let done = apply(&diff(&desired, &both_up()), both_up());
    assert!(diff(&desired, &done).is_empty());
    let replaced = "ip -6 route replace default dev sixxs0 table 200 proto 116 metric 1024 mtu 1280 advmss 1220";
    type Change = fn(&mut ObservedTarget);
    let changes: [Change; 5] = [
        |target| *target = ObservedTarget::Unreachable,
        |target| *target = ObservedTarget::Other,
        |target| {
            if let ObservedTarget::Interface { index, .. } = target {
                *index = IfIndex(4);
            }
        },
        |target| {
            if let ObservedTarget::Interface { mtu, .. } = target {
                *mtu = 0;
            }
        },
        |target| {
            if let ObservedTarget::Interface { advertised_mss, .. } = target {
                *advertised_mss = 1000;
            }
        },
    ];
    for change in changes {
        let mut damaged = done.clone();
        let is_it = |route: &&mut ObservedRoute| {
            route.table == TableId(200) && route.metric == DEFAULT_METRIC
        };
        change(&mut damaged.routes.iter_mut().find(is_it).unwrap().target);
        let plan = diff(&desired, &damaged);
        let lines: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
        assert_eq!(lines, [replaced]);
    }
}
