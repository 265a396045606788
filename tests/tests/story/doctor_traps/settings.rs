//! Settings of the kernel, and addresses.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use super::{apply, is_fixed, trap, traps};
use crate::setting::Setting;

#[test]
fn settings_of_the_kernel() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let daemon = setting.start()?;
    let host = setting.host();
    // Nothing of all this on a host without traps, which is soon said.
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
        let found = traps(&setting, about)?;
        assert!(found.is_empty(), "{about}: {found:#?}");
    }
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "15 looks: {:?}",
        started.elapsed()
    );

    host.sysctl(&[("ipv6/icmp/echo_ignore_all", "1")])?;
    is_fixed(&setting, "echo", "bad")?;

    host.sysctl(&[
        ("ipv6/icmp/ratelimit", "1000"),
        ("ipv6/icmp/ratemask", "0-1,3-129"),
    ])?;
    is_fixed(&setting, "icmp rate", "bad")?;
    host.sysctl(&[("ipv6/icmp/ratelimit", "60000")])?;
    is_fixed(&setting, "icmp rate", "note")?;

    host.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")])?;
    is_fixed(&setting, "disable_ipv6", "bad")?;

    let [tunnel, _] = setting.lab.tunnels();
    let plan = tunnel.plan;
    host.sh(&format!(
        "ip -6 address del {}/64 dev {}",
        plan.address, plan.interface
    ))?;
    is_fixed(&setting, "address", "bad")?;
    setting.outside_is_answered(tunnel)?;

    // A default route that only routers could give, who are not listened to.
    host.sysctl(&[
        ("ipv6/conf/net0/forwarding", "1"),
        ("ipv6/conf/net0/accept_ra", "1"),
    ])?;
    assert!(traps(&setting, "accept_ra")?.is_empty());
    host.sh("ip -6 route del default")?;
    is_fixed(&setting, "accept_ra", "bad")?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn networks_behind_a_host_that_does_not_forward() -> Result<()> {
    let spec = Spec {
        lans: true,
        ..Spec::new(Flavour::Tun)
    };
    let setting = Setting::of(spec, Hook::Auto, "rule_mode = \"subtrees\"\n")?;
    assert!(traps(&setting, "forwarding")?.is_empty());
    assert!(traps(&setting, "subtrees")?.is_empty());
    setting
        .host()
        .sysctl(&[("ipv6/conf/all/forwarding", "0")])?;
    let found = traps(&setting, "forwarding")?;
    assert_eq!(
        found.len(),
        2,
        "lan1, and the LAN on the uplink's wire: {found:#?}"
    );
    apply(&setting, found.first().context("one")?)?;
    assert!(traps(&setting, "forwarding")?.is_empty());
    Ok(())
}

/// What the broker sends comes in by one uplink, and the route to it leads out of another.
#[test]
fn strict_filters_of_outer_packets() -> Result<()> {
    let setting = Setting::of(Spec::native([Kind::SixInFour, Kind::Ayiya]), Hook::Auto, "")?;
    setting
        .host()
        .ip("link add net1 type veth peer name far1\n\
                       link set net1 up\n\
                       address add 192.0.2.77/32 dev net1\n")?;
    let remote = "remote4 = \"198.51.100.1\"";
    let config =
        setting
            .lab
            .config("")
            .replacen(remote, &format!("local4 = \"192.0.2.77\"\n{remote}"), 1);
    setting.lab.write_config(&config)?;
    setting.host().sysctl(&[
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/net1/rp_filter", "0"),
    ])?;
    assert!(traps(&setting, "rp_filter")?.is_empty());
    setting.host().sysctl(&[("ipv4/conf/all/rp_filter", "1")])?;
    is_fixed(&setting, "rp_filter", "bad")
}

/// An address that somebody else on the link has as well is not in use.
#[test]
fn a_duplicate_address() -> Result<()> {
    let setting = Setting::new(Flavour::Veth, Hook::Auto)?;
    let [tunnel, _] = setting.lab.tunnels();
    let (plan, host) = (tunnel.plan, setting.host());
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
    is_fixed(&setting, "address", "bad")
}

/// One that new connections are not to be made from answers all the same.
#[test]
fn a_deprecated_address_is_no_trap() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let daemon = setting.start()?;
    let [tunnel, _] = setting.lab.tunnels();
    let (address, interface) = (tunnel.plan.address, tunnel.plan.interface);
    setting.host().sh(&format!(
        "ip -6 address change {address}/64 dev {interface} preferred_lft 0"
    ))?;
    let deprecated = setting
        .host()
        .sh("ip -6 -oneline address show deprecated")?;
    assert!(deprecated.contains(&address.to_string()), "{deprecated}");
    assert!(traps(&setting, "address")?.is_empty());
    setting.outside_is_answered(tunnel)?;
    setting.nothing_went_astray()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// What the programs could not do is said without a daemon as well.
#[test]
fn an_uplink_that_is_not_there() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    assert!(traps(&setting, "enforcement")?.is_empty());
    let config = setting
        .lab
        .config("")
        .replace("[\"net0\"]", "[\"net0\", \"net9\"]");
    setting.lab.write_config(&config)?;
    let found = trap(&setting, "enforcement", "bad")?;
    assert_eq!(found["detail"], "uplink net9 does not exist");
    Ok(())
}
