//! Beside the real systemd-networkd with its default settings. It deletes foreign rules and routes, ours
//! included, whenever it configures an interface. They are repaired soon.

use anyhow::{Result, ensure};
use serde_json::Value;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::{Flavour, UPLINK};
use sixxs_tests::network_managers::networkd::{self, Networkd};
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;
use crate::manager_scenario::Scenario;

/// Limit of lost pings while the uplink has no default route either: then no fallback route exists. It is ten
/// times the duration of a repair, for a busy machine.
const MOST_LOST: u64 = 10;

variants!(no_ping_is_lost_while_networkd_deletes_the_rules: tun(Tun, Auto), veth(Veth, Auto));

/// It manages the uplink before the daemon starts. It is restarted, reloaded, and sets up another interface.
/// No ping is lost.
fn no_ping_is_lost_while_networkd_deletes_the_rules(flavour: Flavour, hook: Hook) -> Result<()> {
    // Another interface would add rules for its local network, but the test compares the rules.
    let extra = "direct_connected = false\n";
    let fixture = Fixture::with_spec(Spec::new(flavour), hook, extra)?;
    let files = [("10-uplink.network", networkd::uplink())];
    let mut networkd = Networkd::new(&fixture.lab, &files)?;
    println!("{}", networkd.version()?);
    networkd.start(&[UPLINK])?;
    let mut scenario = Scenario::begin(&fixture)?;
    for _ in 0..3 {
        let corrections = scenario.after("networkd is restarted", || {
            networkd.stop()?;
            networkd.start(&[UPLINK])
        })?;
        // The rule of each tunnel, and the route without an interface in its table.
        ensure!(corrections >= 4, "{corrections} corrections");
    }
    let (_, alerts) = fixture.program.json(&["alerts"])?;
    let named = |alert: &Value| {
        let by = alert["by"].as_str();
        by.is_some_and(|by| by.starts_with("systemd-network"))
    };
    let mut corrections = alerts.iter().filter(|alert| alert["kind"] == "correction");
    ensure!(corrections.all(named), "{alerts:#?}");
    networkd.configure(
        "20-another.network",
        "[Match]\nName=another0\n[Network]\nAddress=2001:db8:77::1/64\nIPv6AcceptRA=no\n",
    )?;
    scenario.after("networkd is reloaded", || {
        networkd.networkctl(&["reload"]).map(drop)
    })?;
    let corrections = scenario.after("another interface comes", || {
        fixture.host().ip(
            "link add another0 index 500 type veth peer name far0 index 501\n\
             link set far0 up\n",
        )?;
        networkd.is_configured(&["another0"])
    })?;
    ensure!(corrections >= 4, "{corrections} corrections");
    let corrections = scenario.after("another interface is reconfigured", || {
        networkd.networkctl(&["reconfigure", "another0"])?;
        networkd.is_configured(&["another0"])
    })?;
    ensure!(corrections >= 4, "{corrections} corrections");
    scenario.end(0)
}

variants!(the_uplink_itself: tun_uplink(Tun, Auto), veth_uplink(Veth, Auto));

/// It takes over the uplink and sets it up again: for some 15 ms there is no default route.
fn the_uplink_itself(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let files = [("10-uplink.network", networkd::uplink())];
    let mut networkd = Networkd::new(&fixture.lab, &files)?;
    let mut scenario = Scenario::begin(&fixture)?;
    scenario.after("networkd takes the uplink over", || {
        networkd.start(&[UPLINK])
    })?;
    scenario.after("the uplink is reconfigured", || {
        networkd.networkctl(&["reconfigure", UPLINK])?;
        networkd.is_configured(&[UPLINK])
    })?;
    scenario.end(MOST_LOST)
}

variants!(rules_and_routes_of_a_managed_tunnel_are_restored: tun_managed(Tun, Auto), veth_managed(Veth, Auto));

/// It manages a tunnel's interface too.
fn rules_and_routes_of_a_managed_tunnel_are_restored(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let [tunnel, _] = fixture.lab.tunnels();
    let name = tunnel.plan.interface;
    let files = [
        ("10-uplink.network", networkd::uplink()),
        ("20-tunnel.network", networkd::tunnel(tunnel.plan)),
    ];
    let mut networkd = Networkd::new(&fixture.lab, &files)?;
    networkd.start(&[UPLINK, name])?;
    let mut scenario = Scenario::begin(&fixture)?;
    for _ in 0..3 {
        let corrections = scenario.after("networkd is restarted", || {
            networkd.stop()?;
            networkd.start(&[UPLINK, name])
        })?;
        ensure!(corrections >= 5, "{corrections} corrections");
    }
    scenario.after("the tunnel is reconfigured", || {
        networkd.networkctl(&["reconfigure", name])?;
        networkd.is_configured(&[name])
    })?;
    scenario.end(MOST_LOST)
}

/// With the two settings that keep foreign rules and routes.
#[test]
fn networkd_keeps_foreign_rules_and_routes_with_both_settings() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let [tunnel, _] = fixture.lab.tunnels();
    let managed = [UPLINK, tunnel.plan.interface];
    let files = [
        ("10-uplink.network", networkd::uplink()),
        ("20-tunnel.network", networkd::tunnel(tunnel.plan)),
    ];
    let mut networkd = Networkd::new(&fixture.lab, &files)?;
    networkd.settings("[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n")?;
    let mut scenario = Scenario::begin(&fixture)?;
    let mut corrections = scenario.after("networkd starts", || networkd.start(&managed))?;
    corrections += scenario.after("networkd is restarted", || {
        networkd.stop()?;
        networkd.start(&managed)
    })?;
    ensure!(corrections == 0, "{corrections} corrections");
    scenario.end(0)
}
