//! A socket bound to the uplink (SO_BINDTODEVICE) with a tunnel's address: its packets leave by the
//! tunnel, long ones included, and the replies reach it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::{Fixture, exclusive};

/// Limit for 100 MB. Normally it takes a fraction of this time.
const LIMIT: Duration = Duration::from_secs(60);
/// With the IPv6 header and the UDP header this makes 1500 bytes.
const LONGEST_PAYLOAD: usize = 1452;

variants!(upload_with_segmentation_offload: tun_upload(Tun, Auto), veth_upload(Veth, Auto));
variants!(upload_without_segmentation_offload:
    tun_upload_no_gso(Tun, Auto), veth_upload_no_gso(Veth, Auto));

fn upload_with_segmentation_offload(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    upload(&fixture)
}

fn upload_without_segmentation_offload(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    fixture
        .host()
        .sh(&format!("ethtool -K {UPLINK} tso off gso off"))?;
    upload(&fixture)
}

fn upload(fixture: &Fixture) -> Result<()> {
    let _exclusive = exclusive();
    let daemon = fixture.start()?;
    let [first, second] = fixture.lab.tunnels();
    let megabytes = 1_000_000;
    for (tunnel, bytes) in [(first, 100 * megabytes), (second, 10 * megabytes)] {
        fixture.forget_path_mtu()?;
        let (source, cause) = (tunnel.plan.address, Cause::Device(UPLINK));
        let took = leak::tcp_upload(fixture.host(), source, cause, OUTSIDE, bytes, LIMIT)?;
        println!("{bytes} bytes in {took:?}");
        assert!(took < LIMIT * wait::patience(), "took {took:?}");
        fixture.ensure_nothing_lost()?;
        let leaks = fixture
            .program
            .status()?
            .tunnel(tunnel.plan.interface)
            .leaks;
        assert!(leaks.redirected > 0 && leaks.too_big > 0, "{leaks:?}");
        assert_eq!((leaks.dropped, leaks.observed), (0, 0));
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

variants!(other_causes: tun_other_causes(Tun, Auto), veth_other_causes(Veth, Auto));

/// The same for a foreign rule before the daemon's rules, and for missing rules.
fn other_causes(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    let [first, second] = fixture.lab.tunnels();
    let bytes = 10_000_000;
    fixture
        .host()
        .sh("ip -6 rule add fwmark 6 lookup main priority 100")?;
    let (source, cause) = (first.plan.address, Cause::Mark(6));
    leak::tcp_upload(fixture.host(), source, cause, OUTSIDE, bytes, LIMIT)?;
    daemon.kill()?;
    fixture.delete_own_rules()?;
    fixture.forget_path_mtu()?;
    let (source, cause) = (second.plan.address, Cause::Rules);
    leak::tcp_upload(fixture.host(), source, cause, OUTSIDE, bytes, LIMIT)?;
    fixture.ensure_nothing_lost()?;
    let daemon = fixture.start()?;
    for tunnel in &fixture.program.status()?.tunnels {
        assert!(
            tunnel.leaks.redirected > 0 && tunnel.leaks.too_big > 0,
            "{tunnel:#?}"
        );
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

variants!(too_long_is_never_silent: tun_udp(Tun, Auto), veth_udp(Veth, Auto));

/// A datagram that fits the uplink but not the tunnel: the sender gets an error. The error does not come from
/// the path MTU, because the kernel looks it up by the rules, where a socket bound to another interface has
/// no route.
fn too_long_is_never_silent(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    for tunnel in fixture.lab.tunnels() {
        let cause = Cause::Device(UPLINK);
        let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, cause)?;
        leak::report_errors(&socket)?;
        leak::send(&socket, OUTSIDE, 1, LONGEST_PAYLOAD).context("send the first")?;
        sender_learns(&socket, LONGEST_PAYLOAD)?;
        let leaks = fixture
            .program
            .status()?
            .tunnel(tunnel.plan.interface)
            .leaks;
        assert!(leaks.too_big > 0, "{leaks:?}");
        assert_eq!(leaks.redirected, 0, "{leaks:?}");
        // A smaller datagram passes: 40 bytes of IPv6 header, 8 of UDP.
        leak::send(&socket, OUTSIDE, 10, 1280 - 48).context("send what fits")?;
        let leaks = fixture
            .program
            .status()?
            .tunnel(tunnel.plan.interface)
            .leaks;
        assert_eq!(leaks.redirected, 10, "{leaks:?}");
    }
    assert_eq!(fixture.reached_brokers()?, [10, 10]);
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

variants!(udp_segmentation_offload: tun_udp_gso(Tun, Auto), veth_udp_gso(Veth, Auto));

/// The kernel splits one send into ten datagrams, before or after the redirect.
fn udp_segmentation_offload(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    for tunnel in fixture.lab.tunnels() {
        let cause = Cause::Device(UPLINK);
        let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, cause)?;
        leak::report_errors(&socket)?;
        leak::segment_sends(&socket, 1400)?;
        leak::send(&socket, OUTSIDE, 1, 14_000).context("send the first")?;
        sender_learns(&socket, 14_000)?;
        let leaks = fixture
            .program
            .status()?
            .tunnel(tunnel.plan.interface)
            .leaks;
        assert!(leaks.too_big > 0, "{leaks:?}");
        assert_eq!(leaks.redirected, 0, "{leaks:?}");
        leak::segment_sends(&socket, 1200)?;
        let passed = fixture.discarded();
        leak::send(&socket, OUTSIDE, 1, 12_000).context("send what fits")?;
        wait::until(
            "all ten datagrams arrive",
            Duration::from_secs(2),
            || Ok(fixture.discarded()),
            |received| received - passed == 10,
        )?;
    }
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Waits until sends of this size fail with EMSGSIZE.
fn sender_learns(socket: &socket2::Socket, size: usize) -> Result<()> {
    wait::until(
        "the sender is told that it is too long",
        Duration::from_secs(5),
        || {
            Ok(leak::send(socket, OUTSIDE, 1, size)
                .err()
                .and_then(|e| e.raw_os_error()))
        },
        |error| *error == Some(nix::libc::EMSGSIZE),
    )?;
    Ok(())
}
