//! Accounts, and the parameters that their brokers provide.

use super::*;
use crate::{
    broker::tic,
    types::{InterfaceAddress, Mtu},
};

const ADDRESS: &str = "2001:db8:a::2";

/// A configuration with one account, whose aiccu.conf has these further lines.
fn with_account(lines: &str) -> Config {
    let text = "[[tunnel]]\nname = \"sixxs0\"\naiccu = \"a.conf\"\n";
    let aiccu = format!("username a\npassword b\nserver tic.example\n{lines}");
    let files = |_: &str| Ok(aiccu.clone().into_bytes().into());
    parse_with("sixxs.toml", text, &files).unwrap()
}

fn parameters(kind: tic::Kind) -> tic::Parameters {
    tic::Parameters {
        id: "T1".to_owned(),
        kind,
        address: InterfaceAddress {
            address: ADDRESS.parse().unwrap(),
            bits: 64,
        },
        peer: "2001:db8:a::1".parse().unwrap(),
        remote4: "198.51.100.1".parse().unwrap(),
        local4: None,
        password: kind.is_signed().then(|| "geheim".into()),
        heartbeat_interval: Duration::from_secs(45),
        mtu: Mtu(1428),
        pop: "example01".to_owned(),
    }
}

fn learned(config: &Config, kind: tic::Kind) -> Learned {
    let Kind::Account(account) = &config.tunnels[0].kind else {
        panic!("an account");
    };
    Learned::new(account, &parameters(kind))
}

#[test]
fn entries_without_effect_are_noted_with_their_file() {
    let notes = |lines: &str| with_account(lines).notes().collect::<Vec<_>>();
    assert_eq!(notes("ipv6_interface sixxs0\n"), [""; 0]);
    assert_eq!(
        notes("ipv6_interface other\n"),
        ["a.conf: ipv6_interface other has no effect: the tunnel is called sixxs0"]
    );
    let unknown = notes("ipv6_interface sixxs0\nnonsense 7\n");
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    assert!(unknown[0].starts_with("a.conf: "), "{unknown:?}");
    assert!(unknown[0].contains("nonsense"), "{unknown:?}");
    // Other kinds have no such file.
    assert_eq!(parse("f", GOOD).unwrap().notes().count(), 0);
}

#[test]
fn what_a_configuration_needs_and_hides() {
    let mut config = parse("f", GOOD).unwrap();
    assert_eq!(
        (config.has_accounts(), config.has_secrets()),
        (false, false)
    );
    config.alerting.webhook = Some(Webhook {
        url: Url::parse("https://example.net/secret").unwrap(),
        ca: None,
    });
    assert_eq!((config.has_accounts(), config.has_secrets()), (false, true));
    // The password of an account is in another file.
    let config = with_account("");
    assert_eq!((config.has_accounts(), config.has_secrets()), (true, false));
}

#[test]
#[rustfmt::skip] // one case per line
fn a_start_connects_to_the_broker_or_to_nobody() {
    let beats = Heartbeat { password: "geheim".into(), interval: Duration::from_secs(60) };
    let remote4 = "198.51.100.1".parse().unwrap();
    let six_in_four = |heartbeat| Kind::SixInFour(SixInFour { local4: None, remote4, heartbeat });
    let ayiya = |remote: &str| {
        let remote = remote.parse().unwrap();
        Kind::Ayiya(Ayiya { local4: None, remote, heartbeat: beats.clone() })
    };
    let command = Kind::Command { up: vec!["up".to_owned()], down: Vec::new() };
    let account = with_account("").tunnels.remove(0).kind;
    // kind, name, broker, whether the daemon makes the interface, whether it has a password
    for (kind, name, broker, is_native, has_secrets) in [
        (Kind::Interface, "interface", None, false, false),
        (command, "command", None, false, false),
        (six_in_four(None), "6in4", None, true, false),
        (six_in_four(Some(beats.clone())), "6in4-heartbeat", Some("198.51.100.1"), true, true),
        (ayiya("pop.example.net"), "ayiya", Some("pop.example.net"), true, true),
        (ayiya("2001:db8::1"), "ayiya", Some("2001:db8::1"), true, true),
        (account, "aiccu", None, true, false),
    ] {
        assert_eq!(kind.connects_to().as_deref(), broker, "{name}");
        assert_eq!(kind.is_native(), is_native, "{name}");
        assert_eq!(kind.has_secrets(), has_secrets, "{name}");
    }
}

