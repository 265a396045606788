//! `rule_mode = "subtrees"`: one rule instead of one per address, repaired like everything else; from
//! one mode to the other and back without a packet lost; and very many addresses.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::probe::PingStream;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::setting::{Setting, alone};

const SUBTREES: &str = "rule_mode = \"subtrees\"\n";

#[test]
fn from_rules_to_subtrees_and_back() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let daemon = setting.start()?;
    let [first, second] = setting.lab.tunnels();
    let before = [setting.own_rules()?, setting.own_routes()?];
    let pings = PingStream::start(
        setting.lab.outside(),
        first.plan.address,
        Duration::from_millis(2),
    )?;
    let rules = fs::read_to_string(setting.lab.paths().config())?;
    setting.lab.write_config(&format!("{SUBTREES}{rules}"))?;
    setting.program.ok(&["reload"])?;
    assert_eq!(setting.own_rules()?.lines().count(), 1);
    assert_eq!(setting.own_routes()?.lines().count(), 4);
    setting.outside_is_answered(second)?;

    // Somebody takes it all away.
    setting.delete_own_rules()?;
    setting.host().sh("ip -6 route flush table 200")?;
    wait::until(
        "everything is back",
        Duration::from_secs(5),
        || Ok((setting.own_rules()?, setting.own_routes()?)),
        |(rules, routes)| rules.lines().count() == 1 && routes.lines().count() == 4,
    )?;
    let status = setting.program.status()?;
    ensure!(status.healthy && status.corrections >= 5, "{status:#?}");

    setting.lab.write_config(&rules)?;
    setting.program.ok(&["reload"])?;
    assert_eq!([setting.own_rules()?, setting.own_routes()?], before);
    let pings = pings.stop()?;
    ensure!(pings.all_answered(), "{pings:?}");
    setting.nothing_went_astray()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Ten thousand addresses are in place soon after the start, and soon again after a flush.
#[test]
fn ten_thousand_addresses() -> Result<()> {
    let _alone = alone();
    let setting = Setting::of(Spec::new(Flavour::Tun), Hook::Auto, "")?;
    let config = fs::read_to_string(setting.lab.paths().config())?;
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
    setting
        .lab
        .write_config(&format!("{SUBTREES}{head}[[tunnel]]{second}"))?;
    let daemon = setting.start()?;
    let ready = daemon.ready_after().unwrap_or_default();
    println!("ready after {ready:?} with 10,000 addresses");
    // Twice what is wanted: the machine may have other things to do.
    ensure!(ready < Duration::from_secs(4), "ready after {ready:?}");
    for tunnel in setting.lab.tunnels() {
        setting.outside_is_answered(tunnel)?;
    }
    let resident = daemon.resident_kib()?;
    println!("resident: {resident} KiB");
    ensure!(resident < 60 * 1024, "resident: {resident} KiB");

    // The daemon repairs while the routes are flushed: iproute2 may find one gone, or go round after round.
    let flushed_by_hand = setting.host().sh("ip -6 route flush table 200");
    println!("flush: {:?}", flushed_by_hand.err());
    let flushed = std::time::Instant::now();
    wait::until(
        "the routes are back",
        Duration::from_secs(10),
        || setting.program.status(),
        // Not all of these addresses are on the interface, so that the whole is not healthy.
        |status| {
            let mut uplinks = status.uplinks.iter();
            let mut tunnels = status.tunnels.iter();
            tunnels.all(sixxs_tests::program::status::Tunnel::is_whole)
                && uplinks.all(|uplink| uplink.program == "attached")
        },
    )?;
    println!("repaired after {:?}", flushed.elapsed());
    for tunnel in setting.lab.tunnels() {
        setting.outside_is_answered(tunnel)?;
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
