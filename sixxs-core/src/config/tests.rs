use proptest::prelude::*;

use super::*;
use crate::types::TableId;

const GOOD: &str = r#"
uplinks = ["net0"]
on_leak = "drop"
rule_priority = 1000

[[tunnel]]
name = "sixxs0"
kind = "interface"
address = "2001:db8:a::2/64"
peer = "2001:db8:a::1"

[[tunnel]]
name = "sixxs1"
kind = "command"
up = ["make-it", "--now"]
address = ["2001:db8:b::2/64", "2001:db8:b::3"]
prefixes = ["2001:db8:bb::/48"]
table = 300
mtu = 1280
gateway = "fe80::1"
"#;

#[test]
fn a_good_file_is_read_whole() {
    let config = parse("f", GOOD).unwrap();
    assert_eq!(config.uplinks.unwrap()[0].as_str(), "net0");
    assert_eq!(config.on_leak, OnLeak::Drop);
    assert_eq!(config.rule_priority, RulePriority(1000));
    let [first, second] = &config.tunnels[..] else {
        panic!("two tunnels")
    };
    assert_eq!(first.kind, Kind::Interface);
    assert_eq!(first.table, TableId(200));
    assert_eq!(first.mtu, None);
    assert_eq!(first.direct, vec![]);
    assert_eq!(second.table, TableId(300));
    assert_eq!(second.direct, second.prefixes);
    assert_eq!(second.sources().count(), 3);
    assert_eq!(
        second.kind,
        Kind::Command {
            up: vec!["make-it".into(), "--now".into()],
            down: vec![]
        }
    );
}

#[test]
fn native_tunnels() {
    let config = parse(
        "f",
        r#"
        [[tunnel]]
        name = "a"
        kind = "6in4"
        remote4 = "198.51.100.1"
        address = "2001:db8:a::2/64"
        [[tunnel]]
        name = "b"
        kind = "6in4-heartbeat"
        local4 = "192.0.2.10"
        remote4 = "198.51.100.2"
        password = "hartslag"
        heartbeat_interval = 30
        address = "2001:db8:b::2/64"
        [[tunnel]]
        name = "c"
        kind = "ayiya"
        remote = "pop.example.net"
        password = "geheim"
        address = "2001:db8:c::2/64"
        peer = "2001:db8:c::1"
        mtu = 1428
        "#,
    )
    .unwrap();
    let kinds: Vec<_> = config.tunnels.iter().map(|t| t.kind.name()).collect();
    assert_eq!(kinds, ["6in4", "6in4-heartbeat", "ayiya"]);
    let mtus: Vec<_> = config.tunnels.iter().map(|t| t.mtu.unwrap().0).collect();
    assert_eq!(mtus, [1280, 1280, 1428]);
    assert!(config.has_secrets());
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("hartslag") && !shown.contains("geheim"),
        "{shown}"
    );
    let Kind::Ayiya(ayiya) = &config.tunnels[2].kind else {
        panic!("ayiya")
    };
    assert_eq!(ayiya.remote, Remote::Name("pop.example.net".to_owned()));
    assert_eq!(ayiya.heartbeat.interval.as_secs(), 60);
}

#[test]
fn defaults() {
    let config = parse(
        "f",
        "[[tunnel]]\nname = \"a\"\nkind = \"interface\"\naddress = \"2001:db8::1\"\n\
         [[tunnel]]\nname = \"b\"\nkind = \"interface\"\naddress = \"2001:db8::2\"\n",
    )
    .unwrap();
    assert_eq!(config.uplinks, None);
    assert_eq!(config.on_leak, OnLeak::Redirect);
    assert_eq!(config.rule_priority, RulePriority(16383));
    assert_eq!(config.tunnels[1].table, TableId(201));
}

