//! `sixxs check` tests from inside whether a ping would be answered, and names what drops it. Each cause is the real one.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::kernel;
use sixxs_tests::kernel::bpf::{self, Order};
use sixxs_tests::lab::topology::{Flavour, TUNNELS, UPLINK};
use sixxs_tests::lab::{Lab, Spec, nft};
use sixxs_tests::probe::service::{DISCARD_PORT, TCP_PORT, UDP_PORT};
use sixxs_tests::program::status::Leaks;
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::{shell, wait};

use crate::answer_echo::FIREWALL;
use crate::fixture::Fixture;

/// Limit until the daemon has noticed a change, and the check finds it.
const LIMIT: Duration = Duration::from_secs(10);

/// The tested tunnel and its address.
const NAME: &str = TUNNELS[0].interface;

fn address() -> String {
    TUNNELS[0].address.to_string()
}

/// The configuration of a lab without peers, so that `check` sends no pings of its own.
fn without_peers(lab: &Lab, extra: &str) -> String {
    let config = lab.config(extra);
    let lines = config.lines().filter(|line| !line.starts_with("peer"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// A lab with a daemon whose `check` sends nothing but tests.
fn started(flavour: Flavour, hook: Hook, extra: &str) -> Result<(Fixture, Daemon)> {
    let fixture = Fixture::new(flavour, hook)?;
    let config = without_peers(&fixture.lab, extra);
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    Ok((fixture, daemon))
}

/// The inside test of the first tunnel, as `check` reports it.
fn test(fixture: &Fixture) -> Result<Value> {
    let (_, mut values) = fixture.program.json(&["check", NAME])?;
    let report = values.pop().context("a report")?;
    let checks = report["checks"].as_array().context("checks")?;
    let mut inside = checks.iter().filter(|check| check["check"] == "inside");
    let found = inside
        .next()
        .with_context(|| format!("no inside test: {report:#}"))?;
    ensure!(inside.next().is_none(), "two addresses: {report:#}");
    ensure!(found["pass"] == found["inside"]["pass"], "{found:#}");
    Ok(found["inside"].clone())
}

/// Waits until the address answers by its tunnel.
fn answers(fixture: &Fixture) -> Result<Value> {
    wait::until(
        "it answers",
        LIMIT,
        || test(fixture),
        |test| test["pass"] == true && test["interface"] == NAME,
    )
}

/// Waits until there is no answer for this cause, with these words in the sentence.
fn fails(fixture: &Fixture, cause: &str, words: &str) -> Result<Value> {
    let is_it = |test: &Value| {
        let sentence = test["sentence"].as_str().unwrap_or_default();
        test["pass"] == false && test["cause"] == cause && sentence.contains(words)
    };
    let failed = wait::until(cause, LIMIT, || test(fixture), is_it)?;
    ensure!(
        failed["interface"].is_null() && failed["cure"].is_string(),
        "{failed:#}"
    );
    Ok(failed)
}

/// Breaks something by a command, expects the cause, mends it, and expects an answer again.
fn breaks(fixture: &Fixture, command: &str, cause: &str, words: &str, mend: &str) -> Result<Value> {
    answers(fixture)?;
    fixture.host().sh(command)?;
    let failed = fails(fixture, cause, words)?;
    for line in mend.lines() {
        fixture.host().sh(line)?;
    }
    answers(fixture)?;
    Ok(failed)
}

/// The value without ages, which change by themselves.
fn without_ages(value: &Value) -> Value {
    let Some(fields) = value.as_object() else {
        return value.clone();
    };
    let lasting = fields.iter().filter(|(key, _)| !key.contains("seconds"));
    Value::Object(
        lasting
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    )
}

variants!(answers_are_seen_and_counted_nowhere:
    tun(Tun, Auto), veth(Veth, Auto), tun_clsact(Tun, Clsact), wireguard(WireGuard, Auto));

fn answers_are_seen_and_counted_nowhere(flavour: Flavour, hook: Hook) -> Result<()> {
    let (fixture, daemon) = started(flavour, hook, "")?;
    let [first, _] = fixture.lab.tunnels();
    let counted = || -> Result<Value> {
        let (_, mut values) = fixture.program.json(&["status"])?;
        let status = values.pop().context("a status")?;
        let tunnel = status["tunnels"][0].clone();
        ensure!(tunnel["name"] == NAME, "{tunnel:#}");
        let keys = ["echo", "proof", "leaks", "strays", "loops", "recursions"];
        Ok(Value::from(
            keys.map(|key| without_ages(&tunnel[key])).to_vec(),
        ))
    };
    let packets = || -> Result<u64> { Ok(fixture.program.status()?.tunnel(NAME).packets.into) };
    let reached = || -> Result<u64> { first.broker_counters()?.get("replies_from_host") };
    let (before, packets_before, reached_before) = (counted()?, packets()?, reached()?);
    let tests = 30;
    for _ in 0..tests {
        let answered = answers(&fixture)?;
        ensure!(answered["address"] == address(), "{answered:#}");
        ensure!(answered["source"] == "3fff:fff::1", "{answered:#}");
        ensure!(answered["redirected"] == false, "{answered:#}");
        let took = answered["milliseconds"].as_f64().context("a time")?;
        ensure!(took > 0.0 && took < 300.0, "{answered:#}");
    }
    ensure!(counted()? == before, "{before:#}\n{:#}", counted()?);
    // Some flavours have packets of their own, such as listener reports.
    ensure!(
        packets()? < packets_before + tests,
        "the requests were counted"
    );
    ensure!(reached()? == reached_before, "the replies were sent");
    let printed = fixture.program.run(&["check", NAME])?;
    ensure!(printed.code == 0, "{printed:#?}");
    let expected = format!(
        "{} answers a ping from 3fff:fff::1: leaves by {NAME} after ",
        address()
    );
    let is_it = |line: &str| {
        line.starts_with("pass  sixxs0          inside   ") && line.contains(&expected)
    };
    ensure!(printed.stdout.lines().any(is_it), "{printed:#?}");
    // Real pings are counted as before.
    fixture.ensure_outside_answered(first)?;
    let proof = fixture.program.status()?.tunnel(NAME).proof;
    ensure!((proof.requests, proof.answered) == (20, 20), "{proof:?}");
    fixture.ensure_nothing_lost()?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// Each address is tested, from the source that the configuration names.
#[test]
fn addresses_and_sources_are_those_of_the_configuration() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let more = format!("{}/64", TUNNELS[0].address);
    let config = without_peers(&fixture.lab, "");
    let two = config.replace(
        &format!("address = \"{more}\""),
        &format!("address = [\"{more}\", \"2001:db8:a::3\"]\ncheck_source = \"2001:db8:ffff::77\""),
    );
    ensure!(two != config, "{config}");
    fixture.lab.write_config(&two)?;
    fixture.program.run_ok(&["reload"])?;
    let (_, values) = fixture.program.json(&["check", NAME])?;
    let checks = values.first().context("a report")?["checks"].clone();
    let inside = checks.as_array().into_iter().flatten();
    let inside: Vec<_> = inside.filter(|check| check["check"] == "inside").collect();
    ensure!(inside.len() == 2, "{checks:#}");
    let [first, second] = [0, 1].map(|at: usize| &inside[at]["inside"]);
    ensure!(
        first["source"] == "2001:db8:ffff::77" && first["pass"] == true,
        "{first:#}"
    );
    // No interface has the second one.
    ensure!(
        second["cause"] == "no_address" && second["pass"] == false,
        "{second:#}"
    );
    Ok(())
}

/// A foreign rule leads the answer to the uplink, where the program redirects, drops or passes it.
#[test]
fn an_answer_that_leaves_elsewhere_is_followed() -> Result<()> {
    for (on_leak, pass, words) in [
        (
            "redirect",
            true,
            "the program there redirects it into sixxs0",
        ),
        ("drop", false, "drops it (on_leak)"),
        ("observe", false, "lets it pass (on_leak)"),
    ] {
        let (fixture, daemon) = started(
            Flavour::Tun,
            Hook::Auto,
            &format!("on_leak = \"{on_leak}\"\n"),
        )?;
        answers(&fixture)?;
        let rule = format!("from {} lookup main priority 100", address());
        fixture.host().sh(&format!("ip -6 rule add {rule}"))?;
        let led = wait::until(
            "it leaves elsewhere",
            LIMIT,
            || test(&fixture),
            |test| test["interface"] == UPLINK,
        )?;
        ensure!(
            led["pass"] == pass && led["redirected"] == pass,
            "{on_leak}: {led:#}"
        );
        let sentence = led["sentence"].as_str().unwrap_or_default();
        ensure!(sentence.contains(words), "{on_leak}: {led:#}");
        // Nothing of it is a leak, and nothing was sent.
        let leaks = fixture.program.status()?.tunnel(NAME).leaks;
        ensure!(leaks == Leaks::default(), "{on_leak}: {leaks:?}");
        fixture.ensure_nothing_lost()?;
        fixture.host().sh(&format!("ip -6 rule del {rule}"))?;
        answers(&fixture)?;
        ensure!(daemon.stop()? == 0);
    }
    Ok(())
}

/// It leaves by an interface where no program is attached.
#[test]
fn an_answer_that_escapes_is_seen() -> Result<()> {
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let config = without_peers(&fixture.lab, "");
    let elsewhere = config.replace(
        &format!("uplinks = [\"{UPLINK}\"]"),
        "uplinks = [\"elsewhere0\"]",
    );
    ensure!(elsewhere != config, "{config}");
    fixture.lab.write_config(&elsewhere)?;
    ensure!(daemon.stop()? == 0);
    let _daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let rule = format!("from {} lookup main priority 100", address());
    let words = format!("leaves by {UPLINK}, where no program sees it");
    breaks(
        &fixture,
        &format!("ip -6 rule add {rule}"),
        "leaves_elsewhere",
        &words,
        &format!("ip -6 rule del {rule}"),
    )?;
    Ok(())
}

#[test]
fn settings_of_the_host_are_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let address = address();
    let failed = breaks(
        &fixture,
        "sysctl -qw net.ipv6.icmp.echo_ignore_all=1",
        "echo_ignored",
        "the host ignores all pings",
        "sysctl -qw net.ipv6.icmp.echo_ignore_all=0",
    )?;
    ensure!(failed["reason"] == "NOT_SPECIFIED", "{failed:#}");
    // Older kernels print numbers.
    let location = &failed["location"];
    ensure!(location.is_null() || location == "icmpv6_rcv", "{failed:#}");
    ensure!(
        failed["cure"] == "sysctl -w net.ipv6.icmp.echo_ignore_all=0",
        "{failed:#}"
    );

    let assign = format!("ip -6 address add {address}/64 dev {NAME} nodad");
    breaks(
        &fixture,
        &format!("ip -6 address del {address}/64 dev {NAME}"),
        "no_address",
        &format!("no interface has {address}"),
        &assign,
    )?;

    let failed = breaks(
        &fixture,
        &format!("sysctl -qw net.ipv6.conf.{NAME}.disable_ipv6=1"),
        "ipv6_disabled",
        "IPv6 is switched off on sixxs0",
        &format!("sysctl -qw net.ipv6.conf.{NAME}.disable_ipv6=0\n{assign}"),
    )?;
    ensure!(failed["reason"] == "IPV6DISABLED", "{failed:#}");

    let rule = format!("from {address} unreachable priority 100");
    breaks(
        &fixture,
        &format!("ip -6 rule add {rule}"),
        "no_route",
        "the answer has no route",
        &format!("ip -6 rule del {rule}"),
    )?;
    Ok(())
}

/// The kernel lets some replies pass, until the limit for their destination is used up.
#[test]
fn a_rate_limit_is_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    answers(&fixture)?;
    fixture.host().sh("sysctl -qw net.ipv6.icmp.ratemask=129")?;
    fixture
        .host()
        .sh("sysctl -qw net.ipv6.icmp.ratelimit=1000000")?;
    let failed = fails(&fixture, "rate_limit", "limits the rate")?;
    let cure = failed["cure"].as_str().context("a cure")?;
    fixture.host().sh(cure)?;
    answers(&fixture)?;
    Ok(())
}

#[test]
fn packet_filters_are_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    answers(&fixture)?;
    nft::load(fixture.host(), FIREWALL)?;
    let failed = fails(
        &fixture,
        "packet_filter_in",
        "a packet filter drops the request (chain ip6 firewall in at input)",
    )?;
    ensure!(failed["reason"] == "NETFILTER_DROP", "{failed:#}");
    fixture.host().sh("nft delete table ip6 firewall")?;
    answers(&fixture)?;
    nft::load(
        fixture.host(),
        "table inet other { chain out { type filter hook output priority 0; icmpv6 type echo-reply drop; }; }",
    )?;
    let failed = fails(
        &fixture,
        "packet_filter_out",
        "a packet filter drops the answer (chain inet other out at output)",
    )?;
    ensure!(failed["reason"] == "NETFILTER_DROP", "{failed:#}");
    let printed = fixture.program.run(&["check", NAME])?;
    ensure!(printed.code == 3, "{printed:#?}");
    let is_it = |line: &str| {
        line.starts_with("FAIL  sixxs0          inside   ") && line.contains("NETFILTER_DROP")
    };
    ensure!(printed.stdout.lines().any(is_it), "{printed:#?}");
    fixture.host().sh("nft delete table inet other")?;
    answers(&fixture)?;
    Ok(())
}

