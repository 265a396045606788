//! Interfaces, tunnels and sources of hosts with several tunnels and uplinks.

use sixxs_common::layout::{self, ANY_UPLINK_MULTICAST_ONLY, MULTICAST_ONLY};

use super::*;
use crate::config;

fn link(index: u32, name: &str, addresses: &[&str]) -> Link {
    Link {
        layer: LinkLayer::Ethernet([2, 0, 0, 0, 0, 9]),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ..Link::up(IfIndex(index), name.parse().unwrap(), Mtu(1500))
    }
}

fn config(text: &str) -> Config {
    config::parse("test", text).unwrap()
}

const ONE: &str = r#"
    [[tunnel]]
    name = "sixxs0"
    kind = "interface"
    address = "2001:db8:a::2/64"
    prefixes = ["2001:db8:aa::/48"]
    mtu = 1400
    peer = "2001:db8:a::1"
"#;

#[test]
fn many_native_tunnels_have_filters() {
    let text = |count: usize| -> String {
        let tunnel = |n| {
            format!(
                "[[tunnel]]\nname = \"own{n}\"\nkind = \"6in4\"\nremote4 = \"192.0.2.{n}\"\n\
                 address = \"2001:db8:{n}::2/64\"\npeer = \"2001:db8:{n}::1\"\n"
            )
        };
        ONE.to_owned() + &(1..=count).map(tunnel).collect::<String>()
    };
    for (count, expected) in [
        (0, 0),
        (MANY_TUNNELS, 0),
        (MANY_TUNNELS + 1, MANY_TUNNELS + 1),
    ] {
        let found = Enforcement::new(&config(&text(count)), &Links::default(), |_| true);
        assert_eq!(found.by_filters.len(), expected, "{count}");
        // Only native tunnels count, not other interfaces.
        assert!(
            found
                .by_filters
                .iter()
                .all(|name| name.as_str() != "sixxs0")
        );
    }
}

#[test]
fn exits_are_uplinks() {
    let mut net0 = link(2, "net0", &[]);
    net0.is_exit = true;
    let mut tunnel = link(3, "sixxs0", &[]);
    tunnel.is_exit = true;
    let links: Links = [net0, tunnel, link(4, "lan0", &[])].into_iter().collect();
    let found = Enforcement::new(&config(ONE), &links, |_| true).interfaces;
    let roles: Vec<_> = found
        .iter()
        .map(|(name, i)| (name.as_str(), i.role))
        .collect();
    assert_eq!(roles, [("net0", Role::Uplink), ("sixxs0", Role::Tunnel)]);
    // The far end may be in the tunnel's prefix; it is not on this host.
    let with = ONE.replace("2001:db8:a::1", "2001:db8:aa::1");
    let all = Enforcement::new(&config(&with), &links, |_| true);
    let is_far_end = |source: &&Source| source.kind == SourceKind::OnLink;
    let far_ends = all.sources.iter().filter(is_far_end);
    let far_ends: Vec<_> = far_ends.map(|source| source.prefix.to_string()).collect();
    assert_eq!(far_ends, ["2001:db8:aa::1"]);
    // A stopped tunnel is not taken for an uplink.
    let stopped = Enforcement::new(&config(ONE), &links, |_| false);
    assert_eq!(stopped.interfaces.len(), 1);
    assert_eq!(stopped.sources, vec![]);
}

