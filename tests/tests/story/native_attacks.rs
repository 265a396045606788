//! Tens of thousands of forged or replayed datagrams: none reaches the device, and the tunnel works
//! meanwhile.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::ayiya::PORT;
use sixxs_tests::broker::forge::Attack;
use sixxs_tests::broker::pop::Source;
use sixxs_tests::lab::topology::OUTSIDE;
use sixxs_tests::lab::{Spec, Tunnel};
use sixxs_tests::probe::frame;
use sixxs_tests::probe::{self, PingStream};
use sixxs_tests::program::{Daemon, Hook};

use crate::fixture::{Fixture, exclusive};

/// Number of datagrams of each kind of attack.
const EACH: usize = 10_000;
/// Number of datagrams with up to 64 KiB.
const LARGE: usize = 300;
/// An attacker on the path.
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);

fn start(kinds: [Kind; 2]) -> Result<(Fixture, Daemon)> {
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    for tunnel in fixture.lab.tunnels() {
        // The test counts packets from the device, so the broker sends no pings of its own.
        tunnel.broker()?.ping_every(Duration::from_secs(3600));
        fixture.ensure_outside_answered(tunnel)?;
    }
    Ok((fixture, daemon))
}

/// Number of packets that arrived from a device of the host.
pub(crate) fn arrived(fixture: &Fixture, tunnel: &Tunnel) -> Result<u64> {
    let name = tunnel.plan.interface;
    let shown = fixture
        .host()
        .sh(&format!("ip -statistics -json link show dev {name}"))?;
    let shown: Value = serde_json::from_str(&shown).context("read what ip says")?;
    let packets = shown[0]["stats64"]["rx"]["packets"].as_u64();
    packets.with_context(|| format!("no packets: {shown:#}"))
}

/// Attacks a tunnel while pings from outside pass through it. Only the pings may arrive.
fn stands(
    fixture: &Fixture,
    daemon: &Daemon,
    tunnel: &Tunnel,
    attack: impl FnOnce() -> Result<u64>,
) -> Result<()> {
    let before = arrived(fixture, tunnel)?;
    let memory = daemon.resident_kib()?;
    let interval = Duration::from_millis(2);
    let pings = PingStream::start(fixture.lab.outside(), tunnel.plan.address, interval)?;
    let sent = attack()?;
    let pings = pings.stop()?;
    let grown = daemon.resident_kib()?.saturating_sub(memory);
    println!("{sent} datagrams, {pings:?}, {grown} KiB more");
    ensure!(pings.sent > 20 && pings.all_answered(), "{pings:?}");
    ensure!(grown < 1024, "the daemon has grown by {grown} KiB");
    let status = fixture.program.status()?;
    // The kernel's tunnel device (`sit`) counts packets before it checks them.
    let is_tun = status.tunnel(tunnel.plan.interface).carrier.as_deref() == Some("tun");
    let came = arrived(fixture, tunnel)? - before;
    ensure!(came == pings.sent || !is_tun, "{came} packets of {pings:?}");
    ensure!(status.tunnels.iter().all(|t| t.is_whole()), "{status:#?}");
    Ok(())
}

