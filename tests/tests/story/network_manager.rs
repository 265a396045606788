//! Beside the real NetworkManager. It leaves foreign rules alone, and foreign routes on interfaces that it
//! does not manage.

use std::time::Duration;

use anyhow::{Result, ensure};
use sixxs_tests::lab::topology::{Flavour, UPLINK};
use sixxs_tests::network_managers::network_manager::{self, NetworkManager};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;
use crate::manager_scenario::Scenario;

variants!(at_the_uplink: tun(Tun, Auto), veth(Veth, Auto));

fn at_the_uplink(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let keyfiles = [network_manager::uplink()];
    let mut manager = NetworkManager::new(&fixture.lab, &keyfiles)?;
    println!("{}", manager.version()?);
    let mut scenario = Scenario::begin(&fixture)?;
    let mut corrections = 0;
    corrections += scenario.after("NetworkManager starts", || manager.start(&[UPLINK]))?;
    corrections += scenario.after("NetworkManager is restarted", || {
        manager.stop()?;
        manager.start(&[UPLINK])
    })?;
    for act in [
        "device reapply net0",
        "connection up net0",
        "general reload",
    ] {
        corrections += scenario.after(act, || {
            manager.nmcli(&act.split(' ').collect::<Vec<_>>())?;
            manager.is_connected(&[UPLINK])
        })?;
    }
    ensure!(corrections == 0, "{corrections} corrections");
    scenario.end(0)
}

/// It manages a tunnel's interface too.
#[test]
fn routes_of_a_managed_tunnel_are_restored() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let [tunnel, _] = fixture.lab.tunnels();
    let name = tunnel.plan.interface;
    let keyfiles = [
        network_manager::uplink(),
        network_manager::tunnel(tunnel.plan),
    ];
    let mut manager = NetworkManager::new(&fixture.lab, &keyfiles)?;
    let mut scenario = Scenario::begin(&fixture)?;
    scenario.after("NetworkManager starts", || manager.start(&[UPLINK, name]))?;
    scenario.after("NetworkManager is restarted", || {
        manager.stop()?;
        manager.start(&[UPLINK, name])
    })?;
    scenario.end(0)?;

    // When NetworkManager sets up an adopted interface again, it also manages the address. All routes of the
    // interface are lost at that time, and the daemon restores its own.
    let daemon = fixture.start()?;
    let routes = fixture.own_routes()?;
    manager.nmcli(&["device", "reapply", name])?;
    // NetworkManager removes the routes some time after `nmcli` has ended.
    let limit = Duration::from_secs(10);
    let restored = format!("restored: ip -6 route add default dev {name}");
    let alerts = || Ok(fixture.program.run_ok(&["alerts"])?.stdout);
    wait::until("our route is lost", limit, alerts, |told| {
        told.contains(&restored)
    })?;
    let again = || fixture.own_routes();
    wait::until("our route is back", limit, again, |now| *now == routes)?;
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
