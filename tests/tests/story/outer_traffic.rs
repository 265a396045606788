//! Outer packets at the uplink: they are counted for their tunnel, and status shows where a silent tunnel is silent.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::broker::Kind;
use sixxs_tests::kernel;
use sixxs_tests::lab::topology::{Flavour, HOST, HOST4, OUTSIDE, TIC_SERVER, TUNNEL_MTU};
use sixxs_tests::lab::{Spec, nft};
use sixxs_tests::probe::{Ping, PingStream};
use sixxs_tests::program::{Hook, Program};
use sixxs_tests::wait;

use crate::fixture::Fixture;
use crate::metrics::ask;

/// Limit to notice a silent tunnel: its packets are judged every ten seconds, over half a minute.
const NOTICED: Duration = Duration::from_secs(60);

/// The interval between pings.
const INTERVAL: Duration = Duration::from_millis(100);

/// `outer` of a tunnel in the status.
fn outer(program: &Program, tunnel: &str) -> Result<Value> {
    let (_, lines) = program.json(&["status"])?;
    let status = lines.first().context("a status")?;
    let mut tunnels = status["tunnels"].as_array().into_iter().flatten();
    let found = tunnels.find(|found| found["name"] == tunnel);
    Ok(found.context("the tunnel")?["outer"].clone())
}

/// Outer packets in and out.
fn packets(program: &Program, tunnel: &str) -> Result<[u64; 2]> {
    let outer = outer(program, tunnel)?;
    let count = |direction: &str| {
        let packets = outer["packets"][direction].as_u64();
        packets.with_context(|| format!("packets {direction} in {outer:#}"))
    };
    Ok([count("in")?, count("out")?])
}

fn fixture(kinds: [Kind; 2], carrier: Option<&'static str>, hook: Hook) -> Result<Fixture> {
    let spec = Spec {
        carrier,
        ..Spec::native(kinds)
    };
    Fixture::with_spec(spec, hook, "")
}

/// Every packet in the tunnel is an outer packet of that tunnel, and of no other.
fn are_counted(kinds: [Kind; 2], carrier: Option<&'static str>, hook: Hook) -> Result<()> {
    let fixture = fixture(kinds, carrier, hook)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    for (tunnel, other) in [(0, 1), (1, 0)] {
        let [tunnel, other] = [tunnel, other].map(|index: usize| &fixture.lab.tunnels()[index]);
        let name = tunnel.plan.interface;
        let before = packets(&fixture.program, name)?;
        let others = packets(&fixture.program, other.plan.interface)?;
        let pings = Ping::new(tunnel.plan.address, 50).run(fixture.lab.outside())?;
        ensure!(pings.all_answered(), "{pings:?}");
        let after = packets(&fixture.program, name)?;
        for (before, after) in before.iter().zip(&after) {
            // A batch counts once; heartbeats and their answers may come in between.
            let counted = after - before;
            ensure!((20..=55).contains(&counted), "{name}: {counted}");
        }
        let outer = outer(&fixture.program, name)?;
        let endpoint = outer["endpoints"][0].as_str().context("an endpoint")?;
        ensure!(
            endpoint.starts_with(&tunnel.plan.remote4.to_string()),
            "{outer:#}"
        );
        ensure!(outer["silence"].is_null(), "{outer:#}");
        for direction in ["last_in_seconds_ago", "last_out_seconds_ago"] {
            let ago = outer[direction].as_f64().context("a time")?;
            ensure!(ago < 5.0, "{direction}: {outer:#}");
        }
        // Its broker may send heartbeats.
        let theirs = packets(&fixture.program, other.plan.interface)?;
        ensure!(theirs[0] - others[0] <= 5, "{others:?} {theirs:?}");
    }
    let screen = fixture.program.run_ok(&["status"])?.stdout;
    ensure!(screen.contains("\n  outer     in "), "{screen}");
    let control = UnixStream::connect(fixture.lab.paths().run().join("control.sock"))?;
    let (_, metrics) = ask(control, "GET /v1/metrics")?;
    let sample = "sixxs_tunnel_outer_packets_total{tunnel=\"sixxs0\",direction=\"in\"} ";
    ensure!(metrics.contains(sample), "{metrics}");
    Ok(())
}

#[test]
fn outer_packets_are_counted_for_their_tunnel() -> Result<()> {
    are_counted([Kind::SixInFour, Kind::Ayiya], None, Hook::Auto)
}

#[test]
fn filters_count_outer_packets() -> Result<()> {
    are_counted([Kind::SixInFour, Kind::Ayiya], None, Hook::Clsact)
}

#[test]
fn the_daemons_outer_packets_are_counted() -> Result<()> {
    are_counted([Kind::SixInFour, Kind::Heartbeat], Some("tun"), Hook::Auto)
}

variants!(endpoints_of_wireguard_are_read: wireguard(WireGuard, Auto));

