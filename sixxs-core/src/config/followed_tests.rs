use super::*;
use crate::{
    config::parse,
    routing::{connected::ConnectedRoute, observed::RejectRoute, routers::Router},
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
    assert_eq!(followed.problems(), []);
    let whole = config.clone().with_followed(&followed);
    let [first, second] = &whole.tunnels[..] else {
        panic!("two tunnels");
    };
    let own = first.addresses.iter().map(|own| own.address.to_string());
    assert_eq!(own.collect::<Vec<_>>(), ["2001:db8:1::1", "2001:db8:1::2"]);
    assert_eq!(
        first.tentative,
        ["2001:db8:1::e".parse::<Ipv6Addr>().unwrap()]
    );
    let sources: Vec<_> = first.sources().map(|source| source.to_string()).collect();
    assert_eq!(sources, ["2001:db8:1::1", "2001:db8:1::2", "2001:db8:1::e"]);
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

const PREFIXES: &str = r#"
    [[link]]
    name = "net1"
    kind = "interface"
    address = "auto"
    prefixes = "auto"
    [[link]]
    name = "net2"
    kind = "interface"
    address = "2001:db8:2::2"
    prefix_from = ["lan0", "lan1"]
    direct = "2001:db8:dd::/48"
"#;

/// The host has these delegated prefixes, and these networks on `lan0`.
fn with_prefixes(delegated: &[&str], lan: &[&str]) -> Observed {
    let mut observed = observed(&["2001:db8:1::1".to_owned()]);
    let lan0 = Link::up(IfIndex(4), "lan0".parse().unwrap(), Mtu(1500));
    observed.links = observed.links.iter().cloned().chain([lan0]).collect();
    let rejects = delegated.iter().map(|destination| RejectRoute {
        destination: destination.parse().unwrap(),
        is_by_dhcp: true,
    });
    observed.rejects = rejects.collect();
    let on_link = lan.iter().map(|destination| ConnectedRoute {
        destination: destination.parse().unwrap(),
        index: IfIndex(4),
    });
    observed.on_link = on_link.collect();
    observed
}

#[test]
fn prefixes_are_taken_from_delegations_and_from_networks() {
    let config = parse("f", PREFIXES).unwrap();
    let observed = with_prefixes(
        &["2001:db8:100::/56", "2001:db8:200::/56"],
        &[
            "2001:db8:200:1::/64",
            "2001:db8:200:2::/64",
            "2001:db8:300::/64",
        ],
    );
    let followed = follow(&config, &observed);
    assert_eq!(followed.problems(), []);
    let whole = config.clone().with_followed(&followed);
    let texts =
        |prefixes: &[Prefix]| -> Vec<_> { prefixes.iter().map(ToString::to_string).collect() };
    let [first, second] = &whole.tunnels[..] else {
        panic!("two tunnels");
    };
    assert_eq!(texts(&first.prefixes), ["2001:db8:100::/56"]);
    assert_eq!(texts(&first.direct), ["2001:db8:100::/56"]);
    let both = ["2001:db8:200::/56", "2001:db8:300::/64"];
    assert_eq!(texts(&second.prefixes), both);
    assert_eq!(texts(&second.direct), ["2001:db8:dd::/48"]);

    // They are lost: their users get errors, until somebody has a part of them.
    let minute = Duration::from_secs(60);
    let less = with_prefixes(&["2001:db8:100:80::/57"], &["2001:db8:300::/64"]);
    let followed = Followed::of(&config, &less, &followed, minute);
    let whole = config.clone().with_followed(&followed);
    let former = whole.tunnels.iter().map(|tunnel| texts(&tunnel.former));
    assert_eq!(
        former.collect::<Vec<_>>(),
        [vec![], vec!["2001:db8:200::/56".to_owned()]]
    );
}

/// An interface that may get prefixes too neither takes one away nor gives one.
#[test]
fn a_new_candidate_changes_nothing() {
    let text = PREFIXES.replace("prefix_from = [\"lan0\", \"lan1\"]", "prefixes = []");
    let config = parse("f", &text).unwrap();
    let observed = |has_uplink: bool| {
        let mut observed = with_prefixes(&["2001:db8:100::/56"], &[]);
        let net0 = Link {
            is_exit: has_uplink,
            ..Link::up(IfIndex(9), "net0".parse().unwrap(), Mtu(1500))
        };
        observed.links = observed.links.iter().cloned().chain([net0]).collect();
        observed
    };
    let prefixes = |followed: &Followed| {
        let whole = config.clone().with_followed(followed);
        (
            whole.tunnels[0].prefixes.len(),
            whole.tunnels[0].former.len(),
        )
    };
    let alone = follow(&config, &observed(false));
    assert_eq!(prefixes(&alone), (1, 0));
    let second = Duration::from_secs(1);
    let beside = Followed::of(&config, &observed(true), &alone, second);
    assert_eq!((prefixes(&beside), beside.problems()), ((1, 0), &[][..]));
    // The daemon's configuration is all that a preview of a reload has.
    let whole = config.clone().with_followed(&alone);
    let preview = Followed::of(
        &config,
        &observed(true),
        &Followed::in_force(&whole),
        second,
    );
    assert_eq!(prefixes(&preview), (1, 0));
    let unclear = follow(&config, &observed(true));
    assert_eq!((prefixes(&unclear), unclear.problems().len()), ((0, 0), 2));
    let still = Followed::of(&config, &observed(false), &unclear, second);
    assert_eq!((prefixes(&still), still.problems().len()), ((0, 0), 2));
    // The configuration takes it away.
    let none = parse("f", &text.replace("prefixes = \"auto\"", "prefixes = []")).unwrap();
    let gone = Followed::of(&none, &observed(false), &alone, second);
    assert_eq!(none.with_followed(&gone).tunnels[0].former, []);
}

#[test]
fn prefixes_that_cannot_be_followed_are_problems() {
    let auto = "prefixes = \"auto\"";
    for (text, delegated, lan, expected) in [
        (
            PREFIXES.to_owned(),
            &[][..],
            &[][..],
            &[
                "net1: no delegated prefix is known (`prefixes = \"auto\"`)",
                "net2: no global address on lan0 or lan1 (`prefix_from`); give",
            ][..],
        ),
        (
            PREFIXES.replace("prefix_from = [\"lan0\", \"lan1\"]", auto),
            &["2001:db8:100::/56"],
            &[],
            &[
                "2001:db8:100::/56 is delegated to this host, by one of net1, net2, and nothing",
                "net1: no delegated",
                "net2: no delegated",
            ],
        ),
        (
            PREFIXES.to_owned(),
            &["2001:db8::/32"],
            &["2001:db8:2::/64", "2001:db8:9::/64"],
            &["net1: no delegated"],
        ),
        (
            PREFIXES.replace("\"2001:db8:2::2\"", "\"2001:db8:100::2\""),
            &["2001:db8:100::/56"],
            &["2001:db8:300::/64"],
            &["net1: its prefix 2001:db8:100::/56 overlaps an address or prefix of net2"],
        ),
        (
            PREFIXES.replace(
                "prefix_from = [\"lan0\", \"lan1\"]",
                "prefixes = \"2001:db8:100::/48\"",
            ),
            &["2001:db8:100::/56"],
            &[],
            &["net1: no delegated"],
        ),
    ] {
        let config = parse("f", &text).unwrap();
        let followed = follow(&config, &with_prefixes(delegated, lan));
        let problems: Vec<_> = followed
            .problems()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}");
        }
    }
    let many: Vec<_> = (0..258).map(|at| format!("2001:db8:{at:x}::/48")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let text = PREFIXES.replace("prefix_from = [\"lan0\", \"lan1\"]", "prefixes = []");
    let text = text.replace("2001:db8:2::2", "2001:db9::2");
    let config = parse("f", &text).unwrap();
    let followed = follow(&config, &with_prefixes(&many, &[]));
    let problem = followed.problems()[0].to_string();
    assert!(
        problem.starts_with("net1: there are 2 prefixes more than 256"),
        "{problem}"
    );
    assert_eq!(
        config.with_followed(&followed).tunnels[0].prefixes.len(),
        256
    );
}