#[test]
fn a_group_leads_to_its_active_link() {
    let text = format!(
        "{ONE}[[tunnel]]\nname = \"sixxs1\"\nkind = \"interface\"\naddress = \"2001:db8:b::2/64\"\n\
         peer = \"2001:db8:cc::1\"\n[[group]]\nlinks = [\"sixxs1\", \"sixxs0\"]\n\
         prefixes = [\"2001:db8:cc::/48\"]\n"
    );
    let mut config = config(&text);
    let on_tunnel = |index, name| Link {
        layer: LinkLayer::None,
        ..link(index, name, &[])
    };
    let links: Links = [
        link(2, "net0", &["2001:db8:cc:1::1"]),
        on_tunnel(3, "sixxs0"),
        on_tunnel(4, "sixxs1"),
    ]
    .into_iter()
    .collect();
    config.uplinks = Some(vec!["net0".parse().unwrap()]);
    let group: IfName = "group0".parse().unwrap();
    let mut all = Enforcement::new(&config, &links, |_| true);
    assert_eq!(all.tunnels[&group], all.tunnels[&config.tunnels[1].name]);
    assert_eq!(all.tunnels[&group].index, Some(IfIndex(4)));
    assert!(
        all.directs
            .contains(&(group.clone(), config.groups[0].prefixes[0]))
    );
    let of_group = all.sources.iter().filter(|source| source.tunnel == group);
    let entries: Vec<_> = of_group
        .map(|source| (source.prefix.to_string(), source.entry(9)))
        .collect();
    assert_eq!(
        entries,
        [
            (
                "2001:db8:cc:1::1".to_owned(),
                layout::Source::of_group(9, 128, 2 | MULTICAST_ONLY)
            ),
            (
                "2001:db8:cc::/48".to_owned(),
                layout::Source::of_group(9, 48, 0)
            ),
        ]
    );
    // Another link takes over: one entry changes.
    config.groups[0].active = "sixxs0".parse().unwrap();
    let other = Enforcement::new(&config, &links, |_| true);
    assert_eq!(other.tunnels[&group].index, Some(IfIndex(3)));
    all.tunnels = other.tunnels.clone();
    assert_eq!(all, other);
    // A link that is stopped leads nowhere; without any link there is no group.
    let stopped = Enforcement::new(&config, &links, |t| t.name.as_str() == "sixxs1");
    assert_eq!(stopped.tunnels[&group].index, None);
    let none = Enforcement::new(&config, &links, |_| false);
    assert!(none.tunnels.is_empty() && none.sources.is_empty());
}

#[test]
fn candidates_have_a_program_in_advance() {
    let candidate = |index, name, candidate| Link {
        candidate,
        ..link(index, name, &[])
    };
    let mut net0 = candidate(2, "net0", Candidate::Settled);
    net0.is_exit = true;
    let mut infiniband = candidate(6, "ib0", Candidate::Fresh);
    infiniband.layer = LinkLayer::Unsupported(32);
    let links: Links = [
        net0,
        candidate(3, "sixxs0", Candidate::Fresh),
        candidate(4, "lan0", Candidate::Settled),
        candidate(5, "wwan0", Candidate::Fresh),
        infiniband,
        candidate(7, "lo", Candidate::Never),
    ]
    .into_iter()
    .collect();
    let roles = |config: &Config| {
        let found = Enforcement::new(config, &links, |_| false);
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        let interfaces = found.interfaces.into_iter();
        let roles = interfaces.map(|(name, interface)| (name.to_string(), interface.role));
        roles.collect::<Vec<_>>()
    };
    let expected = [
        ("lan0", Role::Candidate),
        ("net0", Role::Uplink),
        ("wwan0", Role::Newcomer),
    ];
    assert_eq!(
        roles(&config(ONE)),
        expected.map(|(name, role)| (name.to_owned(), role))
    );
    // If the configuration names uplinks, no other interface is touched.
    let named = config(&format!("uplinks = [\"net0\"]\n{ONE}"));
    assert_eq!(roles(&named), [("net0".to_owned(), Role::Uplink)]);
}

#[test]
fn an_address_that_an_uplink_has_too_may_leave_there() {
    let config = config(&format!("uplinks = [\"net0\", \"net1\"]\n{ONE}"));
    let links: Links = [
        link(
            2,
            "net0",
            &["2001:db8:aa:2::1", "2001:db8:1::1", "2001:db8:aa:3::1"],
        ),
        link(5, "net1", &["2001:db8:aa:3::1"]),
    ]
    .into_iter()
    .collect();
    let all = Enforcement::new(&config, &links, |_| true);
    let homes: Vec<_> = all
        .sources
        .iter()
        .map(|source| (source.prefix.to_string(), source.home))
        .collect();
    assert_eq!(
        homes,
        [
            ("2001:db8:a::2".to_owned(), Home::Nowhere),
            ("2001:db8:aa:2::1".to_owned(), Home::Uplink(IfIndex(2))),
            ("2001:db8:aa:3::1".to_owned(), Home::Several),
            ("2001:db8:aa::/48".to_owned(), Home::Nowhere),
        ]
    );
    // A prefix that a broker routes to this host belongs to no provider, whichever link has its
    // addresses.
    let routed: Vec<_> = all.sources.iter().map(|source| source.is_routed).collect();
    assert_eq!(routed, [false, true, true, true]);
    let numbers: Vec<_> = all.sources.iter().map(Source::home_number).collect();
    assert_eq!(
        numbers,
        [0, 2 | MULTICAST_ONLY, ANY_UPLINK_MULTICAST_ONLY, 0]
    );
}

