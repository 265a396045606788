//! Echo pairing: requests from outside are matched with their replies, and a tunnel without replies is
//! reported.

use std::time::Duration;

use anyhow::Result;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::probe::PingStream;
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Proof;
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// Limit to notice missing replies, which are evaluated every ten seconds.
const NOTICED: Duration = Duration::from_secs(25);

/// The interval between pings.
const INTERVAL: Duration = Duration::from_millis(100);

variants!(each_reply_is_paired_with_its_request: tun(Tun, Auto), veth_clsact(Veth, Clsact));

fn each_reply_is_paired_with_its_request(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    let [first, second] = fixture.lab.tunnels();
    let proof = |name: &str| -> Result<Proof> { Ok(fixture.program.status()?.tunnel(name).proof) };
    let before = proof(first.plan.interface)?;
    assert_eq!((before.requests, before.answered), (0, 0));
    assert_eq!(
        (before.answered_percent, before.median_seconds),
        (None, None)
    );

    let pings = fixture.ensure_outside_answered(first)?;
    let after = proof(first.plan.interface)?;
    assert_eq!(
        (after.requests, after.answered),
        (pings, pings),
        "{after:?}"
    );
    assert_eq!((after.astray, after.unanswered), (0, 0), "{after:?}");
    assert_eq!(after.answered_percent, Some(100.0));
    assert!(
        after
            .median_seconds
            .is_some_and(|median| (1e-6..0.1).contains(&median)),
        "{after:?}"
    );
    assert!(
        after
            .last_answered_seconds_ago
            .is_some_and(|ago| ago < 30.0),
        "{after:?}"
    );
    assert!(
        after.watched_seconds >= after.last_answered_seconds_ago,
        "{after:?}"
    );
    assert_eq!(proof(second.plan.interface)?.requests, 0);
    let screen = fixture.program.run_ok(&["status"])?.stdout;
    assert!(
        screen.contains("  answers   100% of pings, last "),
        "{screen}"
    );

    // Leaked replies that are redirected into the tunnel count as answers too, also without a daemon.
    daemon.kill()?;
    fixture.delete_own_rules()?;
    let pings = fixture.ensure_outside_answered(first)?;
    let _daemon = fixture.start()?;
    let again = proof(first.plan.interface)?;
    assert_eq!(again.answered, after.answered + pings, "{again:?}");
    assert_eq!(again.answered_percent, Some(100.0), "{again:?}");
    Ok(())
}

#[test]
fn a_tunnel_without_replies_is_reported_as_failing() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    let [first, second] = fixture.lab.tunnels();
    fixture
        .host()
        .sh("sysctl -qw net.ipv6.icmp.echo_ignore_all=1")?;
    let outside = fixture.lab.outside();
    let asked = PingStream::start(outside, first.plan.address, INTERVAL)?;
    let status = wait::until(
        "its silence is told",
        NOTICED,
        || fixture.program.status(),
        |status| {
            let tunnel = status.tunnel(first.plan.interface);
            let told = |reason: &String| reason.ends_with("for what may drop them");
            tunnel.health_reasons.iter().any(told) && tunnel.proof.unanswered > 10
        },
    )?;
    let proof = status.tunnel(first.plan.interface).proof;
    assert_eq!(
        (proof.answered, proof.answered_percent),
        (0, Some(0.0)),
        "{proof:?}"
    );
    assert!(proof.unanswered > 10, "{proof:?}");
    assert_eq!(status.tunnel(second.plan.interface).health, "healthy");
    let reports = || -> Result<Vec<String>> {
        let (_, alerts) = fixture.program.json(&["alerts"])?;
        let about_health = alerts.iter().filter(|alert| alert["kind"] == "health");
        let told = about_health.map(|alert| format!("{} {}", alert["tunnel"], alert["health"]));
        Ok(told.collect())
    };
    wait::until("an alert tells", NOTICED, reports, |told| {
        told == &[r#""sixxs0" "failing""#]
    })?;

    fixture
        .host()
        .sh("sysctl -qw net.ipv6.icmp.echo_ignore_all=0")?;
    // Unanswered requests are forgotten after half a minute.
    let limit = NOTICED + Duration::from_secs(30);
    wait::until("its answers are seen", limit, reports, |told| {
        told == &[r#""sixxs0" "failing""#, r#""sixxs0" "healthy""#]
    })?;
    asked.stop()?;
    Ok(())
}

#[test]
fn replies_through_another_interface_are_reported() -> Result<()> {
    let fixture = Fixture::with_spec(
        Spec::new(Flavour::Tun),
        Hook::Auto,
        "on_leak = \"observe\"\n",
    )?;
    let daemon = fixture.start()?;
    let [first, _] = fixture.lab.tunnels();
    let asked = PingStream::start(fixture.lab.outside(), first.plan.address, INTERVAL)?;
    // A foreign rule comes first, and leads to the uplink.
    fixture
        .host()
        .sh("ip -6 rule add from 2001:db8:a::2 lookup main priority 100")?;
    let status = wait::until(
        "what went astray is told",
        NOTICED,
        || fixture.program.status(),
        |status| {
            let told = "its replies leave elsewhere or are dropped: ";
            let reasons = &status.tunnel(first.plan.interface).health_reasons;
            reasons.iter().any(|reason| reason.starts_with(told))
        },
    )?;
    let proof = status.tunnel(first.plan.interface).proof;
    assert!(proof.astray > 5, "{proof:?}");
    assert!(
        proof
            .answered_percent
            .is_some_and(|percent| percent < 100.0),
        "{proof:?}"
    );
    let screen = fixture.program.run(&["status"])?.stdout;
    assert!(screen.contains(" astray)"), "{screen}");
    asked.stop()?;
    drop(daemon);
    Ok(())
}