/// The filter finds the route back while the rules are in place.
#[test]
fn a_reverse_path_filter_is_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    nft::load(
        fixture.host(),
        "table ip6 reverse { chain pre { type filter hook prerouting priority -300; fib saddr . iif oif missing drop; }; }",
    )?;
    let rule = format!("from {} lookup main priority 100", address());
    breaks(
        &fixture,
        &format!("ip -6 rule add {rule}"),
        "packet_filter_in",
        "reverse-path filter ip6 reverse pre, handle ",
        &format!("ip -6 rule del {rule}"),
    )?;
    Ok(())
}

#[test]
fn an_ipsec_policy_is_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let has = fixture.host().sh("ip xfrm policy list").is_ok();
    if !kernel::can_run("xfrm", has)? {
        return Ok(());
    }
    let policy = format!("dir in src ::/0 dst {}/128", address());
    let failed = breaks(
        &fixture,
        &format!("ip xfrm policy add {policy} action block"),
        "ipsec_policy",
        "an IPsec policy",
        &format!("ip xfrm policy delete {policy}"),
    )?;
    ensure!(failed["reason"] == "XFRM_POLICY", "{failed:#}");
    Ok(())
}

/// Programs of other software before ours, and behind ours where packets arrive.
#[test]
fn foreign_programs_are_named() -> Result<()> {
    if !kernel::can_run("tcx", kernel::has_tcx()?)? {
        return Ok(());
    }
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Tcx, "")?;
    let program = bpf::load_dropping()?;
    for (ingress, order, reason, words) in [
        (
            true,
            Order::First,
            "TC_INGRESS",
            "at the ingress of sixxs0 drops the request",
        ),
        (
            true,
            Order::Last,
            "TC_INGRESS",
            "at the ingress of sixxs0 drops the request",
        ),
        (
            false,
            Order::First,
            "TC_EGRESS",
            "at an egress drops the answer",
        ),
    ] {
        answers(&fixture)?;
        let link = bpf::attach(fixture.host(), &program, NAME, ingress, order)?;
        let failed = fails(&fixture, "foreign_program", words)?;
        ensure!(failed["reason"] == reason, "{failed:#}");
        let sentence = failed["sentence"].as_str().unwrap_or_default();
        ensure!(sentence.contains(" by tcx)"), "{failed:#}");
        drop(link);
    }
    answers(&fixture)?;
    let link = bpf::attach_dropping_generic_xdp(fixture.host(), NAME)?;
    fails(
        &fixture,
        "foreign_xdp",
        "an XDP program of other software on sixxs0",
    )?;
    drop(link);
    answers(&fixture)?;
    Ok(())
}

