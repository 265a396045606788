//! A /48 behind the host, one LAN on an interface of its own and one on the uplink's wire. The LANs reach
//! each other directly and the outside through the tunnel, and neither is a leak.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::{Flavour, LAN1, LAN2, OUTSIDE, UPLINK};
use sixxs_tests::probe;
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::probe::service::Services;
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Leaks;

use crate::fixture::Fixture;

variants!(lans_behind_the_host:
    tun(Tun, Auto), veth(Veth, Auto), tun_clsact(Tun, Clsact));

#[test]
fn subtrees() -> Result<()> {
    lans_with(Flavour::Tun, Hook::Auto, "rule_mode = \"subtrees\"\n")
}

fn lans_behind_the_host(flavour: Flavour, hook: Hook) -> Result<()> {
    lans_with(flavour, hook, "")
}

fn lans_with(flavour: Flavour, hook: Hook, extra: &str) -> Result<()> {
    let spec = Spec {
        lans: true,
        ..Spec::new(flavour)
    };
    let fixture = Fixture::with_spec(spec, hook, extra)?;
    let [lan1, lan2] = fixture.lab.lans()?;
    let _lan_services = [
        Services::start(lan1, &[LAN1])?,
        Services::start(lan2, &[LAN2])?,
    ];
    let daemon = fixture.start()?;
    let status = fixture.program.status()?;
    assert_eq!(status.tunnel("sixxs1").prefixes, ["2001:db8:bb::/48"]);
    let limit = Duration::from_secs(10);

    // Traffic between the LANs does not reach the ISP or a broker.
    let passed = fixture.lab.passed()?;
    for (from, to) in [(lan1, LAN2), (lan2, LAN1)] {
        let pings = probe::ping(from, to, 20)?;
        assert!(
            pings.sent == 20 && pings.all_answered(),
            "{} to {to}: {pings:?}",
            from.name()
        );
        assert_eq!(probe::udp_echo(from, to, 5, 1000, true)?, 5);
        probe::tcp_transfer(from, to, 1_000_000, 1_000_000, limit)?;
    }
    assert_eq!(fixture.reached_brokers()?, [0, 0]);
    assert_eq!(fixture.lab.passed()?, passed);
    fixture.ensure_nothing_lost()?;

    // Traffic with the outside, from either side, goes through the second tunnel.
    let [_, tunnel] = fixture.lab.tunnels();
    for (lan, address) in [(lan1, LAN1), (lan2, LAN2)] {
        let pings = probe::ping(lan, OUTSIDE, 20)?;
        assert!(
            pings.sent == 20 && pings.all_answered(),
            "{address} to outside: {pings:?}"
        );
        let pings = probe::ping(fixture.lab.outside(), address, 20)?;
        assert!(
            pings.sent == 20 && pings.all_answered(),
            "outside to {address}: {pings:?}"
        );
        assert_eq!(
            probe::udp_echo(fixture.lab.outside(), address, 5, 1000, true)?,
            5
        );
        probe::tcp_transfer(fixture.lab.outside(), address, 1_000_000, 1_000_000, limit)?;
        probe::tcp_transfer(lan, OUTSIDE, 1_000_000, 1_000_000, limit)?;
    }
    let seen = tunnel.broker_counters()?.get("from_host")?;
    assert!(seen >= 2 * (20 + 20 + 5), "{seen} packets at the broker");
    assert_eq!(fixture.reached_brokers()?[0], 0);
    fixture.ensure_nothing_lost()?;
    for tunnel in &fixture.program.status()?.tunnels {
        assert_eq!(tunnel.leaks, Leaks::default(), "{}", tunnel.name);
    }

    // Without rules, packets from the LANs to the outside leak and are redirected. Packets between the LANs
    // are not leaks.
    daemon.kill()?;
    fixture.delete_own_rules()?;
    for (lan, address) in [(lan1, LAN1), (lan2, LAN2)] {
        let pings = probe::ping(lan, OUTSIDE, 20)?;
        assert!(
            pings.all_answered(),
            "{address} to outside without rules: {pings:?}"
        );
    }
    assert!(probe::ping(lan1, LAN2, 20)?.all_answered());
    assert!(probe::ping(lan2, LAN1, 20)?.all_answered());
    fixture.ensure_nothing_lost()?;
    let daemon = fixture.start()?;
    let leaks = fixture.program.status()?.tunnel("sixxs1").leaks;
    assert_eq!(
        leaks,
        Leaks {
            redirected: 40,
            ..Leaks::default()
        }
    );
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The guide gives the uplink an address from a routed prefix, for the LAN on the uplink's link. Packets from
/// this address also leave only through the tunnel, even if a socket or a rule leads them to the uplink.
#[test]
fn a_routed_address_on_the_uplink() -> Result<()> {
    let spec = Spec {
        lans: true,
        ..Spec::new(Flavour::Tun)
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    let daemon = fixture.start()?;
    let host = fixture.host();
    let own: Ipv6Addr = "2001:db8:bb:2::1".parse()?;
    host.sh("ip -6 rule add fwmark 6 lookup main priority 100")?;
    let explained = || -> Result<String> {
        let asked = [
            "explain",
            &own.to_string(),
            &OUTSIDE.to_string(),
            "--mark",
            "6",
        ];
        let (_, mut told) = fixture.program.json(&asked)?;
        let told = told.pop().context("sixxs explain printed nothing")?;
        Ok(told["outcome"].as_str().unwrap_or_default().to_owned())
    };
    for cause in [Cause::Device(UPLINK), Cause::Mark(6)] {
        let socket = leak::udp_socket(host, own, cause)?;
        leak::send(&socket, OUTSIDE, 5, 100)?;
    }
    assert_eq!(fixture.reached_brokers()?, [0, 10]);
    assert_eq!(explained()?, "caught");
    fixture.ensure_nothing_lost()?;
    // On the link, neighbour discovery works in both directions, and multicast is not redirected.
    let [_, lan2] = fixture.lab.lans()?;
    for _ in 0..2 {
        host.sh("ip -6 neighbour flush dev net0")?;
        lan2.sh("ip -6 neighbour flush all")?;
        for (from, to) in [(host, LAN2), (lan2, own)] {
            let pings = probe::ping(from, to, 5)?;
            assert!(pings.all_answered(), "{} to {to}: {pings:?}", from.name());
        }
    }
    let caught = fixture.program.status()?.tunnel("sixxs1").leaks.redirected;
    assert_eq!(caught, 10);
    // Only the programs are left.
    daemon.kill()?;
    fixture.delete_own_rules()?;
    let pings = probe::Ping::new(OUTSIDE, 5).source(own).run(host)?;
    assert_eq!(pings.answered, 5);
    fixture.ensure_nothing_lost()?;
    let daemon = fixture.start()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