/// WireGuard has them, and the configuration has none.
fn endpoints_of_wireguard_are_read(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let _daemon = fixture.start()?;
    for (tunnel, port) in fixture.lab.tunnels().iter().zip(51820..) {
        let name = tunnel.plan.interface;
        let before = packets(&fixture.program, name)?;
        let pings = Ping::new(tunnel.plan.address, 50).run(fixture.lab.outside())?;
        ensure!(pings.all_answered(), "{pings:?}");
        let after = packets(&fixture.program, name)?;
        for (before, after) in before.iter().zip(&after) {
            // A batch counts once; a handshake may come in between.
            let counted = after - before;
            ensure!((20..=54).contains(&counted), "{name}: {counted}");
        }
        let outer = outer(&fixture.program, name)?;
        let endpoint = format!("{}:{port}", tunnel.plan.remote4);
        ensure!(
            outer["endpoints"] == serde_json::json!([endpoint]),
            "{outer:#}"
        );
    }
    Ok(())
}

/// The kernel has the far ends of its own tunnels, over IPv4 and over IPv6, and the configuration has none.
#[test]
fn endpoints_of_the_kernels_tunnels_are_read() -> Result<()> {
    for kind in ["sit", "gre", "ip6tnl", "ip6gre"] {
        if !kernel::can_run(kind, kernel::has_tunnel(kind)?)? {
            continue;
        }
        let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
        let [tunnel, _] = fixture.lab.tunnels();
        let plan = tunnel.plan;
        let is_over_ipv6 = kind.starts_with("ip6");
        let [near, far] = if is_over_ipv6 {
            [HOST.to_string(), plan.remote6.to_string()]
        } else {
            [HOST4.to_string(), plan.remote4.to_string()]
        };
        tunnel.delete()?;
        tunnel.pop().ip(&format!(
            "link delete host\nlink add host type {kind} local {far} remote {near}\n"
        ))?;
        tunnel.pop().ip(&plan.pop_end(TUNNEL_MTU))?;
        fixture.host().ip(&format!(
            "link add {} type {kind} local {near} remote {far}\n",
            plan.interface
        ))?;
        fixture.host().ip(&plan.host_end(TUNNEL_MTU))?;
        let daemon = fixture.start()?;
        fixture.wait_until_up().with_context(|| daemon.log())?;
        let before = packets(&fixture.program, plan.interface)?;
        let pings = Ping::new(plan.address, 50).run(fixture.lab.outside())?;
        ensure!(pings.all_answered(), "{kind}: {pings:?}");
        let after = packets(&fixture.program, plan.interface)?;
        for (before, after) in before.iter().zip(&after) {
            let counted = after - before;
            ensure!((20..=54).contains(&counted), "{kind}: {counted}");
        }
        let outer = outer(&fixture.program, plan.interface)?;
        ensure!(
            outer["endpoints"] == serde_json::json!([far]),
            "{kind}: {outer:#}"
        );
    }
    Ok(())
}

/// Waits until a tunnel is silent at this place; returns the sentence.
fn silent(fixture: &Fixture, tunnel: &str, place: &str) -> Result<String> {
    let found = wait::until(
        "its silence is noticed",
        NOTICED,
        || outer(&fixture.program, tunnel),
        |outer| outer["silence"] == place,
    )?;
    let sentence = found["sentence"].as_str().context("a sentence")?;
    // Evidence is no proof: health does not follow it.
    let status = fixture.program.run(&["status"])?.stdout;
    ensure!(
        status.contains(&format!("silent: {tunnel}: {sentence}")),
        "{status}"
    );
    ensure!(
        fixture.program.status()?.tunnel(tunnel).health == "healthy",
        "{status}"
    );
    Ok(sentence.to_owned())
}

fn wait_until_heard(fixture: &Fixture, tunnel: &str) -> Result<()> {
    wait::until(
        "it works again",
        NOTICED,
        || outer(&fixture.program, tunnel),
        |outer| outer["silence"].is_null(),
    )?;
    Ok(())
}

