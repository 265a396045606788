//! Hosts behind this one are tested through its forwarding, and answers are let go to the peer.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::{Flavour, LAN1, TUNNELS};
use sixxs_tests::probe::service::{Services, TCP_PORT};
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::wait;

use super::{LIMIT, NAME, address, answers, started, without_peers};
use crate::fixture::Fixture;

/// The tunnel that the LANs are behind.
const ROUTED: &str = TUNNELS[1].interface;

/// An address in the LAN that no host has.
const NOBODY: &str = "2001:db8:bb:1::77";

/// A lab with LANs, and addresses in them to test.
fn with_lans(flavour: Flavour, hook: Hook, extra: &str) -> Result<(Fixture, Daemon)> {
    let spec = Spec {
        lans: true,
        ..Spec::new(flavour)
    };
    let fixture = Fixture::with_spec(spec, hook, extra)?;
    let config = without_peers(&fixture.lab, extra);
    let prefixes = "prefixes = ";
    ensure!(config.matches(prefixes).count() == 1, "{config}");
    let config = config.replace(
        prefixes,
        &format!("check_address = [\"{LAN1}\", \"{NOBODY}\"]\n{prefixes}"),
    );
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    Ok((fixture, daemon))
}

/// The tests of an address by these arguments.
fn tests(fixture: &Fixture, tunnel: &str, options: &[&str], address: &str) -> Result<Vec<Value>> {
    let all = [&["check", tunnel], options].concat();
    let (_, mut values) = fixture.program.json(&all)?;
    let report = values.pop().context("a report")?;
    let checks = report["checks"].as_array().context("checks")?;
    let inside = checks.iter().map(|check| check["inside"].clone());
    let found: Vec<_> = inside
        .filter(|inside| inside["address"] == address)
        .collect();
    ensure!(!found.is_empty(), "{report:#}");
    Ok(found)
}

/// Waits until the test of an address ends like this. Addresses behind the host are none of its own.
fn ends(
    fixture: &Fixture,
    when: &str,
    address: &str,
    is_it: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let test = || -> Result<Value> { Ok(tests(fixture, ROUTED, &[], address)?.swap_remove(0)) };
    let found = wait::until(when, LIMIT, test, is_it)?;
    ensure!(found["behind"] == true, "{found:#}");
    Ok(found)
}

variants!(hosts_behind_are_tested: tun_behind(Tun, Auto), veth_behind(Veth, Auto), tun_clsact_behind(Tun, Clsact));