/// Each wrong line, put in place of a right one, is named with its line and key, and what was
/// expected; nothing else is.
#[test]
fn every_fault_is_named() {
    for (right, wrong, line, key, message) in [
        (
            "on_leak = \"drop\"",
            "on_leak = \"panic\"",
            3,
            "on_leak",
            "expected \"redirect\"",
        ),
        (
            "on_leak = \"drop\"",
            "on_leek = 1",
            3,
            "on_leek",
            "unknown key",
        ),
        (
            "on_leak = \"drop\"",
            "rule_mode = \"marks\"",
            3,
            "rule_mode",
            "no such mode",
        ),
        (
            "on_leak = \"drop\"",
            "rule_mode = \"subtrees\"",
            18,
            "tunnel[2].table",
            "expected only with rule_mode = \"rules\"",
        ),
        (
            "on_leak = \"drop\"",
            "metrics = \"localhost\"",
            3,
            "metrics",
            "expected an address with a port",
        ),
        (
            "uplinks = [\"net0\"]",
            "uplinks = [\"net0\", \"net0\"]",
            2,
            "uplinks",
            "again",
        ),
        (
            "gateway = \"fe80::1\"",
            "gateway = \"::\"",
            20,
            "tunnel[2].gateway",
            "unicast",
        ),
        (
            "prefixes = [\"2001:db8:bb::/48\"]",
            "prefixes = [\"fe80::/16\"]",
            17,
            "tunnel[2].prefixes",
            "global unicast",
        ),
        (
            "rule_priority = 1000",
            "rule_priority = 0",
            4,
            "rule_priority",
            "from 2 to 32765, found 0",
        ),
        (
            "rule_priority = 1000",
            "rule_priority = 1e3",
            4,
            "rule_priority",
            "found 1e3",
        ),
        (
            "uplinks = [\"net0\"]",
            "uplinks = []",
            1,
            "uplinks",
            "at least one",
        ),
        (
            "uplinks = [\"net0\"]",
            "uplinks = [\"net0\", 3]",
            2,
            "uplinks",
            "found 3",
        ),
        (
            "uplinks = [\"net0\"]",
            "uplinks = [\"sixxs0\"]",
            7,
            "tunnel[1].name",
            "also in uplinks",
        ),
        (
            "name = \"sixxs0\"",
            "name = \"sixxs1\"",
            13,
            "tunnel[2].name",
            "again",
        ),
        (
            "name = \"sixxs0\"",
            "name = \"much-too-long-a-name\"",
            7,
            "tunnel[1].name",
            "1 to 15",
        ),
        ("name = \"sixxs0\"", "", 6, "tunnel[1].name", "missing"),
        (
            "kind = \"interface\"",
            "kind = \"teredo\"",
            8,
            "tunnel[1].kind",
            "no such kind",
        ),
        (
            "kind = \"interface\"",
            "kind = \"ayiya\"",
            8,
            "tunnel[1].password",
            "missing",
        ),
        (
            "kind = \"interface\"",
            "kind = \"6in4\"",
            8,
            "tunnel[1].remote4",
            "missing; expected the broker's IPv4 address",
        ),
        (
            "kind = \"interface\"",
            "kind = \"6in4\"\nremote4 = \"198.51.100.300\"",
            9,
            "tunnel[1].remote4",
            "an IPv4 address",
        ),
        (
            "kind = \"interface\"",
            "kind = \"6in4\"\nremote4 = \"198.51.100.1\"\npassword = \"x\"",
            10,
            "tunnel[1].password",
            "only with kind = \"6in4-heartbeat\" or \"ayiya\"",
        ),
        (
            "kind = \"interface\"",
            "kind = \"ayiya\"\nremote4 = \"198.51.100.1\"\npassword = 12345",
            10,
            "tunnel[1].password",
            "put the password in quotes",
        ),
        (
            "kind = \"interface\"",
            "kind = \"ayiya\"\nremote4 = \"198.51.100.1\"\npassword = \"x\"\nmtu = 2049",
            11,
            "tunnel[1].mtu",
            "at most 2048",
        ),
        (
            "kind = \"interface\"",
            "kind = \"ayiya\"\nremote = \"a b\"\npassword = \"x\"",
            9,
            "tunnel[1].remote",
            "neither an IP address nor a host name",
        ),
        (
            "kind = \"interface\"",
            "kind = \"interface\"\nlocal4 = \"192.0.2.10\"",
            9,
            "tunnel[1].local4",
            "expected only with kind = ",
        ),
        (
            "peer = \"2001:db8:a::1\"",
            "kind = \"ayiya\"\nremote4 = \"198.51.100.1\"\npassword = \"x\"",
            10,
            "",
            "not valid TOML",
        ),
        ("kind = \"interface\"", "", 6, "tunnel[1].kind", "missing"),
        (
            "kind = \"interface\"",
            "kind = \"command\"",
            8,
            "tunnel[1].up",
            "missing",
        ),
        (
            "up = [\"make-it\", \"--now\"]",
            "up = []",
            15,
            "tunnel[2].up",
            "empty list",
        ),
        (
            "up = [\"make-it\", \"--now\"]",
            "up = \"make-it\"",
            15,
            "tunnel[2].up",
            "a list of strings",
        ),
        (
            "kind = \"command\"",
            "kind = \"interface\"",
            15,
            "tunnel[2].up",
            "only with kind",
        ),
        (
            "peer = \"2001:db8:a::1\"",
            "peer = \"192.0.2.1\"",
            10,
            "tunnel[1].peer",
            "an IPv6 address",
        ),
        (
            "address = \"2001:db8:a::2/64\"",
            "address = \"fe80::1\"",
            9,
            "tunnel[1].address",
            "global unicast",
        ),
        (
            "address = \"2001:db8:a::2/64\"",
            "",
            6,
            "tunnel[1].address",
            "missing",
        ),
        (
            "address = \"2001:db8:a::2/64\"",
            "address = \"2001:db8:b::3\"",
            16,
            "tunnel[2].address",
            "overlaps 2001:db8:b::3 of sixxs0",
        ),
        (
            "address = \"2001:db8:a::2/64\"",
            "address = \"2001:db8:bb:5::1\"",
            9,
            "tunnel[1].address",
            "overlaps",
        ),
        (
            "prefixes = [\"2001:db8:bb::/48\"]",
            "prefixes = [\"2001:db8:bb::1/48\"]",
            17,
            "tunnel[2].prefixes",
            "the prefix is 2001:db8:bb::/48",
        ),
        (
            "prefixes = [\"2001:db8:bb::/48\"]",
            "prefixes = [\"::/0\"]",
            17,
            "tunnel[2].prefixes",
            "16 bits",
        ),
        (
            "table = 300",
            "table = 254",
            18,
            "tunnel[2].table",
            "the main table",
        ),
        ("table = 300", "table = 0", 18, "tunnel[2].table", "from 1"),
        (
            "table = 300",
            "table = 200",
            18,
            "tunnel[2].table",
            "which sixxs0 has",
        ),
        (
            "mtu = 1280",
            "mtu = 1279",
            19,
            "tunnel[2].mtu",
            "from 1280 to 65535, found 1279",
        ),
        (
            "mtu = 1280",
            "mtu = \"1280\"",
            19,
            "tunnel[2].mtu",
            "found \"1280\"",
        ),
        (
            "gateway = \"fe80::1\"",
            "gateway = \"fe80::x\"",
            20,
            "tunnel[2].gateway",
            "an IPv6 address",
        ),
        ("mtu = 1280", "mtu = ", 19, "", "not valid TOML"),
        ("mtu = 1280", "table = 5", 19, "", "not valid TOML"),
    ] {
        let text = GOOD.replacen(right, wrong, 1);
        assert_ne!(text, GOOD, "{right} is in the good file");
        let invalid = parse("/etc/f.toml", &text).expect_err(wrong);
        let relevant = invalid.faults.iter().find(|fault| {
            fault.line == line && fault.key == key && fault.message.contains(message)
        });
        assert!(relevant.is_some(), "{wrong}: {invalid}");
        assert!(
            invalid.to_string().starts_with("/etc/f.toml: line "),
            "{invalid}"
        );
    }
}

