//! Values at the edges of their ranges, and settings that are read.

use super::*;

/// The file with a valid line replaced by this one.
fn with(right: &str, line: &str) -> Result<Config, Invalid> {
    assert!(GOOD.contains(right), "{right}");
    parse("f", &GOOD.replacen(right, line, 1))
}

#[test]
#[rustfmt::skip] // one table is easier to read
fn the_edges_of_ranges() {
    const PRIORITY: &str = "rule_priority = 1000";
    const PREFIXES: &str = "prefixes = [\"2001:db8:bb::/48\"]";
    const TABLE: &str = "table = 300";
    const MTU: &str = "mtu = 1280";
    const GATEWAY: &str = "gateway = \"fe80::1\"";
    const ADDRESS: &str = "address = \"2001:db8:a::2/64\"";
    for (right, line, is_good) in [
        (PRIORITY, "rule_priority = 1", false),
        (PRIORITY, "rule_priority = 2", true),
        (PRIORITY, "rule_priority = 32765", true),
        (PRIORITY, "rule_priority = 32766", false),
        (PREFIXES, "prefixes = [\"2001::/16\"]", false), // sixxs0 is in it
        (PREFIXES, "prefixes = [\"2002::/16\"]", true),
        (PREFIXES, "prefixes = [\"2002::/15\"]", false),
        (PREFIXES, "prefixes = [\"fe80::/64\"]", false),
        (PREFIXES, "prefixes = [\"fec0::/64\"]", true),
        (PREFIXES, "prefixes = [\"ff00::/64\"]", false),
        (TABLE, "table = 0", false),
        (TABLE, "table = 1", true),
        (TABLE, "table = 252", true),
        (TABLE, "table = 253", false),
        (TABLE, "table = 254", false),
        (TABLE, "table = 255", false),
        (TABLE, "table = 256", true),
        (TABLE, "table = 4294967295", true),
        (TABLE, "table = 4294967296", false),
        (MTU, "mtu = 1279", false),
        (MTU, "mtu = 65535", true),
        (MTU, "mtu = 65536", false),
        (GATEWAY, "gateway = \"2001:db8::9\"", true),
        (GATEWAY, "gateway = \"auto\"", true),
        (GATEWAY, "gateway = \"::\"", false),
        (GATEWAY, "gateway = \"ff02::1\"", false),
        (ADDRESS, "address = \"::1\"", false),
        (ADDRESS, "address = \"::\"", false),
        (ADDRESS, "address = \"ff02::1\"", false),
        (ADDRESS, "address = \"fe80::2\"", false),
        (ADDRESS, "address = \"::ffff:192.0.2.1\"", false),
        (ADDRESS, "address = \"fd00::2\"", true),
    ] {
        assert_eq!(with(right, line).is_ok(), is_good, "{line}");
    }
}

#[test]
fn the_owner_of_a_table_is_named() {
    for (table, owner) in [(253, "default"), (254, "main"), (255, "local")] {
        let invalid = with("table = 300", &format!("table = {table}")).unwrap_err();
        let expected = format!("found {table}, which is the {owner} table");
        assert!(invalid.to_string().contains(&expected), "{invalid}");
    }
}

#[test]
fn settings_are_read() {
    let settings = "direct_connected = false\nmetrics = \"[::1]:9346\"\nmetrics_hosts = \"web1\"\n\
                    page = \"127.0.0.1:9347\"\n\
                    [connect_limit]\nconnects = 2\nseconds = 90\nlockout_seconds = 400\nblock_seconds = 500\n\
                    [alert]\ncommand = [\"tell\", \"me\"]\nwebhook = \"https://example.net/a\"\n\
                    webhook_ca = \"ca.pem\"\n";
    let config = with("rule_priority = 1000", settings).unwrap();
    assert!(!config.direct_connected);
    assert_eq!(config.metrics, "[::1]:9346".parse().ok());
    assert_eq!(config.page, "127.0.0.1:9347".parse().ok());
    let hosts: Vec<_> = config
        .metrics_hosts
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(hosts, ["web1"]);
    let limit = Limit {
        connects: 2,
        window: Duration::from_secs(90),
        lockout: Duration::from_secs(400),
        block: Duration::from_secs(500),
    };
    assert_eq!(config.connect_limit, limit);
    assert_eq!(config.alerting.command, ["tell", "me"]);
    let webhook = config.alerting.webhook.unwrap();
    assert_eq!(
        (webhook.url.host.as_str(), webhook.url.port),
        ("example.net", 443)
    );
    assert_eq!(webhook.ca.as_deref(), Some("ca.pem"));
    // Without them:
    let config = parse("f", GOOD).unwrap();
    assert!(config.direct_connected);
    assert_eq!(config.connect_limit, Limit::default());
    assert_eq!(config.alerting, Alerting::default());
    assert_eq!((config.metrics, config.page), (None, None));
    assert_eq!(config.metrics_hosts, []);
}

