//! Recursive encapsulation: an uplink with a link-local address only, and a tunnel over IPv6 whose program
//! leaves the source address to the kernel, which chooses the tunnel's own. Outer packets never enter
//! their own tunnel.

use std::net::SocketAddrV6;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sixxs_common::packet::ECHO_REQUEST;
use sixxs_tests::lab::carrier::{Carrier, PORT, Style};
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::{Flavour, HOST, OUTSIDE, TUNNEL_MTU, TUNNELS, TunnelPlan, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::fixture::Fixture;

/// Number of pings, all of them unanswered.
const PINGS: u64 = 10_000;

variants!(readable_recursive_packets_are_dropped: tun_plain(Tun, Auto), clsact_plain(Tun, Clsact));

fn readable_recursive_packets_are_dropped(flavour: Flavour, hook: Hook) -> Result<()> {
    alone(&Fixture::new(flavour, hook)?, Style::Plain, false, 2)
}

#[test]
fn scrambled_recursive_packets_are_dropped() -> Result<()> {
    // One ping, five recursions of it, and the packet that shows the recursion.
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    alone(&fixture, Style::Scrambled, false, 7)
}

/// Outer packets to an endpoint that is known are recognised at once.
#[test]
fn packets_to_a_known_endpoint_are_dropped() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let [plan, _] = &TUNNELS;
    let remote = format!(
        "mtu = {TUNNEL_MTU}\nremote = \"[{}]:{PORT}\"\n",
        plan.remote6
    );
    let config = fixture.lab.config("");
    let known = config.replacen(&format!("mtu = {TUNNEL_MTU}\n"), &remote, 1);
    assert_ne!(config, known);
    fixture.lab.write_config(&known)?;
    alone(&fixture, Style::Scrambled, false, 2)
}

#[test]
fn by_a_connected_socket() -> Result<()> {
    alone(
        &Fixture::new(Flavour::Tun, Hook::Auto)?,
        Style::Plain,
        true,
        2,
    )
}

