//! The rule for the local table is moved behind the rules of sixxs, as VPNs do. Packets to an address of this host
//! still reach it.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::Result;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::{Flavour, LAN1, OUTSIDE};
use sixxs_tests::probe::{self, Ping};
use sixxs_tests::program::Hook;
use sixxs_tests::program::owned_state;
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// The host's own address in the first LAN.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbb, 1, 0, 0, 0, 1);

#[test]
fn rules() -> Result<()> {
    moved("")
}

#[test]
fn subtrees() -> Result<()> {
    moved("rule_mode = \"subtrees\"\n")
}

fn moved(extra: &str) -> Result<()> {
    let spec = Spec {
        lans: true,
        ..Spec::new(Flavour::Tun)
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, extra)?;
    let host = fixture.host();
    let daemon = fixture.start()?;
    let own = fixture.own_rules()?;
    assert!(!own.contains("lookup local"), "{own}");

    for line in [
        "ip -6 rule add from all lookup local priority 32765",
        "ip -6 rule del from all lookup local priority 0",
    ] {
        host.sh(line)?;
    }
    has_local_rules(&fixture, true)?;
    packets_arrive(&fixture)?;
    assert_eq!(fixture.reached_brokers()?, [0, 0]);
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    let [lan, _] = fixture.lab.lans()?;
    assert!(probe::ping(lan, OUTSIDE, 3)?.all_answered());
    let plan = fixture.program.run(&["plan"])?;
    assert_eq!((plan.code, plan.stdout.as_str()), (0, ""));

    // Deleted rules for the local table are restored.
    let before = fixture.own_rules()?;
    fixture.delete_own_rules()?;
    let rules = || fixture.own_rules();
    let limit = Duration::from_secs(5);
    wait::until("rules are back", limit, rules, |rules| {
        rules.lines().count() == before.lines().count()
    })?;

    // When the local table comes first again, the daemon removes its own rule for it.
    host.sh("ip -6 rule add from all lookup local priority 0")?;
    has_local_rules(&fixture, false)?;
    assert_eq!(fixture.own_rules()?, own);
    host.sh("ip -6 rule del from all lookup local priority 0")?;
    has_local_rules(&fixture, true)?;
    assert_eq!(daemon.stop()?, 0);
    they_are_needed(&fixture)?;
    fixture.program.run_ok(&["down"])?;
    assert_eq!(fixture.own_rules()?, "");
    assert!(
        host.sh("ip -6 rule show priority 32765")?
            .contains("lookup local")
    );
    Ok(())
}

/// Pings between addresses of the host, and from a LAN with addresses of a tunnel.
fn packets_arrive(fixture: &Fixture) -> Result<()> {
    let host = fixture.host();
    let [first, second] = fixture.lab.tunnels().each_ref().map(|t| t.plan.address);
    let [lan, _] = fixture.lab.lans()?;
    for (from, source, to) in [
        (host, first, second),
        (host, second, first),
        (host, second, ROUTER),
        (lan, LAN1, ROUTER),
        (lan, LAN1, first),
    ] {
        let pings = Ping::new(to, 3).source(source).run(from)?;
        assert_eq!((pings.sent, pings.answered), (3, 3), "{source} to {to}");
    }
    Ok(())
}

/// Without these rules, packets to an address of this host are lost.
fn they_are_needed(fixture: &Fixture) -> Result<()> {
    let host = fixture.host();
    let [first, second] = fixture.lab.tunnels().each_ref().map(|t| t.plan.address);
    for line in fixture.own_rules()?.lines() {
        if line.contains("lookup local") {
            host.sh(&owned_state::delete_rule(line)?)?;
        }
    }
    let lost = Ping::new(second, 2)
        .source(first)
        .limit(Duration::from_millis(300));
    assert_eq!(lost.run(host)?.answered, 0);
    Ok(())
}

fn has_local_rules(fixture: &Fixture, wanted: bool) -> Result<()> {
    let what = format!("rules of ours for the local table: {wanted}");
    let rules = || fixture.own_rules();
    wait::until(&what, Duration::from_secs(5), rules, |rules| {
        rules.contains("lookup local") == wanted
    })?;
    Ok(())
}
