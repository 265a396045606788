//! The underlay changes: addresses, ports, routes, the brokers themselves. Tunnels recover by themselves,
//! and soon.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::pop::Pop;
use sixxs_tests::lab::nat::Nat;
use sixxs_tests::lab::topology::{HOST, HOST4, OUTSIDE, UPLINK};
use sixxs_tests::lab::{Spec, Tunnel};
use sixxs_tests::probe::{self, Ping};
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// This test causes more connects in a minute than a real host in a year.
const NO_LIMIT: &str = "[connect_limit]\nconnects = 1000\n";
const SOON: Duration = Duration::from_secs(5);

fn start(spec: Spec, interval: u32) -> Result<(Fixture, Daemon)> {
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    let config = fixture.lab.config(NO_LIMIT).replace(
        "heartbeat_interval = 60",
        &format!("heartbeat_interval = {interval}"),
    );
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    Ok((fixture, daemon))
}

fn endpoint(pop: &Pop) -> Result<Option<IpAddr>> {
    Ok(pop.first()?.endpoint.map(|endpoint| endpoint.ip()))
}

/// Waits until the broker knows the client at this address. Returns the time since `since`.
fn is_known_at(pop: &Pop, address: Ipv4Addr, since: Instant) -> Result<Duration> {
    let what = format!("the broker knows {address}");
    wait::until(
        &what,
        SOON,
        || endpoint(pop),
        |at| *at == Some(address.into()),
    )?;
    Ok(since.elapsed())
}

/// Waits until a ping from outside is answered. Returns the time since `since`.
fn is_answered(fixture: &Fixture, tunnel: &Tunnel, since: Instant) -> Result<Duration> {
    let address = tunnel.plan.address;
    let what = format!("{address} answers");
    let ping = || {
        Ping::new(address, 1)
            .limit(Duration::from_millis(100))
            .run(fixture.lab.outside())
    };
    wait::until(&what, SOON, ping, |pings| pings.answered == 1)?;
    Ok(since.elapsed())
}

/// Pings the outside from the host through a tunnel.
fn host_is_answered(fixture: &Fixture, tunnel: &Tunnel) -> Result<()> {
    let source = tunnel.plan.address;
    let pings = Ping::new(OUTSIDE, 1).source(source).run(fixture.host())?;
    ensure!(pings.all_answered(), "{source}: {pings:?}");
    Ok(())
}

