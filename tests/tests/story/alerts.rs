//! Leak alerts are merged by flow: a flood gives one line per second with a count.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

variants!(a_flood_of_leaks_causes_few_alerts: tun(Tun, Auto), tun_clsact(Tun, Clsact));

fn a_flood_of_leaks_causes_few_alerts(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    let [tunnel, _] = fixture.lab.tunnels();
    let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, Cause::Device(UPLINK))?;
    let started = Instant::now();
    let mut packets = 0;
    while started.elapsed() < Duration::from_millis(2500) {
        leak::send(&socket, OUTSIDE, 20, 100)?;
        packets += 20;
        std::thread::sleep(Duration::from_millis(1));
    }
    let leaks = fixture
        .program
        .status()?
        .tunnel(tunnel.plan.interface)
        .leaks;
    assert_eq!(leaks.redirected, packets);
    // Each packet is counted in a line after some time.
    let told = wait::until(
        "every leaked packet is told",
        Duration::from_secs(10),
        || leak_alerts(&fixture),
        |alerts| sum(alerts) >= packets,
    )?;
    assert_eq!(sum(&told), packets);
    assert!(
        (2..=5).contains(&told.len()),
        "{} lines: {told:#?}",
        told.len()
    );
    let port = socket
        .local_addr()?
        .as_socket_ipv6()
        .context("an IPv6 address")?
        .port();
    for alert in &told {
        assert_eq!(alert["tunnel"], tunnel.plan.interface);
        assert_eq!(alert["interface"], UPLINK);
        assert_eq!(alert["source"], tunnel.plan.address.to_string());
        assert_eq!(alert["destination"], OUTSIDE.to_string());
        assert_eq!(alert["treatment"], "redirected", "{alert:#}");
        assert!(
            alert["protocol"].to_string().to_lowercase().contains("udp"),
            "{alert:#}"
        );
        let ports = alert["ports"].to_string();
        assert!(
            ports.contains(&port.to_string()) && ports.contains('9'),
            "{alert:#}"
        );
        let time = alert["time"].as_str().context("a time")?;
        assert!(
            time.len() >= 20 && time.contains('T') && time.ends_with('Z'),
            "{alert:#}"
        );
    }
    // The log has them too, as few as the alerts.
    let log = daemon.log();
    let lines = log
        .lines()
        .filter(|line| line.contains(&OUTSIDE.to_string()))
        .count();
    assert!((1..=5).contains(&lines), "{log}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

fn leak_alerts(fixture: &Fixture) -> Result<Vec<Value>> {
    let (code, alerts) = fixture.program.json(&["alerts"])?;
    assert_eq!(code, 0);
    Ok(alerts
        .into_iter()
        .filter(|alert| alert["kind"] == "leak")
        .collect())
}

fn sum(alerts: &[Value]) -> u64 {
    alerts
        .iter()
        .filter_map(|alert| alert["packets"].as_u64())
        .sum()
}

#[test]
fn corrections_and_tunnels_are_reported() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let kinds = |wanted: &'static str| {
        wait::until(
            "an alert of this kind",
            Duration::from_secs(5),
            || Ok(fixture.program.json(&["alerts"])?.1),
            move |alerts: &Vec<Value>| alerts.iter().any(|alert| alert["kind"] == wanted),
        )
    };
    fixture.delete_own_rules()?;
    kinds("correction")?;
    fixture.lab.tunnels()[0].delete()?;
    kinds("tunnel")?;
    let printed = fixture.program.run_ok(&["alerts"])?;
    assert!(printed.stdout.lines().count() >= 2, "{printed:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// With `--program-log` the kernel programs log each leak, otherwise nothing.
#[test]
fn program_log_prints_each_leak() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let [tunnel, _] = fixture.lab.tunnels();
    for (arguments, says) in [(&["run", "--program-log"][..], true), (&["run"], false)] {
        let daemon = fixture
            .program
            .start_as(fixture.program.command(arguments))?;
        let cause = Cause::Device(UPLINK);
        let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, cause)?;
        leak::send(&socket, OUTSIDE, 3, 100)?;
        let said = |log: &str| log.matches("leak from slot").count();
        let expected = if says { 3 } else { 0 };
        let log = wait::until(
            "the leaks are told",
            Duration::from_secs(10),
            || Ok(daemon.log()),
            |log| log.contains("leaked to net0") && said(log) >= expected,
        )?;
        assert_eq!(said(&log), expected, "{log}");
        assert_eq!(daemon.stop()?, 0);
    }
    Ok(())
}

/// A foreign rule before the daemon's rules is named, and stays.
#[test]
fn a_rule_before_ours_is_named() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let [first, _] = fixture.lab.tunnels();
    let address = first.plan.address;
    // A foreign rule that leads no tunnel packets elsewhere is not reported.
    fixture
        .host()
        .sh("ip -6 rule add from 2001:db8:77::/48 lookup main priority 90")?;
    fixture.host().sh(&format!(
        "ip -6 rule add from {address} lookup main priority 100"
    ))?;
    let reasons = || {
        Ok(fixture
            .program
            .status()?
            .tunnel("sixxs0")
            .health_reasons
            .clone())
    };
    let found = wait::until(
        "the rule is named",
        Duration::from_secs(5),
        reasons,
        |reasons| !reasons.is_empty(),
    )?;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("(priority 100)"), "{found:?}");
    // The programs redirect the packets that the rule leads elsewhere.
    fixture.ensure_outside_answered(first)?;
    fixture.ensure_nothing_lost()?;
    assert!(
        fixture.host().sh("ip -6 rule show")?.contains("100:"),
        "it is theirs"
    );
    fixture.host().sh("ip -6 rule del priority 100")?;
    wait::until(
        "it is over",
        Duration::from_secs(15),
        reasons,
        Vec::is_empty,
    )?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
