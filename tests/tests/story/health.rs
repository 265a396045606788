//! One health state: `status` in text and JSON, its exit status, and `check` agree.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE};
use sixxs_tests::probe::PingStream;
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// Limit for the daemon to notice a change. It scans at once, but at a limited rate.
const NOTICED: Duration = Duration::from_secs(15);

/// Waits until the first tunnel has this level and reason, and expects that all commands agree.
fn is_judged(fixture: &Fixture, level: &str, reason: &str) -> Result<()> {
    let name = fixture.lab.tunnels()[0].plan.interface;
    let status = wait::until(
        &format!("{name} is {level}: {reason}"),
        NOTICED,
        || fixture.program.status(),
        |status| {
            let tunnel = status.tunnel(name);
            tunnel.health == level && tunnel.health_reasons.iter().any(|r| r.contains(reason))
        },
    )?;
    assert!(!status.healthy, "{status:#?}");
    // The commands are repeated: when another ping arrives, the number of unanswered pings in a row may drop
    // from three to two for a moment.
    let line = format!("{level}: {name}: ");
    for (command, words) in [
        (&["status"][..], &[line.as_str(), "NOT HEALTHY"][..]),
        (&["check", name], &[reason]),
    ] {
        let run = || fixture.program.run(command);
        wait::until("a command says so", NOTICED, run, |printed| {
            let has_all = words.iter().all(|word| printed.stdout.contains(word));
            printed.code == 3 && has_all
        })?;
    }
    is_alerted(fixture, level, reason)
}

/// Waits until the last health alert of the first tunnel has this level, and contains this reason.
fn is_alerted(fixture: &Fixture, level: &str, reason: &str) -> Result<()> {
    let name = fixture.lab.tunnels()[0].plan.interface;
    let mine = |alert: &Value| alert["kind"] == "health" && alert["tunnel"] == name;
    let last = || -> Result<Option<Value>> {
        let (_, alerts) = fixture.program.json(&["alerts"])?;
        Ok(alerts.into_iter().rfind(mine))
    };
    wait::until(
        &format!("an alert says {level}: {reason}"),
        NOTICED,
        last,
        |alert| {
            let Some(alert) = alert else {
                return false;
            };
            alert["health"] == level && (reason.is_empty() || alert.to_string().contains(reason))
        },
    )?;
    Ok(())
}

fn is_healthy(fixture: &Fixture) -> Result<()> {
    let limit = NOTICED + Duration::from_secs(30);
    let healthy = |status: &sixxs_tests::program::status::Status| status.healthy;
    wait::until(
        "all is healthy",
        limit,
        || fixture.program.status(),
        healthy,
    )?;
    Ok(())
}

#[test]
fn an_address_that_is_gone_or_elsewhere() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    is_healthy(&fixture)?;
    let host = fixture.host();
    host.sh("ip -6 addr del 2001:db8:a::2/64 dev sixxs0")?;
    is_judged(&fixture, "failing", "2001:db8:a::2 is not on its interface")?;
    host.sh("ip -6 addr add 2001:db8:a::2/128 dev net0 nodad")?;
    is_judged(&fixture, "failing", "2001:db8:a::2 is an address of net0")?;
    host.sh("ip -6 addr del 2001:db8:a::2/128 dev net0")?;
    host.sh("ip -6 addr add 2001:db8:a::2/64 dev sixxs0 nodad")?;
    is_healthy(&fixture)?;
    is_alerted(&fixture, "healthy", "")
}

