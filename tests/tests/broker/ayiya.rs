//! AYIYA: carriage of packets, faults, a broker that restarts, a bad path, NAT.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::ayiya::{Key, NONE, NOOP, PORT, header, seal};
use sixxs_tests::broker::clock::Clock;
use sixxs_tests::broker::forge::Attack;
use sixxs_tests::broker::impairment::Impairment;
use sixxs_tests::broker::pop::{Pop, Source};
use sixxs_tests::lab::native::ExtraTunnel;
use sixxs_tests::lab::topology::{OUTSIDE, TIC_SERVER};
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::probe::frame;
use sixxs_tests::probe::service::Services;
use sixxs_tests::{probe, wait};

use super::client::{Client, LIMIT, carries};

fn lab(nat: bool) -> Result<(Lab, Client, Services)> {
    let kinds = [Kind::Ayiya, Kind::Heartbeat];
    let lab = Lab::new(Spec {
        nat,
        ..Spec::native(kinds)
    })?;
    let [tunnel, _] = lab.tunnels();
    let client = Client::start(&lab, tunnel, Kind::Ayiya)?;
    let services = Services::start(lab.host(), &[client.plan.address])?;
    Ok((lab, client, services))
}

fn wait_for_heartbeats(pop: &Pop, count: u64) -> Result<()> {
    let seen = || Ok(pop.counts());
    wait::until("the heartbeats arrive", LIMIT, seen, |seen| {
        seen.heartbeats >= count
    })?;
    Ok(())
}

#[test]
fn carries_pings_and_calls_down() -> Result<()> {
    let (lab, client, _services) = lab(false)?;
    let [tunnel, _] = lab.tunnels();
    let pop = tunnel.broker()?;
    let early = probe::ping(lab.outside(), client.plan.address, 1)?;
    assert_eq!(early.answered, 0);
    assert!(pop.counts().unsent >= 1 && client.received() == 0);

    client.keepalive()?;
    wait_for_heartbeats(pop, 1)?;
    carries(&lab, &client)?;
    assert_eq!(tunnel.broker_counters()?.get("strays")?, 0);

    // The PoP consumes the replies to its own pings.
    let before = tunnel.broker_counters()?.get("from_host")?;
    pop.ping_every(Duration::from_millis(20));
    let seen = || Ok(pop.counts());
    wait::until("pings are answered", LIMIT, seen, |seen| {
        seen.pings_answered >= 5
    })?;
    pop.ping_every(Duration::from_secs(60));
    assert_eq!(tunnel.broker_counters()?.get("from_host")?, before);

    pop.set_silence_limit(Duration::from_millis(200));
    wait::until("it is called down", LIMIT, seen, |seen| seen.went_down == 1)?;
    assert!(!pop.first()?.up);
    client.keepalive()?;
    wait::until("it is up", LIMIT, || Ok(pop.first()?.up), |up| *up)?;
    let counts = pop.counts();
    assert_eq!(
        (counts.bad(), counts.endpoint_changes),
        (0, 0),
        "{counts:?}"
    );
    assert!(counts.delivered > 300 && counts.sent > 300, "{counts:?}");
    Ok(())
}

#[test]
fn clock_and_restart() -> Result<()> {
    let (lab, client, _services) = lab(false)?;
    let pop = lab.tunnels()[0].broker()?;
    pop.clock().set_ahead(-130);
    client.keepalive()?;
    let seen = || Ok(pop.counts());
    wait::until("a heartbeat is early", LIMIT, seen, |seen| {
        seen.bad_time == 1
    })?;
    pop.clock().set_ahead(0);
    client.send(b"hello")?;
    wait::until("it is no AYIYA", LIMIT, seen, |seen| seen.bad_form == 1)?;
    client.keepalive()?;
    wait_for_heartbeats(pop, 1)?;

    pop.stop();
    client.keepalive()?;
    let lost = probe::ping(lab.outside(), client.plan.address, 2)?;
    assert_eq!(lost.answered, 0);
    pop.start()?;
    assert_eq!(pop.first()?.endpoint, None);
    client.keepalive()?;
    wait_for_heartbeats(pop, 2)?;
    assert_eq!(client.received(), 0, "old packets came out of the new PoP");
    carries(&lab, &client)
}

/// Wrong datagrams of every kind reach the client's socket, but not its device.
#[test]
fn wrong_datagrams_arrive() -> Result<()> {
    const EACH: usize = 100;
    let (lab, client, services) = lab(false)?;
    let pop = lab.tunnels()[0].broker()?;
    client.keepalive()?;
    wait_for_heartbeats(pop, 1)?;
    let address = client.plan.address;
    let packet = frame::udp(OUTSIDE, address, b"an intruder")?;
    let forger = pop.forger(address, 1)?;
    let mut expected = 0;
    for attack in Attack::ALL {
        let wrong = forger.wrong(attack, &packet, EACH);
        expected += pop.inject(address, Source::Own, wrong)?;
        let seen = || Ok(client.received());
        // The kernel drops datagrams if this slow client's buffer is full. Fragments take some time.
        let most = |seen: &u64| *seen * 10 >= expected * 9;
        wait::until("the datagrams arrive", LIMIT, seen, most)?;
    }
    // Datagrams of other senders do not reach a connected socket.
    let before = client.received();
    let stranger = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 66), PORT);
    let right = vec![forger.right(&packet)];
    pop.inject(address, Source::Other(stranger), right.clone())?;
    let stranger = SocketAddrV4::new(client.plan.remote4, PORT + 1);
    pop.inject(address, Source::Other(stranger), right.clone())?;
    assert_eq!(
        (services.discarded(), client.right.load(Ordering::Relaxed)),
        (0, 0)
    );
    assert!(client.received() <= expected.max(before));

    // This client accepts repeats. The repeats are valid otherwise.
    pop.record(10);
    pop.inject(address, Source::Own, vec![right[0].clone(); 3])?;
    let seen = || Ok(services.discarded());
    wait::until("repeats come through", LIMIT, seen, |seen| *seen == 3)?;
    assert!(pop.recorded().is_empty());
    client.keepalive()?;
    wait_for_heartbeats(pop, 2)?;
    let recorded = pop.recorded();
    assert!(recorded.len() == 1 && recorded[0].received, "{recorded:?}");
    Ok(())
}