/// What the provider drops: this host sends, and nothing comes back.
#[test]
fn a_broker_that_is_silent_is_named() -> Result<()> {
    let fixture = fixture([Kind::SixInFour, Kind::Ayiya], None, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let tunnel = &fixture.lab.tunnels()[0];
    let name = tunnel.plan.interface;
    fixture.ensure_outside_answered(tunnel)?;
    nft::load(
        fixture.lab.isp(),
        "table ip silent { chain out { type filter hook forward priority -5; ip saddr 198.51.100.1 drop; }; }",
    )?;
    // The host's own pings, since none from outside arrive.
    let pings = Ping::new(OUTSIDE, 600)
        .source(tunnel.plan.address)
        .interval(INTERVAL);
    let reason = std::thread::scope(|scope| {
        let pinging = scope.spawn(|| pings.run(fixture.host()));
        let reason = silent(&fixture, name, "nothing_arrives");
        fixture.lab.isp().sh("nft delete table ip silent")?;
        let pings = pinging.join().expect("no panic")?;
        ensure!(!pings.all_answered(), "{pings:?}");
        reason
    })?;
    ensure!(
        reason.starts_with("nothing arrives from 198.51.100.1"),
        "{reason}"
    );
    wait_until_heard(&fixture, name)?;
    Ok(())
}

/// What this host drops: outer packets arrive, and the tunnel delivers nothing.
#[test]
fn a_filter_before_the_tunnel_is_named() -> Result<()> {
    let kinds = [Kind::SixInFour, Kind::Ayiya];
    let fixture = fixture(kinds, Some("tun"), Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let tunnel = &fixture.lab.tunnels()[0];
    fixture.ensure_outside_answered(tunnel)?;
    nft::load(
        fixture.host(),
        "table ip firewall { chain in { type filter hook prerouting priority -500; ip saddr 198.51.100.1 drop; }; }",
    )?;
    let stream = PingStream::start(fixture.lab.outside(), tunnel.plan.address, INTERVAL)?;
    let reason = silent(&fixture, tunnel.plan.interface, "not_delivered")?;
    ensure!(
        reason.contains("packets from 198.51.100.1 arrived"),
        "{reason}"
    );
    let output = fixture.program.run(&["doctor"])?;
    let found = output.stdout;
    ensure!(
        found.contains("its interface delivered none")
            && found.contains("a packet filter is likely"),
        "{found}"
    );
    // The path of its packets begins with what is known about the tunnel.
    let address = tunnel.plan.address.to_string();
    let explained = fixture
        .program
        .run_ok(&["explain", &address, &OUTSIDE.to_string()])?;
    ensure!(
        explained.stdout.contains("\nouter    "),
        "{}",
        explained.stdout
    );
    fixture.host().sh("nft delete table ip firewall")?;
    wait_until_heard(&fixture, tunnel.plan.interface)?;
    drop(stream);
    Ok(())
}

/// The far end of a tunnel of other software, by the configuration. Nothing listens on its port here.
#[test]
fn packets_to_a_port_without_a_socket_are_explained() -> Result<()> {
    const REMOTE_PORT: u16 = 1194;
    const LOCAL_PORT: u16 = 1195;
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let remote = format!("mtu = 1280\nremote = \"{TIC_SERVER}:{REMOTE_PORT}\"\n");
    let text = fixture.lab.config("").replacen("mtu = 1280\n", &remote, 1);
    fixture.lab.write_config(&text)?;
    let _daemon = fixture.start()?;
    let tunnel = &fixture.lab.tunnels()[0];
    let name = tunnel.plan.interface;
    ensure!(outer(&fixture.program, fixture.lab.tunnels()[1].plan.interface)?.is_null());
    let socket = fixture.lab.outside().run(|| {
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, REMOTE_PORT);
        Ok(UdpSocket::bind(from)?)
    })?;
    while_datagrams_arrive(&socket, LOCAL_PORT, || {
        let reason = silent(&fixture, name, "not_delivered")?;
        ensure!(reason.contains("from 203.0.113.9:1194 arrived"), "{reason}");
        let found = fixture.program.run(&["doctor"])?.stdout;
        ensure!(found.contains("no socket takes a UDP port"), "{found}");
        Ok(())
    })?;
    let screen = fixture.program.run(&["status"])?.stdout;
    ensure!(
        screen.contains("\n  far end   203.0.113.9:1194\n"),
        "{screen}"
    );
    Ok(())
}

/// Sends datagrams to a port of the host every [`INTERVAL`], until `story` returns.
fn while_datagrams_arrive(
    socket: &UdpSocket,
    port: u16,
    story: impl FnOnce() -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            while stopped
                .recv_timeout(INTERVAL)
                .is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                // The host may answer that the port is closed.
                let _refused = socket.send_to(&[0; 64], SocketAddrV4::new(HOST4, port));
            }
        });
        let told = story();
        drop(stop);
        told
    })
}

/// The kernel's reverse-path filter drops what arrives, since the route to the far end leads elsewhere.
#[test]
fn packets_that_the_reverse_path_filter_drops_are_explained() -> Result<()> {
    const PORTS: [u16; 2] = [1194, 1195];
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let remote = format!("mtu = 1280\nremote = \"{TIC_SERVER}:{}\"\n", PORTS[0]);
    let text = fixture.lab.config("").replacen("mtu = 1280\n", &remote, 1);
    fixture.lab.write_config(&text)?;
    let [tunnel, other] = fixture.lab.tunnels();
    let host = fixture.host();
    host.sh("sysctl -q -w net.ipv4.conf.net0.rp_filter=1")?;
    host.ip(&format!(
        "route add {TIC_SERVER}/32 dev {}\n",
        other.plan.interface
    ))?;
    let _daemon = fixture.start()?;
    let socket = fixture.lab.outside().run(|| {
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORTS[0]);
        Ok(UdpSocket::bind(from)?)
    })?;
    let listener = host.run(|| {
        let at = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORTS[1]);
        Ok(UdpSocket::bind(at)?)
    })?;
    listener.set_nonblocking(true)?;
    while_datagrams_arrive(&socket, PORTS[1], || {
        silent(&fixture, tunnel.plan.interface, "not_delivered")?;
        let found = fixture.program.run(&["doctor"])?.stdout;
        ensure!(
            found.contains("a reverse path filter drops packets"),
            "{found}"
        );
        Ok(())
    })?;
    let received = listener.recv(&mut [0; 64]);
    ensure!(received.is_err(), "a datagram was delivered");
    Ok(())
}
