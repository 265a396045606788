//! Rules deleted and daemon killed: every reply still arrives, the filter stays at 0, and leaks are
//! counted. A new daemon repairs the rules and keeps all counts.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::probe::{Ping, PingStream};
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Leaks;
use sixxs_tests::wait;

use crate::fixture::Fixture;

variants!(leaks_are_caught:
    tun(Tun, Auto), veth(Veth, Auto), tun_clsact(Tun, Clsact), veth_clsact(Veth, Clsact),
    wireguard(WireGuard, Auto));

fn leaks_are_caught(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    let rules = fixture.own_rules()?;
    let tunnels = fixture.lab.tunnels();
    for tunnel in tunnels {
        fixture.ensure_outside_answered(tunnel)?;
    }
    let before = fixture.program.status()?;

    daemon.kill()?;
    fixture.delete_own_rules()?;
    let mut leaked = [0; 2];
    for (tunnel, leaked) in tunnels.iter().zip(&mut leaked) {
        let seen = tunnel.broker_counters()?.get("from_host")?;
        fixture.ensure_outside_answered(tunnel)?;
        *leaked = tunnel.broker_counters()?.get("from_host")? - seen;
    }
    fixture.ensure_nothing_lost()?;

    let daemon = fixture.start()?;
    assert_eq!(fixture.own_rules()?, rules);
    let after = fixture.program.status()?;
    assert!(after.healthy, "{after:#?}");
    for (tunnel, leaked) in tunnels.iter().zip(leaked) {
        let [old, new] = [&before, &after].map(|s| s.tunnel(tunnel.plan.interface));
        assert_eq!(
            new.echo.requests_in,
            old.echo.requests_in + 20,
            "counts were lost"
        );
        assert_eq!(
            new.echo.replies_out,
            old.echo.replies_out + 20,
            "counts were lost"
        );
        assert!(new.leaks.redirected >= 20 + 10, "{:?}", new.leaks);
        // Over veth the broker may see fewer and longer packets than were sent.
        if flavour == Flavour::Tun {
            assert!(
                new.leaks.redirected <= leaked,
                "{:?}, {leaked} at the broker",
                new.leaks
            );
        }
        assert_eq!((new.leaks.dropped, new.leaks.observed), (0, 0));
    }
    let uplink = &after.uplinks[0];
    assert_eq!(
        uplink.leaks,
        after.tunnels.iter().map(|t| all(t.leaks)).sum::<u64>()
    );

    // While it runs it repairs rules by itself; what leaks meanwhile arrives all the same.
    fixture.delete_own_rules()?;
    let repaired = || fixture.own_rules();
    let limit = Duration::from_secs(5);
    wait::until("deleted rules come back", limit, repaired, |now| {
        *now == rules
    })?;
    let status = fixture
        .program
        .status_until("corrections are counted", |s| s.corrections > 0)?;
    assert!(status.healthy, "{status:#?}");
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

fn all(leaks: Leaks) -> u64 {
    leaks.redirected + leaks.dropped + leaks.observed + leaks.too_big
}

variants!(no_ping_is_lost:
    tun_kill_and_restart(Tun, Auto), veth_kill_and_restart(Veth, Auto),
    tun_clsact_kill_and_restart(Tun, Clsact), veth_clsact_kill_and_restart(Veth, Clsact));

/// A stream of pings to each tunnel from before the kill until after the restart.
fn no_ping_is_lost(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let mut daemon = fixture.start()?;
    let interval = Duration::from_millis(2);
    let mut streams = Vec::new();
    for tunnel in fixture.lab.tunnels() {
        let address = tunnel.plan.address;
        streams.push(PingStream::start(fixture.lab.outside(), address, interval)?);
    }
    let more_were_answered = || {
        for stream in &streams {
            let enough = stream.state().pings.answered + 50;
            wait::until(
                "the stream goes on",
                Duration::from_secs(5),
                || Ok(stream.state()),
                |state| state.pings.answered >= enough,
            )?;
        }
        Ok::<_, anyhow::Error>(())
    };
    for _ in 0..3 {
        more_were_answered()?;
        daemon.kill()?;
        more_were_answered()?;
        fixture.delete_own_rules()?;
        more_were_answered()?;
        daemon = fixture.start()?;
    }
    more_were_answered()?;
    for (stream, tunnel) in streams.into_iter().zip(fixture.lab.tunnels()) {
        let pings = stream.stop()?;
        assert!(pings.all_answered(), "{}: {pings:?}", tunnel.plan.interface);
        let status = fixture.program.status()?;
        let echo = status.tunnel(tunnel.plan.interface).echo;
        assert_eq!(
            (echo.requests_in, echo.replies_out),
            (pings.sent, pings.sent)
        );
    }
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

variants!(long_replies_are_answered: tun_long_pings(Tun, Auto), veth_long_pings(Veth, Auto));

/// Replies longer than the tunnel's MTU: the uplink would take them, the tunnel does not. The host
/// is told and cuts the next one.
fn long_replies_are_answered(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    fixture.start()?.kill()?;
    fixture.delete_own_rules()?;
    for tunnel in fixture.lab.tunnels() {
        fixture.forget_path_mtu()?;
        let long = || {
            Ping::new(tunnel.plan.address, 3)
                .bytes(1400)
                .run(fixture.lab.outside())
        };
        let limit = Duration::from_secs(20);
        wait::until("long pings are answered", limit, long, |pings| {
            pings.all_answered()
        })?;
    }
    fixture.ensure_nothing_lost()?;
    let daemon = fixture.start()?;
    for tunnel in &fixture.program.status()?.tunnels {
        assert!(tunnel.leaks.too_big > 0, "{tunnel:#?}");
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Somebody deletes the rules again and again. No ping is lost, the daemon does not wear itself
/// out, and in the end the rules are there.
#[test]
fn a_fight_over_rules() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let rules = fixture.own_rules()?;
    let [tunnel, _] = fixture.lab.tunnels();
    let interval = Duration::from_millis(5);
    let stream = PingStream::start(fixture.lab.outside(), tunnel.plan.address, interval)?;
    let used = daemon.processor_time()?;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        // There may be none just now.
        let deleted = fixture.host().sh("ip -6 rule del priority 16383").is_ok();
        if !deleted {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let used = daemon
        .processor_time()?
        .checked_sub(used)
        .context("time goes forward")?;
    // Among rules of one priority the order is that of their making.
    let sorted = |rules: &str| {
        let mut lines: Vec<_> = rules.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let repaired = || fixture.own_rules();
    wait::until(
        "the rules are there",
        Duration::from_secs(5),
        repaired,
        |now| sorted(now) == sorted(&rules),
    )?;
    let pings = stream.stop()?;
    assert!(pings.sent > 300 && pings.all_answered(), "{pings:?}");
    assert!(
        used < Duration::from_secs(1),
        "{used:?} of processor time in 3 s"
    );
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