#[test]
fn a_foreign_filter_is_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Clsact, "")?;
    let pin = fixture.lab.paths().pins().join("foreign");
    bpf::pin(&pin, &bpf::load_dropping()?)?;
    let filter = format!("dev {NAME} ingress pref 200");
    let failed = breaks(
        &fixture,
        &format!(
            "tc filter add {filter} bpf direct-action object-pinned {}",
            pin.display()
        ),
        "foreign_program",
        "(bpf 200 by clsact) at the ingress of sixxs0",
        &format!("tc filter del {filter}"),
    )?;
    ensure!(failed["reason"] == "TC_INGRESS", "{failed:#}");
    Ok(())
}

/// With `answer_echo = "kernel"` the programs answer, also behind a firewall.
#[test]
fn answers_of_the_programs_are_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "answer_echo = \"kernel\"\n")?;
    nft::load(fixture.host(), FIREWALL)?;
    let answered = answers(&fixture)?;
    ensure!(answered["by_programs"] == true, "{answered:#}");
    let sentence = answered["sentence"].as_str().unwrap_or_default();
    ensure!(sentence.ends_with("; the programs answer"), "{answered:#}");
    let (_, values) = fixture.program.json(&["status"])?;
    let echo = &values.first().context("a status")?["tunnels"][0]["echo"];
    ensure!(echo["answered_by_programs"] == 0, "{echo:#}");
    Ok(())
}

