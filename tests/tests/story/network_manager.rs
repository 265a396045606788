//! NetworkManager beside us, the real one: it leaves rules of others alone, and of routes those on
//! interfaces that it does not manage.

use std::time::Duration;

use anyhow::{Result, ensure};
use sixxs_tests::lab::topology::{Flavour, UPLINK};
use sixxs_tests::network_managers::network_manager::{self, NetworkManager};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::beside::Scene;
use crate::setting::Setting;

variants!(at_the_uplink: tun(Tun, Auto), veth(Veth, Auto));

fn at_the_uplink(flavour: Flavour, hook: Hook) -> Result<()> {
    let setting = Setting::new(flavour, hook)?;
    let keyfiles = [network_manager::uplink()];
    let mut manager = NetworkManager::new(&setting.lab, &keyfiles)?;
    println!("{}", manager.version()?);
    let mut scene = Scene::begin(&setting)?;
    let mut corrections = 0;
    corrections += scene.after("NetworkManager starts", || manager.start(&[UPLINK]))?;
    corrections += scene.after("NetworkManager is restarted", || {
        manager.stop()?;
        manager.start(&[UPLINK])
    })?;
    for act in [
        "device reapply net0",
        "connection up net0",
        "general reload",
    ] {
        corrections += scene.after(act, || {
            manager.nmcli(&act.split(' ').collect::<Vec<_>>())?;
            manager.is_connected(&[UPLINK])
        })?;
    }
    ensure!(corrections == 0, "{corrections} corrections");
    scene.end(0)
}

/// It manages a tunnel's interface too.
#[test]
fn our_tunnel_too() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let [tunnel, _] = setting.lab.tunnels();
    let name = tunnel.plan.interface;
    let keyfiles = [
        network_manager::uplink(),
        network_manager::tunnel(tunnel.plan),
    ];
    let mut manager = NetworkManager::new(&setting.lab, &keyfiles)?;
    let mut scene = Scene::begin(&setting)?;
    scene.after("NetworkManager starts", || manager.start(&[UPLINK, name]))?;
    scene.after("NetworkManager is restarted", || {
        manager.stop()?;
        manager.start(&[UPLINK, name])
    })?;
    scene.end(0)?;

    // What it took on it takes apart when told to set it up anew: the address is its business then,
    // and all routes out of the interface went with it, of which ours is put back.
    let daemon = setting.start()?;
    let routes = setting.own_routes()?;
    manager.nmcli(&["device", "reapply", name])?;
    let limit = Duration::from_secs(5);
    let again = || setting.own_routes();
    wait::until("our route is back", limit, again, |now| *now == routes)?;
    let told = setting.program.ok(&["alerts"])?.stdout;
    ensure!(
        told.contains(&format!("put back: ip -6 route add default dev {name}")),
        "{told}"
    );
    setting.nothing_went_astray()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
