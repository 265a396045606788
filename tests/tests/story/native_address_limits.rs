//! Limits on addresses from a broker: it cannot claim addresses of another tunnel or of the host, nor draw
//! foreign addresses into its tunnel.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::tic::Rule;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::native::TUNNEL_IDS;
use sixxs_tests::lab::topology::HOST;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const LIMIT: Duration = Duration::from_secs(10);

/// Two tunnels with accounts, at a server with a high connect limit.
fn begin() -> Result<Fixture> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::Heartbeat]), Hook::Auto, "")?;
    let limit = "[connect_limit]\nconnects = 1000\n";
    fixture
        .lab
        .write_config(&fixture.lab.write_aiccu_confs(limit, true)?)?;
    fixture.lab.tic()?.set_rule(Rule {
        connects: 1000,
        ..Rule::default()
    });
    Ok(fixture)
}

/// The broker of the first tunnel provides another address, and the daemon queries it again.
fn gives(fixture: &Fixture, address: Ipv6Addr) -> Result<()> {
    let [first, _] = TUNNEL_IDS;
    let plan = fixture.lab.tunnels()[0].plan;
    fixture.lab.tic()?.change(|book| {
        let tunnel = book.tunnel_mut(first).expect("the lab has this tunnel");
        tunnel.address = address;
        // Both ends are in one network.
        let [ours, its] = [plan.peer, address].map(|address| address.to_bits() >> 64 << 64);
        tunnel.peer = if ours == its {
            plan.peer
        } else {
            Ipv6Addr::from_bits(its | 0xfe01)
        };
    });
    fixture
        .program
        .run_ok(&["restart", "--refresh", plan.interface])?;
    Ok(())
}

#[test]
fn addresses_in_use_are_refused() -> Result<()> {
    let fixture = begin()?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let [first, second] = fixture.lab.tunnels();
    let (name, other) = (first.plan.interface, second.plan.interface);
    let neighbour = Ipv6Addr::from_bits(HOST.to_bits() + 0x76);
    for (address, words) in [
        (
            second.plan.address,
            format!("which is within {} of {other}", second.plan.address),
        ),
        (HOST, format!("which is within {HOST} of net0")),
        (
            neighbour,
            "which is within 2001:db8:1::/64 of net0".to_owned(),
        ),
    ] {
        gives(&fixture, address)?;
        let words = format!("the broker assigns it {address}, {words}");
        let status = fixture.program.status_until(&words, |status| {
            let tunnel = status.tunnel(name);
            let reason = tunnel.reason.as_deref().unwrap_or_default();
            tunnel.state == "failed" && reason.contains(&words)
        })?;
        let tunnel = status.tunnel(name);
        assert!(!status.healthy && tunnel.health == "failing", "{status:#?}");
        let told = |problem: &String| problem.contains(&words);
        assert!(status.problems.iter().any(told), "{status:#?}");
        let printed = fixture.program.run(&["status"])?;
        assert_eq!(printed.code, 3, "{printed:#?}");
        let addresses = fixture
            .host()
            .sh(&format!("ip -6 -o address show dev {name}"))?;
        assert!(!addresses.contains(&format!(" {address}")), "{addresses}");
        assert!(status.tunnel(other).is_whole(), "{status:#?}");
        fixture.ensure_outside_answered(second)?;
    }

    // The broker provides the right address again.
    gives(&fixture, first.plan.address)?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    fixture.ensure_outside_answered(first)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The host gets an address within a prefix that the broker provided earlier.
#[test]
fn a_tunnel_fails_while_the_host_has_its_prefix() -> Result<()> {
    let fixture = begin()?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let name = fixture.lab.tunnels()[0].plan.interface;
    let address = "2001:db8:a::77/64 dev net0";
    let add = format!("ip -6 address add {address} nodad noprefixroute");
    fixture.host().sh(&add)?;
    let taken = "which is within 2001:db8:a::/64 of net0";
    fixture.program.status_until(taken, |status| {
        let tunnel = status.tunnel(name);
        tunnel.state == "failed" && tunnel.reason.as_ref().is_some_and(|r| r.contains(taken))
    })?;
    fixture.host().sh(&format!("ip -6 address del {address}"))?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn another_address_is_reported() -> Result<()> {
    let fixture = begin()?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let plan = fixture.lab.tunnels()[0].plan;
    let address = Ipv6Addr::from_bits(plan.address.to_bits() + 1);
    gives(&fixture, address)?;
    let alerts = || Ok(fixture.program.run_ok(&["alerts"])?.stdout);
    let told = format!(
        "{}: the broker now assigns {address} with the peer {}; before it was {} with {}",
        plan.interface, plan.peer, plan.address, plan.peer
    );
    wait::until("it is told", LIMIT, alerts, |alerts| alerts.contains(&told))?;
    assert_eq!(daemon.stop()?, 0);

    // A daemon that knows the former address from an earlier run reports it too.
    let daemon = fixture.start()?;
    gives(&fixture, plan.address)?;
    let told = format!("the broker now assigns {} with", plan.address);
    wait::until("it is told", LIMIT, alerts, |alerts| alerts.contains(&told))?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// In the main table, only the tunnel's far end is on-link, not the rest of the tunnel's prefix.
#[test]
fn only_the_far_end_is_on_the_link() -> Result<()> {
    let fixture = begin()?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    for tunnel in fixture.lab.tunnels() {
        let (plan, host) = (tunnel.plan, fixture.host());
        let routes = host.sh(&format!(
            "ip -6 route show table main dev {}",
            plan.interface
        ))?;
        let routes: Vec<_> = routes.lines().filter(|r| !r.starts_with("fe80:")).collect();
        let far = format!("{} ", plan.peer);
        assert!(
            routes.len() == 1 && routes[0].starts_with(&far),
            "{routes:#?}"
        );
        // With the source address that the host selects.
        host.sh(&format!("ping -6 -n -q -c 1 -W 5 {}", plan.peer))?;
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
