//! `rule_mode = "subtrees"`: one rule instead of one per address, repaired like the others. Changes of the
//! mode lose no packet. Tests include very many addresses.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::probe::PingStream;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::{Fixture, exclusive};

const SUBTREES: &str = "rule_mode = \"subtrees\"\n";

/// Deletes all routes of the table. The daemon repairs meanwhile: iproute2 may fail to find a route, or repeat its
/// rounds.
fn flush(fixture: &Fixture) {
    let flushed = fixture.host().sh("ip -6 route flush table 200");
    println!("flush: {:?}", flushed.err());
}

#[test]
fn from_rules_to_subtrees_and_back() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let [first, second] = fixture.lab.tunnels();
    let before = [fixture.own_rules()?, fixture.own_routes()?];
    let pings = PingStream::start(
        fixture.lab.outside(),
        first.plan.address,
        Duration::from_millis(2),
    )?;
    let rules = fs::read_to_string(fixture.lab.paths().config())?;
    fixture.lab.write_config(&format!("{SUBTREES}{rules}"))?;
    fixture.program.run_ok(&["reload"])?;
    assert_eq!(fixture.own_rules()?.lines().count(), 1);
    assert_eq!(fixture.own_routes()?.lines().count(), 4);
    fixture.ensure_outside_answered(second)?;

    // Other software deletes everything.
    fixture.delete_own_rules()?;
    flush(&fixture);
    wait::until(
        "everything is back",
        Duration::from_secs(5),
        || Ok((fixture.own_rules()?, fixture.own_routes()?)),
        |(rules, routes)| rules.lines().count() == 1 && routes.lines().count() == 4,
    )?;
    let status = fixture.program.status()?;
    ensure!(status.healthy && status.corrections >= 5, "{status:#?}");

    fixture.lab.write_config(&rules)?;
    fixture.program.run_ok(&["reload"])?;
    assert_eq!([fixture.own_rules()?, fixture.own_routes()?], before);
    let pings = pings.stop()?;
    ensure!(pings.all_answered(), "{pings:?}");
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Ten thousand addresses are in place soon after the start, and soon after a flush.
#[test]
fn ten_thousand_addresses() -> Result<()> {
    let _exclusive = exclusive();
    let fixture = Fixture::with_spec(Spec::new(Flavour::Tun), Hook::Auto, "")?;
    let config = fs::read_to_string(fixture.lab.paths().config())?;
    let (head, second) = config.rsplit_once("[[tunnel]]").unwrap_or_default();
    let mut addresses = String::new();
    for number in 1..10_000 {
        write!(
            addresses,
            "\"2001:db8:b::1:{:x}:{:x}\",",
            number >> 12,
            number & 0xfff
        )?;
    }
    let list = format!("address = [{addresses} \"2001:db8:b::2/64\"]");
    let second = second.replace("address = \"2001:db8:b::2/64\"", &list);
    fixture
        .lab
        .write_config(&format!("{SUBTREES}{head}[[tunnel]]{second}"))?;
    let daemon = fixture.start()?;
    let ready = daemon.ready_after().unwrap_or_default();
    println!("ready after {ready:?} with 10,000 addresses");
    // Twice the expected time, for a busy machine.
    ensure!(ready < Duration::from_secs(4), "ready after {ready:?}");
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    let resident = daemon.resident_kib()?;
    println!("resident: {resident} KiB");
    ensure!(resident < 60 * 1024, "resident: {resident} KiB");

    flush(&fixture);
    let flushed = std::time::Instant::now();
    wait::until(
        "the routes are back",
        Duration::from_secs(10),
        || fixture.program.status(),
        // Not all of these addresses are on the interface, so the status as a whole is not healthy.
        |status| {
            let mut uplinks = status.uplinks.iter();
            let mut tunnels = status.tunnels.iter();
            tunnels.all(sixxs_tests::program::status::Tunnel::is_whole)
                && uplinks.all(|uplink| uplink.program == "attached")
        },
    )?;
    println!("repaired after {:?}", flushed.elapsed());
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
