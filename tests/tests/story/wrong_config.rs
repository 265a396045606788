//! Invalid configurations: the message has file, line, key and expectation, and nothing changes.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::program::snapshot::{assert_same, take};

use crate::fixture::Fixture;

/// A correct configuration. Each test case breaks one part of it.
const RIGHT: &str = r#"uplinks = ["net0"]
on_leak = "redirect"
rule_priority = 16383

[[tunnel]]
name = "sixxs0"
kind = "interface"
address = "2001:db8:a::2/64"
peer = "2001:db8:a::1"
table = 200
mtu = 1280

[[tunnel]]
name = "sixxs1"
kind = "interface"
address = "2001:db8:b::2/64"
peer = "2001:db8:b::1"
prefixes = ["2001:db8:bb::/48"]
table = 201
mtu = 1280
"#;

/// The replaced text and its replacement, the line of the fault, the key, and a word of the expectation.
struct Wrong {
    what: &'static str,
    from: &'static str,
    to: &'static str,
    line: usize,
    key: &'static str,
    expected: &'static str,
}

const fn wrong(
    what: &'static str,
    from: &'static str,
    to: &'static str,
    line: usize,
    key: &'static str,
    expected: &'static str,
) -> Wrong {
    Wrong {
        what,
        from,
        to,
        line,
        key,
        expected,
    }
}

const WRONGS: &[Wrong] = &[
    wrong(
        "unknown key",
        "on_leak = \"redirect\"",
        "on_leek = \"redirect\"",
        2,
        "on_leek",
        "on_leak",
    ),
    wrong(
        "unknown key of a tunnel",
        "peer = \"2001:db8:b::1\"",
        "pear = \"2001:db8:b::1\"",
        17,
        "pear",
        "peer",
    ),
    wrong(
        "unknown word",
        "\"redirect\"",
        "\"divert\"",
        2,
        "on_leak",
        "observe",
    ),
    wrong("syntax", "[\"net0\"]", "[\"net0\"", 2, "", "TOML"),
    wrong(
        "wrong type",
        "16383",
        "\"16383\"",
        3,
        "rule_priority",
        "integer",
    ),
    wrong(
        "priority out of range",
        "16383",
        "40000",
        3,
        "rule_priority",
        "32765",
    ),
    wrong(
        "priority of the local table",
        "16383",
        "0",
        3,
        "rule_priority",
        "2 to 32765",
    ),
    wrong(
        "no name",
        "name = \"sixxs1\"\n",
        "",
        13,
        "name",
        "interface",
    ),
    wrong(
        "name too long",
        "name = \"sixxs1\"",
        "name = \"sixxs1-is-far-too-long\"",
        14,
        "name",
        "15",
    ),
    wrong(
        "the same name twice",
        "name = \"sixxs1\"",
        "name = \"sixxs0\"",
        14,
        "name",
        "sixxs0",
    ),
    wrong(
        "no kind",
        "kind = \"interface\"\naddress = \"2001:db8:b::2/64\"",
        "address = \"2001:db8:b::2/64\"",
        13,
        "kind",
        "interface",
    ),
    wrong(
        "unknown kind",
        "kind = \"interface\"\naddress = \"2001:db8:b::2/64\"",
        "kind = \"interfaced\"\naddress = \"2001:db8:b::2/64\"",
        15,
        "kind",
        "command",
    ),
    wrong(
        "no address",
        "address = \"2001:db8:a::2/64\"\n",
        "",
        5,
        "address",
        "IPv6",
    ),
    wrong(
        "not an address",
        "2001:db8:b::2/64",
        "2001:db8:b:::2/64",
        16,
        "address",
        "IPv6",
    ),
    wrong(
        "address of IPv4",
        "2001:db8:b::2/64",
        "192.0.2.2/24",
        16,
        "address",
        "IPv6",
    ),
    wrong(
        "the same address twice",
        "2001:db8:b::2/64",
        "2001:db8:a::2/64",
        16,
        "address",
        "sixxs0",
    ),
    wrong(
        "length out of range",
        "2001:db8:b::2/64",
        "2001:db8:b::2/129",
        16,
        "address",
        "128",
    ),
    wrong(
        "peer is no address",
        "2001:db8:b::1\"",
        "b::g\"",
        17,
        "peer",
        "IPv6",
    ),
    wrong(
        "host bits in a prefix",
        "2001:db8:bb::/48",
        "2001:db8:bb::1/48",
        18,
        "prefixes",
        "2001:db8:bb::/48",
    ),
    wrong(
        "table of the kernel",
        "table = 201",
        "table = 254",
        19,
        "table",
        "254",
    ),
    wrong("table 0", "table = 201", "table = 0", 19, "table", "from 1"),
    wrong(
        "the same table twice",
        "table = 201",
        "table = 200",
        19,
        "table",
        "sixxs0",
    ),
    wrong(
        "MTU below IPv6's least",
        "table = 201\nmtu = 1280",
        "table = 201\nmtu = 1000",
        20,
        "mtu",
        "1280",
    ),
    wrong(
        "MTU of a wrong type",
        "table = 201\nmtu = 1280",
        "table = 201\nmtu = \"big\"",
        20,
        "mtu",
        "integer",
    ),
    wrong(
        "gateway is no address",
        "table = 201\n",
        "table = 201\ngateway = \"pop1\"\n",
        20,
        "gateway",
        "IPv6",
    ),
    wrong(
        "a tunnel that is an uplink",
        "[\"net0\"]",
        "[\"net0\", \"sixxs1\"]",
        14,
        "name",
        "uplinks",
    ),
    wrong(
        "command without up",
        "kind = \"interface\"\naddress = \"2001:db8:b::2/64\"",
        "kind = \"command\"\naddress = \"2001:db8:b::2/64\"",
        15,
        "up",
        "arguments",
    ),
];

