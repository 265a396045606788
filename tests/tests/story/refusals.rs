//! What the kernel refuses is told in the kernel's words, once it lasts longer than a repair takes.

use std::time::Duration;

use anyhow::Result;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::setting::Setting;

const SWITCH: &str = "ipv6/conf/sixxs0/disable_ipv6";

fn problem_comes(setting: &Setting, words: &str) -> Result<()> {
    setting.program.status_until(words, |status| {
        status
            .problems
            .iter()
            .any(|problem| problem.contains(words))
    })?;
    let status = setting.program.status()?;
    let problems = format!("{:?}", status.problems);
    assert!(!problems.contains("CAP_NET_ADMIN"), "{problems}");
    Ok(())
}

fn is_whole_again(setting: &Setting) -> Result<()> {
    let host = setting.host();
    let address = "ip -6 addr replace 2001:db8:a::2/64 dev sixxs0 nodad";
    host.sh(address)?;
    setting.program.status_until("all is well", |status| {
        status.problems.is_empty() && status.healthy
    })?;
    Ok(())
}

/// NetworkManager does this to an interface that it takes on.
#[test]
fn ipv6_goes_for_a_moment() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let daemon = setting.start()?;
    let routes = setting.own_routes()?;
    for _ in 0..5 {
        setting.host().sysctl(&[(SWITCH, "1")])?;
        // Long enough for several looks.
        std::thread::sleep(Duration::from_millis(200));
        setting.host().sysctl(&[(SWITCH, "0")])?;
        is_whole_again(&setting)?;
        wait::until(
            "the route is back",
            Duration::from_secs(5),
            || setting.own_routes(),
            |now| *now == routes,
        )?;
    }
    let told = setting.program.ok(&["alerts"])?.stdout;
    assert!(told.contains("put back"), "{told}");
    assert!(!told.contains("problem"), "{told}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn ipv6_is_gone_for_good() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let daemon = setting.start()?;
    let routes = setting.own_routes()?;
    setting.host().sysctl(&[(SWITCH, "1")])?;
    problem_comes(&setting, "IPv6 is disabled on")?;
    setting.host().sysctl(&[(SWITCH, "0")])?;
    is_whole_again(&setting)?;

    // The kernel takes IPv6 off an interface with less than 1280 bytes (RFC 8200 section 5).
    setting.host().sh("ip link set sixxs0 mtu 1000")?;
    problem_comes(&setting, "MTU")?;
    let health = setting.program.status()?.tunnel("sixxs0").health.clone();
    assert_eq!(health, "failing");
    setting.host().sh("ip link set sixxs0 mtu 1480")?;
    is_whole_again(&setting)?;
    assert_eq!(setting.own_routes()?, routes);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