fn hosts_behind_are_tested(flavour: Flavour, hook: Hook) -> Result<()> {
    let (fixture, daemon) = with_lans(flavour, hook, "inside_test_minutes = 0\n")?;
    let [lan1, _] = fixture.lab.lans()?;
    let _services = Services::start(lan1, &[LAN1])?;
    let host = fixture.host();
    let lan = LAN1.to_string();
    let passes = |test: &Value| test["pass"] == true && test["interface"] == ROUTED;
    let fails_for = |cause: &str| {
        let cause = cause.to_owned();
        move |test: &Value| test["pass"] == false && test["cause"] == cause.as_str()
    };
    let passed = ends(&fixture, "the host behind answers", &lan, passes)?;
    let sentence = passed["sentence"].as_str().unwrap_or_default();
    ensure!(
        sentence.starts_with(&format!(
            "{lan} answers a ping from 3fff:fff::1: leaves by {ROUTED}"
        )),
        "{passed:#}"
    );
    let both = tests(&fixture, ROUTED, &["--tcp", &TCP_PORT.to_string()], &lan)?;
    ensure!(both.len() == 2 && both.iter().all(passes), "{both:#?}");
    let silent = ends(&fixture, "nobody answers", NOBODY, fails_for("host_silent"))?;
    let cure = silent["cure"].as_str().unwrap_or_default();
    ensure!(
        cure.contains(&format!("ip -6 neigh show to {NOBODY} dev ")),
        "{silent:#}"
    );

    // A host that is off shows nothing about the tunnel: the daemon by itself does not test it.
    let (_, values) = fixture.program.json(&["status"])?;
    let status = values.first().context("a status")?;
    let routed = &status["tunnels"][1];
    ensure!(
        routed["name"] == ROUTED && routed["health"] != "failing",
        "{routed:#}"
    );

    host.sh("sysctl -qw net.ipv6.conf.all.forwarding=0")?;
    ends(
        &fixture,
        "the host does not forward",
        &lan,
        fails_for("not_forwarded"),
    )?;
    host.sh("sysctl -qw net.ipv6.conf.all.forwarding=1")?;
    ends(&fixture, "it forwards again", &lan, passes)?;
    host.sh("ip -6 rule add to 2001:db8:bb:1::/64 unreachable priority 1")?;
    ends(
        &fixture,
        "a rule refuses the request",
        &lan,
        fails_for("no_route_behind"),
    )?;
    host.sh("ip -6 rule del to 2001:db8:bb:1::/64 unreachable priority 1")?;
    ends(&fixture, "the rule is gone", &lan, passes)?;
    nft::load(
        host,
        "table inet f { chain c { type filter hook forward priority 0; icmpv6 type echo-request drop; }; }",
    )?;
    // On a slow machine, another process may drop the packet, so that the kernel's reason is not found. Traces are.
    let traced = tests(&fixture, ROUTED, &["--trace-filters"], &lan)?.swap_remove(0);
    let cause = traced["cause"].as_str().unwrap_or_default();
    ensure!(
        ["packet_filter", "host_silent"].contains(&cause),
        "{traced:#}"
    );
    let by = &traced["dropped_by"][0];
    ensure!(
        by["chain"] == "c" && by["rule"] == "icmpv6 type echo-request drop",
        "{traced:#}"
    );
    host.sh("nft delete table inet f")?;
    ends(&fixture, "the filter is gone", &lan, passes)?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

// The answer reaches the peer, and is counted nowhere. A queue that drops it is named.
variants!(answers_are_let_go: tun_let_go(Tun, Auto), veth_let_go(Veth, Auto), tun_clsact_let_go(Tun, Clsact));

fn answers_are_let_go(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let config = fixture.lab.config("inside_test_minutes = 0\n");
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    answers(&fixture)?;
    let [first, _] = fixture.lab.tunnels();
    let peer = TUNNELS[0].peer.to_string();
    let let_go = || -> Result<Value> {
        Ok(tests(&fixture, NAME, &["--let-go"], &address())?.swap_remove(0))
    };
    let reached = || -> Result<u64> { first.broker_counters()?.get("replies_from_host") };
    let echo = || -> Result<Value> {
        let (_, mut values) = fixture.program.json(&["status"])?;
        Ok(values.pop().context("a status")?["tunnels"][0]["proof"].take())
    };
    let (reached_before, echo_before) = (reached()?, echo()?);
    let sent = let_go()?;
    ensure!(sent["pass"] == true && sent["let_go"] == true, "{sent:#}");
    ensure!(
        sent["source"] == peer.as_str() && sent["interface"] == NAME,
        "{sent:#}"
    );
    ensure!(reached()? == reached_before + 1, "the reply did not arrive");
    ensure!(echo()? == echo_before, "{echo_before:#} {:#}", echo()?);

    fixture
        .host()
        .sh(&format!("tc qdisc replace dev {NAME} root bfifo limit 1"))?;
    let dropped = wait::until("the queue drops it", LIMIT, let_go, |test| {
        test["pass"] == false && test["cause"] == "queue"
    })?;
    let reason = dropped["reason"].as_str().unwrap_or_default();
    ensure!(reason.starts_with("QDISC_"), "{dropped:#}");
    // The answer that is not sent does not notice that.
    answers(&fixture)?;
    fixture
        .host()
        .sh(&format!("tc qdisc del dev {NAME} root"))?;
    ensure!(let_go()?["pass"] == true);
    ensure!(daemon.stop()? == 0);
    Ok(())
}

#[test]
fn nothing_is_let_go_without_a_peer() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let refused = tests(&fixture, NAME, &["--let-go"], &address())?.swap_remove(0);
    ensure!(
        refused["pass"] == false && refused["cause"] == "not_tested",
        "{refused:#}"
    );
    let sentence = refused["sentence"].as_str().unwrap_or_default();
    ensure!(sentence.contains("set peer"), "{refused:#}");
    Ok(())
}