#[test]
fn two_tunnels_have_each_others_address() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    is_healthy(&fixture)?;
    let [first, second] = fixture.lab.tunnels().each_ref().map(|tunnel| tunnel.plan);
    let lead = |verb: &str, address, interface: &str| {
        let line = format!("address {verb} {address}/64 dev {interface}");
        let nodad = if verb == "add" { " nodad" } else { "" };
        fixture.host().ip(&format!("{line}{nodad}\n"))
    };
    let swap = |from: [&str; 2], to: [&str; 2]| -> Result<()> {
        for (address, interface) in [first.address, second.address].into_iter().zip(from) {
            lead("del", address, interface)?;
        }
        for (address, interface) in [first.address, second.address].into_iter().zip(to) {
            lead("add", address, interface)?;
        }
        Ok(())
    };
    let right = [first.interface, second.interface];
    let wrong = [second.interface, first.interface];
    swap(right, wrong)?;
    is_judged(&fixture, "failing", "2001:db8:a::2 is an address of sixxs1")?;
    let status = fixture.program.status()?;
    let other = status.tunnel(second.interface);
    assert_eq!(other.health, "failing", "{other:#?}");
    let reasons = other.health_reasons.join("; ");
    assert!(
        reasons.contains("2001:db8:b::2 is an address of sixxs0"),
        "{reasons}"
    );
    swap(wrong, right)?;
    is_healthy(&fixture)
}

/// The kernel does not use an address while duplicate address detection runs, and after it has found another host.
#[test]
fn a_tentative_and_a_duplicate_address() -> Result<()> {
    let fixture = Fixture::new(Flavour::Veth, Hook::Auto)?;
    let _daemon = fixture.start()?;
    is_healthy(&fixture)?;
    let [tunnel, _] = fixture.lab.tunnels();
    let (host, pop) = (fixture.host(), tunnel.pop());
    let (address, interface) = (tunnel.plan.address, tunnel.plan.interface);
    let set =
        |name: &str, value: &str| host.sysctl(&[(&format!("ipv6/conf/{interface}/{name}"), value)]);
    let add_again = || {
        host.sh(&format!("ip -6 address del {address}/64 dev {interface}"))?;
        host.sh(&format!("ip -6 address add {address}/64 dev {interface}"))
    };
    set("accept_dad", "1")?;
    // One request every 20 ms in the lab: a minute.
    set("dad_transmits", "3000")?;
    add_again()?;
    is_judged(&fixture, "failing", "2001:db8:a::2 is tentative")?;

    set("dad_transmits", "1")?;
    pop.sh(&format!("ip -6 address add {address}/64 dev host nodad"))?;
    add_again()?;
    is_judged(&fixture, "failing", "2001:db8:a::2 is a duplicate")?;

    pop.sh(&format!("ip -6 address del {address}/64 dev host"))?;
    add_again()?;
    is_healthy(&fixture)
}

/// A repair causes alerts of kind `correction`, and no health alerts.
#[test]
fn a_repair_causes_no_health_alert() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    is_healthy(&fixture)?;
    let rules = fixture.own_rules()?;
    for _ in 0..5 {
        fixture.delete_own_rules()?;
        let now = || fixture.own_rules();
        wait::until("the rules are back", NOTICED, now, |now| *now == rules)?;
    }
    // Longer than the delay before a change of health is reported.
    std::thread::sleep(Duration::from_secs(3));
    let (_, alerts) = fixture.program.json(&["alerts"])?;
    let kinds: Vec<_> = alerts.iter().map(|alert| &alert["kind"]).collect();
    assert!(kinds.iter().any(|kind| *kind == "correction"), "{kinds:?}");
    assert!(!kinds.iter().any(|kind| *kind == "health"), "{alerts:#?}");
    Ok(())
}

/// A tunnel's prefix contains the uplink's own address, by a mistake in the file or of the broker.
#[test]
fn a_prefix_over_the_uplinks_own_address() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    is_healthy(&fixture)?;
    let good = fixture.lab.config("");
    let native = "prefixes = [\"2001:db8:1::/48\"]\n[[tunnel]]\nname = \"sixxs1\"";
    let wrong = good.replace("[[tunnel]]\nname = \"sixxs1\"", native);
    assert_ne!(good, wrong);
    fixture.lab.write_config(&wrong)?;
    fixture.program.run_ok(&["reload"])?;
    is_judged(&fixture, "failing", "cover every address of net0")?;
    fixture.lab.write_config(&good)?;
    fixture.program.run_ok(&["reload"])?;
    is_healthy(&fixture)
}

