//! A changed configuration is taken over by the running daemon: only what changed is touched, a
//! wrong file changes nothing, and one that nobody confirms is given up again.

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

use crate::setting::Setting;

fn config(setting: &Setting) -> Result<String> {
    Ok(fs::read_to_string(setting.lab.paths().config())?)
}

/// Waits until the rules are as wanted.
fn rules_until(setting: &Setting, what: &str, good: impl Fn(&str) -> bool) -> Result<()> {
    let rules = || setting.own_rules();
    wait::until(what, Duration::from_secs(5), rules, |rules| good(rules))?;
    Ok(())
}

#[test]
fn only_what_changed_is_touched() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let daemon = setting.start()?;
    let [first, second] = setting.lab.tunnels();
    let before = setting.own_rules()?;
    let pings = PingStream::start(
        setting.lab.outside(),
        first.plan.address,
        Duration::from_millis(5),
    )?;
    let good = config(&setting)?;

    // Another table and one more prefix for the second tunnel.
    let changed = format!("{good}\nprefixes = [\"2001:db8:bb::/48\"]\ntable = 300\n");
    setting.lab.write_config(&changed)?;
    setting.program.ok(&["reload"])?;
    let rules = setting.own_rules()?;
    let of_first = |rules: &str| -> Vec<String> {
        // It has one more, which leads to the new prefix without a tunnel.
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
    setting.outside_is_answered(second)?;

    // What is wanted otherwise was not taken away by anybody.
    let (to_its_mtu, of_second) = changed.rsplit_once("mtu = ").context("no mtu")?;
    let (_, after_it) = of_second.split_once('\n').context("no line")?;
    setting
        .lab
        .write_config(&format!("{to_its_mtu}{after_it}"))?;
    setting.program.ok(&["reload"])?;
    let routes = setting.lab.host().sh("ip -6 route show table 300")?;
    assert!(!routes.contains("mtu"), "{routes}");
    assert_eq!(setting.program.status()?.corrections, 0);

    // Without the second tunnel.
    let (only_first, _) = good.rsplit_once("[[tunnel]]").unwrap_or_default();
    setting.lab.write_config(only_first)?;
    setting.program.ok(&["reload"])?;
    let to_tables = |rules: &str| rules.matches(" lookup 20").count();
    let of_first = of_first(&before).join("\n");
    assert_eq!(to_tables(&of_first), to_tables(&setting.own_rules()?));
    let status = setting.program.status()?;
    assert_eq!(status.tunnels.len(), 1);
    let refused = setting.program.run(&["stop", second.plan.interface])?;
    assert_eq!(refused.code, 1, "{refused:#?}");

    // And with it again, by a signal.
    setting.lab.write_config(&good)?;
    daemon.signal(Signal::SIGHUP)?;
    rules_until(&setting, "the rules of the start are back", |rules| {
        rules == before
    })?;
    setting.outside_is_answered(second)?;

    // A file that is wrong.
    setting
        .lab
        .write_config(&good.replace("uplinks", "uplink"))?;
    let refused = setting.program.run(&["reload"])?;
    assert_eq!(refused.code, 1, "{refused:#?}");
    assert!(refused.stderr.contains("line 1: uplink"), "{refused:#?}");
    assert_eq!(setting.own_rules()?, before);

    let pings = pings.stop()?;
    ensure!(pings.all_answered(), "{pings:?}");
    let status = setting.program.status()?;
    assert_eq!(status.corrections, 0);
    setting.nothing_went_astray()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn what_nobody_confirms_is_given_up_again() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = setting.start()?;
    let before = setting.own_rules()?;
    let good = config(&setting)?;
    let moved = |rules: &str| rules.contains("lookup 300");

    setting
        .lab
        .write_config(&format!("{good}\ntable = 300\n"))?;
    setting.program.ok(&["reload", "--confirm", "1"])?;
    ensure!(moved(&setting.own_rules()?), "the table is the new one");
    rules_until(&setting, "the configuration before is back", |rules| {
        rules == before
    })?;
    let late = setting.program.run(&["confirm"])?;
    assert_eq!(late.code, 1, "{late:#?}");

    let printed = setting.program.ok(&["reload", "--confirm", "60"])?;
    ensure!(
        printed.stdout.contains("in force; in 60 s") && printed.stdout.contains("`sixxs confirm`"),
        "{printed:#?}"
    );
    setting.program.ok(&["confirm"])?;
    ensure!(moved(&setting.own_rules()?), "the table is the new one");
    Ok(())
}

#[test]
fn a_native_tunnel_that_did_not_change_goes_on() -> Result<()> {
    let setting = Setting::of(Spec::native([Kind::Ayiya, Kind::Heartbeat]), Hook::Auto, "")?;
    let _daemon = setting.start()?;
    setting.is_up()?;
    let [first, second] = setting.lab.tunnels().each_ref().map(|t| t.plan.interface);
    let indices = || -> Result<_> {
        let status = setting.program.status()?;
        Ok([first, second].map(|name| status.tunnel(name).ifindex))
    };
    let before = indices()?;
    let good = config(&setting)?;
    setting
        .lab
        .write_config(&(good + "local4 = \"192.0.2.10\"\n"))?;
    setting.program.ok(&["reload"])?;
    setting.is_up()?;
    let after = indices()?;
    assert_eq!(before[0], after[0], "the first tunnel was touched");
    assert_ne!(before[1], after[1], "the second tunnel was not made anew");
    for tunnel in setting.lab.tunnels() {
        setting.outside_is_answered(tunnel)?;
    }
    Ok(())
}
