use proptest::prelude::*;

use super::*;

const MINIMAL: &str = "username ABC1-SIXXS\npassword hartslag\n";

fn read(text: &str) -> Result<Aiccu, String> {
    parse("aiccu.conf", text.as_bytes()).map_err(|invalid| invalid.to_string())
}

fn notes(aiccu: &Aiccu) -> Vec<String> {
    aiccu.notes.iter().map(Note::to_string).collect()
}

#[test]
fn defaults() {
    assert_eq!(
        read(MINIMAL),
        Ok(Aiccu {
            username: "ABC1-SIXXS".to_owned(),
            password: Secret::from("hartslag"),
            server: "tic.sixxs.net:3874".parse().unwrap(),
            interface: "aiccu".parse().unwrap(),
            tunnel_id: None,
            local_ipv4_override: None,
            setupscript: None,
            pidfile: "/var/run/aiccu.pid".to_owned(),
            daemonize: false,
            verbose: false,
            requiretls: false,
            makebeats: true,
            behindnat: false,
            noconfigure: false,
            notes: vec![],
        })
    );
}

#[test]
fn every_key() {
    let aiccu = read(
        "# AICCU Configuration\r\n\
         ; of old\n\
         // times\n\
         \n\
         username ABC1-SIXXS\r\n\
         password \"two  blanks and a # \"\n\
         protocol tic\n\
         server [2001:db8::1]:4000\n\
         ipv6_interface sixxs0\n\
         tunnel_id T42\n\
         local_ipv4_override 192.0.2.1\n\
         automatic true\n\
         setupscript /usr/local/etc/aiccu-subnets.sh\n\
         requiretls yes\n\
         verbose TRUE\n\
         daemonize 'true'\n\
         behindnat yes\n\
         pidfile /run/aiccu 0.pid\n\
         makebeats no\n\
         defaultroute true\n\
         noconfigure true\n",
    )
    .unwrap();
    assert_eq!(aiccu.password, Secret::from("two  blanks and a # "));
    assert_eq!(aiccu.server.to_string(), "[2001:db8::1]:4000");
    assert_eq!(aiccu.interface.as_str(), "sixxs0");
    assert_eq!(aiccu.tunnel_id.as_deref(), Some("T42"));
    assert_eq!(aiccu.local_ipv4_override, Some(Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!(
        aiccu.setupscript.as_deref(),
        Some("/usr/local/etc/aiccu-subnets.sh")
    );
    assert_eq!(aiccu.pidfile, "/run/aiccu 0.pid");
    assert!(aiccu.requiretls && aiccu.verbose && aiccu.daemonize && aiccu.behindnat);
    assert!(aiccu.noconfigure && !aiccu.makebeats);
    let notes = notes(&aiccu);
    assert_eq!(notes.len(), 2);
    assert!(notes[0].starts_with("line 12: automatic has no effect: "));
    assert!(notes[1].starts_with("line 20: defaultroute has no effect: "));
}

#[test]
fn one_blank_separates_and_the_rest_is_the_value() {
    for (line, password) in [
        ("password  x", " x"),
        ("password x ", "x "),
        ("password x\ty", "x\ty"),
        ("password \" x\"", " x"),
        ("password 'it''s'", "it''s"),
        ("password \"x", "\"x"),
        ("password \"", "\""),
        ("password x # no comment", "x # no comment"),
    ] {
        let aiccu = read(&format!("username u\n{line}")).unwrap();
        assert_eq!(aiccu.password.expose(), password, "{line}");
    }
}

#[test]
fn keys_without_effect_are_reported_without_secrets() {
    let aiccu = read(&format!(
        "{MINIMAL}dns_server 192.0.2.53\nhunter2\n passwort hunter2\n{} x\nverbose no\nverbose yes\n",
        "hunter2".repeat(9)
    ))
    .unwrap();
    assert!(aiccu.verbose);
    assert_eq!(
        notes(&aiccu),
        [
            "line 3: unknown key dns_server has no effect",
            "line 4: a line that is no key and value has no effect",
            "line 5: a line that is no key and value has no effect",
            "line 6: a line that is no key and value has no effect",
            "line 8: verbose is given twice: this one counts",
        ]
    );
}

#[test]
fn faults() {
    for (text, expected) in [
        (
            "",
            "aiccu.conf: line 1: username: missing; expected the user's name at the broker\n\
              aiccu.conf: line 1: password: missing; expected the password that goes with it",
        ),
        (
            "username u\npassword\n",
            "aiccu.conf: line 2: password: expected one blank, and a value",
        ),
        (
            "username u\npassword\tx\n",
            "aiccu.conf: line 2: password: expected one blank between \
          key and value, found a tab",
        ),
        (
            "username u\npassword a\x1bb\n",
            "aiccu.conf: line 2: password: expected no control \
          characters in the value",
        ),
        (
            "MINIMAL protocol tsp",
            "aiccu.conf: line 3: protocol: expected tic, found \"tsp\"",
        ),
        (
            "MINIMAL server a b",
            "aiccu.conf: line 3: server: expected a TIC server, such as \
          tic.example or tic.example:3874, found \"a b\": expected a host name or address; a port \
          may follow, as in tic.example:3874",
        ),
        (
            "MINIMAL ipv6_interface a/b",
            "aiccu.conf: line 3: ipv6_interface: expected an interface \
          name, found \"a/b\": an interface name has 1 to 15 characters, none of them blank, '/', ':' \
          or '%'",
        ),
        (
            "MINIMAL tunnel_id T1 T2",
            "aiccu.conf: line 3: tunnel_id: expected a tunnel's id, such as \
          T1234, found \"T1 T2\"",
        ),
        (
            "MINIMAL local_ipv4_override ::1",
            "aiccu.conf: line 3: local_ipv4_override: expected an \
          IPv4 address, found \"::1\": invalid IPv4 address syntax",
        ),
        (
            "MINIMAL pidfile aiccu.pid",
            "aiccu.conf: line 3: pidfile: expected an absolute path, found \
          \"aiccu.pid\"",
        ),
        (
            "MINIMAL daemonize 1",
            "aiccu.conf: line 3: daemonize: expected yes, true, no or false, \
          found \"1\"",
        ),
        (
            "MINIMAL automatic perhaps",
            "aiccu.conf: line 3: automatic: expected yes, true, no or \
          false, found \"perhaps\"",
        ),
    ] {
        let text = text.replace("MINIMAL ", MINIMAL);
        assert_eq!(read(&text).unwrap_err(), expected);
    }
    let long = format!("{MINIMAL}server {}", "x".repeat(MAX_LINE_BYTES));
    assert!(
        read(&long)
            .unwrap_err()
            .contains("line 3: expected at most 4096 bytes")
    );
    let large = "# comment\n".repeat(MAX_BYTES / 10 + 1);
    assert!(
        read(&large)
            .unwrap_err()
            .contains("expected at most 65536 bytes")
    );
    assert!(
        parse("f", b"\xff x")
            .unwrap_err()
            .to_string()
            .contains("expected UTF-8")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let _either = parse("f", &bytes);
    }

    #[test]
    fn no_text_is_too_strange(
        lines in prop::collection::vec(
            (prop::sample::select(KEYS), "[ \t]{0,2}", "\\PC{0,20}"), 0..30
        ),
    ) {
        let text: String = lines.iter().map(|(k, b, v)| format!("{k}{b}{v}\n")).collect();
        if let Err(invalid) = parse("f", text.as_bytes()) {
            prop_assert!(!invalid.diagnostics.is_empty());
        }
    }

    /// The password appears in no message and no debug output, unless it is the value of a key that is shown.
    #[test]
    fn a_password_is_never_shown(
        before in "(password|password |password\t|passwort |  | password |\"|)",
        after in "(\t|\x01| x|\"|)",
    ) {
        let text = format!("username u\n{before}hunter2{after}\nserver a b\n");
        let shown = match parse("f", text.as_bytes()) {
            Ok(aiccu) => format!("{aiccu:?}"),
            Err(invalid) => format!("{invalid} {invalid:?}"),
        };
        prop_assert!(!shown.contains("hunter2"), "{}", shown);
    }
}

#[test]
fn values_at_the_edges_of_what_is_read_or_shown() {
    let at_most = "username u\n".to_owned() + &"#".repeat(MAX_BYTES - 11 - 11) + "\npassword x";
    assert_eq!(at_most.len(), MAX_BYTES);
    assert!(read(&at_most).is_ok());
    assert!(read(&(at_most + "\n")).is_err());
    let line = |length: usize| format!("username u\npassword {}\n", "x".repeat(length - 9));
    assert!(read(&line(MAX_LINE_BYTES)).is_ok());
    assert!(read(&line(MAX_LINE_BYTES + 1)).is_err());
    let (short, long) = ("é".repeat(40), "é".repeat(41));
    for (value, shown) in [
        (&short, format!("{short:?}")),
        (&long, "a long value".to_owned()),
    ] {
        let refused = read(&format!("{MINIMAL}pidfile {value}\n")).unwrap_err();
        assert!(refused.ends_with(&format!("found {shown}")), "{refused}");
    }
    // A key that is not known is shown if it can be none but a key.
    let key = "k".repeat(32);
    for (line, is_shown) in [
        (format!("{key} x"), true),
        (format!("{key}k x"), false),
        ("a-b_c x".to_owned(), true),
        ("a+b x".to_owned(), false),
        ("word".to_owned(), false),
    ] {
        let notes = notes(&read(&format!("{MINIMAL}{line}\n")).unwrap());
        assert_eq!(notes.len(), 1);
        assert_eq!(notes[0].contains("unknown key"), is_shown, "{line}");
    }
}

/// Its value is not complained of a second time, as missing.
#[test]
fn an_invalid_value_is_told_once() {
    for key in ["username", "password"] {
        let text = MINIMAL.replace(key, &format!("{key}\t"));
        let refused = read(&text).unwrap_err();
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
}