#[test]
fn ayiya_recovers_from_a_nat_rebinding_within_2_s() -> Result<()> {
    let spec = Spec {
        nat: true,
        ..Spec::native([Kind::Ayiya, Kind::Heartbeat])
    };
    let (fixture, daemon) = start(spec, 1)?;
    let nat = fixture.lab.nat()?;
    let [ayiya, heartbeat] = fixture.lab.tunnels();
    fixture.ensure_outside_answered(ayiya)?;
    // Protocol 41 passes a NAT whose mapping was opened from inside.
    host_is_answered(&fixture, heartbeat)?;
    fixture.ensure_outside_answered(heartbeat)?;
    type Rebind = fn(&Nat) -> Result<()>;
    let rebinds: [Rebind; 2] = [Nat::rebind_ports, Nat::rebind_address];
    for (what, rebind) in ["ports", "address"].into_iter().zip(rebinds) {
        rebind(nat)?;
        let since = Instant::now();
        let took = is_answered(&fixture, ayiya, since)?;
        println!("new {what}, without a packet of ours: answered after {took:?}");
        // The next heartbeat makes the new mapping.
        assert!(took < Duration::from_secs(2) * wait::patience(), "{took:?}");
        assert_eq!(endpoint(ayiya.broker()?)?, Some(IpAddr::V4(nat.address())));
        rebind(nat)?;
        let since = Instant::now();
        host_is_answered(&fixture, ayiya)?;
        let took = is_answered(&fixture, ayiya, since)?;
        println!("new {what}, with a packet of ours: answered after {took:?}");
    }
    let status = fixture.program.status()?;
    assert!(status.tunnels[0].is_whole(), "{status:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn transfers_survive_a_new_host_address() -> Result<()> {
    const BYTES: u64 = 20_000_000;
    let spec = Spec::native([Kind::Ayiya, Kind::Heartbeat]);
    let (fixture, daemon) = start(spec, 60)?;
    let lab = &fixture.lab;
    let limit = Duration::from_secs(20);
    std::thread::scope(|scope| {
        let transfers: Vec<_> = lab
            .tunnels()
            .iter()
            .map(|tunnel| {
                let (outside, to) = (lab.outside(), tunnel.plan.address);
                scope.spawn(move || probe::tcp_transfer(outside, to, BYTES, BYTES, limit))
            })
            .collect();
        for (address, part) in [(20, 1), (21, 5)] {
            for tunnel in lab.tunnels() {
                let pop = tunnel.broker()?;
                let carried = || {
                    let counts = pop.counts();
                    Ok(counts.sent_bytes + counts.delivered_bytes)
                };
                let enough = |bytes: &u64| *bytes > part * BYTES / 4;
                wait::until("the transfer is under way", limit, carried, enough)?;
            }
            let address = Ipv4Addr::new(192, 0, 2, address);
            lab.move_host4(address)?;
            let since = Instant::now();
            for tunnel in lab.tunnels() {
                let took = is_known_at(tunnel.broker()?, address, since)?;
                println!("{}: known at {address} after {took:?}", tunnel.plan.pop);
                assert!(took < Duration::from_secs(1) * wait::patience(), "{took:?}");
            }
        }
        for transfer in transfers {
            let took = transfer.join().expect("a transfer panicked")?;
            println!("{BYTES} bytes each way: {took:?}");
        }
        Ok::<_, anyhow::Error>(())
    })
    .with_context(|| daemon.log())?;
    for tunnel in lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn tunnels_recover_from_a_route_change_and_a_link_flap() -> Result<()> {
    let spec = Spec::native([Kind::Ayiya, Kind::Heartbeat]);
    let (fixture, daemon) = start(spec, 60)?;
    let host = fixture.host();
    // The host gets another source address, and keeps the old one.
    let other = Ipv4Addr::new(192, 0, 2, 33);
    host.ip(&format!(
        "address add {other}/24 dev {UPLINK}\n\
         route replace default via 192.0.2.1 dev {UPLINK} src {other}\n"
    ))?;
    let since = Instant::now();
    for tunnel in fixture.lab.tunnels() {
        let took = is_known_at(tunnel.broker()?, other, since)?;
        println!("{}: followed the route in {took:?}", tunnel.plan.pop);
        assert!(took < Duration::from_secs(1) * wait::patience(), "{took:?}");
    }
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }

    host.ip(&format!("link set {UPLINK} down\n"))?;
    fixture
        .program
        .status_until("there is no way to the brokers", |status| {
            status.tunnels.iter().all(|tunnel| {
                let reason = tunnel.reason.as_deref().unwrap_or_default();
                tunnel.state == "connecting" && reason.contains("no route to the broker")
            })
        })?;
    // A network manager sets the link up, and restores the lost addresses and routes.
    host.ip(&format!(
        "link set {UPLINK} up\n\
         address replace {HOST}/64 dev {UPLINK} nodad\n\
         route replace default via 2001:db8:1::fe dev {UPLINK} src {HOST}\n\
         route replace default via 192.0.2.1 dev {UPLINK} src {HOST4}\n"
    ))?;
    let since = Instant::now();
    for tunnel in fixture.lab.tunnels() {
        let took = is_known_at(tunnel.broker()?, HOST4, since)?;
        println!("{}: back in {took:?}", tunnel.plan.pop);
        assert!(took < Duration::from_secs(2) * wait::patience(), "{took:?}");
    }
    fixture.wait_until_up().with_context(|| daemon.log())?;
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn brokers_that_restart() -> Result<()> {
    let kinds = [Kind::Ayiya, Kind::Heartbeat];
    let (fixture, daemon) = start(Spec::native(kinds), 2)?;
    let status = fixture.program.status()?;
    for (tunnel, kind) in fixture.lab.tunnels().iter().zip(kinds) {
        let (pop, name) = (tunnel.broker()?, tunnel.plan.interface);
        fixture.ensure_outside_answered(tunnel)?;
        pop.stop();
        let source = tunnel.plan.address;
        // ICMP errors, port or protocol unreachable, do not end the tunnel.
        let lost = Ping::new(OUTSIDE, 20).source(source).run(fixture.host())?;
        assert_eq!(lost.answered, 0);
        // The kernel's tunnel device (`sit`) does not report these errors.
        if kind == Kind::Heartbeat && status.tunnel(name).carrier.as_deref() == Some("tun") {
            fixture.program.status_until("it is refused", |status| {
                let tunnel = status.tunnel(name);
                let reason = tunnel.reason.as_deref().unwrap_or_default();
                tunnel.state == "connecting"
                    && reason.contains("the broker refuses the packets of this host")
            })?;
        }
        pop.start()?;
        let since = Instant::now();
        let took = is_answered(&fixture, tunnel, since)?;
        println!("{name}: answered {took:?} after its broker came back");
        // One interval of heartbeats.
        assert!(took < Duration::from_secs(3) * wait::patience(), "{took:?}");
        fixture.wait_until_up().with_context(|| daemon.log())?;
        fixture.ensure_outside_answered(tunnel)?;
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The broker knows only the registered address. 6in4 cannot report another one.
#[test]
fn six_in_four_works_only_from_the_registered_address() -> Result<()> {
    let spec = Spec {
        nat: true,
        ..Spec::native([Kind::SixInFour, Kind::Ayiya])
    };
    let (fixture, daemon) = start(spec, 60)?;
    let [tunnel, _] = fixture.lab.tunnels();
    let (pop, nat) = (tunnel.broker()?, fixture.lab.nat()?);
    let source = tunnel.plan.address;
    let ping = || {
        Ping::new(OUTSIDE, 1)
            .source(source)
            .limit(Duration::from_millis(200))
            .run(fixture.host())
    };
    assert_eq!(ping()?.answered, 0);
    assert!(pop.counts().bad_source > 0, "{:?}", pop.counts());
    pop.change(tunnel.plan.address, |setup| {
        setup.registered = Some(nat.address());
    })?;
    wait::until("the broker knows us", SOON, ping, |pings| {
        pings.answered == 1
    })?;
    fixture.ensure_outside_answered(tunnel)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Status reports that a broker does not answer at the start. When it starts to answer, the tunnel comes up.
#[test]
fn a_tunnel_comes_up_when_its_broker_starts_later() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::Heartbeat]), Hook::Auto, "")?;
    let [first, second] = fixture.lab.tunnels();
    let pop = first.broker()?;
    pop.stop();
    let daemon = fixture.start()?;
    fixture.program.status_until("it is silent", |status| {
        let tunnel = status.tunnel(first.plan.interface);
        let reason = tunnel.reason.as_deref().unwrap_or_default();
        let is_silent = reason == "198.51.100.1 has not answered yet";
        is_silent && tunnel.state == "connecting" && status.tunnel(second.plan.interface).is_whole()
    })?;
    fixture.ensure_outside_answered(second)?;
    pop.start()?;
    let since = Instant::now();
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let took = since.elapsed();
    println!("up {took:?} after its broker came");
    assert!(took < SOON * wait::patience(), "{took:?}");
    fixture.ensure_outside_answered(first)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
