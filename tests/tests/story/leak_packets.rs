//! Leaked packets of many kinds: by the other tunnel, with extension headers, in fragments, with a VLAN
//! tag. All are redirected into their tunnel and arrive.

use std::time::Duration;

use anyhow::Result;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe::frame;
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const COUNT: u64 = 10;

/// Waits until so many more datagrams came to the outside's discard port, and not one besides.
fn arrive(fixture: &Fixture, before: u64, count: u64) -> Result<()> {
    let limit = Duration::from_secs(5);
    let seen = || Ok(fixture.discarded() - before);
    let seen = wait::until("the datagrams arrive", limit, seen, |seen| *seen >= count)?;
    assert_eq!(seen, count);
    fixture.ensure_nothing_lost()
}

variants!(by_the_other_tunnel:
    tun_other_tunnel(Tun, Auto), veth_other_tunnel(Veth, Auto), tun_other_tunnel_clsact(Tun, Clsact));

fn by_the_other_tunnel(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    let [first, second] = fixture.lab.tunnels().each_ref().map(|t| t.plan);
    // A route to where the rules would never send it: foreign rules that come before ours.
    for (mark, table) in [(1, 201), (2, 200)] {
        let rule = format!("ip -6 rule add fwmark {mark} lookup {table} priority 100");
        fixture.host().sh(&rule)?;
    }
    for (number, own, mark) in [(0, first, 1), (1, second, 2)] {
        let (before, at_brokers) = (fixture.discarded(), fixture.reached_brokers()?);
        let cause = Cause::Mark(mark);
        let socket = leak::udp_socket(fixture.host(), own.address, cause)?;
        leak::send(&socket, OUTSIDE, COUNT, 100)?;
        arrive(&fixture, before, COUNT)?;
        let mut expected = at_brokers;
        expected[number] += COUNT;
        assert_eq!(fixture.reached_brokers()?, expected);
        let leaks = fixture.program.status()?.tunnel(own.interface).leaks;
        assert_eq!(leaks.redirected, COUNT);
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

variants!(with_extension_headers:
    tun_extension_headers(Tun, Auto), veth_extension_headers(Veth, Auto));

fn with_extension_headers(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    let [tunnel, _] = fixture.lab.tunnels();
    let cause = Cause::Device(UPLINK);
    let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, cause)?;
    leak::add_destination_options(&socket)?;
    let before = fixture.discarded();
    leak::send(&socket, OUTSIDE, COUNT, 100)?;
    arrive(&fixture, before, COUNT)?;
    let leaks = fixture
        .program
        .status()?
        .tunnel(tunnel.plan.interface)
        .leaks;
    assert_eq!(leaks.redirected, COUNT);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

variants!(in_fragments: tun_fragments(Tun, Auto), veth_fragments(Veth, Auto));

fn in_fragments(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    let [tunnel, _] = fixture.lab.tunnels();
    // Not bound to the uplink: for such a socket the kernel would not learn the path's MTU.
    fixture
        .host()
        .sh("ip -6 rule add fwmark 6 lookup main priority 100")?;
    let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, Cause::Mark(6))?;
    leak::allow_fragments(&socket)?;
    // Cut for the uplink's MTU the first ones are too long; the host is told, and cuts anew.
    let before = fixture.discarded();
    wait::until(
        "a datagram in fragments arrives",
        Duration::from_secs(5),
        || {
            leak::send(&socket, OUTSIDE, 1, 4000)?;
            Ok(fixture.discarded() - before)
        },
        |arrived| *arrived > 0,
    )?;
    let before = fixture.discarded();
    leak::send(&socket, OUTSIDE, COUNT, 4000)?;
    let limit = Duration::from_secs(5);
    let seen = || Ok(fixture.discarded() - before);
    wait::until("all fragments arrive", limit, seen, |seen| *seen >= COUNT)?;
    fixture.ensure_nothing_lost()?;
    let leaks = fixture
        .program
        .status()?
        .tunnel(tunnel.plan.interface)
        .leaks;
    assert!(
        leaks.too_big > 0 && leaks.redirected >= 4 * COUNT,
        "{leaks:?}"
    );
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

variants!(with_a_vlan_tag: tun_vlan(Tun, Auto), veth_vlan(Veth, Auto), tun_vlan_clsact(Tun, Clsact));

/// Packet sockets put the tag inside the frame, as some drivers do.
fn with_a_vlan_tag(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    for (tunnel, tags) in fixture.lab.tunnels().iter().zip([&[5][..], &[6, 5]]) {
        let before = fixture.discarded();
        let addresses = (tunnel.plan.address, OUTSIDE);
        frame::send_tagged(fixture.host(), UPLINK, tags, addresses, COUNT)?;
        arrive(&fixture, before, COUNT)?;
        let leaks = fixture
            .program
            .status()?
            .tunnel(tunnel.plan.interface)
            .leaks;
        assert_eq!(leaks.redirected, COUNT, "with the tags {tags:?}");
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