/// The test of a port, by its protocol and number.
fn port(fixture: &Fixture, protocol: &str, number: u16) -> Result<Value> {
    let (option, number) = (format!("--{protocol}"), number.to_string());
    let (_, mut values) = fixture.program.json(&["check", NAME, &option, &number])?;
    let report = values.pop().context("a report")?;
    let checks = report["checks"].as_array().context("checks")?;
    let mut inside = checks.iter().map(|check| &check["inside"]);
    let found = inside.find(|inside| inside["protocol"] == protocol);
    found
        .cloned()
        .with_context(|| format!("no test: {report:#}"))
}

variants!(ports_are_tested: tun_ports(Tun, Auto), veth_ports(Veth, Auto), tun_clsact_ports(Tun, Clsact));

fn ports_are_tested(flavour: Flavour, hook: Hook) -> Result<()> {
    const CLOSED: u16 = 4443;
    let (fixture, daemon) = started(flavour, hook, "")?;
    answers(&fixture)?;
    let [first, _] = fixture.lab.tunnels();
    let reached = || -> Result<u64> { first.broker_counters()?.get("from_host") };
    let before = (fixture.program.status()?.tunnel(NAME).packets, reached()?);
    for (protocol, number, pass, words) in [
        (
            "tcp",
            TCP_PORT,
            true,
            "accepts TCP port 7007 from 3fff:fff::1: leaves by sixxs0",
        ),
        (
            "tcp",
            CLOSED,
            false,
            "refuses TCP port 4443 from 3fff:fff::1: leaves by sixxs0",
        ),
        (
            "udp",
            UDP_PORT,
            true,
            "answers at UDP port 7 from 3fff:fff::1: leaves by sixxs0",
        ),
        (
            "udp",
            CLOSED,
            false,
            "refuses UDP port 4443 from 3fff:fff::1: leaves by sixxs0",
        ),
        (
            "udp",
            DISCARD_PORT,
            true,
            "takes UDP port 9 from 3fff:fff::1, and sends no answer",
        ),
    ] {
        for _ in 0..5 {
            let tested = port(&fixture, protocol, number)?;
            let sentence = tested["sentence"].as_str().unwrap_or_default();
            ensure!(
                tested["pass"] == pass && sentence.contains(words),
                "{tested:#}"
            );
            ensure!(tested["port"] == number, "{tested:#}");
        }
    }
    // No connection is left half open, and nothing was sent or counted.
    let half_open = fixture.host().sh("ss -6Htan state syn-recv")?;
    ensure!(half_open.is_empty(), "{half_open}");
    let after = (fixture.program.status()?.tunnel(NAME).packets, reached()?);
    // Some flavours have packets of their own, such as listener reports.
    let more = (
        after.0.into - before.0.into,
        after.0.out - before.0.out,
        after.1 - before.1,
    );
    ensure!(more.0 < 25 && more.1 < 25 && more.2 < 25, "{more:?}");
    // Real connections work as before.
    fixture.ensure_outside_answered(first)?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// A filter for a port is named, and the ping is answered.
#[test]
fn a_filter_for_a_port_is_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let rules = format!("tcp dport {TCP_PORT} drop; udp dport {UDP_PORT} drop;");
    nft::load(
        fixture.host(),
        &format!(
            "table inet ports {{ chain in {{ type filter hook input priority 0; {rules} }}; }}"
        ),
    )?;
    for (protocol, number) in [("tcp", TCP_PORT), ("udp", UDP_PORT)] {
        let tested = port(&fixture, protocol, number)?;
        ensure!(
            tested["pass"] == false && tested["cause"] == "packet_filter",
            "{tested:#}"
        );
        let sentence = tested["sentence"].as_str().unwrap_or_default();
        ensure!(
            sentence.contains("chain inet ports in at input"),
            "{tested:#}"
        );
    }
    answers(&fixture)?;
    Ok(())
}