#[test]
fn each_fault_is_reported_with_line_and_key() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::new(Flavour::Tun), Hook::Auto, "")?;
    let before = take(&fixture.lab)?;
    let mut faults = String::new();
    for wrong in WRONGS {
        assert_eq!(
            RIGHT.matches(wrong.from).count(),
            1,
            "{}: not found once",
            wrong.what
        );
        let path = fixture
            .lab
            .write_config(&RIGHT.replace(wrong.from, wrong.to))?;
        let printed = fixture.program.run(&["run"])?;
        let place = format!("{}: line {}: ", path.display(), wrong.line);
        for (what, found) in [
            ("exit status 2", printed.code == 2),
            ("its place", printed.stderr.contains(&place)),
            ("its key", printed.stderr.contains(wrong.key)),
            ("what was expected", printed.stderr.contains(wrong.expected)),
            ("nothing like ready", !printed.stderr.contains("ready")),
        ] {
            if !found {
                faults += &format!(
                    "{}: wanted {what} ({place}, {}, {}): status {}: {}\n",
                    wrong.what, wrong.key, wrong.expected, printed.code, printed.stderr
                );
            }
        }
    }
    assert!(faults.is_empty(), "{faults}");
    assert_same(&before, &take(&fixture.lab)?);
    Ok(())
}

#[test]
fn files_that_are_missing_or_empty() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::new(Flavour::Tun), Hook::Auto, "")?;
    let before = take(&fixture.lab)?;
    let path = fixture.lab.paths().config();

    std::fs::remove_file(&path)?;
    let printed = fixture.program.run(&["run"])?;
    assert_eq!(printed.code, 2, "{printed:#?}");
    assert!(
        printed.stderr.contains(&path.display().to_string()),
        "{printed:#?}"
    );

    for nothing in ["", "uplinks = [\"net0\"]\n"] {
        fixture.lab.write_config(nothing)?;
        let printed = fixture.program.run(&["run"])?;
        assert_eq!(printed.code, 2, "{printed:#?}");
        assert!(printed.stderr.contains("tunnel"), "{printed:#?}");
    }
    assert_same(&before, &take(&fixture.lab)?);
    Ok(())
}

/// The unmodified file is accepted. It has no secrets, so others may read it.
#[test]
fn the_unmodified_file_is_accepted() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::new(Flavour::Tun), Hook::Auto, "")?;
    let path = fixture.lab.write_config(RIGHT)?;
    let mode = std::fs::metadata(&path)?.permissions().mode();
    assert_ne!(mode & 0o044, 0, "readable by others, as it has no secrets");
    let daemon = fixture.start()?;
    assert!(fixture.program.status()?.healthy);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
