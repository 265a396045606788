use proptest::prelude::*;

use super::*;
use crate::types::TableId;

mod accounts;
mod deprecation;
mod endpoint_update;
mod faults;
mod group;
mod section;
mod values;
mod wireguard;

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
    let heartbeats = config.tunnels.iter().map(|tunnel| match &tunnel.kind {
        Kind::SixInFour(outer) => Some(outer.heartbeat.is_some()),
        _ => None,
    });
    assert_eq!(
        heartbeats.collect::<Vec<_>>(),
        [Some(false), Some(true), None]
    );
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

/// Relative paths do not depend on the working directory.
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

/// The examples in the README are valid configurations.
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

/// Tables are numbered in the order of the file. The system's tables are skipped.
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
    let text: String = (0..=cross_check::TUNNELS).map(tunnel).collect();
    let invalid = parse("f", &text).unwrap_err();
    assert!(
        invalid
            .to_string()
            .contains("at most 448 tunnels and groups, found 449"),
        "{invalid}"
    );
}

/// Reading 100,000 prefixes takes less than 10 seconds.
#[test]
fn long_lists_are_parsed_quickly() {
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

proptest! {
    /// The parser never panics, and every error has at least one diagnostic.
    #[test]
    fn any_text_is_safe(text in "(\\PC|[\n=\\[\\]\"])*") {
        if let Err(invalid) = parse("f", &text) {
            prop_assert!(!invalid.diagnostics.is_empty());
        }
    }

    /// The same for a valid file with one changed character.
    #[test]
    fn damaged_files_are_safe(at in 0..GOOD.len(), with in any::<char>()) {
        let mut text = GOOD.to_owned();
        if text.is_char_boundary(at) {
            text.remove(at);
            text.insert(at, with);
        }
        if let Err(invalid) = parse("f", &text) {
            prop_assert!(!invalid.diagnostics.is_empty());
        }
    }
}

#[test]
fn a_tunnel_covers_no_more_than_its_link() {
    let file = |bits: u8| {
        format!(
            "[[tunnel]]\nname = \"sixxs0\"\nkind = \"6in4\"\nremote4 = \"192.0.2.1\"\n\
             address = \"2001:db8:a::2/{bits}\""
        )
    };
    for bits in [3, 16, 63] {
        let refused = parse("f", &file(bits)).unwrap_err().to_string();
        assert!(refused.contains("a length of 64 to 128"), "{refused}");
    }
    for bits in [64, 127, 128] {
        parse("f", &file(bits)).unwrap();
    }
}
