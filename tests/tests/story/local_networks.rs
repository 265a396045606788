//! Connected networks of interfaces that are no exits are reached without a tunnel: containers on a
//! bridge, hosts of a LAN, peers of a VPN.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::Result;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::probe::{Pings, ping};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const CONTAINER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xd0c, 0, 0, 0, 0, 0, 2);
/// The peer of a VPN, with its own route.
const PEER: &str = "fd00:99::5";
const COUNT: u64 = 5;

/// A lab whose host has a network of containers. The containers are in the ISP's namespace, which has another
/// interface to the host. `extra` are lines at the top of the configuration.
fn with_containers(extra: &str) -> Result<Fixture> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let config = fixture.lab.config("").replace("uplinks = [\"net0\"]\n", "");
    fixture.lab.write_config(&format!("{extra}{config}"))?;
    let isp = fixture.lab.isp();
    fixture.host().ip(&format!(
        "link add ctr0 type veth peer name far0\n\
         link set far0 netns {}\n\
         link set ctr0 up\n\
         address add fd00:d0c::1/64 dev ctr0 nodad\n",
        isp.name()
    ))?;
    let tunnel = fixture.lab.tunnels()[0].plan.address;
    isp.ip(&format!(
        "link set far0 up\n\
         address add {CONTAINER}/64 dev far0 nodad\n\
         address add {PEER}/128 dev far0 nodad\n\
         route add {tunnel}/128 via fd00:d0c::1 dev far0 src {CONTAINER}\n"
    ))?;
    Ok(fixture)
}

fn pings(fixture: &Fixture) -> Result<Pings> {
    ping(
        fixture.lab.isp(),
        fixture.lab.tunnels()[0].plan.address,
        COUNT,
    )
}

fn explained(fixture: &Fixture, to: &str) -> Result<String> {
    let source = fixture.lab.tunnels()[0].plan.address.to_string();
    Ok(fixture.program.run(&["explain", &source, to])?.stdout)
}

/// Waits until rules for a destination exist, or do not.
fn is_direct(fixture: &Fixture, to: &str, wanted: bool) -> Result<()> {
    let words = format!("to {to} lookup main");
    let rules = || fixture.own_rules();
    let what = format!("{to} is direct: {wanted}");
    wait::until(&what, Duration::from_secs(5), rules, |rules| {
        rules.contains(&words) == wanted
    })?;
    Ok(())
}

#[test]
fn connected_networks_are_reached_without_a_tunnel() -> Result<()> {
    let fixture = with_containers("")?;
    let daemon = fixture.start()?;
    is_direct(&fixture, "fd00:d0c::/64", true)?;
    let answered = pings(&fixture)?;
    assert_eq!((answered.sent, answered.answered), (COUNT, COUNT));
    let told = explained(&fixture, &CONTAINER.to_string())?;
    assert!(told.contains("leaves by ctr0"), "{told}");
    fixture
        .program
        .status_until("all is well", |status| status.healthy)?;

    // A route to a peer is added, and disappears with its interface.
    let host = fixture.host();
    host.sh(&format!("ip -6 route add {PEER}/128 dev ctr0"))?;
    is_direct(&fixture, PEER, true)?;
    // A route of a routing daemon leads to remote networks, not to a local one.
    host.sh("ip -6 route add fd00:bbbb::/64 dev ctr0 protocol bird")?;
    host.sh("ip link set ctr0 down")?;
    is_direct(&fixture, PEER, false)?;
    is_direct(&fixture, "fd00:d0c::/64", false)?;
    host.ip("link set ctr0 up\naddress replace fd00:d0c::1/64 dev ctr0 nodad\n")?;
    is_direct(&fixture, "fd00:d0c::/64", true)?;
    assert!(!fixture.own_rules()?.contains("fd00:bbbb::"));

    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    fixture.ensure_nothing_lost()?;
    assert_eq!(fixture.program.status()?.corrections, 0);
    assert_eq!(daemon.stop()?, 0);
    fixture.program.run_ok(&["down"])?;
    assert_eq!(fixture.own_rules()?, "");
    Ok(())
}

#[test]
fn an_exit_is_no_local_network() -> Result<()> {
    let fixture = with_containers("")?;
    let daemon = fixture.start()?;
    is_direct(&fixture, "fd00:d0c::/64", true)?;
    // A client on the uplink's own link gets its replies through the tunnel.
    let wire = fixture
        .host()
        .sh("ip -6 route show dev net0 proto kernel")?;
    let networks = wire.lines().filter_map(|line| line.split(' ').next());
    for network in networks.filter(|network| !network.starts_with("fe80")) {
        is_direct(&fixture, network, false)?;
    }
    let host = fixture.host();
    host.sh("ip -6 route add default via fd00:d0c::2 dev ctr0 metric 9999")?;
    is_direct(&fixture, "fd00:d0c::/64", false)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn direct_connected_false_leads_local_networks_into_the_tunnel() -> Result<()> {
    let fixture = with_containers("direct_connected = false\n")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    assert_eq!(pings(&fixture)?.answered, 0);
    let told = explained(&fixture, &CONTAINER.to_string())?;
    assert!(told.contains("leaves by sixxs0"), "{told}");
    fixture
        .lab
        .write_config(&fixture.lab.config("").replace("uplinks = [\"net0\"]\n", ""))?;
    fixture.program.run_ok(&["reload"])?;
    is_direct(&fixture, "fd00:d0c::/64", true)?;
    assert_eq!(pings(&fixture)?.answered, COUNT);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