#[test]
fn invalid_ayiya_datagrams_are_refused() -> Result<()> {
    let _exclusive = exclusive();
    let (fixture, daemon) = start([Kind::Ayiya, Kind::SixInFour])?;
    let [tunnel, _] = fixture.lab.tunnels();
    let (pop, address) = (tunnel.broker()?, tunnel.plan.address);
    let packet = frame::udp(OUTSIDE, address, b"an intruder")?;
    let forger = pop.forger(address, 7)?;
    for attack in Attack::ALL {
        let count = if attack == Attack::Oversized {
            LARGE
        } else {
            EACH
        };
        stands(&fixture, &daemon, tunnel, || {
            pop.inject(address, Source::Own, forger.wrong(attack, &packet, count))
        })
        .with_context(|| format!("{attack:?}"))?;
    }
    assert_eq!(fixture.host_discarded(), 0);
    // The daemon counts them by reason. A burst may have overflowed the socket buffer.
    let status = fixture.program.status()?;
    let refused = &status.tunnel(tunnel.plan.interface).refused;
    for reason in [
        "short",
        "header",
        "identity",
        "time",
        "signature",
        "payload",
    ] {
        let count = refused.get(reason).copied().unwrap_or_default();
        assert!(count > EACH as u64 / 4, "{reason}: {refused:?}");
    }
    // With a correct signature the same packet is accepted.
    pop.inject(
        address,
        Source::Own,
        [pop.forger(address, 7)?.right(&packet)],
    )?;
    fixture.wait_for_host_discards(1)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn replayed_and_foreign_ayiya_datagrams_are_refused() -> Result<()> {
    let _exclusive = exclusive();
    let (fixture, daemon) = start([Kind::Ayiya, Kind::SixInFour])?;
    let [tunnel, _] = fixture.lab.tunnels();
    let (pop, address) = (tunnel.broker()?, tunnel.plan.address);
    // Datagrams recorded in both directions, and sent to the host unchanged.
    pop.record(EACH);
    for size in [50, 600, 1200] {
        let answered = probe::udp_echo(fixture.lab.outside(), address, 300, size, true)?;
        assert_eq!(answered, 300);
    }
    let recorded = pop.recorded();
    for received in [false, true] {
        let some = recorded.iter().filter(|one| one.received == received);
        let some: Vec<Vec<u8>> = some.map(|one| one.bytes.clone()).collect();
        assert!(some.len() >= 900, "{}", some.len());
        let times = EACH.div_ceil(some.len());
        let again = some.into_iter().cycle().take(900 * times);
        stands(&fixture, &daemon, tunnel, || {
            pop.inject(address, Source::Own, again)
        })
        .with_context(|| format!("recorded, from the client: {received}"))?;
    }
    // Valid datagrams from another address are rejected as well.
    let packet = frame::udp(OUTSIDE, address, b"an intruder")?;
    let forger = pop.forger(address, 8)?;
    let stranger = Source::Other(SocketAddrV4::new(STRANGER, PORT));
    stands(&fixture, &daemon, tunnel, || {
        let right = std::iter::repeat_with(|| forger.right(&packet)).take(EACH);
        pop.inject(address, stranger, right)
    })?;
    assert_eq!(fixture.host_discarded(), 0);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn forged_protocol_41_packets_are_refused() -> Result<()> {
    let _exclusive = exclusive();
    let kinds = [Kind::SixInFour, Kind::Heartbeat];
    let (fixture, daemon) = start(kinds)?;
    for (tunnel, kind) in fixture.lab.tunnels().iter().zip(kinds) {
        let (pop, address) = (tunnel.broker()?, tunnel.plan.address);
        let packet = frame::udp(OUTSIDE, address, b"an intruder")?;
        let forger = pop.forger(address, 9)?;
        let ours = frame::udp(address, address, b"our own")?;
        let stranger = Source::Other(SocketAddrV4::new(STRANGER, 0));
        let attack = |what: &str, source, datagrams: &mut dyn Iterator<Item = Vec<u8>>| {
            stands(&fixture, &daemon, tunnel, || {
                pop.inject(address, source, datagrams)
            })
            .with_context(|| format!("{}: {what}", kind.name()))
        };
        let repeat = |packet| std::iter::repeat_n(packet, EACH);
        attack("from a stranger", stranger, &mut repeat(packet.clone()))?;
        attack("with our own source", Source::Own, &mut repeat(ours))?;
        let mut none = forger.wrong_packets(&packet, EACH);
        attack("no packets", Source::Own, &mut none)?;
    }
    assert_eq!(fixture.host_discarded(), 0);
    let [tunnel, _] = fixture.lab.tunnels();
    let address = tunnel.plan.address;
    let packet = frame::udp(OUTSIDE, address, b"an intruder")?;
    tunnel.broker()?.inject(address, Source::Own, [packet])?;
    fixture.wait_for_host_discards(1)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