#[test]
fn with_subtrees_all_tunnels_share_a_table() {
    let text = GOOD.replace("rule_priority = 1000", "rule_mode = \"subtrees\"");
    let config = parse("f", &text.replace("table = 300\n", "")).unwrap();
    assert_eq!(config.rule_mode, RuleMode::Subtrees);
    assert!(
        config
            .tunnels
            .iter()
            .all(|tunnel| tunnel.table == SUBTREES_TABLE)
    );
    let config = with("rule_priority = 1000", "rule_mode = \"rules\"").unwrap();
    assert_eq!(config.rule_mode, RuleMode::Rules);
}

#[test]
fn a_byte_that_is_no_text_is_found_in_its_line() {
    assert_eq!(text("f", "a = \"ö\"\n".as_bytes()), Ok("a = \"ö\"\n"));
    for (bytes, line, byte) in [
        (&b"\xff"[..], 1, "0xff"),
        (b"a = 1\nb = \"\xe9\"\n", 2, "0xe9"),
        (b"\n\n\n\x80\n\n", 4, "0x80"),
    ] {
        let invalid = text("f", bytes).unwrap_err();
        assert_eq!(invalid.file, "f");
        let [diagnostic] = &invalid.diagnostics[..] else {
            panic!("one diagnostic: {invalid}");
        };
        assert_eq!((diagnostic.line, diagnostic.key.as_str()), (line, ""));
        assert!(diagnostic.message.contains(byte), "{invalid}");
    }
}

#[test]
fn which_prefixes_a_broker_routes() {
    let mut tunnel = parse("f", GOOD).unwrap().tunnels.remove(1);
    let prefixes = ["2000::/3", "2006::/15", "2002::/16", "2001:db8:bb::/48"];
    tunnel.prefixes = prefixes.map(|prefix| prefix.parse().unwrap()).into();
    let routed: Vec<_> = tunnel.routed_prefixes().map(|p| p.to_string()).collect();
    assert_eq!(routed, ["2002::/16", "2001:db8:bb::/48"]);
    let sources: Vec<_> = tunnel.sources().map(|source| source.to_string()).collect();
    assert_eq!(sources[..2], ["2001:db8:b::2", "2001:db8:b::3"]);
    assert_eq!(sources.len(), 6);
}

#[test]
fn only_a_native_tunnel_restarts_for_its_addresses() {
    let native = "[[tunnel]]\nname = \"a\"\nkind = \"6in4\"\nremote4 = \"192.0.2.1\"\n\
                  address = \"2001:db8:a::2/64\"\npeer = \"2001:db8:a::1\"\n";
    let native = parse("f", native).unwrap().tunnels.remove(0);
    let other = parse("f", GOOD).unwrap().tunnels.remove(0);
    type Set = fn(&mut Tunnel);
    let cases: [(&str, bool, bool, Set); 9] = [
        ("nothing", false, false, |_| {}),
        ("the kind", true, true, |t| {
            t.kind = Kind::Command {
                up: vec![],
                down: vec![],
            }
        }),
        ("the address", true, false, |t| t.addresses.clear()),
        ("the far end", true, false, |t| t.peer = None),
        ("who sets the addresses", true, true, |t| {
            t.addresses_by_others = true
        }),
        ("prefixes", false, false, |t| {
            t.prefixes = vec!["2001:db8:cc::/48".parse().unwrap()]
        }),
        ("the table", false, false, |t| t.table = TableId(7)),
        ("another carrier at the same device", false, false, |t| {
            t.carrier = CarrierChoice::Tun
        }),
        ("sit", true, true, |t| t.carrier = CarrierChoice::Sit),
    ];
    for (name, for_native, for_other, set) in cases {
        for (tunnel, expected) in [(&native, for_native), (&other, for_other)] {
            let mut changed = tunnel.clone();
            set(&mut changed);
            assert_eq!(tunnel.differs_to_driver(&changed, true), expected, "{name}");
        }
    }
}