/// Several checks at once do not disturb each other.
#[test]
fn checks_at_the_same_time_pass() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Veth, Hook::Auto, "")?;
    answers(&fixture)?;
    std::thread::scope(|scope| {
        let checks: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| fixture.program.run(&["check"])))
            .collect();
        for check in checks {
            let printed = check.join().expect("a check does not panic")?;
            ensure!(printed.code == 0, "{printed:#?}");
            ensure!(
                printed.stdout.matches(" inside ").count() == 2,
                "{printed:#?}"
            );
        }
        Ok(())
    })
}

/// Only root may send packets as other hosts.
#[test]
fn others_do_not_test() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::new(Flavour::Tun), Hook::Auto, "")?;
    let run = fixture.program.command(&["--group", "daemon", "run"]);
    let _daemon = fixture.program.start_as(run)?;
    let copy = fixture.lab.paths().base().join("sixxs");
    fixture.program.copy_to(&copy)?;
    let mut member = Command::new("setpriv");
    member.args(["--reuid=65534", "--regid=daemon", "--clear-groups"]);
    member.arg(&copy).args(["check", NAME]);
    fixture.program.apply_environment(&mut member);
    let printed = sixxs_tests::program::finish(&mut member)?;
    ensure!(
        printed.stdout.contains("inside   not tried: only root"),
        "{printed:#?}"
    );
    Ok(())
}

/// Runs a script in a mount namespace with tracefs.
fn with_tracefs(script: &str) -> Result<String> {
    let script = format!("mount -t tracefs tracefs /sys/kernel/tracing\n{script}");
    shell::capture(Command::new("unshare").args(["--mount", "sh", "-ec", &script]))
}

/// A killed daemon leaves the instance of its trace behind. The next trace removes it, and leaves none.
#[test]
fn no_trace_is_left() -> Result<()> {
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let left = format!("sixxs-check-left-{}", std::process::id());
    let instances = "/sys/kernel/tracing/instances";
    with_tracefs(&format!("mkdir {instances}/{left}"))?;
    nft::load(fixture.host(), FIREWALL)?;
    fails(&fixture, "packet_filter_in", "")?;
    let found = with_tracefs(&format!("ls {instances}"))?;
    ensure!(!found.contains(&left), "{found}");
    // Other tests may trace at the same time; the threads of this daemon do not.
    for thread in std::fs::read_dir(format!("/proc/{}/task", daemon.pid()?))? {
        let own = format!("sixxs-check-{}", thread?.file_name().display());
        ensure!(found.lines().all(|name| name != own), "{found}");
    }
    ensure!(daemon.stop()? == 0);
    Ok(())
}