/// A value that is there and wrong is not said to be missing as well.
#[test]
fn what_is_there_is_not_called_missing() {
    let is_there = "address = \"2001:db8:a::2/64\"";
    let has_peer = "peer = \"2001:db8:a::1\"";
    for (right, wrong, line, key, message) in [
        (
            is_there,
            "address = \"192.0.2.1\"",
            9,
            "address",
            "found \"192.0.2.1\": that is IPv4",
        ),
        (
            is_there,
            "address = \"192.0.2.1/24\"",
            9,
            "address",
            "that is IPv4",
        ),
        (
            is_there,
            "address = \"2001:db8::2/129\"",
            9,
            "address",
            "from 0 to 128 bits",
        ),
        (
            is_there,
            "prefixes = \"192.0.2.0/24\"",
            9,
            "prefixes",
            "that is IPv4",
        ),
        (
            is_there,
            "address = []",
            6,
            "address",
            "found an empty list",
        ),
        (has_peer, "peer = \"192.0.2.1\"", 10, "peer", "that is IPv4"),
        (
            has_peer,
            "gateway = \"192.0.2.1\"",
            10,
            "gateway",
            "that is IPv4",
        ),
        (
            has_peer,
            "check_target = \"x\"",
            10,
            "check_target",
            "no IPv6 address",
        ),
        (
            has_peer,
            "peer = \"2001:db8:a::2\"",
            10,
            "peer",
            "which is its own (address); write the broker's",
        ),
    ] {
        let text = GOOD.replacen(right, wrong, 1);
        let invalid = parse("f", &text).expect_err(wrong);
        let [fault] = &invalid.faults[..] else {
            panic!("{wrong}: {invalid}")
        };
        assert_eq!(
            (fault.line, &fault.key),
            (line, &format!("tunnel[1].{key}"))
        );
        assert!(fault.message.contains(message), "{invalid}");
    }
}

