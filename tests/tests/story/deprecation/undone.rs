//! The lifetimes are restored in every case: without the option, at the end, after a crash.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::lab::topology::TUNNELS;
use sixxs_tests::program::Hook;

use super::{
    FAILING, FOREVER, OPTION, addresses, alerts, config, is_deprecated, lifetimes, refuse, start,
    wait_until, with_two_links,
};
use crate::fixture::Fixture;

#[test]
fn it_is_undone_without_the_option_and_at_the_end() -> Result<()> {
    let fixture = with_two_links(Hook::Auto, false)?;
    let host = fixture.host();
    let before = addresses(host, FAILING)?;
    let is_undone = |why: &str| -> Result<()> {
        let now = addresses(host, FAILING)?;
        ensure!(now == before, "{why}: {now:#?}");
        Ok(())
    };
    let mut daemon = start(&fixture)?;
    refuse(&fixture, "add")?;
    wait_until(&fixture, true, &[])?;
    // The answer comes after the round.
    let whole = config(false);
    fixture.lab.write_config(&whole.replacen(OPTION, "", 1))?;
    fixture.program.run_ok(&["reload"])?;
    is_undone("reload")?;
    fixture.lab.write_config(&whole)?;
    fixture.program.run_ok(&["reload"])?;
    wait_until(&fixture, true, &[])?;
    fixture.program.run_ok(&["stop", FAILING])?;
    is_undone("stop")?;
    fixture.program.run_ok(&["start", FAILING])?;
    wait_until(&fixture, true, &[])?;
    let reasons: Vec<_> = alerts(&fixture)?
        .into_iter()
        .filter_map(|(deprecated, reason)| (!deprecated).then_some(reason))
        .collect();
    ensure!(
        reasons == ["`deprecate_when_failing` is off", "it is stopped"],
        "{reasons:?}"
    );
    let log = daemon.log();
    ensure!(
        log.contains("preferred again: 2001:db8:a::2: it is stopped"),
        "{log}"
    );
    ensure!(daemon.stop()? == 0);
    is_undone("the end by a signal")?;
    ensure!(!record(&fixture).exists());
    daemon = fixture.start()?;
    wait_until(&fixture, true, &[])?;
    fixture.program.run_ok(&["down"])?;
    ensure!(daemon.wait()? == 0);
    is_undone("down")
}

fn record(fixture: &Fixture) -> PathBuf {
    fixture.lab.paths().run().join("deprecated")
}

#[test]
fn after_a_crash() -> Result<()> {
    let fixture = with_two_links(Hook::Auto, false)?;
    let host = fixture.host();
    let before = addresses(host, FAILING)?;
    let daemon = start(&fixture)?;
    refuse(&fixture, "add")?;
    wait_until(&fixture, true, &[])?;
    daemon.kill()?;
    ensure!(record(&fixture).exists());

    // It still fails: the next daemon keeps it, and knows the former lifetime.
    let daemon = fixture.start()?;
    let status = fixture.program.status()?;
    ensure!(status.tunnel(FAILING).deprecated.len() == 1, "{status:#?}");
    wait_until(&fixture, true, &[])?;
    refuse(&fixture, "del")?;
    wait_until(&fixture, false, &[]).with_context(|| daemon.log())?;
    ensure!(addresses(host, FAILING)? == before && !record(&fixture).exists());
    let told = alerts(&fixture)?;
    ensure!(
        told == [(false, "it does not fail any more".to_owned())],
        "{told:?}"
    );

    // It has recovered meanwhile.
    refuse(&fixture, "add")?;
    wait_until(&fixture, true, &[])?;
    daemon.kill()?;
    refuse(&fixture, "del")?;
    let daemon = start(&fixture)?;
    wait_until(&fixture, false, &[]).with_context(|| daemon.log())?;
    ensure!(addresses(host, FAILING)? == before && !record(&fixture).exists());

    // No daemon starts again.
    refuse(&fixture, "add")?;
    wait_until(&fixture, true, &[])?;
    daemon.kill()?;
    fixture.program.run_ok(&["down"])?;
    ensure!(addresses(host, FAILING)? == before && !record(&fixture).exists());
    Ok(())
}

/// What other software sets while no daemon runs stays.
#[test]
fn other_software_changes_an_address_after_a_crash() -> Result<()> {
    let fixture = with_two_links(Hook::Auto, true)?;
    let host = fixture.host();
    let more = ["2001:db8:a::3", "2001:db8:a::4", "2001:db8:a::5"];
    for address in more {
        host.sh(&format!(
            "ip -6 address add {address}/64 dev {FAILING} nodad"
        ))?;
    }
    let daemon = start(&fixture)?;
    refuse(&fixture, "add")?;
    wait_until(&fixture, true, &[])?;
    daemon.kill()?;
    for (address, set) in more.into_iter().zip(["0", "500"]) {
        host.sh(&format!(
            "ip -6 address change {address}/64 dev {FAILING} nodad preferred_lft {set}"
        ))?;
    }
    // Another address with the same number.
    host.sh(&format!("ip -6 address del {}/64 dev {FAILING}", more[2]))?;
    host.sh(&format!(
        "ip -6 address add {}/64 dev {FAILING} nodad preferred_lft 0",
        more[2]
    ))?;
    fixture.program.run_ok(&["down"])?;
    let after = addresses(host, FAILING)?;
    for (address, deprecated) in more.into_iter().zip([true, false, true]) {
        ensure!(is_deprecated(&after[address]) == deprecated, "{after:#?}");
    }
    let [preferred, _] = lifetimes(&after[more[1]])?;
    ensure!((400..=500).contains(&preferred), "{after:#?}");
    let own = &after[&TUNNELS[0].address.to_string()];
    ensure!(lifetimes(own)? == [FOREVER, FOREVER], "{own:#}");
    Ok(())
}
