//! 6in4 tunnels whose packets the programs in the kernel carry: without a daemon, and across changes of the carrier.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::pop::Source;
use sixxs_tests::kernel;
use sixxs_tests::lab::far_end::{FarEnd, near_end};
use sixxs_tests::lab::offload::sum_before_sending;
use sixxs_tests::lab::topology::{Flavour, HOST4, LAN1, LAN2, OUTSIDE, UPLINK};
use sixxs_tests::lab::tun::{self, Wire};
use sixxs_tests::lab::{Spec, Tunnel, nft, uplink};
use sixxs_tests::probe::frame;
use sixxs_tests::probe::service::Services;
use sixxs_tests::probe::{self, Ping, PingStream};
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::wait;

use crate::fixture::Fixture;
use crate::native::carrier_of;

/// Limit for what a change of the carrier may lose.
const GAP: Duration = Duration::from_millis(50);

/// The interval between pings.
const INTERVAL: Duration = Duration::from_millis(1);

/// Two tunnels that the programs carry; `None` on a kernel whose programs cannot.
fn carried() -> Result<Option<(Fixture, Daemon)>> {
    carried_with(Hook::Auto)
}

fn carried_with(hook: Hook) -> Result<Option<(Fixture, Daemon)>> {
    if !kernel::has_decapsulation()? {
        return Ok(None);
    }
    let kinds = [Kind::SixInFour, Kind::Heartbeat];
    let fixture = Fixture::with_spec(Spec::native(kinds), hook, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    fixture.program.wait_until_carried_by("ebpf")?;
    Ok(Some((fixture, daemon)))
}

/// Everything that a tunnel is used for, in both directions.
fn works(fixture: &Fixture, tunnel: &Tunnel) -> Result<()> {
    fixture.ensure_outside_answered(tunnel)?;
    let source = tunnel.plan.address;
    let pings = Ping::new(OUTSIDE, 5).source(source).run(fixture.host())?;
    ensure!(pings.all_answered(), "from the host: {pings:?}");
    let limit = Duration::from_secs(20);
    let outside = fixture.lab.outside();
    probe::tcp_transfer(outside, source, 2_000_000, 2_000_000, limit)?;
    Ok(())
}

/// The counter of a tunnel.
fn counter(fixture: &Fixture, tunnel: &Tunnel, name: &str) -> Result<u64> {
    let (_, lines) = fixture.program.json(&["counters"])?;
    let counters = lines.first().context("counters")?;
    let counter = counters["interfaces"][tunnel.plan.interface][name].as_u64();
    counter.with_context(|| format!("{name} in {counters:#}"))
}

#[test]
fn the_tunnel_works_without_a_daemon() -> Result<()> {
    works_without_a_daemon(Hook::Auto)
}

#[test]
fn filters_work_without_a_daemon() -> Result<()> {
    works_without_a_daemon(Hook::Clsact)
}

/// The programs need no daemon: it is stopped by a signal, then killed, then ended.
fn works_without_a_daemon(hook: Hook) -> Result<()> {
    let Some((fixture, daemon)) = carried_with(hook)? else {
        return Ok(());
    };
    daemon.signal(Signal::SIGSTOP)?;
    for tunnel in fixture.lab.tunnels() {
        works(&fixture, tunnel).context("a stopped daemon")?;
    }
    daemon.signal(Signal::SIGCONT)?;
    let before = fixture
        .lab
        .tunnels()
        .each_ref()
        .map(|tunnel| counter(&fixture, tunnel, "carried_in"));
    daemon.kill()?;
    for tunnel in fixture.lab.tunnels() {
        works(&fixture, tunnel).context("a killed daemon")?;
    }
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    for (tunnel, before) in fixture.lab.tunnels().iter().zip(before) {
        let now = counter(&fixture, tunnel, "carried_in")?;
        ensure!(now > before? + 1000, "{now}");
        let by_daemon = counter(&fixture, tunnel, "carried_out_left")?;
        ensure!(by_daemon < 50, "{by_daemon}");
    }
    ensure!(daemon.stop()? == 0);
    for tunnel in fixture.lab.tunnels() {
        works(&fixture, tunnel).context("an ended daemon")?;
    }
    fixture.ensure_nothing_lost()?;
    // `down` ends it.
    fixture.program.run_ok(&["down"])?;
    let links = fixture.host().sh("ip -brief link show")?;
    ensure!(!links.contains("sixxs"), "{links}");
    for direction in ["ingress", "egress"] {
        let shown = format!("tc filter show dev {UPLINK} {direction}");
        let filters = fixture.host().sh(&shown)?;
        ensure!(filters.trim().is_empty(), "{filters}");
    }
    Ok(())
}

/// The packets of a tunnel are counted once each, whichever way they take.
#[test]
fn no_packet_is_counted_twice() -> Result<()> {
    let Some((fixture, daemon)) = carried()? else {
        return Ok(());
    };
    let [tunnel, _] = fixture.lab.tunnels();
    tunnel.broker()?.ping_every(Duration::from_secs(3600));
    let names = [
        "in_packets",
        "out_own",
        "in_echo_requests",
        "out_echo_replies",
        "carried_in",
        "carried_out",
        "carried_out_left",
    ];
    let counters = || -> Result<Vec<u64>> {
        names
            .iter()
            .map(|name| counter(&fixture, tunnel, name))
            .collect()
    };
    // The last pings of the broker may still be in transit.
    let twice = || {
        let first = counters()?;
        std::thread::sleep(Duration::from_millis(100));
        Ok((first, counters()?))
    };
    let quiet = Duration::from_secs(5);
    let (_, before) = wait::until("nothing moves", quiet, twice, |(first, then)| first == then)?;
    let pings = probe::ping(fixture.lab.outside(), tunnel.plan.address, 50)?;
    ensure!(pings.all_answered(), "{pings:?}");
    let after = counters()?;
    let grown: Vec<_> = after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect();
    assert_eq!(grown, [50, 50, 50, 50, 50, 50, 0], "{names:?}");
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// Waits until each stream has a hundred answers more.
fn answered_more(streams: &[PingStream]) -> Result<()> {
    for stream in streams {
        let answered = || Ok(stream.state().pings.answered);
        let before = answered()?;
        let limit = Duration::from_secs(10);
        wait::until("answers come", limit, answered, |now| *now >= before + 100)?;
    }
    Ok(())
}

/// A reload changes the carrier, and a restart keeps it. Both lose less than 50 ms.
#[test]
fn a_change_of_the_carrier_loses_at_most_50_ms() -> Result<()> {
    let Some((fixture, mut daemon)) = carried()? else {
        return Ok(());
    };
    let config = fixture.lab.config("");
    let with = |carrier: &str| {
        let line = format!("mtu = 1280\ncarrier = \"{carrier}\"\n");
        config.replace("mtu = 1280\n", &line)
    };
    ensure!(with("tun") != config, "{config}");
    let before = fixture.program.status()?;
    let mut streams = Vec::new();
    for tunnel in fixture.lab.tunnels() {
        let address = tunnel.plan.address;
        streams.push(PingStream::start(fixture.lab.outside(), address, INTERVAL)?);
    }
    let mut changes = 0;
    for carrier in ["tun", "ebpf", "tun", "auto"] {
        answered_more(&streams)?;
        fixture.lab.write_config(&with(carrier))?;
        fixture.program.run_ok(&["reload"])?;
        let expected = carrier_of((carrier != "auto").then_some(carrier))?;
        fixture.program.wait_until_carried_by(expected)?;
        changes += 1;
    }
    for _ in 0..2 {
        ensure!(daemon.stop()? == 0);
        daemon = fixture.start()?;
        fixture.wait_until_up()?;
        changes += 1;
    }
    answered_more(&streams)?;
    for (stream, tunnel) in streams.into_iter().zip(fixture.lab.tunnels()) {
        let name = tunnel.plan.interface;
        let pings = stream.stop()?;
        let lost = u32::try_from(pings.sent - pings.answered)?;
        println!(
            "{name}: {lost} of {} pings lost over {changes} changes",
            pings.sent
        );
        ensure!(
            INTERVAL * lost <= GAP * changes * wait::patience(),
            "{name}: {pings:?}"
        );
        let after = fixture.program.status()?;
        assert_eq!(after.tunnel(name).ifindex, before.tunnel(name).ifindex);
    }
    fixture.ensure_nothing_lost()?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// The kernel's own tunnel is another interface: a reload replaces it, and so does a start with another configuration.
#[test]
fn from_sit_to_the_programs_and_back() -> Result<()> {
    if !kernel::has_decapsulation()? {
        return Ok(());
    }
    let spec = Spec::native([Kind::SixInFour, Kind::Ayiya]);
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    let [tunnel, _] = fixture.lab.tunnels();
    let name = tunnel.plan.interface;
    let config = fixture.lab.config("");
    let with = |carrier: &str| {
        let kind = "kind = \"6in4\"\n";
        config.replace(kind, &format!("{kind}carrier = \"{carrier}\"\n"))
    };
    let works_by = |carrier: Option<&str>| -> Result<()> {
        fixture.wait_until_up()?;
        let expected = carrier_of(carrier)?;
        fixture
            .program
            .status_until("it has its carrier", |status| {
                status.tunnel(name).carrier.as_deref() == Some(expected)
            })?;
        works(&fixture, tunnel).with_context(|| expected)
    };
    let daemon = fixture.start()?;
    works_by(None)?;
    for carrier in ["sit", "ebpf", "sit"] {
        fixture.lab.write_config(&with(carrier))?;
        fixture.program.run_ok(&["reload"])?;
        works_by(Some(carrier))?;
    }
    ensure!(daemon.stop()? == 0);
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    works_by(None)?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// Between the kernel's own tunnel and a TUN device, the tunnel is restarted.
#[test]
fn from_sit_to_a_tun_device_and_back() -> Result<()> {
    /// Without packets, on a processor that is not emulated.
    const RESTART: Duration = Duration::from_millis(500);
    if !kernel::has_sit() {
        return Ok(());
    }
    let spec = Spec::native([Kind::SixInFour, Kind::Ayiya]);
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    let [tunnel, _] = fixture.lab.tunnels();
    let name = tunnel.plan.interface;
    let config = fixture.lab.config("");
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    for carrier in ["tun", "sit", "tun", "sit"] {
        let streams = [PingStream::start(
            fixture.lab.outside(),
            tunnel.plan.address,
            INTERVAL,
        )?];
        answered_more(&streams)?;
        let kind = "kind = \"6in4\"\n";
        let changed = config.replace(kind, &format!("{kind}carrier = \"{carrier}\"\n"));
        fixture.lab.write_config(&changed)?;
        fixture.program.run_ok(&["reload"])?;
        fixture.wait_until_up().with_context(|| daemon.log())?;
        fixture
            .program
            .status_until("it has its carrier", |status| {
                status.tunnel(name).carrier.as_deref() == Some(carrier)
            })?;
        answered_more(&streams)?;
        for stream in streams {
            let pings = stream.stop()?;
            let lost = u32::try_from(pings.sent - pings.answered)?;
            println!("to {carrier}: {:?} lost", INTERVAL * lost);
            ensure!(INTERVAL * lost <= RESTART * wait::patience(), "{pings:?}");
        }
    }
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// A filter on the uplink by another program, before the kernel hands packets to sockets: the programs see them before.
#[test]
fn a_packet_filter_for_protocol_41_does_not_reach_the_tunnel() -> Result<()> {
    let Some((fixture, daemon)) = carried()? else {
        return Ok(());
    };
    nft::load(
        fixture.host(),
        "table inet strict { chain in { type filter hook input priority 0; meta l4proto 41 drop; }; \
         chain out { type filter hook output priority 0; meta l4proto 41 drop; }; }",
    )?;
    for tunnel in fixture.lab.tunnels() {
        works(&fixture, tunnel)?;
    }
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// Another interface leads to the broker: the programs follow.
#[test]
fn the_uplink_is_made_again() -> Result<()> {
    let Some((fixture, daemon)) = carried()? else {
        return Ok(());
    };
    uplink::delete(&fixture.lab)?;
    uplink::create(&fixture.lab)?;
    for tunnel in fixture.lab.tunnels() {
        let answered = || probe::ping(fixture.lab.outside(), tunnel.plan.address, 3);
        wait::until("it answers", Duration::from_secs(10), answered, |pings| {
            pings.all_answered()
        })?;
    }
    fixture.program.wait_until_carried_by("ebpf")?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// A narrow link at the broker cuts outer packets. The programs leave them to the daemon's socket, which gets them
/// whole.
#[test]
fn fragments_reach_the_tunnel() -> Result<()> {
    let Some((fixture, daemon)) = carried()? else {
        return Ok(());
    };
    let sent = 20;
    for tunnel in fixture.lab.tunnels() {
        let (pop, address) = (tunnel.broker()?, tunnel.plan.address);
        pop.ping_every(Duration::from_secs(3600));
        tunnel.pop().ip("link set core mtu 1280\n")?;
        let packet = frame::udp(OUTSIDE, address, &[0; 1232])?;
        ensure!(packet.len() == 1280, "{} bytes", packet.len());
        // The daemon passes several of them to the device at once, as a batch.
        let arrived = || counter(&fixture, tunnel, "in_bytes");
        let before = arrived()?;
        let packets = (0..sent).map(|_| packet.clone());
        pop.inject(address, Source::Own, packets)?;
        let all = |now: &u64| *now >= before + sent * 1232;
        wait::until("all arrive", Duration::from_secs(5), arrived, all)?;
        let fragments = counter(&fixture, tunnel, "carried_in_fragments")?;
        ensure!(fragments == 2 * sent, "{fragments}");
        // The lab's broker never cuts packets.
        tunnel.pop().ip("link set core mtu 1500\n")?;
        works(&fixture, tunnel)?;
    }
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// The route to the broker moves to another interface of the host, between the host and its provider.
fn moved(fixture: &Fixture, host: &str, isp: &str) -> Result<()> {
    let [tunnel, _] = fixture.lab.tunnels();
    let remote4 = tunnel.plan.remote4;
    fixture.lab.isp().ip(&format!(
        "link set {isp} up\naddress add 192.0.2.129/25 dev {isp}\n\
         route add {HOST4}/32 dev {isp}\n"
    ))?;
    fixture.host().ip(&format!(
        "link set {host} up\naddress add 192.0.2.130/25 dev {host}\n\
         route add {remote4}/32 via 192.0.2.129 dev {host} src {HOST4}\n"
    ))?;
    let before = counter(fixture, tunnel, "carried_in")?;
    let arrived = || {
        probe::ping(fixture.lab.outside(), tunnel.plan.address, 3)?;
        counter(fixture, tunnel, "carried_in")
    };
    wait::until(
        "the programs follow",
        Duration::from_secs(10),
        arrived,
        |now| *now > before + 6,
    )?;
    works(fixture, tunnel)?;
    fixture.program.wait_until_carried_by("ebpf")
}

#[test]
fn by_a_vlan() -> Result<()> {
    let Some((fixture, daemon)) = carried()? else {
        return Ok(());
    };
    if !kernel::has_vlan()? {
        return Ok(());
    }
    fixture
        .lab
        .isp()
        .ip("link add link host name vlan5 type vlan id 5\n")?;
    fixture.host().ip(&format!(
        "link add link {UPLINK} name vlan5 type vlan id 5\n"
    ))?;
    sum_before_sending(fixture.host(), "vlan5")?;
    moved(&fixture, "vlan5", "vlan5")?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// Like PPP.
#[test]
fn by_an_interface_without_link_layer() -> Result<()> {
    let Some((fixture, daemon)) = carried()? else {
        return Ok(());
    };
    let near = tun::create(fixture.host(), "ppp5")?;
    let far = tun::create(fixture.lab.isp(), "ppp5")?;
    let _wire = Wire::new(near, Arc::new(far))?;
    moved(&fixture, "ppp5", "ppp5")?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// A LAN behind the host, whose flows pass as batches in both directions, with the program at the broker's end.
#[test]
fn batches_reach_a_lan() -> Result<()> {
    if !kernel::has_decapsulation()? {
        return Ok(());
    }
    let spec = Spec {
        lans: true,
        ..Spec::new(Flavour::Tun)
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    let [_, tunnel] = fixture.lab.tunnels();
    let plan = tunnel.plan;
    let prefix = plan.prefix.context("a routed prefix")?;
    let section = near_end(plan, 1480, "ebpf");
    fixture.lab.write_config(&format!(
        "uplinks = [\"{UPLINK}\"]\n{section}prefixes = [\"{prefix}\"]\n"
    ))?;
    let far = FarEnd::start(&fixture.lab, tunnel, 1480, "ebpf")?;
    let daemon = fixture.start()?;
    for program in [&fixture.program, far.program()] {
        program.wait_until_carried_by("ebpf")?;
    }
    tunnel
        .pop()
        .ip(&format!("route replace {prefix} dev far0\n"))?;
    let [lan1, lan2] = fixture.lab.lans()?;
    let outside = fixture.lab.outside();
    for (lan, address) in [(lan1, LAN1), (lan2, LAN2)] {
        let _services = Services::start(lan, &[address])?;
        let limit = Duration::from_secs(20);
        probe::tcp_transfer(outside, address, 20_000_000, 20_000_000, limit)?;
        let pings = probe::ping(outside, address, 5)?;
        ensure!(pings.all_answered(), "{pings:?}");
    }
    // Far fewer than the 27,000 segments of 40 MB in each direction.
    let batches = counter(&fixture, tunnel, "carried_in")?;
    println!("{batches} packets arrived by the programs");
    ensure!((100..25_000).contains(&batches), "{batches}");
    assert_eq!(counter(&fixture, tunnel, "carried_out_left")?, 0);
    ensure!(daemon.stop()? == 0);
    Ok(())
}