/// An account that is not to be had is one fault.
#[test]
fn an_account_that_is_wrong_is_told_once() {
    let none = |file: &str| Err(format!("{file}: no such file"));
    let empty = |_: &str| Ok(Vec::new().into());
    for (text, files, message) in [
        (
            "aiccu = \"/a.conf\"",
            &none as Files<'_>,
            "/a.conf: no such file",
        ),
        ("aiccu = \"/a.conf\"", &empty, "/a.conf: "),
        ("aiccu = 5", &none, "found 5"),
    ] {
        let text = format!("[[tunnel]]\nname = \"sixxs0\"\n{text}\n");
        let invalid = parse_with("f", &text, files).unwrap_err();
        assert!(invalid.faults[0].message.contains(message), "{invalid}");
        for fault in &invalid.faults {
            assert_eq!(
                (fault.line, &*fault.key),
                (3, "tunnel[1].aiccu"),
                "{invalid}"
            );
        }
    }
}

/// Paths are the same wherever the program is called.
#[test]
fn relative_paths_begin_at_the_configuration() {
    let text = "[[tunnel]]\nname = \"a\"\naiccu = \"a.conf\"\ntls_ca = \"ca.pem\"\n\
                [[tunnel]]\nname = \"b\"\naiccu = \"/b/b.conf\"\ntls_ca = \"/b/ca.pem\"\n";
    let read = std::cell::RefCell::new(Vec::new());
    let files = |file: &str| {
        read.borrow_mut().push(file.to_owned());
        Ok(b"username a\npassword b\nserver tic.example\n"
            .to_vec()
            .into())
    };
    let config = parse_with("/etc/sixxs/sixxs.toml", text, &files).unwrap();
    assert_eq!(*read.borrow(), ["/etc/sixxs/a.conf", "/b/b.conf"]);
    let accounts = config.tunnels.iter().map(|tunnel| match &tunnel.kind {
        Kind::Account(account) => (account.file.as_str(), account.tls.ca.as_deref()),
        other => panic!("{other:?}"),
    });
    let expected = [
        ("/etc/sixxs/a.conf", Some("/etc/sixxs/ca.pem")),
        ("/b/b.conf", Some("/b/ca.pem")),
    ];
    assert!(accounts.eq(expected));
    let here = parse_with("sixxs.toml", text, &files).unwrap();
    assert!(matches!(&here.tunnels[0].kind, Kind::Account(a) if a.file == "a.conf"));
}

