//! Connected networks of interfaces that are no exits are reached without a tunnel: containers on a
//! bridge, hosts of a LAN, peers of a VPN.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::{Flavour, HOST, LAN1};
use sixxs_tests::lab::tun::{self, Wire};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::probe::service::Services;
use sixxs_tests::probe::{self, Ping, Pings, ping};
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
    find_uplinks(&fixture, extra)?;
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

/// Writes the lab's configuration without `uplinks`.
fn find_uplinks(fixture: &Fixture, extra: &str) -> Result<()> {
    let config = fixture.lab.config("").replace("uplinks = [\"net0\"]\n", "");
    fixture.lab.write_config(&format!("{extra}{config}"))?;
    Ok(())
}

/// A lab with LANs behind the host, and a configuration without `uplinks`.
fn with_lans() -> Result<Fixture> {
    let spec = Spec {
        lans: true,
        ..Spec::new(Flavour::Tun)
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    find_uplinks(&fixture, "")?;
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

/// The containers are on a bridge. Their packets, and those of sockets that are bound to the bridge, are no leaks for
/// the programs, also without rules and without a daemon.
#[test]
fn containers_are_reached_by_the_programs_alone() -> Result<()> {
    const BRIDGE: &str = "br-ctr";
    let fixture = with_containers("")?;
    let host = fixture.host();
    host.ip(&format!(
        "address del fd00:d0c::1/64 dev ctr0\n\
         link add {BRIDGE} type bridge mcast_snooping 0\n\
         link set ctr0 master {BRIDGE}\n\
         link set {BRIDGE} up\n\
         address add fd00:d0c::1/64 dev {BRIDGE} nodad\n"
    ))?;
    let containers = Services::start(fixture.lab.isp(), &[])?;
    let [tunnel, _] = fixture.lab.tunnels();
    // Checks all of this. Returns the number of datagrams that arrived at the container.
    let are_reached = |datagrams: u64| -> Result<u64> {
        let answered = pings(&fixture)?;
        assert_eq!((answered.sent, answered.answered), (COUNT, COUNT));
        for cause in [Cause::Rules, Cause::Device(BRIDGE)] {
            let socket = leak::udp_socket(host, tunnel.plan.address, cause)?;
            leak::send(&socket, CONTAINER, COUNT, 100)?;
        }
        let expected = datagrams + 2 * COUNT;
        let arrived = || Ok(containers.discarded());
        let limit = Duration::from_secs(5);
        wait::until("datagrams come", limit, arrived, |now| *now == expected)?;
        let told = explained(&fixture, &CONTAINER.to_string())?;
        assert!(told.contains(&format!("leaves by {BRIDGE}")), "{told}");
        fixture.ensure_nothing_lost()?;
        Ok(expected)
    };
    let daemon = fixture.start()?;
    is_direct(&fixture, "fd00:d0c::/64", true)?;
    let arrived = are_reached(0)?;
    daemon.kill()?;
    fixture.delete_own_rules()?;
    are_reached(arrived)?;
    // The programs still redirect what does not go to the containers.
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    fixture.ensure_nothing_lost()?;
    let daemon = fixture.start()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A host of a LAN in a routed prefix, and one in the network of a VPN's peer.
#[test]
fn a_lan_reaches_the_network_of_a_vpn_peer() -> Result<()> {
    const NETWORK: &str = "fd00:99::/64";
    let peer: Ipv6Addr = PEER.parse()?;
    let fixture = with_lans()?;
    let (host, far) = (fixture.host(), fixture.lab.isp());
    let [lan, _] = fixture.lab.lans()?;
    // The ISP's namespace has the other end of the VPN, which has no link layer.
    let near = tun::create(host, "vpn0")?;
    let wire = Wire::new(near, Arc::new(tun::create(far, "vpn0")?))?;
    far.ip(&format!(
        "link set vpn0 up\n\
         address add {peer}/128 dev vpn0 nodad\n\
         route add 2001:db8:bb::/48 dev vpn0 src {peer}\n"
    ))?;
    host.ip(&format!(
        "link set vpn0 up\n\
         route add {NETWORK} dev vpn0\n"
    ))?;
    let _services = [
        Services::start(far, &[peer])?,
        Services::start(lan, &[LAN1])?,
    ];
    let reach_each_other = || -> Result<()> {
        for (from, to) in [(lan, peer), (far, LAN1)] {
            let pings = ping(from, to, COUNT)?;
            assert_eq!((pings.sent, pings.answered), (COUNT, COUNT), "{to}");
            assert_eq!(probe::udp_echo(from, to, COUNT, 1000, true)?, COUNT, "{to}");
        }
        assert_eq!(fixture.reached_brokers()?, [0, 0]);
        fixture.ensure_nothing_lost()
    };
    let daemon = fixture.start()?;
    is_direct(&fixture, NETWORK, true)?;
    reach_each_other()?;
    let told = fixture.program.run(&[
        "explain",
        &LAN1.to_string(),
        &peer.to_string(),
        "--iif",
        "lan1",
    ])?;
    assert!(told.stdout.contains("leaves by vpn0"), "{told:#?}");
    daemon.kill()?;
    fixture.delete_own_rules()?;
    reach_each_other()?;
    let daemon = fixture.start()?;
    let status = fixture.program.status()?;
    assert!(
        status
            .tunnels
            .iter()
            .all(|tunnel| tunnel.leaks.redirected == 0),
        "{status:#?}"
    );
    drop(wire);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A client with an address of the uplink's own network pings a tunnel's address. The replies leave by the tunnel, and
/// not directly.
#[test]
fn a_client_on_the_uplinks_link_is_answered_through_the_tunnel() -> Result<()> {
    let fixture = with_lans()?;
    let [_, client] = fixture.lab.lans()?;
    let [tunnel, _] = fixture.lab.tunnels();
    let address = tunnel.plan.address;
    let own: Ipv6Addr = "2001:db8:1::77".parse()?;
    client.ip(&format!(
        "address add {own}/64 dev wire nodad\n\
         route add {address}/128 via 2001:db8:1::fe dev wire src {own}\n"
    ))?;
    // It reaches the host directly.
    assert!(
        Ping::new(HOST, COUNT)
            .source(own)
            .run(client)?
            .all_answered()
    );
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    fixture.wait_for_addresses()?;
    let replies = || tunnel.broker_counters()?.get("replies_from_host");
    let is_answered = || -> Result<()> {
        let before = replies()?;
        let pings = Ping::new(address, COUNT).source(own).run(client)?;
        assert_eq!((pings.sent, pings.answered), (COUNT, COUNT));
        assert_eq!(replies()? - before, COUNT);
        fixture.ensure_nothing_lost()
    };
    is_answered()?;
    daemon.kill()?;
    fixture.delete_own_rules()?;
    is_answered()?;
    let daemon = fixture.start()?;
    let caught = fixture
        .program
        .status()?
        .tunnel(tunnel.plan.interface)
        .leaks;
    assert_eq!(caught.redirected, COUNT, "{caught:?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
