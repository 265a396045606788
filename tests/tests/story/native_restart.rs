//! A restart of the program under its native tunnels: the devices stay, and the brokers do not notice.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::probe::PingStream;
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// Limit for the gap of one restart: packets of this duration may be lost.
const GAP: Duration = Duration::from_millis(50);

/// The interval between pings.
const INTERVAL: Duration = Duration::from_millis(1);

#[test]
fn a_restart_loses_at_most_50_ms_and_no_session() -> Result<()> {
    let kinds = [Kind::Ayiya, Kind::Heartbeat];
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, "")?;
    let lab = &fixture.lab;
    lab.write_config(&lab.write_aiccu_confs("", true)?)?;
    let mut daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let before = fixture.program.status()?;
    let connects = lab.tic()?.connects().len();
    let rules = fixture.own_rules()?;
    // Wait for the end of the burst of heartbeats at the start.
    std::thread::sleep(Duration::from_secs(3));
    let streams = lab.tunnels().each_ref().map(|tunnel| {
        let address = tunnel.plan.address;
        PingStream::start(lab.outside(), address, INTERVAL)
    });
    let heartbeats: Vec<_> = counts(&fixture, |counts| counts.heartbeats)?;
    let ends: [fn(Daemon) -> Result<()>; 4] = [killed, stopped, killed, stopped];
    for end in ends {
        std::thread::sleep(Duration::from_millis(300));
        end(daemon)?;
        assert_eq!(fixture.own_rules()?, rules);
        daemon = fixture.start()?;
    }
    fixture.wait_until_up()?;
    std::thread::sleep(Duration::from_millis(300));
    let pings = streams.map(|stream| stream?.stop());
    let after = fixture.program.status()?;
    for (index, pings) in pings.into_iter().enumerate() {
        let name = lab.tunnels()[index].plan.interface;
        let pings = pings?;
        let lost = u32::try_from(pings.sent - pings.answered)?;
        println!(
            "{name}: {lost} of {} pings lost over {} restarts",
            pings.sent,
            ends.len()
        );
        assert!(
            INTERVAL * lost <= GAP * u32::try_from(ends.len())? * wait::patience(),
            "{name}: {pings:?}"
        );
        assert_eq!(after.tunnel(name).ifindex, before.tunnel(name).ifindex);
        let echo = after.tunnel(name).echo;
        assert!(echo.requests_in >= pings.answered, "{echo:?} {pings:?}");
    }
    assert_eq!(lab.tic()?.connects().len(), connects);
    assert_eq!(counts(&fixture, |counts| counts.endpoint_changes)?, [0, 0]);
    assert_eq!(counts(&fixture, |counts| counts.heartbeats)?, heartbeats);
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);

    // `down` removes the devices and the saved sessions.
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    fixture.program.run_ok(&["down"])?;
    let links = fixture.host().sh("ip -brief link show")?;
    assert!(!links.contains("sixxs"), "{links}");
    assert!(!lab.paths().run().join("ways").exists());
    assert_eq!(daemon.wait()?, 0);
    Ok(())
}

fn killed(daemon: Daemon) -> Result<()> {
    daemon.kill()
}

fn stopped(daemon: Daemon) -> Result<()> {
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A counter of each broker.
fn counts(
    fixture: &Fixture,
    what: impl Fn(&sixxs_tests::broker::counts::Counts) -> u64,
) -> Result<Vec<u64>> {
    let tunnels = fixture.lab.tunnels().iter();
    tunnels
        .map(|tunnel| Ok(what(&tunnel.broker()?.counts())))
        .collect()
}

/// A foreign device, and a device of the daemon for a tunnel that was removed from the configuration.
#[test]
fn a_foreign_device_is_not_taken_over() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::SixInFour]), Hook::Auto, "")?;
    let config = fixture.lab.config("");
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    assert_eq!(daemon.stop()?, 0);
    // Both devices still exist, and the alias marks the first one as foreign.
    fixture.host().ip("link set sixxs0 alias mine\n")?;
    let daemon = fixture.start()?;
    let status = fixture
        .program
        .status_until("it says whose it is", |status| {
            let reason = status.tunnel("sixxs0").reason.as_deref();
            reason.is_some_and(|reason| reason.contains("another interface has that name"))
        })?;
    assert_eq!(status.tunnel("sixxs1").state, "up");
    assert_eq!(daemon.stop()?, 0);
    fixture.host().ip("link delete sixxs0\n")?;

    let at = config.rfind("[[tunnel]]").map_or(0, |at| at);
    fixture.lab.write_config(&config[..at])?;
    let daemon = fixture.start()?;
    let links = fixture.host().sh("ip -brief link show")?;
    assert!(
        links.contains("sixxs0") && !links.contains("sixxs1"),
        "{links}"
    );
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A working tunnel is not stopped for a restart if no connect to its broker is left.
#[test]
fn a_restart_without_a_free_connect_is_refused() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::SixInFour]), Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let [first, second] = fixture.lab.tunnels();
    let [name, other] = [first, second].map(|tunnel| tunnel.plan.interface);
    for _ in 0..2 {
        fixture.program.run_ok(&["restart", name])?;
        fixture.wait_until_up().with_context(|| daemon.log())?;
    }
    let pings = PingStream::start(
        fixture.lab.outside(),
        first.plan.address,
        Duration::from_millis(10),
    )?;
    // The restart is refused for this tunnel alone, and with another one that needs no connect.
    for names in [&[name][..], &[other, name], &[]] {
        let refused = fixture.program.run(&[&["restart"], names].concat())?;
        ensure!(refused.code == 1, "{refused:#?}");
        let expected = format!(
            "{name} is up, and no connect to {} is left",
            first.plan.remote4
        );
        ensure!(refused.stderr.contains(&expected), "{refused:#?}");
        ensure!(
            refused
                .stderr
                .contains(" UTC: a restart would leave it down"),
            "{refused:#?}"
        );
    }
    let pings = pings.stop()?;
    ensure!(pings.all_answered(), "{pings:?}");
    fixture.program.run_ok(&["restart", other])?;
    fixture.wait_until_up().with_context(|| daemon.log())?;

    // An explicit stop and start is still possible.
    fixture.program.run_ok(&["stop", name])?;
    fixture.program.run_ok(&["start", name])?;
    fixture
        .program
        .status_until("it waits for a connect", |status| {
            let reason = status.tunnel(name).reason.as_deref();
            reason.is_some_and(|reason| reason.starts_with("no connect until"))
        })?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