/// What the README tells people to write is right.
#[test]
fn the_documented_configurations_are_good() {
    let readme = include_str!("../../../README.md");
    let blocks: Vec<_> = readme
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert_eq!(blocks.len(), 3);
    let account = |_: &str| {
        Ok(b"username a\npassword b\nserver tic.example\n"
            .to_vec()
            .into())
    };
    for block in blocks {
        parse_with("README.md", block, &account).unwrap();
    }
}

/// Tables are numbered in the order of the file, and never one of the system's.
#[test]
fn sixty_tunnels_leave_the_system_its_tables() {
    let text: String = (0..60)
        .map(|n| {
            format!(
                "[[tunnel]]\nname = \"t{n}\"\nkind = \"interface\"\naddress = \"2001:db8:{n}::1\"\n"
            )
        })
        .collect();
    let tables: Vec<_> = parse("f", &text)
        .unwrap()
        .tunnels
        .iter()
        .map(|t| t.table.0)
        .collect();
    assert_eq!(tables[..3], [200, 201, 202]);
    assert_eq!(tables[52..55], [252, 256, 257]);
    assert_eq!(tables.len(), 60);
}

#[test]
fn there_are_limits() {
    let tunnel = |n: usize| {
        format!(
            "[[tunnel]]\nname = \"t{n}\"\nkind = \"interface\"\naddress = \"2001:db8:{n:x}::1\"\n"
        )
    };
    let text: String = (0..=together::TUNNELS).map(tunnel).collect();
    let invalid = parse("f", &text).unwrap_err();
    assert!(
        invalid
            .to_string()
            .contains("at most 448 tunnels, found 449"),
        "{invalid}"
    );
}

/// A hundred thousand prefixes in a moment, not in a minute.
#[test]
fn long_lists_are_read_in_no_time() {
    let prefixes: Vec<_> = (0..100_000u32)
        .map(|n| format!("\"2001:db8:{:x}:{:x}::/64\"", n >> 16, n & 0xffff))
        .collect();
    let text = format!(
        "[[tunnel]]\nname = \"t\"\nkind = \"interface\"\ndirect = []\nprefixes = [{}]\n",
        prefixes.join(",\n")
    );
    let started = std::time::Instant::now();
    assert_eq!(
        parse("f", &text).unwrap().tunnels[0].prefixes.len(),
        100_000
    );
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn no_tunnel_is_a_fault() {
    let invalid = parse("f", "").unwrap_err();
    assert!(invalid.to_string().contains("at least one [[tunnel]]"));
}

#[test]
fn all_faults_are_named_at_once() {
    let text = GOOD
        .replace("1280", "5")
        .replace("drop", "x")
        .replace("fe80::1", "y");
    assert_eq!(parse("f", &text).unwrap_err().faults.len(), 3);
}

proptest! {
    /// Whatever the text: a result, never a panic, and every refusal says why.
    #[test]
    fn any_text_is_safe(text in "(\\PC|[\n=\\[\\]\"])*") {
        if let Err(invalid) = parse("f", &text) {
            prop_assert!(!invalid.faults.is_empty());
        }
    }

    /// A good file with bytes changed.
    #[test]
    fn damaged_files_are_safe(at in 0..GOOD.len(), with in any::<char>()) {
        let mut text = GOOD.to_owned();
        if text.is_char_boundary(at) {
            text.remove(at);
            text.insert(at, with);
        }
        if let Err(invalid) = parse("f", &text) {
            prop_assert!(!invalid.faults.is_empty());
        }
    }
}
