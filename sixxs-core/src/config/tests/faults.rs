//! Faults are reported with line and key.

use super::*;

/// Each invalid line replaces a valid one. The only diagnostic names its line, its key and the expected
/// value.
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
            "xdp = \"fast\"",
            3,
            "xdp",
            "expected \"auto\", \"native\", \"generic\" or \"off\", or a table",
        ),
        (
            "on_leak = \"drop\"",
            "xdp = { net0 = \"fast\" }",
            3,
            "xdp.net0",
            "no such value",
        ),
        (
            "on_leak = \"drop\"",
            "xdp = { \"net 0\" = \"native\" }",
            3,
            "xdp.net 0",
            "expected the name of an uplink",
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
            "on_leak = \"drop\"",
            "page = 9347",
            3,
            "page",
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
            "uplinks = [\"net0\"]",
            "uplinks = [\"lo\"]",
            2,
            "uplinks",
            "the loopback interface",
        ),
        (
            "name = \"sixxs0\"",
            "name = \"lo\"",
            7,
            "tunnel[1].name",
            "the loopback interface",
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
        let relevant = invalid.diagnostics.iter().find(|fault| {
            fault.line == line && fault.key == key && fault.message.contains(message)
        });
        assert!(relevant.is_some(), "{wrong}: {invalid}");
        assert!(
            invalid.to_string().starts_with("/etc/f.toml: line "),
            "{invalid}"
        );
    }
}

/// An invalid value is not also reported as missing.
#[test]
fn an_invalid_value_is_not_reported_as_missing() {
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
            "check_source = \"x\"",
            10,
            "check_source",
            "no IPv6 address",
        ),
        (
            has_peer,
            "check_source = \"ff02::1\"",
            10,
            "check_source",
            "expected an address outside",
        ),
        (
            has_peer,
            "check_source = \"2001:db8:a::2\"",
            10,
            "check_source",
            "found 2001:db8:a::2; leave the key out",
        ),
        (
            has_peer,
            "check_address = \"x\"",
            10,
            "check_address",
            "expected addresses of hosts behind this one, found \"x\"",
        ),
        (
            has_peer,
            "check_address = [\"2001:db8:a::2\"]",
            10,
            "check_address",
            "expected the address of a host in the prefixes of this tunnel, found 2001:db8:a::2",
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
        let [fault] = &invalid.diagnostics[..] else {
            panic!("{wrong}: {invalid}")
        };
        assert_eq!(
            (fault.line, &fault.key),
            (line, &format!("tunnel[1].{key}"))
        );
        assert!(fault.message.contains(message), "{invalid}");
    }
}

/// An account that cannot be read is one fault.
#[test]
fn an_invalid_account_is_reported_once() {
    let none = |file: &str| Err(format!("{file}: no such file").into());
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
        assert!(
            invalid.diagnostics[0].message.contains(message),
            "{invalid}"
        );
        for fault in &invalid.diagnostics {
            assert_eq!(
                (fault.line, &*fault.key),
                (3, "tunnel[1].aiccu"),
                "{invalid}"
            );
        }
    }
}

#[test]
fn a_configuration_without_tunnels_is_invalid() {
    let invalid = parse("f", "").unwrap_err();
    assert!(invalid.to_string().contains("at least one [[tunnel]]"));
}

#[test]
fn all_faults_are_named_at_once() {
    let text = GOOD
        .replace("1280", "5")
        .replace("drop", "x")
        .replace("fe80::1", "y");
    assert_eq!(parse("f", &text).unwrap_err().diagnostics.len(), 3);
}

/// The complete message for one fault per file.
#[test]
fn faults_are_named_in_full() {
    let tunnel = |keys: &str| format!("[[tunnel]]\nname = \"sixxs0\"\n{keys}\n");
    let native = |keys: &str| tunnel(&format!("address = \"2001:db8::2/64\"\n{keys}"));
    let ayiya = |keys: &str| native(&format!("kind = \"ayiya\"\npeer = \"2001:db8::1\"\n{keys}"));
    let account = |_: &str| {
        Ok(b"username a\npassword b\nserver tic.example\n"
            .to_vec()
            .into())
    };
    for (text, expected) in [
        (
            "[alert]\nwebhook_ca = \"/ca.pem\"".to_owned(),
            "line 1: alert.webhook_ca: expected only together with webhook",
        ),
        (
            "[alert]\ncommand = [\"\"]".to_owned(),
            "line 2: alert.command: expected a program first",
        ),
        (
            "[alert]\nwebhook = \"ftp://a/\"".to_owned(),
            "line 2: alert.webhook: expected \"https://HOST/PATH\" or \"http://HOST/PATH\": it begins otherwise",
        ),
        (
            "alert = 5".to_owned(),
            "line 1: alert: expected a [alert] table, found 5",
        ),
        (
            "tunnel = 5".to_owned(),
            "line 1: tunnel: expected [[tunnel]] tables, found 5",
        ),
        (
            "tunnel = [5]".to_owned(),
            "line 1: tunnel[1]: expected a table, found 5",
        ),
        (
            "[connect_limit]\nconnects = 0".to_owned(),
            "line 2: connect_limit.connects: expected an integer from 1 to 1000, found 0",
        ),
        (
            ayiya("remote = \"a.example\"\nremote4 = \"192.0.2.1\"\npassword = \"x\""),
            "line 7: tunnel[1].remote4: expected only one of remote and remote4",
        ),
        (
            ayiya("remote = \"2001:db8::9\"\nlocal4 = \"192.0.2.1\"\npassword = \"x\""),
            "line 7: tunnel[1].local4: expected only with a broker by IPv4",
        ),
        (
            ayiya("remote = \"a.example\"\npassword = \"\""),
            "line 7: tunnel[1].password: expected a password, found nothing",
        ),
        (
            ayiya("password = \"x\""),
            "line 4: tunnel[1].remote4: missing; expected the broker's IPv4 address, or its address or name as remote",
        ),
        (
            native("kind = \"ayiya\"\nremote = \"a.example\"\npassword = \"x\""),
            "line 1: tunnel[1].peer: missing; expected the broker's address in the tunnel",
        ),
        (
            tunnel("kind = \"6in4\"\nremote4 = \"192.0.2.1\"\nprefixes = \"2001:db8::/48\""),
            "line 1: tunnel[1].address: missing; expected the address of this end of the tunnel",
        ),
        (
            tunnel("aiccu = \"/a.conf\"\nkind = \"6in4\""),
            "line 4: tunnel[1].kind: expected no kind together with aiccu: the broker provides it",
        ),
        (
            native("aiccu = \"/a.conf\""),
            "line 3: tunnel[1].address: expected none together with aiccu: the broker provides it",
        ),
        (
            tunnel("kind = \"interface\"\naddress = [\"2001:db8::2\", \"2001:db8::2\"]"),
            "line 4: tunnel[1].address: expected each once, found 2001:db8::2 again",
        ),
    ] {
        let invalid = parse_with("f", &text, &account).unwrap_err();
        assert_eq!(invalid.to_string(), format!("f: {expected}"), "{text}");
    }
}
