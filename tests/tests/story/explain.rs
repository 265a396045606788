//! `sixxs explain` predicts the path that a packet takes, and gives the reason.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::{Flavour, HOST, LAN1, OUTSIDE, TUNNELS, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;

/// The explanation of a packet.
fn explained(fixture: &Fixture, arguments: &[&str]) -> Result<Value> {
    let mut all = vec!["explain"];
    all.extend(arguments);
    let (status, mut values) = fixture.program.json(&all)?;
    ensure!(status == 0, "{status}: {values:#?}");
    values.pop().context("an explanation")
}

/// Outcome, interface and cause.
fn ends(explained: &Value) -> [Option<&str>; 3] {
    ["outcome", "interface", "cause"].map(|key| explained[key].as_str())
}

fn text<'a>(explained: &'a Value, key: &str) -> &'a str {
    explained[key].as_str().unwrap_or_default()
}

/// The rule that took the packet.
fn taken(explained: &Value) -> &str {
    let steps = explained["steps"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut rules = steps.iter().filter(|step| step["about"] == "rule");
    let taken = rules.find_map(|step| step["detail"].as_str()?.strip_suffix(": taken"));
    taken.unwrap_or_default().trim_start()
}

variants!(with_a_daemon: tun(Tun, Auto), veth(Veth, Auto), tun_clsact(Tun, Clsact));

fn with_a_daemon(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    let [first, _] = &TUNNELS;
    let (source, to) = (&first.address.to_string(), &OUTSIDE.to_string());

    let own = explained(&fixture, &[source, to])?;
    assert_eq!(
        ends(&own),
        [Some("leaves"), Some("sixxs0"), None],
        "{own:#}"
    );
    assert!(
        text(&own, "sentence").contains("replies reach the source"),
        "{own:#}"
    );
    assert_eq!(taken(&own), format!("16383  from {source} lookup 200"));
    let native = explained(&fixture, &[&HOST.to_string(), to])?;
    assert_eq!(
        ends(&native),
        [Some("leaves"), Some(UPLINK), None],
        "{native:#}"
    );
    assert!(native["tunnel"].is_null());
    let here = explained(&fixture, &[source, &HOST.to_string()])?;
    assert_eq!(ends(&here), [Some("stays"), None, None], "{here:#}");

    // A socket bound to the uplink: the program catches its packets, as explained.
    let before = fixture.program.status()?.tunnel("sixxs0").leaks.redirected;
    let bound = explained(&fixture, &[source, to, "--oif", UPLINK])?;
    assert_eq!(
        ends(&bound),
        [Some("caught"), Some(UPLINK), Some("bound")],
        "{bound:#}"
    );
    assert!(text(&bound, "cure").contains("bind the program to the address"));
    assert!(
        !bound
            .to_string()
            .contains("maps are of another configuration"),
        "{bound:#}"
    );
    // `explain` sends nothing, and changes no counter.
    assert_eq!(
        fixture.program.status()?.tunnel("sixxs0").leaks.redirected,
        before
    );
    let socket = leak::udp_socket(fixture.host(), first.address, Cause::Device(UPLINK))?;
    leak::send(&socket, OUTSIDE, 1, 100)?;
    assert_eq!(
        fixture.program.status()?.tunnel("sixxs0").leaks.redirected,
        before + 1
    );

    // A foreign rule for packets with a mark, or of a user.
    for (selector, option, value) in [
        ("fwmark 0x77", "--mark", "0x77"),
        ("uidrange 1234-1234", "--uid", "1234"),
        ("uidrange 65534-65534", "--uid", "nobody"),
    ] {
        fixture.host().sh(&format!(
            "ip -6 rule add {selector} lookup main priority 100"
        ))?;
        let other = explained(&fixture, &[source, to])?;
        assert_eq!(
            ends(&other),
            [Some("leaves"), Some("sixxs0"), None],
            "{other:#}"
        );
        let led = explained(&fixture, &[source, to, option, value])?;
        assert_eq!(
            ends(&led),
            [Some("caught"), Some(UPLINK), Some("shadowed")],
            "{led:#}"
        );
        assert_eq!(taken(&led), format!("100  from all {selector} lookup main"));
        // The fix works.
        let cure = text(&led, "cure").split("; or").next().unwrap_or_default();
        fixture.host().sh(cure)?;
        let cured = explained(&fixture, &[source, to, option, value])?;
        assert_eq!(
            ends(&cured),
            [Some("leaves"), Some("sixxs0"), None],
            "{cured:#}"
        );
    }

    // Too long for the tunnel: through the tunnel, and out of the uplink.
    let long = explained(&fixture, &[source, to, "--size", "1400"])?;
    assert_eq!(
        ends(&long),
        [Some("too_big"), Some("sixxs0"), None],
        "{long:#}"
    );
    let long = explained(&fixture, &[source, to, "--size", "1400", "--oif", UPLINK])?;
    assert_eq!(
        ends(&long),
        [Some("too_big"), Some(UPLINK), Some("bound")],
        "{long:#}"
    );
    let fits = explained(&fixture, &[source, to, "--size", "1280"])?;
    assert_eq!(
        ends(&fits),
        [Some("leaves"), Some("sixxs0"), None],
        "{fits:#}"
    );

    // The text fits into 80 columns.
    let printed = fixture
        .program
        .run_ok(&["explain", source, to, "--oif", UPLINK])?
        .stdout;
    assert!(
        printed.lines().all(|line| line.chars().count() <= 80),
        "{printed}"
    );
    assert!(printed.contains("\ncure     bind the program"), "{printed}");

    // A changed file that the daemon has not loaded yet.
    let config = fixture
        .lab
        .config("")
        .replace("2001:db8:a::2/64", "2001:db8:a::3/64");
    fixture.lab.write_config(&config)?;
    let stale = explained(&fixture, &[source, to, "--oif", UPLINK])?;
    assert!(
        stale
            .to_string()
            .contains("maps are of another configuration"),
        "{stale:#}"
    );
    fixture.lab.write_config(&fixture.lab.config(""))?;

    // The tunnel is down: its packets take no other path.
    fixture.host().ip("link set sixxs0 down\n")?;
    fixture
        .program
        .status_until("it is seen", |status| status.tunnel("sixxs0").state != "up")?;
    let down = explained(&fixture, &[source, to])?;
    assert_eq!(ends(&down), [Some("refused"), None, None], "{down:#}");
    assert!(
        text(&down, "sentence").contains("sixxs0 is down"),
        "{down:#}"
    );
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A foreign rule that refuses packets is named as the cause, with a cure, also if it matches only a mark. The errors
/// of the kernel alone do not help: that of a blackhole is "Invalid argument".
#[test]
fn rules_that_refuse_are_named() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let host = fixture.host();
    // Tables that only refuse.
    host.sh("ip -6 route add blackhole default table 77")?;
    host.sh("ip -6 route add unreachable default table 78")?;
    let [first, _] = &TUNNELS;
    let (source, to) = (&*first.address.to_string(), &*OUTSIDE.to_string());
    let own = format!("from {source}");
    let mut errors = String::new();
    for action in [
        "prohibit",
        "blackhole",
        "unreachable",
        "lookup 77",
        "lookup 78",
    ] {
        for (selector, shown, mark) in [
            (&*own, &*own, &[][..]),
            ("fwmark 0x77", "from all fwmark 0x77", &["--mark", "0x77"]),
        ] {
            let rule = format!("{selector} {action} priority 100");
            host.sh(&format!("ip -6 rule add {rule}"))?;
            let asked = [&[source, to][..], mark].concat();
            let refused = explained(&fixture, &asked)?;
            let cause = format!("100: {shown} {action}");
            assert_eq!(
                ends(&refused),
                [Some("refused"), None, Some("shadowed")],
                "{refused:#}"
            );
            assert!(text(&refused, "sentence").contains(&cause), "{refused:#}");
            let printed = fixture.program.run(&[&["explain"][..], &asked].concat())?;
            let words: Vec<_> = printed.stdout.split_whitespace().collect();
            let words = words.join(" ");
            for wanted in [&*cause, "cure ip -6 rule del "] {
                assert!(words.contains(wanted), "{wanted}: {printed:#?}");
            }
            if words.contains("Invalid argument") {
                errors += &format!("{rule}: {}", printed.stdout);
            }
            if !mark.is_empty() {
                let other = explained(&fixture, &[source, to])?;
                assert_eq!(ends(&other)[1], Some("sixxs0"), "{other:#}");
            }
            // The fix works.
            let cure = text(&refused, "cure").split("; or").next();
            host.sh(cure.unwrap_or_default())?;
            let cured = explained(&fixture, &asked)?;
            assert_eq!(
                ends(&cured),
                [Some("leaves"), Some("sixxs0"), None],
                "{cured:#}"
            );
        }
    }
    assert!(errors.is_empty(), "{errors}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn without_a_daemon() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let [first, _] = &TUNNELS;
    let (source, to) = (&first.address.to_string(), &OUTSIDE.to_string());
    // The daemon has never run.
    let leaks = explained(&fixture, &[source, to])?;
    assert_eq!(
        ends(&leaks),
        [Some("leaks"), Some(UPLINK), Some("rule_missing")],
        "{leaks:#}"
    );
    assert_eq!(text(&leaks, "cure"), "sixxs run");

    // After the daemon stops, its rules and programs stay in effect. Without the rules, the program alone
    // redirects the packet.
    assert_eq!(fixture.start()?.stop()?, 0);
    let own = explained(&fixture, &[source, to])?;
    assert_eq!(
        ends(&own),
        [Some("leaves"), Some("sixxs0"), None],
        "{own:#}"
    );
    fixture.delete_own_rules()?;
    let caught = explained(&fixture, &[source, to])?;
    assert_eq!(
        ends(&caught),
        [Some("caught"), Some(UPLINK), Some("rule_missing")],
        "{caught:#}"
    );
    assert_eq!(text(&caught, "cure"), "sixxs run");
    // A user who may not inspect programs gets only the kernel's routing decision.
    let name = fixture.host().name();
    let line = [
        "netns",
        "exec",
        name,
        "setpriv",
        "--reuid",
        "65534",
        "--clear-groups",
    ];
    let mut command = std::process::Command::new("ip");
    fixture.program.apply_environment(&mut command);
    command.args(line).arg(fixture.program.binary());
    let output = command.args(["explain", source, to, "--json"]).output()?;
    let said: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    assert_eq!(
        ends(&said),
        [Some("leaks"), Some(UPLINK), Some("rule_missing")],
        "{said:#}"
    );
    assert!(
        text(&said, "sentence").contains("unless a program is there"),
        "{said:#}"
    );

    let daemon = fixture.start()?;
    fixture.program.run_ok(&["stop", "sixxs0"])?;
    let stopped = explained(&fixture, &[source, to])?;
    assert_eq!(
        ends(&stopped),
        [Some("leaks"), Some(UPLINK), Some("stopped")],
        "{stopped:#}"
    );
    assert_eq!(text(&stopped, "cure"), "sixxs start sixxs0");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Networks behind this host: forwarded packets, and direct destinations.
#[test]
fn forwarded_and_direct_packets_are_explained() -> Result<()> {
    for mode in ["", "rule_mode = \"subtrees\"\n"] {
        let spec = Spec {
            lans: true,
            ..Spec::new(Flavour::Tun)
        };
        let fixture = Fixture::with_spec(spec, Hook::Auto, mode)?;
        let daemon = fixture.start()?;
        let (lan, lan2, to) = ("2001:db8:bb:1::2", "2001:db8:bb:2::2", &OUTSIDE.to_string());
        assert_eq!(lan, LAN1.to_string());
        let out = explained(&fixture, &[lan, to, "--iif", "lan1"])?;
        assert_eq!(
            ends(&out),
            [Some("leaves"), Some("sixxs1"), None],
            "{out:#}"
        );
        let direct = explained(&fixture, &[lan, lan2, "--iif", "lan1"])?;
        assert_eq!(
            ends(&direct),
            [Some("leaves"), Some(UPLINK), None],
            "{direct:#}"
        );
        assert!(
            text(&direct, "sentence").contains("without the tunnel"),
            "{direct:#}"
        );
        let nowhere = explained(&fixture, &[lan, "2001:db8:bb:7::1", "--iif", "lan1"])?;
        assert_eq!(ends(&nowhere), [Some("refused"), None, None], "{nowhere:#}");
        assert_eq!(daemon.stop()?, 0);
        fixture.delete_own_rules()?;
        let leak = explained(&fixture, &[lan, to, "--iif", "lan1"])?;
        assert_eq!(
            ends(&leak),
            [Some("caught"), Some(UPLINK), Some("rule_missing")],
            "{leak:#}"
        );
        assert!(
            text(&leak, "sentence").contains("arrive by lan1"),
            "{leak:#}"
        );
        let long = explained(&fixture, &[lan, to, "--iif", "lan1", "--size", "1400"])?;
        assert_eq!(ends(&long)[0], Some("too_big"), "{long:#}");
    }
    Ok(())
}

#[test]
fn invalid_arguments_are_refused() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let (own, to) = ("2001:db8:a::2", "2001:db8:ffff::9");
    for (arguments, expected) in [
        (&["192.0.2.1", to][..], "IPv4"),
        (&[own, "nonsense"], "expected an IPv6 address"),
        (&[own, "ff02::1"], "not a group's"),
        (&["ff02::1", to], "not a group's"),
        (&[own, "fe80::1"], "needs its interface"),
        (&[own, "fe80::1%nosuch"], "no interface"),
        (&["fe80::1", to], "link-local"),
        (&["2001:db8:a::2%net0", to], "a zone does not belong here"),
        (&[own, to, "--uid", "no-such-user"], "no such user"),
        (&[own, to, "--oif", "nosuch"], "no interface"),
        (
            &[own, to, "--iif", "net0", "--uid", "1"],
            "cannot be used with",
        ),
        (&[own, to, "--size", "0"], "0 is not in"),
        (&[own, to, "--mark", "x"], "expected a number"),
        (&[own], "required"),
    ] {
        let mut all = vec!["explain"];
        all.extend(arguments);
        let printed = fixture.program.run(&all)?;
        assert_eq!(printed.code, 2, "{arguments:?}: {printed:#?}");
        assert!(
            printed.stderr.contains(expected),
            "{arguments:?}: {printed:#?}"
        );
        assert!(printed.stdout.is_empty(), "{printed:#?}");
    }
    let neighbour = explained(&fixture, &[own, "fe80::fe%net0"])?;
    assert_eq!(
        ends(&neighbour),
        [Some("leaves"), Some(UPLINK), None],
        "{neighbour:#}"
    );
    // Without a configuration the answer is only the kernel's routing decision.
    std::fs::remove_file(fixture.lab.paths().config())?;
    let native = explained(&fixture, &[own, to])?;
    assert_eq!(
        ends(&native),
        [Some("leaves"), Some(UPLINK), None],
        "{native:#}"
    );
    let printed = fixture.program.run(&["explain", own, to])?;
    let missing = format!("there is no {}", fixture.lab.paths().config().display());
    assert!(printed.stderr.contains(&missing), "{printed:#?}");
    fixture.lab.write_config("nonsense = 1\n")?;
    assert_eq!(fixture.program.run(&["explain", own, to])?.code, 2);
    Ok(())
}
