//! Leaks of every shape: by the other tunnel, with extension headers, in fragments, with a VLAN
//! tag. All of them are put into the right tunnel and arrive.

use std::time::Duration;

use anyhow::Result;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe::frame;
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::setting::Setting;

const COUNT: u64 = 10;

/// Waits until so many more datagrams came to the outside's discard port, and not one besides.
fn arrive(setting: &Setting, before: u64, count: u64) -> Result<()> {
    let limit = Duration::from_secs(5);
    let seen = || Ok(setting.discarded() - before);
    let seen = wait::until("the datagrams arrive", limit, seen, |seen| *seen >= count)?;
    assert_eq!(seen, count);
    setting.nothing_went_astray()
}

variants!(by_the_other_tunnel:
    tun_other_tunnel(Tun, Auto), veth_other_tunnel(Veth, Auto), tun_other_tunnel_clsact(Tun, Clsact));

fn by_the_other_tunnel(flavour: Flavour, hook: Hook) -> Result<()> {
    let setting = Setting::new(flavour, hook)?;
    let daemon = setting.start()?;
    let [first, second] = setting.lab.tunnels().each_ref().map(|t| t.plan);
    // A route to where the rules would never send it: foreign rules that come before ours.
    for (mark, table) in [(1, 201), (2, 200)] {
        let rule = format!("ip -6 rule add fwmark {mark} lookup {table} priority 100");
        setting.host().sh(&rule)?;
    }
    for (number, own, mark) in [(0, first, 1), (1, second, 2)] {
        let (before, at_brokers) = (setting.discarded(), setting.reached_brokers()?);
        let cause = Cause::Mark(mark);
        let socket = leak::udp_socket(setting.host(), own.address, cause)?;
        leak::send(&socket, OUTSIDE, COUNT, 100)?;
        arrive(&setting, before, COUNT)?;
        let mut expected = at_brokers;
        expected[number] += COUNT;
        assert_eq!(setting.reached_brokers()?, expected);
        let leaks = setting.program.status()?.tunnel(own.interface).leaks;
        assert_eq!(leaks.redirected, COUNT);
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

variants!(with_extension_headers:
    tun_extension_headers(Tun, Auto), veth_extension_headers(Veth, Auto));

fn with_extension_headers(flavour: Flavour, hook: Hook) -> Result<()> {
    let setting = Setting::new(flavour, hook)?;
    let daemon = setting.start()?;
    let [tunnel, _] = setting.lab.tunnels();
    let cause = Cause::Device(UPLINK);
    let socket = leak::udp_socket(setting.host(), tunnel.plan.address, cause)?;
    leak::add_destination_options(&socket)?;
    let before = setting.discarded();
    leak::send(&socket, OUTSIDE, COUNT, 100)?;
    arrive(&setting, before, COUNT)?;
    let leaks = setting
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
    let setting = Setting::new(flavour, hook)?;
    let daemon = setting.start()?;
    let [tunnel, _] = setting.lab.tunnels();
    // Not bound to the uplink: for such a socket the kernel would not learn the path's MTU.
    setting
        .host()
        .sh("ip -6 rule add fwmark 6 lookup main priority 100")?;
    let socket = leak::udp_socket(setting.host(), tunnel.plan.address, Cause::Mark(6))?;
    leak::allow_fragments(&socket)?;
    // Cut for the uplink's MTU the first ones are too long; the host is told, and cuts anew.
    let before = setting.discarded();
    wait::until(
        "a datagram in fragments arrives",
        Duration::from_secs(5),
        || {
            leak::send(&socket, OUTSIDE, 1, 4000)?;
            Ok(setting.discarded() - before)
        },
        |arrived| *arrived > 0,
    )?;
    let before = setting.discarded();
    leak::send(&socket, OUTSIDE, COUNT, 4000)?;
    let limit = Duration::from_secs(5);
    let seen = || Ok(setting.discarded() - before);
    wait::until("all fragments arrive", limit, seen, |seen| *seen >= COUNT)?;
    setting.nothing_went_astray()?;
    let leaks = setting
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
    let setting = Setting::new(flavour, hook)?;
    let daemon = setting.start()?;
    for (tunnel, tags) in setting.lab.tunnels().iter().zip([&[5][..], &[6, 5]]) {
        let before = setting.discarded();
        let addresses = (tunnel.plan.address, OUTSIDE);
        frame::send_tagged(setting.host(), UPLINK, tags, addresses, COUNT)?;
        arrive(&setting, before, COUNT)?;
        let leaks = setting
            .program
            .status()?
            .tunnel(tunnel.plan.interface)
            .leaks;
        assert_eq!(leaks.redirected, COUNT, "with the tags {tags:?}");
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