#[test]
fn the_broker_provides_the_kind_and_the_file_the_rest() {
    let day = 24 * 3600;
    for (lines, kind, name, interval) in [
        ("", tic::Kind::SixInFour, "6in4", None),
        ("", tic::Kind::Heartbeat, "6in4-heartbeat", Some(45)),
        ("makebeats false\n", tic::Kind::Heartbeat, "6in4", None),
        ("", tic::Kind::Ayiya, "ayiya", Some(45)),
        ("makebeats false\n", tic::Kind::Ayiya, "ayiya", Some(day)),
    ] {
        let override4 = "local_ipv4_override 192.0.2.9\n";
        let config = with_account(&format!("{lines}{override4}"));
        let learned = learned(&config, kind);
        let is_ayiya = matches!(learned.kind, Kind::Ayiya(_));
        assert_eq!(is_ayiya, kind == tic::Kind::Ayiya, "{name}");
        let (local4, remote, heartbeat) = match learned.kind {
            Kind::SixInFour(kind) => (kind.local4, kind.remote4.to_string(), kind.heartbeat),
            Kind::Ayiya(kind) => (kind.local4, kind.remote.to_string(), Some(kind.heartbeat)),
            other => panic!("{other:?}"),
        };
        assert_eq!(local4, "192.0.2.9".parse().ok(), "{name}");
        assert_eq!(remote, "198.51.100.1", "{name}");
        let beats = heartbeat.as_ref().map(|beats| beats.interval.as_secs());
        assert_eq!(beats, interval, "{name} {lines}");
        assert!(heartbeat.is_none_or(|beats| beats.password.expose() == "geheim"));
        assert_eq!(Ok(learned.address), format!("{ADDRESS}/64").parse());
        assert_eq!(learned.peer.to_string(), "2001:db8:a::1");
        assert_eq!(learned.mtu, Mtu(1428));
    }
}

#[test]
fn a_tunnel_takes_the_parameters_of_its_broker() {
    for (own, expected) in [(None, 1428), (Some(1280), 1280), (Some(1480), 1428)] {
        let config = with_account("");
        let mut tunnel = config.tunnels[0].clone();
        tunnel.mtu = own.map(Mtu);
        tunnel.prefixes = vec!["2001:db8:aa::/48".parse().unwrap()];
        let learned = learned(&config, tic::Kind::Ayiya);
        let with = tunnel.with_learned(&learned);
        assert_eq!(with.mtu, Some(Mtu(expected)), "{own:?}");
        assert_eq!(with.kind, learned.kind);
        assert_eq!(with.addresses, [learned.address]);
        assert_eq!(with.peer, Some(learned.peer));
        assert_eq!(with.prefixes, tunnel.prefixes);
    }
}

#[test]
fn a_broker_assigns_nothing_that_the_host_has() {
    let config = with_account("");
    let learned = learned(&config, tic::Kind::SixInFour);
    let all = [(config.tunnels[0].name.clone(), learned)].into();
    for (taken, conflict) in [
        (&[][..], None),
        (&["2001:db8:b::/48"], None),
        (&["2001:db8::/32"], Some((ADDRESS, "2001:db8::/32"))),
        // The longest prefix is named.
        (
            &["2001:db8::/32", "2001:db8:a::/48"],
            Some((ADDRESS, "2001:db8:a::/48")),
        ),
        (&["2001:db8:a::1"], Some(("2001:db8:a::1", "2001:db8:a::1"))),
    ] {
        let name = || "lan0".parse().unwrap();
        let networks = taken.iter().map(|prefix| (prefix.parse().unwrap(), name()));
        let (with, conflicts) = config.with_learned(&all, &networks.collect(), &config);
        let found = conflicts.first().map(|conflict| {
            assert_eq!(conflict.other, name());
            (
                conflict.address.to_string(),
                conflict.source_of_other.to_string(),
            )
        });
        let expected = conflict.map(|(address, of)| (address.to_owned(), of.to_owned()));
        assert_eq!(found, expected, "{taken:?}");
        assert_eq!(with.tunnels[0].peer.is_none(), conflict.is_some());
    }
}

#[test]
fn a_tunnel_that_is_kept_has_a_name_and_a_table_of_its_own() {
    let config = parse("f", GOOD).unwrap();
    let mut other = config.tunnels[0].clone();
    other.name = "sixxs2".parse().unwrap();
    type Set = fn(&mut Config, &mut Tunnel);
    let cases: [(&str, Option<&str>, Set); 5] = [
        ("its own", None, |_, t| t.table = TableId(400)),
        (
            "another's table",
            Some("table 200 belongs to sixxs0"),
            |_, _| {},
        ),
        ("all share one table", None, |c, _| {
            c.rule_mode = RuleMode::Subtrees
        }),
        (
            "another's name",
            Some("there is a tunnel sixxs1 already; choose another ipv6_interface"),
            |_, t| t.name = "sixxs1".parse().unwrap(),
        ),
        (
            "an uplink's name",
            Some("net0 is an uplink; choose another ipv6_interface"),
            |_, t| t.name = "net0".parse().unwrap(),
        ),
    ];
    for (name, expected, set) in cases {
        let (mut config, mut tunnel) = (config.clone(), other.clone());
        set(&mut config, &mut tunnel);
        let refused = config.add_existing(tunnel.clone()).err();
        let refused = refused.map(|refused| refused.to_string());
        assert_eq!(refused.as_deref(), expected, "{name}");
        assert_eq!(
            config.tunnels.contains(&tunnel),
            expected.is_none(),
            "{name}"
        );
    }
}