#[test]
fn a_link_without_carrier() -> Result<()> {
    let fixture = Fixture::new(Flavour::Veth, Hook::Auto)?;
    let _daemon = fixture.start()?;
    is_healthy(&fixture)?;
    let [first, _] = fixture.lab.tunnels();
    first.pop().sh("ip link set host down")?;
    is_judged(&fixture, "failing", "its interface has no carrier")
}

#[test]
fn three_pings_that_a_firewall_drops() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    let [first, second] = fixture.lab.tunnels();
    fixture.ensure_outside_answered(first)?;
    let host = fixture.host();
    host.sh("nft add table ip6 f")?;
    host.sh("nft add chain ip6 f o { type filter hook output priority 0; }")?;
    let drop = "ip6 saddr 2001:db8:a::2 icmpv6 type echo-reply drop";
    host.sh(&format!("nft add rule ip6 f o {drop}"))?;
    let pings = PingStream::start(
        fixture.lab.outside(),
        first.plan.address,
        Duration::from_millis(100),
    )?;
    is_judged(&fixture, "failing", "echo requests got no reply")?;
    let status = fixture.program.status()?;
    assert_eq!(status.tunnel(second.plan.interface).health, "healthy");
    host.sh("nft delete table ip6 f")?;
    is_healthy(&fixture)?;
    pings.stop()?;
    Ok(())
}

#[test]
fn foreign_rules_with_precedence_change_the_health() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    let host = fixture.host();
    // Tables that only refuse.
    host.sh("ip -6 route add blackhole default table 77")?;
    host.sh("ip -6 route add unreachable default table 78")?;
    for (action, level, reason) in [
        (
            "lookup main",
            "degraded",
            "routes its packets elsewhere; the program redirects them",
        ),
        ("blackhole", "failing", "refuses its packets"),
        ("prohibit", "failing", "refuses its packets"),
        ("unreachable", "failing", "refuses its packets"),
        ("lookup 77", "failing", "refuses its packets"),
        ("lookup 78", "failing", "refuses its packets"),
        // It jumps over the daemon's rules to the main table.
        (
            "goto 32766",
            "degraded",
            "routes its packets elsewhere; the program redirects them",
        ),
    ] {
        let rule = format!("from 2001:db8:a::2 priority 100 {action}");
        host.sh(&format!("ip -6 rule add {rule}"))?;
        is_judged(&fixture, level, reason)?;
        let findings = fixture.program.run(&["doctor"])?.stdout;
        assert!(
            findings.contains("by a rule before the rules of sixxs: 100: from 2001:db8:a::2 "),
            "{findings}"
        );
        host.sh(&format!("ip -6 rule del {rule}"))?;
        is_healthy(&fixture)?;
    }
    Ok(())
}

/// The program redirects the leaks, but the tunnel is degraded while they continue.
#[test]
fn continuing_leaks_degrade_the_tunnel() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    is_healthy(&fixture)?;
    let [first, _] = fixture.lab.tunnels();
    let address = first.plan.address;
    let socket = leak::udp_socket(fixture.host(), address, Cause::Device("net0"))?;
    let judged = |level: &str| -> Result<()> {
        let begun = Instant::now();
        loop {
            leak::send(&socket, OUTSIDE, 1, 100)?;
            std::thread::sleep(Duration::from_millis(100));
            let status = fixture.program.status()?;
            if status.tunnel(first.plan.interface).health == level {
                return Ok(());
            }
            ensure!(begun.elapsed() < NOTICED * wait::patience(), "{status:#?}");
        }
    };
    leak::send(&socket, OUTSIDE, 1, 100)?;
    is_healthy(&fixture)?;
    judged("degraded")?;
    is_judged(&fixture, "degraded", "the program redirects them")?;
    is_healthy(&fixture)
}