#[test]
fn bad_path() -> Result<()> {
    let (lab, client, _services) = lab(false)?;
    let pop = lab.tunnels()[0].broker()?;
    client.keepalive()?;
    wait_for_heartbeats(pop, 1)?;
    let bad = Impairment {
        loss: 1.0,
        reorder: 2.0,
        duplicate: 2.0,
        seed: 1,
    };
    pop.impair(bad, bad);
    let limit = Duration::from_secs(20);
    probe::tcp_transfer(lab.outside(), client.plan.address, 500_000, 500_000, limit)?;
    for done in pop.impaired() {
        assert!(done.lost > 0 && done.reordered > 0 && done.duplicated > 0);
    }
    pop.impair(Impairment::default(), Impairment::default());
    // Delayed or retransmitted packets of the transfer may still be in transit.
    wait::until(
        "the path is good again",
        LIMIT,
        || Ok(carries(&lab, &client)),
        Result::is_ok,
    )?
}

#[test]
fn behind_address_translation() -> Result<()> {
    let (lab, client, _services) = lab(true)?;
    let (pop, nat) = (lab.tunnels()[0].broker()?, lab.nat()?);
    client.keepalive()?;
    wait_for_heartbeats(pop, 1)?;
    let first = pop.first()?.endpoint;
    assert_eq!(first.map(|at| at.ip()), Some(IpAddr::V4(nat.address())));
    carries(&lab, &client)?;

    nat.rebind_ports()?;
    let before = nat.unsolicited()?;
    let lost = probe::ping(lab.outside(), client.plan.address, 2)?;
    assert_eq!(lost.answered, 0);
    assert_eq!(nat.unsolicited()?, before + 2);
    client.keepalive()?;
    wait_for_heartbeats(pop, 2)?;
    let second = pop.first()?.endpoint;
    assert_eq!(second.map(|at| at.ip()), first.map(|at| at.ip()));
    assert_ne!(second, first);
    carries(&lab, &client)?;

    nat.rebind_address()?;
    client.keepalive()?;
    wait_for_heartbeats(pop, 3)?;
    let third = pop.first()?.endpoint;
    assert_eq!(third.map(|at| at.ip()), Some(IpAddr::V4(nat.address())));
    assert_ne!(third.map(|at| at.ip()), second.map(|at| at.ip()));
    assert_eq!(pop.counts().endpoint_changes, 2);
    carries(&lab, &client)?;
    // TCP and other IPv4 traffic pass as well.
    lab.host().sh(&format!("ping -c 1 -W 2 {TIC_SERVER}"))?;
    Ok(())
}

/// Sends heartbeats by hand, without an interface. Received packets are only counted.
#[test]
fn more_tunnels_at_one_pop_and_ipv6_outside() -> Result<()> {
    let lab = Lab::new(Spec {
        extra_tunnels: 200,
        ..Spec::native([Kind::Ayiya, Kind::Heartbeat])
    })?;
    let [tunnel, _] = lab.tunnels();
    let (pop, plan) = (tunnel.broker()?, tunnel.plan);
    let socket = |local: &str| lab.host().run(|| Ok(UdpSocket::bind(local)?));
    let (socket4, socket6) = (socket("0.0.0.0:0")?, socket("[::]:0")?);
    let now = Clock::new().seconds();
    let beat = |more: ExtraTunnel| {
        let (key, noop) = (Key::of(&more.password()), (NOOP, NONE));
        seal(&key, more.address(), now, noop, &[])
    };
    for more in lab.extra_tunnels() {
        if more.0 % 2 == 0 {
            socket4.send_to(&beat(more), (plan.remote4, PORT))?;
        } else {
            socket6.send_to(&beat(more), (plan.remote6, PORT))?;
        }
    }
    wait_for_heartbeats(pop, 200)?;
    for number in [198, 199] {
        let address = ExtraTunnel(number).address();
        probe::ping(lab.outside(), address, 2)?;
        let session = pop.session(address)?;
        assert_eq!((session.counts.sent, session.up), (2, true));
        let socket = if number % 2 == 0 { &socket4 } else { &socket6 };
        socket.set_read_timeout(Some(LIMIT))?;
        let mut buffer = [0; 2000];
        let (length, _) = socket.recv_from(&mut buffer)?;
        let header = header(&buffer[..length]).expect("the PoP's header is right");
        assert_eq!(header.identity, ExtraTunnel(number).peer());
    }
    assert_eq!(lab.config("").matches("[[tunnel]]").count(), 202);
    Ok(())
}
