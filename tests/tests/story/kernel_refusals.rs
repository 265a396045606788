//! A change that the kernel refuses is reported with the kernel's error, once it lasts longer than a
//! repair.

use std::time::Duration;

use anyhow::Result;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const SWITCH: &str = "ipv6/conf/sixxs0/disable_ipv6";

fn problem_comes(fixture: &Fixture, words: &str) -> Result<()> {
    fixture.program.status_until(words, |status| {
        status
            .problems
            .iter()
            .any(|problem| problem.contains(words))
    })?;
    let status = fixture.program.status()?;
    let problems = format!("{:?}", status.problems);
    assert!(!problems.contains("CAP_NET_ADMIN"), "{problems}");
    Ok(())
}

fn is_whole_again(fixture: &Fixture) -> Result<()> {
    let host = fixture.host();
    let address = "ip -6 addr replace 2001:db8:a::2/64 dev sixxs0 nodad";
    host.sh(address)?;
    fixture.program.status_until("all is well", |status| {
        status.problems.is_empty() && status.healthy
    })?;
    Ok(())
}

/// NetworkManager does this to an interface that it adopts.
#[test]
fn ipv6_goes_for_a_moment() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let routes = fixture.own_routes()?;
    for _ in 0..5 {
        fixture.host().sysctl(&[(SWITCH, "1")])?;
        // Long enough for several scans.
        std::thread::sleep(Duration::from_millis(200));
        fixture.host().sysctl(&[(SWITCH, "0")])?;
        is_whole_again(&fixture)?;
        wait::until(
            "the route is back",
            Duration::from_secs(5),
            || fixture.own_routes(),
            |now| *now == routes,
        )?;
    }
    let told = fixture.program.run_ok(&["alerts"])?.stdout;
    assert!(told.contains("restored"), "{told}");
    assert!(!told.contains("problem"), "{told}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn ipv6_is_gone_for_good() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let routes = fixture.own_routes()?;
    fixture.host().sysctl(&[(SWITCH, "1")])?;
    problem_comes(&fixture, "IPv6 is disabled on")?;
    fixture.host().sysctl(&[(SWITCH, "0")])?;
    is_whole_again(&fixture)?;

    // The kernel disables IPv6 on an interface with an MTU below 1280 bytes (RFC 8200 section 5).
    fixture.host().sh("ip link set sixxs0 mtu 1000")?;
    problem_comes(&fixture, "MTU")?;
    let health = fixture.program.status()?.tunnel("sixxs0").health.clone();
    assert_eq!(health, "failing");
    fixture.host().sh("ip link set sixxs0 mtu 1480")?;
    is_whole_again(&fixture)?;
    assert_eq!(fixture.own_routes()?, routes);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
