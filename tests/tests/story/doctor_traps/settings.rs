//! Settings of the kernel, and addresses.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use super::{apply, is_fixed, trap, traps};
use crate::fixture::Fixture;

#[test]
fn settings_of_the_kernel() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let host = fixture.host();
    // On a host without traps the doctor finds none of these, and is fast.
    let started = Instant::now();
    for about in [
        "echo",
        "icmp rate",
        "disable_ipv6",
        "accept_ra",
        "forwarding",
        "rp_filter",
        "filters",
        "uplink",
        "address",
        "shadowed",
        "program order",
        "mtu",
        "clock",
        "connects",
        "pins",
    ] {
        let found = traps(&fixture, about)?;
        assert!(found.is_empty(), "{about}: {found:#?}");
    }
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "15 looks: {:?}",
        started.elapsed()
    );

    host.sysctl(&[("ipv6/icmp/echo_ignore_all", "1")])?;
    is_fixed(&fixture, "echo", "bad")?;

    host.sysctl(&[
        ("ipv6/icmp/ratelimit", "1000"),
        ("ipv6/icmp/ratemask", "0-1,3-129"),
    ])?;
    is_fixed(&fixture, "icmp rate", "bad")?;
    host.sysctl(&[("ipv6/icmp/ratelimit", "60000")])?;
    is_fixed(&fixture, "icmp rate", "note")?;

    host.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")])?;
    is_fixed(&fixture, "disable_ipv6", "bad")?;

    let [tunnel, _] = fixture.lab.tunnels();
    let plan = tunnel.plan;
    host.sh(&format!(
        "ip -6 address del {}/64 dev {}",
        plan.address, plan.interface
    ))?;
    is_fixed(&fixture, "address", "bad")?;
    fixture.ensure_outside_answered(tunnel)?;

    // Only router advertisements could provide a default route, but a host that forwards ignores them.
    host.sysctl(&[
        ("ipv6/conf/net0/forwarding", "1"),
        ("ipv6/conf/net0/accept_ra", "1"),
    ])?;
    assert!(traps(&fixture, "accept_ra")?.is_empty());
    host.sh("ip -6 route del default")?;
    is_fixed(&fixture, "accept_ra", "bad")?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn networks_behind_a_host_that_does_not_forward() -> Result<()> {
    let spec = Spec {
        lans: true,
        ..Spec::new(Flavour::Tun)
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, "rule_mode = \"subtrees\"\n")?;
    assert!(traps(&fixture, "forwarding")?.is_empty());
    assert!(traps(&fixture, "subtrees")?.is_empty());
    fixture
        .host()
        .sysctl(&[("ipv6/conf/all/forwarding", "0")])?;
    let found = traps(&fixture, "forwarding")?;
    assert_eq!(
        found.len(),
        2,
        "lan1, and the LAN on the uplink's wire: {found:#?}"
    );
    apply(&fixture, found.first().context("one")?)?;
    assert!(traps(&fixture, "forwarding")?.is_empty());
    Ok(())
}

/// The broker's packets arrive at one uplink, but the route to the broker leads out of another.
#[test]
fn strict_filters_of_outer_packets() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native([Kind::SixInFour, Kind::Ayiya]), Hook::Auto, "")?;
    fixture
        .host()
        .ip("link add net1 type veth peer name far1\n\
                       link set net1 up\n\
                       address add 192.0.2.77/32 dev net1\n")?;
    let remote = "remote4 = \"198.51.100.1\"";
    let config =
        fixture
            .lab
            .config("")
            .replacen(remote, &format!("local4 = \"192.0.2.77\"\n{remote}"), 1);
    fixture.lab.write_config(&config)?;
    fixture.host().sysctl(&[
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/net1/rp_filter", "0"),
    ])?;
    assert!(traps(&fixture, "rp_filter")?.is_empty());
    fixture.host().sysctl(&[("ipv4/conf/all/rp_filter", "1")])?;
    is_fixed(&fixture, "rp_filter", "bad")
}

/// Duplicate address detection disables an address that another host on the link also has.
#[test]
fn a_duplicate_address() -> Result<()> {
    let fixture = Fixture::new(Flavour::Veth, Hook::Auto)?;
    let [tunnel, _] = fixture.lab.tunnels();
    let (plan, host) = (tunnel.plan, fixture.host());
    let (address, interface) = (plan.address, plan.interface);
    tunnel
        .pop()
        .sh(&format!("ip -6 address add {address}/64 dev host nodad"))?;
    let name = format!("ipv6/conf/{interface}/accept_dad");
    host.sysctl(&[(&name, "1")])?;
    host.sysctl(&[("ipv6/conf/all/accept_dad", "1")])?;
    host.sh(&format!("ip -6 address del {address}/64 dev {interface}"))?;
    host.sh(&format!("ip -6 address add {address}/64 dev {interface}"))?;
    let duplicates = || host.sh("ip -6 -oneline address show dadfailed");
    let limit = Duration::from_secs(10);
    wait::until("it is found out", limit, duplicates, |found| {
        !found.is_empty()
    })?;
    is_fixed(&fixture, "address", "bad")
}

/// A deprecated address is not used for new connections, but still answers.
#[test]
fn a_deprecated_address_is_no_trap() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let [tunnel, _] = fixture.lab.tunnels();
    let (address, interface) = (tunnel.plan.address, tunnel.plan.interface);
    fixture.host().sh(&format!(
        "ip -6 address change {address}/64 dev {interface} preferred_lft 0"
    ))?;
    let deprecated = fixture
        .host()
        .sh("ip -6 -oneline address show deprecated")?;
    assert!(deprecated.contains(&address.to_string()), "{deprecated}");
    assert!(traps(&fixture, "address")?.is_empty());
    fixture.ensure_outside_answered(tunnel)?;
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The doctor reports without a daemon what the programs cannot enforce.
#[test]
fn an_uplink_that_is_not_there() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    assert!(traps(&fixture, "enforcement")?.is_empty());
    let config = fixture
        .lab
        .config("")
        .replace("[\"net0\"]", "[\"net0\", \"net9\"]");
    fixture.lab.write_config(&config)?;
    let found = trap(&fixture, "enforcement", "bad")?;
    assert_eq!(found["detail"], "uplink net9 does not exist");
    Ok(())
}