#[test]
fn a_carrier_belongs_to_6in4() {
    let text = |kind: &str, carrier: &str| {
        let password = if kind == "6in4" {
            ""
        } else {
            "password = \"p\"\n"
        };
        format!(
            "[[tunnel]]\nname = \"a\"\nkind = \"{kind}\"\nremote4 = \"192.0.2.1\"\n{password}\
             address = \"2001:db8:a::2/64\"\npeer = \"2001:db8:a::1\"\n{carrier}"
        )
    };
    use CarrierChoice::{Auto, Ebpf, Sit, Tun};
    for kind in ["6in4", "6in4-heartbeat"] {
        for (word, expected) in [("auto", Auto), ("ebpf", Ebpf), ("sit", Sit), ("tun", Tun)] {
            let text = text(kind, &format!("carrier = \"{word}\"\n"));
            assert_eq!(parse("f", &text).unwrap().tunnels[0].carrier, expected);
        }
        assert_eq!(
            parse("f", &text(kind, "")).unwrap().tunnels[0].carrier,
            Auto
        );
    }
    for (kind, carrier, expected) in [
        (
            "6in4",
            "wire",
            "f: line 7: tunnel[1].carrier: expected \"auto\", \"ebpf\", \"sit\" or \"tun\", found \"wire\"",
        ),
        (
            "ayiya",
            "ebpf",
            "f: line 8: tunnel[1].carrier: expected only with kind = \"6in4\" or \"6in4-heartbeat\", or aiccu",
        ),
    ] {
        let text = text(kind, &format!("carrier = \"{carrier}\"\n"));
        let error = parse("f", &text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // `sit` is looked for where the programs cannot carry.
    let by_sit =
        [Auto, Ebpf, Sit, Tun].map(|carrier| [true, false].map(|can| carrier.is_by_sit(can)));
    assert_eq!(
        by_sit,
        [[false, true], [false, false], [true, true], [false, false]]
    );
}

/// Without programs that can carry, `auto` looks for `sit`.
#[test]
fn a_carrier_with_another_interface_restarts_the_tunnel() {
    use CarrierChoice::{Auto, Ebpf, Sit, Tun};
    let native = "[[tunnel]]\nname = \"a\"\nkind = \"6in4\"\nremote4 = \"192.0.2.1\"\n\
                  address = \"2001:db8:a::2/64\"\n";
    let tunnel = parse("f", native).unwrap().tunnels.remove(0);
    for (before, after, with_programs, without) in [
        (Auto, Tun, false, true),
        (Auto, Ebpf, false, true),
        (Auto, Sit, true, false),
        (Ebpf, Tun, false, false),
        (Tun, Sit, true, true),
    ] {
        let with = |carrier| Tunnel {
            carrier,
            ..tunnel.clone()
        };
        for (has_programs, expected) in [(true, with_programs), (false, without)] {
            let restarts = with(before).differs_to_driver(&with(after), has_programs);
            assert_eq!(restarts, expected, "{before:?} {after:?} {has_programs}");
        }
    }
}

#[test]
fn host_names_have_labels_of_limited_length() {
    let label = "a".repeat(63);
    let whole = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert_eq!(whole.len(), 253);
    for (name, is_good) in [
        (whole.clone(), true),
        (format!("{whole}."), true),
        (format!("{whole}a"), false),
        (label.clone(), true),
        (format!("{label}a"), false),
        ("a-b_c.1".to_owned(), true),
        ("1.2.3".to_owned(), false),
        ("a/b".to_owned(), false),
        ("a..".to_owned(), false),
    ] {
        assert_eq!(name.parse::<Remote>().is_ok(), is_good, "{name}");
    }
    for text in ["pop.example.net", "192.0.2.1", "2001:db8::1"] {
        assert_eq!(text.parse::<Remote>().unwrap().to_string(), text);
    }
}

#[test]
fn xdp_is_chosen_for_all_uplinks_or_by_name() {
    use XdpChoice::{Auto, Generic, Native, Off};
    for (line, net0, net1) in [
        ("", Auto, Auto),
        ("xdp = \"off\"", Off, Off),
        ("xdp = { net1 = \"native\" }", Auto, Native),
        (
            "xdp = { net0 = \"generic\", net1 = \"auto\" }",
            Generic,
            Auto,
        ),
    ] {
        let config = with("on_leak = \"drop\"", line).unwrap();
        let of = |name: &str| config.xdp.of(&name.parse().unwrap());
        assert_eq!((of("net0"), of("net1")), (net0, net1), "{line}");
    }
}

#[test]
fn addresses_that_are_followed_stand_alone_and_are_of_other_software() {
    const ADDRESS: &str = "address = \"2001:db8:a::2/64\"";
    let config = with(ADDRESS, "address = \"auto\"").unwrap();
    let [first, second] = &config.tunnels[..] else {
        panic!("two tunnels")
    };
    assert!(first.follows.addresses && !first.follows.gateway && first.addresses.is_empty());
    assert!(!second.follows.is_any());
    let beside = with(ADDRESS, "address = [\"auto\", \"2001:db8:a::2\"]").unwrap_err();
    let beside = beside.to_string();
    assert!(beside.contains("\"auto\" alone"), "{beside}");
    let native = "kind = \"6in4\"\nremote4 = \"198.51.100.1\"\naddress = \"auto\"";
    let text = GOOD
        .replace("kind = \"interface\"", native)
        .replace(ADDRESS, "");
    let native = parse("f", &text).unwrap_err().to_string();
    assert!(native.contains("that other software sets up"), "{native}");
}

#[test]
fn a_pattern_is_the_beginning_of_a_name() {
    const NAME: &str = "name = \"sixxs0\"";
    for (name, expected) in [
        ("ppp*", None),
        ("*", Some("only at the end of a name")),
        ("p*p", Some("only at the end of a name")),
        ("p**", Some("only at the end of a name")),
    ] {
        let found = with(NAME, &format!("name = \"{name}\""));
        let message = found.err().map(|invalid| invalid.to_string());
        match (message, expected) {
            (None, None) => {}
            (Some(message), Some(expected)) => assert!(message.contains(expected), "{message}"),
            (message, _) => panic!("{name}: {message:?}"),
        }
    }
    let native = "kind = \"6in4\"\nremote4 = \"198.51.100.1\"";
    let text = GOOD.replace("kind = \"interface\"", native);
    let native = parse("f", &text.replace("sixxs0", "ppp*")).unwrap_err();
    assert!(
        native
            .to_string()
            .contains("a pattern is for interfaces that other software"),
        "{native}"
    );
    let uplink = with("uplinks = [\"net0\"]", "uplinks = [\"ppp*\"]").unwrap_err();
    assert!(
        uplink.to_string().contains("patterns are for [[link]]"),
        "{uplink}"
    );
}

#[test]
fn prefixes_have_one_source() {
    const ADDRESS: &str = "address = \"2001:db8:a::2/64\"";
    let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    for (line, expected) in [
        ("", Ok(PrefixSource::Unknown)),
        ("prefixes = []", Ok(PrefixSource::File)),
        ("prefixes = \"2001:db8:cc::/48\"", Ok(PrefixSource::File)),
        ("prefixes = \"auto\"", Ok(PrefixSource::Delegated)),
        (
            "prefix_from = \"lan0\"",
            Ok(PrefixSource::Interfaces(names(&["lan0"]))),
        ),
        (
            "prefix_from = [\"lan1\", \"lan0\"]",
            Ok(PrefixSource::Interfaces(names(&["lan1", "lan0"]))),
        ),
        (
            "prefixes = [\"auto\", \"2001:db8:bb::/48\"]",
            Err("\"auto\" alone"),
        ),
        ("prefixes = \"automatic\"", Err("or \"auto\", found")),
        ("prefix_from = []", Err("at least one name")),
        (
            "prefix_from = \"lan*\"",
            Err("behind this host, found lan*"),
        ),
        (
            "prefix_from = \"a name that is too long\"",
            Err("names of interfaces"),
        ),
        (
            "prefix_from = \"sixxs0\"",
            Err("behind this host, found sixxs0"),
        ),
        (
            "prefixes = \"auto\"\nprefix_from = \"lan0\"",
            Err("only one of prefixes and prefix_from"),
        ),
    ] {
        let found = with(ADDRESS, &format!("{ADDRESS}\n{line}"));
        match (found, expected) {
            (Ok(config), Ok(source)) => {
                assert_eq!(config.tunnels[0].follows.prefixes, source, "{line}");
            }
            (Err(invalid), Err(expected)) => {
                assert!(invalid.to_string().contains(expected), "{invalid}");
            }
            (found, _) => panic!("{line}: {found:?}"),
        }
    }
    // Without an address.
    assert!(with(ADDRESS, "prefixes = \"auto\"").is_ok());
    assert!(with(ADDRESS, "prefix_from = \"lan0\"").is_ok());
    let native = "kind = \"6in4\"\nremote4 = \"198.51.100.1\"\nprefixes = \"auto\"";
    let text = GOOD.replace("kind = \"interface\"", native);
    let native = parse("f", &text).unwrap_err().to_string();
    assert!(native.contains("no DHCPv6 client gets any"), "{native}");
}

#[test]
fn links_are_tunnels_in_the_order_of_the_file() {
    let link = |section: &str, name: &str, digit: u32| {
        format!(
            "[[{section}]]\nname = \"{name}\"\nkind = \"interface\"\naddress = \"2001:db8:{digit}::2\"\n"
        )
    };
    let text = link("tunnel", "a", 1) + &link("link", "b", 2) + &link("tunnel", "c", 3);
    let config = parse("f", &text).unwrap();
    let found: Vec<_> = config
        .tunnels
        .iter()
        .map(|t| (t.name.as_str(), t.table.0))
        .collect();
    assert_eq!(found, [("a", 200), ("b", 201), ("c", 202)]);
    let wrong = text.replace("2001:db8:2::2", "::1");
    let wrong = parse("f", &wrong).unwrap_err().to_string();
    assert!(wrong.contains("line 8: link[1].address"), "{wrong}");
}
