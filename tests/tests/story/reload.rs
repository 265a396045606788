//! The running daemon loads a changed configuration. Only changed parts are touched, an invalid file
//! changes nothing, and an unconfirmed one is rolled back.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::probe::PingStream;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

fn config(fixture: &Fixture) -> Result<String> {
    Ok(fs::read_to_string(fixture.lab.paths().config())?)
}

/// Waits until the rules match.
fn rules_until(fixture: &Fixture, what: &str, good: impl Fn(&str) -> bool) -> Result<()> {
    let rules = || fixture.own_rules();
    wait::until(what, Duration::from_secs(5), rules, |rules| good(rules))?;
    Ok(())
}

#[test]
fn only_what_changed_is_touched() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let [first, second] = fixture.lab.tunnels();
    let before = fixture.own_rules()?;
    let pings = PingStream::start(
        fixture.lab.outside(),
        first.plan.address,
        Duration::from_millis(5),
    )?;
    let good = config(&fixture)?;

    // Another table and one more prefix for the second tunnel.
    let changed = format!("{good}\nprefixes = [\"2001:db8:bb::/48\"]\ntable = 300\n");
    fixture.lab.write_config(&changed)?;
    fixture.program.run_ok(&["reload"])?;
    let rules = fixture.own_rules()?;
    let of_first = |rules: &str| -> Vec<String> {
        // The first tunnel has one more rule: for packets to the new prefix, without a tunnel.
        let own = format!("from {} lookup", first.plan.address);
        let lines = rules.lines().filter(|line| line.contains(&own));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(of_first(&before), of_first(&rules));
    assert!(
        rules.contains("from 2001:db8:bb::/48 lookup 300"),
        "{rules}"
    );
    assert!(!rules.contains("lookup 201"), "{rules}");
    fixture.ensure_outside_answered(second)?;

    // A changed setting does not count as a correction.
    let (to_its_mtu, of_second) = changed.rsplit_once("mtu = ").context("no mtu")?;
    let (_, after_it) = of_second.split_once('\n').context("no line")?;
    fixture
        .lab
        .write_config(&format!("{to_its_mtu}{after_it}"))?;
    fixture.program.run_ok(&["reload"])?;
    let routes = fixture.lab.host().sh("ip -6 route show table 300")?;
    assert!(!routes.contains("mtu"), "{routes}");
    assert_eq!(fixture.program.status()?.corrections, 0);

    // Without the second tunnel.
    let (only_first, _) = good.rsplit_once("[[tunnel]]").unwrap_or_default();
    fixture.lab.write_config(only_first)?;
    fixture.program.run_ok(&["reload"])?;
    let to_tables = |rules: &str| rules.matches(" lookup 20").count();
    let of_first = of_first(&before).join("\n");
    assert_eq!(to_tables(&of_first), to_tables(&fixture.own_rules()?));
    let status = fixture.program.status()?;
    assert_eq!(status.tunnels.len(), 1);
    let refused = fixture.program.run(&["stop", second.plan.interface])?;
    assert_eq!(refused.code, 1, "{refused:#?}");

    // With the second tunnel again, by a signal.
    fixture.lab.write_config(&good)?;
    daemon.signal(Signal::SIGHUP)?;
    rules_until(&fixture, "the rules of the start are back", |rules| {
        rules == before
    })?;
    fixture.ensure_outside_answered(second)?;

    // A wrong file.
    fixture
        .lab
        .write_config(&good.replace("uplinks", "uplink"))?;
    let refused = fixture.program.run(&["reload"])?;
    assert_eq!(refused.code, 1, "{refused:#?}");
    assert!(refused.stderr.contains("line 1: uplink"), "{refused:#?}");
    assert_eq!(fixture.own_rules()?, before);

    let pings = pings.stop()?;
    ensure!(pings.all_answered(), "{pings:?}");
    let status = fixture.program.status()?;
    assert_eq!(status.corrections, 0);
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn what_nobody_confirms_is_given_up_again() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    let before = fixture.own_rules()?;
    let good = config(&fixture)?;
    let moved = |rules: &str| rules.contains("lookup 300");

    fixture
        .lab
        .write_config(&format!("{good}\ntable = 300\n"))?;
    fixture.program.run_ok(&["reload", "--confirm", "1"])?;
    ensure!(moved(&fixture.own_rules()?), "the table is the new one");
    rules_until(&fixture, "the configuration before is back", |rules| {
        rules == before
    })?;
    let late = fixture.program.run(&["confirm"])?;
    assert_eq!(late.code, 1, "{late:#?}");

    let printed = fixture.program.run_ok(&["reload", "--confirm", "60"])?;
    ensure!(
        printed.stdout.contains("in force; in 60 s") && printed.stdout.contains("`sixxs confirm`"),
        "{printed:#?}"
    );
    fixture.program.run_ok(&["confirm"])?;
    ensure!(moved(&fixture.own_rules()?), "the table is the new one");
    Ok(())
}

#[test]
fn a_native_tunnel_that_did_not_change_continues() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::Heartbeat]), Hook::Auto, "")?;
    let _daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let [first, second] = fixture.lab.tunnels().each_ref().map(|t| t.plan.interface);
    let indices = || -> Result<_> {
        let status = fixture.program.status()?;
        Ok([first, second].map(|name| status.tunnel(name).ifindex))
    };
    let before = indices()?;
    let good = config(&fixture)?;
    fixture
        .lab
        .write_config(&(good + "local4 = \"192.0.2.10\"\n"))?;
    fixture.program.run_ok(&["reload"])?;
    fixture.wait_until_up()?;
    let after = indices()?;
    assert_eq!(before[0], after[0], "the first tunnel was touched");
    assert_ne!(before[1], after[1], "the second tunnel was not made anew");
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    Ok(())
}