#[test]
fn too_many_addresses_are_a_problem() {
    let config = parse("f", CONFIG).unwrap();
    let all: Vec<_> = (0..258).map(|at| format!("2001:db8:1::1:{at:x}")).collect();
    let followed = follow(&config, &observed(&all));
    let problems: Vec<_> = followed
        .problems()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(problems[0].starts_with("net1: its interface has 2 addresses more than 256"));
    assert_eq!(
        config.with_followed(&followed).tunnels[0].addresses.len(),
        256
    );
}

/// A connected network of the interface with this index.
fn network(destination: &str, index: u32) -> ConnectedRoute {
    ConnectedRoute {
        destination: destination.parse().unwrap(),
        index: IfIndex(index),
    }
}

#[test]
fn networks_on_the_link_are_its_own() {
    let config = parse("f", CONFIG).unwrap();
    let mut host = observed(&[]);
    host.on_link = vec![
        network("2001:db8:1::/64", 2),
        network("fd00:1::/64", 2),
        network("fe80::/64", 2),
        network("2001:db8:9::/64", 3),
        // In the prefix of the other tunnel, too long, too short.
        network("2001:db8:3:1::/64", 2),
        network("2001:db8:1::2/128", 2),
        network("2001:db8::/32", 2),
    ];
    host.connected = vec![network("2001:db8:1::/64", 2), network("2001:db8:7::/64", 2)];
    let on_link = |host: &Observed| {
        let whole = config.clone().with_followed(&follow(&config, host));
        assert!(whole.tunnels[1].on_link.is_empty(), "it follows nothing");
        let networks = whole.tunnels[0].on_link.iter();
        networks.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(on_link(&host), ["2001:db8:1::/64", "2001:db8:7::/64"]);
    // Another interface is on the same link.
    let mut links: Vec<_> = host.links.iter().cloned().collect();
    let address = "2001:db8:7::99".parse().unwrap();
    links.push(Link {
        addresses: vec![address],
        ..Link::up(IfIndex(9), "net9".parse().unwrap(), Mtu(1500))
    });
    host.links = links.into_iter().collect();
    assert_eq!(on_link(&host), ["2001:db8:1::/64"]);
}

#[test]
fn what_an_earlier_run_had_lost_is_still_refused() {
    let config = parse("f", CONFIG).unwrap();
    let refused = |table, source: &str| ObservedRoute {
        table: TableId(table),
        destination: Prefix::ALL,
        source: source.parse().unwrap(),
        metric: UNREACHABLE_METRIC,
        protocol: crate::types::PROTOCOL,
        target: ObservedTarget::Unreachable,
    };
    let mut host = observed(&["2001:db8:1::1".to_owned()]);
    host.routes = vec![
        refused(200, "2001:db8:1::1/128"),
        refused(200, "2001:db8:1::5/128"),
        refused(200, "::/0"),
        refused(201, "2001:db8:1::6/128"),
    ];
    let first = follow(&config, &host);
    let former = |followed: &Followed| {
        config.clone().with_followed(followed).tunnels[0]
            .former
            .clone()
    };
    let lost: Prefix = "2001:db8:1::5/128".parse().unwrap();
    assert_eq!(former(&first), [lost], "its address is there again");
    // From then on, time counts as usual.
    let later = |minutes: u64| {
        let now = Duration::from_secs(minutes * 60);
        former(&Followed::of(&config, &host, &first, now))
    };
    assert_eq!(later(59), [lost]);
    assert!(later(61).is_empty());
    let subtrees = parse("f", &format!("rule_mode = \"subtrees\"\n{CONFIG}")).unwrap();
    assert!(former(&follow(&subtrees, &host)).is_empty());
}
