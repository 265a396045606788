//! Real network managers and their settings.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::lab::topology::{Flavour, UPLINK};
use sixxs_tests::network_managers::network_manager::{self, NetworkManager};
use sixxs_tests::network_managers::networkd::{self, Networkd};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use super::{fix, is_fixed, trap, traps};
use crate::fixture::Fixture;

/// NetworkManager follows the file that the fix writes, and the doctor accepts it.
#[test]
fn the_fix_makes_network_manager_ignore_the_tunnels() -> Result<()> {
    let mut fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let keyfiles = [network_manager::uplink()];
    let mut manager = NetworkManager::new(&fixture.lab, &keyfiles)?;
    manager.start(&[UPLINK])?;
    fixture.program.move_to(manager.mounts());
    fixture.program.add_environment(manager.environment());
    let left = || {
        let fields = ["--terse", "--fields", "DEVICE,STATE", "device"];
        let listed = manager.nmcli(&fields)?;
        let lines = listed.lines().filter(|line| line.starts_with("sixxs"));
        Ok(lines.filter(|line| !line.ends_with(":unmanaged")).count())
    };
    assert_eq!(left()?, 2);
    is_fixed(&fixture, "NetworkManager", "note")?;
    let limit = Duration::from_secs(5);
    wait::until("it leaves the tunnels alone", limit, left, |left| {
        *left == 0
    })?;
    manager.stop()
}

/// By default systemd-networkd deletes foreign rules and routes. It follows the file that the fix writes.
#[test]
fn the_fix_makes_networkd_keep_foreign_rules() -> Result<()> {
    let mut fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let files = [("10-net0.network", networkd::uplink())];
    let mut networkd = Networkd::new(&fixture.lab, &files)?;
    networkd.start(&[UPLINK])?;
    fixture.program.move_to(networkd.mounts());
    let found = trap(&fixture, "networkd", "bad")?;
    // `in FILE: SECTION SETTING and SETTING, then …`.
    let told = fix(&found)?;
    let (file, rest) = told
        .strip_prefix("in ")
        .and_then(|told| told.split_once(": "))
        .context("a file")?;
    let settings = rest.split(", then").next().unwrap_or_default();
    let lines = settings.replace("] ", "]\n").replace(" and ", "\n");
    fixture.program.shell(&format!(
        "mkdir -p $(dirname {file}); printf '{lines}\n' > {file}"
    ))?;
    assert!(traps(&fixture, "networkd")?.is_empty());
    // With this file, networkd keeps the existing rules when it starts.
    let daemon = fixture.start()?;
    let rules = fixture.own_rules()?;
    assert_eq!(daemon.stop()?, 0);
    networkd.stop()?;
    networkd.start(&[UPLINK])?;
    assert_eq!(fixture.own_rules()?, rules);
    networkd.stop()
}
