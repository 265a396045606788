//! The daemon tests by itself, from inside, whether tunnels answer, without a ping from outside.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::status::{Status, Tunnel};
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// A rule set that breaks replies.
const NO_PINGS: &str = "table inet strict {
    chain input {
        type filter hook input priority 0
        icmpv6 type echo-request drop
    }
}";

/// From a change of the packet filter to the alert about the first tunnel.
const NOTICED: Duration = Duration::from_secs(5);

const ON: &str = "inside_test_minutes = 10\n";

/// A daemon that tests by itself, when all is well.
fn started(flavour: Flavour, hook: Hook) -> Result<(Fixture, Daemon)> {
    let fixture = Fixture::with_spec(Spec::new(flavour), hook, ON)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    fixture
        .program
        .status_until("all is well", |status| status.healthy)?;
    Ok((fixture, daemon))
}

fn is_filtered(tunnel: &Tunnel) -> bool {
    let is_filter = |reason: &String| reason.contains("a packet filter drops the request");
    tunnel.health == "failing" && tunnel.health_reasons.iter().any(is_filter)
}

variants!(a_firewall_that_breaks_replies: tun(Tun, Auto), veth(Veth, Auto), clsact(Tun, Clsact));

fn a_firewall_that_breaks_replies(flavour: Flavour, hook: Hook) -> Result<()> {
    let (fixture, daemon) = started(flavour, hook)?;
    let host = fixture.host();
    let changed = Instant::now();
    nft::load(host, NO_PINGS)?;
    let alerts = || fixture.program.json(&["alerts"]);
    wait::until(
        "an alert",
        NOTICED.saturating_mul(3),
        alerts,
        |(_, alerts)| {
            let mut alerts = alerts.iter();
            alerts.any(|alert| alert["kind"] == "health" && alert["health"] == "failing")
        },
    )
    .with_context(|| daemon.log())?;
    let took = changed.elapsed();
    println!("alert after {took:?}");
    ensure!(took < NOTICED, "{took:?}");
    let status = fixture
        .program
        .status_until("both tunnels fail", |status| {
            status.tunnels.iter().all(is_filtered)
        })?;
    // Nothing of it counts as traffic from outside.
    for tunnel in &status.tunnels {
        let counts = [
            tunnel.echo.requests_in,
            tunnel.echo.replies_out,
            tunnel.proof.requests,
        ];
        ensure!(counts == [0, 0, 0], "{tunnel:#?}");
    }
    ensure!(fixture.program.run(&["check"])?.code == 3);
    host.sh("nft delete table inet strict")?;
    let is_well = |status: &Status| status.healthy;
    fixture.program.status_until("all is well again", is_well)?;
    // Rules that disappear are restored, and that is tested too.
    fixture.delete_own_rules()?;
    fixture.program.status_until("rules are back", |status| {
        status.corrections > 0 && status.healthy
    })?;
    fixture.ensure_nothing_lost()?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// A setting that no event reports is found when somebody pings.
#[test]
fn pings_without_answer_are_explained() -> Result<()> {
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto)?;
    let host = fixture.host();
    host.sysctl(&[("ipv6/icmp/echo_ignore_all", "1")])?;
    let [first, _] = fixture.lab.tunnels();
    let stream = sixxs_tests::probe::PingStream::start(
        fixture.lab.outside(),
        first.plan.address,
        Duration::from_millis(100),
    )?;
    let name = first.plan.interface;
    // The daemon counts replies every ten seconds.
    wait::until(
        "the reason is known",
        Duration::from_secs(20),
        || fixture.program.status(),
        |status| {
            let mut reasons = status.tunnel(name).health_reasons.iter();
            reasons.any(|reason| reason.contains("the host ignores all pings"))
        },
    )?;
    host.sysctl(&[("ipv6/icmp/echo_ignore_all", "0")])?;
    stream.stop()?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}