#[test]
fn a_redirect_needs_an_interface_that_is_up_and_a_gateway_on_a_link_layer() {
    let name = "sixxs0".parse().unwrap();
    let target = |text: &str, links: Vec<Link>| {
        let all = Enforcement::new(&config(text), &links.into_iter().collect(), |_| true);
        (all.tunnels[&name].clone(), all.problems)
    };
    let (absent, problems) = target(ONE, vec![]);
    assert_eq!((absent.index, absent.mtu), (None, Mtu(1280)));
    assert!(problems.len() == 1 && problems[0].contains("no uplink"));

    let (without, problems) = target(ONE, vec![link(3, "sixxs0", &[])]);
    assert_eq!(without.index, None);
    assert!(problems.iter().any(|problem| problem.contains("gateway")));

    let with = format!("{ONE}\ngateway = \"fe80::1\"");
    let (there, _) = target(&with, vec![link(3, "sixxs0", &[])]);
    assert_eq!((there.index, there.mtu), (Some(IfIndex(3)), Mtu(1400)));
    assert_eq!(there.router.to_string(), "2001:db8:a::1");

    let mut downed = link(3, "sixxs0", &[]);
    downed.up = false;
    assert_eq!(target(&with, vec![downed]).0.index, None);
}

/// A shorter prefix means "all sources", including those that the provider of an uplink accepts.
#[test]
fn only_prefixes_of_some_length_are_routed_by_a_broker() {
    let address = "2001:db8:cc::1";
    let net0 = link(2, "net0", &[address]);
    let links: Links = [net0].into_iter().collect();
    for (prefixes, number) in [
        (&["2001:db8:cc::/48"][..], 2 | MULTICAST_ONLY),
        (&["2001::/16"], 2 | MULTICAST_ONLY),
        (&["2000::/15"], 2),
        (&["2000::/3"], 2),
        (&["2000::/3", "2001:db8:dd::/48"], 2),
        (&["2000::/3", "2001:db8:cc::/64"], 2 | MULTICAST_ONLY),
    ] {
        let mut config = config(&format!("uplinks = [\"net0\"]\n{ONE}"));
        config.tunnels[0].prefixes = prefixes.iter().map(|p| p.parse().unwrap()).collect();
        let sources = Enforcement::new(&config, &links, |_| true).sources;
        let own = sources.iter().find(|s| s.prefix.to_string() == address);
        let found = own.map(Source::home_number);
        assert_eq!(found, Some(number), "{prefixes:?}");
    }
}

#[test]
fn a_link_layer_that_cannot_be_read_is_a_problem_of_uplinks_and_tunnels() {
    let text = format!("uplinks = [\"net0\", \"net9\"]\n{ONE}");
    let mut net0 = link(2, "net0", &[]);
    net0.layer = LinkLayer::Unsupported(32);
    let tunnel = Link {
        layer: LinkLayer::None,
        ..link(3, "sixxs0", &[])
    };
    let links: Links = [net0, tunnel].into_iter().collect();
    let found = Enforcement::new(&config(&text), &links, |_| true);
    assert_eq!(
        found.problems,
        [
            "interface net0 has a link layer that the programs cannot read (ARPHRD 32)",
            "uplink net9 does not exist",
        ]
    );
    let interfaces: Vec<_> = found.interfaces.values().collect();
    assert_eq!(interfaces.len(), 1);
    assert_eq!((interfaces[0].mac, interfaces[0].own), (None, None));
}