/// One tunnel, which would carry itself. Its first ping causes at most `first` packets.
fn alone(fixture: &Fixture, style: Style, connects: bool, first: u64) -> Result<()> {
    let [plan, other] = &TUNNELS;
    let host = fixture.host();
    link_local_only(fixture)?;
    host.ip(&format!(
        "address del {}/64 dev {}\n",
        other.address, other.interface
    ))?;
    let carrier = carry(fixture, plan, style, connects)?;
    let daemon = fixture.start()?;

    ping(host, plan, 1)?;
    let carried = settled(&carrier, 1)?;
    assert!(carried <= first, "{carried} packets for one ping");
    ping(host, plan, PINGS)?;
    let carried = settled(&carrier, PINGS + 1)?;
    // At most two for each ping, and on average hardly more than one.
    assert!(
        carried <= PINGS + PINGS / 10,
        "{carried} packets for {PINGS} pings"
    );

    let status = fixture.program.status()?;
    let tunnel = status.tunnel(plan.interface);
    assert!(tunnel.recursions >= PINGS, "{tunnel:#?}");
    assert!(tunnel.leaks.redirected < 10, "{:?}", tunnel.leaks);
    assert_eq!(fixture.lab.dropped_by_isp()?, 0);
    named(fixture, plan)?;

    // All other packets of the same address go through the tunnel.
    others(fixture, plan, &carrier)?;

    // With another source address for outer packets, the tunnel works at once.
    host.ip(&format!("address add {HOST}/64 dev {UPLINK} nodad\n"))?;
    drop(carrier);
    wait::until(
        "the device is gone",
        Duration::from_secs(5),
        || host.sh("ip -oneline link show"),
        |links| !links.contains(plan.interface),
    )?;
    let carrier = carry(fixture, plan, style, connects)?;
    // Until the daemon has found the new interface, a route makes the destination unreachable.
    let earlier = tunnel.ifindex;
    fixture
        .program
        .status_until("the new interface is in use", |status| {
            let tunnel = status.tunnel(plan.interface);
            tunnel.ifindex.is_some_and(|index| Some(index) != earlier) && tunnel.is_whole()
        })?;
    let before = fixture.program.status()?.tunnel(plan.interface).recursions;
    let passed = passed(fixture)?;
    ping(host, plan, 10)?;
    settled(&carrier, 10)?;
    let status = fixture.program.status()?;
    assert_eq!(status.tunnel(plan.interface).recursions, before);
    assert!(self::passed(fixture)? >= passed + 10);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Two tunnels that carry each other.
#[test]
fn two_tunnels_that_carry_each_other_are_stopped() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    link_local_only(&fixture)?;
    let [first, second] = &TUNNELS;
    let host = fixture.host();
    let carriers = [
        carry(&fixture, first, Style::Plain, false)?,
        carry(&fixture, second, Style::Plain, false)?,
    ];
    for (plan, other) in [(first, second), (second, first)] {
        host.ip(&format!(
            "route add {}/128 via fe80::fe dev {UPLINK} src {}\n",
            plan.remote6, other.address
        ))?;
    }
    let daemon = fixture.start()?;
    ping(host, first, PINGS)?;
    settled(&carriers[0], PINGS)?;
    let carried: u64 = carriers.iter().map(Carrier::carried).sum();
    assert!(
        carried <= 2 * PINGS + 10,
        "{carried} packets for {PINGS} pings"
    );
    let status = fixture.program.status()?;
    let recursions: u64 = status.tunnels.iter().map(|tunnel| tunnel.recursions).sum();
    assert!(recursions >= PINGS, "{status:#?}");
    assert_eq!(fixture.lab.dropped_by_isp()?, 0);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Leaves the uplink with its default route, but with no address that other hosts could reply to.
fn link_local_only(fixture: &Fixture) -> Result<()> {
    fixture
        .lab
        .isp()
        .ip("address add fe80::fe/64 dev host nodad\n")?;
    fixture.host().ip(&format!(
        "route del default via 2001:db8:1::fe dev {UPLINK}\n\
         address del {HOST}/64 dev {UPLINK}\n\
         route add default via fe80::fe dev {UPLINK}\n"
    ))
}

fn carry(fixture: &Fixture, plan: &TunnelPlan, style: Style, connects: bool) -> Result<Carrier> {
    let tunnel = fixture
        .lab
        .tunnels()
        .iter()
        .find(|tunnel| tunnel.plan.interface == plan.interface);
    let links = fixture.host().sh("ip -oneline link show")?;
    if links.contains(plan.interface) {
        tunnel.context("no such tunnel")?.delete()?;
    }
    Carrier::start(fixture.host(), plan, style, connects)
}

/// Sends echo requests in small groups, so that no queue overflows.
fn ping(host: &Namespace, plan: &TunnelPlan, count: u64) -> Result<()> {
    let socket = host.run(|| {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.bind(&SockAddr::from(SocketAddrV6::new(plan.address, 0, 0, 0)))?;
        Ok(socket)
    })?;
    let to = SockAddr::from(SocketAddrV6::new(OUTSIDE, 0, 0, 0));
    for number in 0..count {
        let mut request = [0; 64];
        request[0] = ECHO_REQUEST;
        request[6..8].copy_from_slice(&u16::try_from(number)?.to_be_bytes());
        socket.send_to(&request, &to)?;
        if number % 100 == 99 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Waits until a carrier receives no more packets, and at least `least`. Returns their number.
fn settled(carrier: &Carrier, least: u64) -> Result<u64> {
    let now_and_then = || {
        let now = carrier.carried();
        std::thread::sleep(Duration::from_millis(100));
        Ok((now, carrier.carried()))
    };
    let settled = |(now, then): &(u64, u64)| now == then && *then >= least;
    let (_, carried) = wait::until(
        "no more packets come",
        Duration::from_secs(20),
        now_and_then,
        settled,
    )?;
    Ok(carried)
}

/// Alert, status, explain and doctor name the tunnel, the endpoint and the fix.
fn named(fixture: &Fixture, plan: &TunnelPlan) -> Result<()> {
    let endpoint = format!("[{}]:{PORT}", plan.remote6);
    let alerts = wait::until(
        "it is told",
        Duration::from_secs(10),
        || fixture.program.json(&["alerts"]),
        |(_, alerts)| alerts.iter().any(|alert| alert["cause"] == "recursion"),
    )?
    .1;
    let told: Vec<&Value> = alerts
        .iter()
        .filter(|alert| alert["cause"] == "recursion")
        .collect();
    assert_eq!(told.len(), 1, "told once");
    for (what, key) in [
        (plan.interface, "tunnel"),
        (&endpoint, "why"),
        ("source address", "cure"),
    ] {
        let text = told[0][key].as_str().context("no text")?;
        assert!(text.contains(what), "{}", told[0]);
    }
    assert_eq!(told[0]["treatment"], "recursion");
    for command in [&["status"][..], &["doctor"]] {
        let printed = fixture.program.run(command)?;
        assert_eq!(printed.code, 3);
        for what in [plan.interface, &endpoint, "another source address"] {
            let text = printed
                .stdout
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            assert!(text.contains(what), "{command:?}: {what}: {text}");
        }
    }
    let (source, to) = (plan.address.to_string(), plan.remote6.to_string());
    let (_, explained) = fixture.program.json(&["explain", &source, &to])?;
    let explained = explained.first().context("sixxs explain printed nothing")?;
    assert_eq!(explained["outcome"], "dropped", "{explained:#}");
    assert_eq!(explained["cause"], "recursion", "{explained:#}");
    let sentence = explained["sentence"].as_str().unwrap_or_default();
    assert!(sentence.contains(&endpoint), "{explained:#}");
    Ok(())
}

/// A user's packets with the tunnel's address, leaked or not, also to the endpoint's address. They have all
/// lengths, and some belong to a tunnel of the user.
fn others(fixture: &Fixture, plan: &TunnelPlan, carrier: &Carrier) -> Result<()> {
    let before = carrier.carried();
    let mut sent = 0;
    for cause in [Cause::Rules, Cause::Device(UPLINK)] {
        for to in [OUTSIDE, plan.remote6] {
            let socket = leak::udp_socket(fixture.host(), plan.address, cause)?;
            for size in (1..30).map(|n| n * 40).chain([7, 1232, 100, 7, 100]) {
                let size = size.min(usize::try_from(TUNNEL_MTU)? - 48);
                leak::send(&socket, to, 1, size).with_context(|| {
                    let shown = [
                        "ip -6 rule",
                        "ip -6 route show table all",
                        "ip -6 neigh",
                        "ip -d link",
                    ]
                    .map(|command| fixture.host().sh(command).unwrap_or_default());
                    let shown = shown.concat();
                    format!("send {size} bytes to {to} by {cause:?}: {shown}")
                })?;
                sent += 1;
            }
        }
    }
    // If the packets of a flow keep growing like recursive outer packets, one of them is lost.
    let flows = 4;
    settled(carrier, before + sent - flows)?;
    Ok(())
}

/// Number of packets with the host's address that passed the ISP.
fn passed(fixture: &Fixture) -> Result<u64> {
    sixxs_tests::lab::nft::read(fixture.lab.isp())?.get("passed")
}
