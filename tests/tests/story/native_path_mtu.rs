//! A path to the broker with a smaller MTU than both ends: senders get Packet Too Big, and no packet is
//! fragmented as long as that can be avoided (RFC 4213 §3.2.2).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::Kind;
use sixxs_tests::kernel;
use sixxs_tests::lab::topology::OUTSIDE;
use sixxs_tests::lab::{Spec, Tunnel};
use sixxs_tests::probe::{self, Ping};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;
use crate::native::carrier_of;

/// Reads a counter. For each protocol, the table has a line of names and a line of numbers.
fn counted(table: &str, name: &str) -> Result<u64> {
    let mut lines = table.lines().zip(table.lines().skip(1));
    let found = lines.find_map(|(names, numbers)| {
        let at = names.split(' ').position(|word| word == name)?;
        numbers.split(' ').nth(at)?.parse().ok()
    });
    found.with_context(|| format!("{name} in {table}"))
}

/// Number of outer packets that the host fragmented.
fn cut(fixture: &Fixture) -> Result<u64> {
    counted(&fixture.host().sh("cat /proc/net/snmp")?, "FragCreates")
}

fn too_big_received(fixture: &Fixture) -> Result<u64> {
    let counts = fixture.host().sh("cat /proc/net/snmp6")?;
    let line = counts
        .lines()
        .find(|line| line.starts_with("Icmp6InPktTooBigs"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.context("Icmp6InPktTooBigs")?.parse()?)
}

/// Sends pings of 1420 bytes until one is answered. The host has then learned the path MTU.
fn learns(fixture: &Fixture, tunnel: &Tunnel, mtu: u32) -> Result<()> {
    let source = tunnel.plan.address;
    let ping = || {
        let ping = Ping::new(OUTSIDE, 1).source(source).bytes(1420 - 48);
        let answered = ping
            .limit(Duration::from_millis(200))
            .run(fixture.host())?
            .answered;
        let route = fixture
            .host()
            .sh(&format!("ip -6 route get {OUTSIDE} from {source}"))?;
        Ok((answered, route))
    };
    let words = format!("mtu {mtu} ");
    let what = format!("a ping of 1420 bytes is answered, and {mtu} is learned");
    wait::until(&what, Duration::from_secs(5), ping, |(answered, route)| {
        *answered == 1 && format!("{route} ").contains(&words)
    })?;
    Ok(())
}

/// Only the path towards the brokers is narrow, because they do not report packets that are too big.
fn narrows(fixture: &Fixture, mtu: u32) -> Result<()> {
    let route = format!("route replace 0.0.0.0/0 via inet6 fe80::1 dev core mtu {mtu}\n");
    fixture.lab.isp().ip(&route)
}

fn transfers(fixture: &Fixture, tunnel: &Tunnel) -> Result<()> {
    let limit = Duration::from_secs(20);
    let (outside, address) = (fixture.lab.outside(), tunnel.plan.address);
    probe::tcp_transfer(outside, address, 3_000_000, 3_000_000, limit)?;
    Ok(())
}

#[test]
fn senders_learn_the_path_mtu_of_the_tunnel() -> Result<()> {
    senders_learn_it(None)
}

/// The same if the daemon carries the packets.
#[test]
fn senders_learn_the_path_mtu_from_the_daemon() -> Result<()> {
    senders_learn_it(Some("tun"))
}

fn senders_learn_it(carrier: Option<&'static str>) -> Result<()> {
    let spec = Spec {
        mtu: 1480,
        carrier,
        ..Spec::native([Kind::SixInFour, Kind::Heartbeat])
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    fixture
        .program
        .wait_until_carried_by(carrier_of(carrier)?)?;
    let tunnels = fixture.lab.tunnels();
    for tunnel in tunnels {
        transfers(&fixture, tunnel)?;
    }
    assert_eq!((cut(&fixture)?, too_big_received(&fixture)?), (0, 0));

    narrows(&fixture, 1400)?;
    for tunnel in tunnels {
        fixture.forget_path_mtu()?;
        let before = too_big_received(&fixture)?;
        learns(&fixture, tunnel, 1380)?;
        assert!(too_big_received(&fixture)? > before);
        fixture.forget_path_mtu()?;
        transfers(&fixture, tunnel).with_context(|| daemon.log())?;
        fixture.ensure_outside_answered(tunnel)?;
    }
    assert_eq!(cut(&fixture)?, 0, "outer packets were cut");

    // Less than the minimum MTU of IPv6: packets of 1280 bytes are fragmented.
    narrows(&fixture, 1200)?;
    for tunnel in tunnels {
        fixture.forget_path_mtu()?;
        learns(&fixture, tunnel, 1280)?;
        transfers(&fixture, tunnel).with_context(|| daemon.log())?;
    }
    let fragments = cut(&fixture)?;
    ensure!(
        fragments > 0,
        "packets of 1280 bytes over 1200 without fragments"
    );
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The programs know the path MTU that the daemon has learned: they answer what is too long, and carry the rest.
#[test]
fn a_learned_path_mtu_works_without_a_daemon() -> Result<()> {
    if !kernel::has_decapsulation()? {
        return Ok(());
    }
    let spec = Spec {
        mtu: 1480,
        ..Spec::native([Kind::SixInFour, Kind::Heartbeat])
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let [tunnel, _] = fixture.lab.tunnels();
    narrows(&fixture, 1400)?;
    learns(&fixture, tunnel, 1380)?;
    daemon.kill()?;
    // With another route, the host forgets what it has learned. The programs do not.
    let route = format!(
        "default dev {} table 200 metric 1024",
        tunnel.plan.interface
    );
    let forgets = || fixture.host().sh(&format!("ip -6 route replace {route}"));
    forgets()?;
    let before = too_big_received(&fixture)?;
    learns(&fixture, tunnel, 1380)?;
    assert!(too_big_received(&fixture)? > before);
    forgets()?;
    transfers(&fixture, tunnel)?;
    fixture.host().sh(&format!("ip -6 route del {route}"))?;
    let _daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let (_, counters) = fixture.program.json(&["counters"])?;
    let counters = &counters.first().context("counters")?["interfaces"][tunnel.plan.interface];
    let answered = counters["carried_out_too_big"].as_u64();
    ensure!(
        answered.is_some_and(|answered| answered > 0),
        "{counters:#}"
    );
    assert_eq!(cut(&fixture)?, 0, "outer packets were cut");
    Ok(())
}

/// The datagrams of an AYIYA tunnel are 72 bytes longer than its packets, so packets of IPv6's minimum MTU
/// may not fit.
#[test]
fn ayiya_goes_in_fragments() -> Result<()> {
    let kinds = [Kind::Ayiya, Kind::Heartbeat];
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    narrows(&fixture, 1200)?;
    let [tunnel, _] = fixture.lab.tunnels();
    let ping = || {
        let ping = Ping::new(OUTSIDE, 1).source(tunnel.plan.address);
        let ping = ping.bytes(1280 - 48).limit(Duration::from_millis(200));
        Ok(ping.run(fixture.host())?.answered)
    };
    let limit = Duration::from_secs(5);
    wait::until("1280 bytes are answered", limit, ping, |answered| {
        *answered == 1
    })?;
    transfers(&fixture, tunnel).with_context(|| daemon.log())?;
    assert!(cut(&fixture)? > 0);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
