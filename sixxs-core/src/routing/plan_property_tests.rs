//! Properties of plans: carried out on a model of the kernel, any plan leads to the desired state.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    tests::{apply, both_up, config, link},
    *,
};
use crate::{
    config::RuleMode,
    link::LinkLayer,
    routing::{DEFAULT_METRIC, UNREACHABLE_METRIC, observed::LocalTable},
    types::{PROTOCOL, Prefix, RulePriority},
};

fn any_prefix() -> impl Strategy<Value = Prefix> {
    select(vec![
        "::/0",
        "2001:db8:a::2",
        "2001:db8:b::2",
        "2001:db8:bb::/48",
        "2001:db8:5::/64",
    ])
    .prop_map(|text| text.parse().unwrap())
}

fn any_rule() -> impl Strategy<Value = ObservedRule> {
    let plain = (
        16380u32..16385,
        any_prefix(),
        proptest::option::of(any_prefix()),
        199u32..203,
        any::<bool>(),
    )
        .prop_map(|(priority, from, to, table, no_default)| {
            ObservedRule::Plain(Rule {
                priority: RulePriority(priority),
                from,
                to,
                table: TableId(table),
                no_default,
            })
        });
    prop_oneof![4 => plain, 1 => (0usize..5).prop_map(ObservedRule::Foreign)]
}

fn any_route() -> impl Strategy<Value = ObservedRoute> {
    let target = prop_oneof![
        Just(ObservedTarget::Unreachable),
        Just(ObservedTarget::Other),
        Just(ObservedTarget::Throw),
        (1u32..6, any::<bool>(), select(vec![0u32, 1280])).prop_map(|(index, gateway, mtu)| {
            ObservedTarget::Interface {
                index: IfIndex(index),
                gateway: gateway.then(|| "fe80::1".parse().unwrap()),
                mtu,
                advertised_mss: mtu.saturating_sub(60),
            }
        }),
    ];
    (
        199u32..203,
        select(vec!["::/0", "2001:db8:5::/64"]),
        select(vec!["::/0", "2001:db8:a::2"]),
        select(vec![DEFAULT_METRIC, UNREACHABLE_METRIC, Metric(7)]),
        select(vec![PROTOCOL, 3, 4]),
        target,
    )
        .prop_map(
            |(table, destination, source, metric, protocol, target)| ObservedRoute {
                table: TableId(table),
                destination: destination.parse().unwrap(),
                source: source.parse().unwrap(),
                metric,
                protocol,
                target,
            },
        )
}

fn any_neighbour() -> impl Strategy<Value = ObservedNeighbour> {
    let address = select(vec!["fe80::1", "fe80::2"]).prop_map(|text| text.parse().unwrap());
    (1u32..6, address, any::<bool>(), any::<bool>()).prop_map(
        |(index, address, is_ours, stays_resolved)| ObservedNeighbour {
            index: IfIndex(index),
            address,
            is_ours,
            stays_resolved: stays_resolved || !is_ours,
        },
    )
}

/// A kernel has at most one neighbour entry per address.
fn one_of_each(neighbours: Vec<ObservedNeighbour>) -> Vec<ObservedNeighbour> {
    let mut kept: Vec<ObservedNeighbour> = Vec::new();
    for neighbour in neighbours {
        if !kept
            .iter()
            .any(|n| (n.index, n.address) == (neighbour.index, neighbour.address))
        {
            kept.push(neighbour);
        }
    }
    kept
}

/// A kernel has at most one route per key.
fn without_doubles(routes: Vec<ObservedRoute>) -> Vec<ObservedRoute> {
    let mut kept: Vec<ObservedRoute> = Vec::new();
    for route in routes {
        let key = ObservedRoute::key;
        if !kept.iter().any(|other| key(other) == key(&route)) {
            kept.push(route);
        }
    }
    kept
}

proptest! {
    /// From any start, including orphaned and foreign objects, one plan is enough, and foreign
    /// objects stay.
    #[test]
    fn one_plan_is_enough(
        rules in vec(any_rule(), 0..12),
        routes in vec(any_route(), 0..12),
        neighbours in vec(any_neighbour(), 0..6),
        ethernet in any::<bool>(),
        subtrees in any::<bool>(),
        first in proptest::option::of(any::<bool>()),
        second in proptest::option::of(any::<bool>()),
        wanted in any::<(bool, bool)>(),
        local_is_late in any::<bool>(),
    ) {
        let mut config = config();
        if subtrees {
            config.rule_mode = RuleMode::Subtrees;
        }
        let links = [(3, "sixxs0", first), (4, "sixxs1", second)];
        let start = Observed {
            links: links
                .into_iter()
                .filter_map(|(index, name, up)| Some(link(index, name, up?)))
                .map(|mut link| {
                    if ethernet {
                        link.layer = LinkLayer::Ethernet([2; 6]);
                    }
                    link
                })
                .collect(),
            local_table: if local_is_late { LocalTable::Never } else { LocalTable::default() },
            rules,
            routes: without_doubles(routes),
            neighbours: one_of_each(neighbours),
            connected: Vec::new(),
            connected_is_complete: false,
            routers: Vec::new(),
            rejects: Vec::new(),
            source_routes: Vec::new(),
            on_link: Vec::new(),
        };
        let desired = Desired::new(&config, |tunnel| {
            if tunnel.name.as_str() == "sixxs0" { wanted.0 } else { wanted.1 }
        });
        let plan = diff(&desired, &start);
        let end = apply(&plan, start.clone());
        let again = diff(&desired, &end);
        prop_assert_eq!(&again.steps, &vec![]);
        prop_assert_eq!(again.problems, plan.problems);

        let strangers = |state: &Observed| -> Vec<ObservedRoute> {
            state.routes.iter().filter(|r| !r.is_ours()).cloned().collect()
        };
        prop_assert_eq!(strangers(&start), strangers(&end));
        let others = |state: &Observed| -> Vec<ObservedNeighbour> {
            state.neighbours.iter().filter(|n| !n.is_ours).cloned().collect()
        };
        prop_assert_eq!(others(&start), others(&end));
        let rules = desired.rules_beside(start.local_table);
        for rule in &rules {
            prop_assert!(end.rules.contains(&ObservedRule::Plain(*rule)));
        }
        prop_assert_eq!(end.rules.len(), rules.len());
    }

    /// Nothing is removed before everything is added.
    #[test]
    fn adds_come_before_deletes(
        rules in vec(any_rule(), 0..12),
        routes in vec(any_route(), 0..12),
    ) {
        let start = Observed { rules, routes: without_doubles(routes), ..both_up() };
        let plan = diff(&Desired::new(&config(), |_| true), &start);
        let rank = |step: &Step| match step {
            Step::SetUp(..) | Step::AddAddress(..) | Step::AddPeerRoute(..) => 0,
            Step::AddRoute(_) | Step::ReplaceRoute(_) => 1,
            Step::KeepNeighbour(..) => 2,
            Step::AddRule(_) => 3,
            Step::DeleteRule(_) => 4,
            Step::DeleteRoute(_) => 5,
            Step::DeleteNeighbour(..) => 6,
        };
        prop_assert!(plan.steps.is_sorted_by_key(rank));
    }
}
