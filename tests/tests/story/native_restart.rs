//! The daemon restarts with native tunnels. The devices stay, and the brokers do not notice it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::probe::PingStream;
use sixxs_tests::program::{Daemon, Hook};

use crate::setting::Setting;

/// Limit for the gap of one restart: packets of this duration may be lost.
const GAP: Duration = Duration::from_millis(50);

/// The interval between pings.
const INTERVAL: Duration = Duration::from_millis(1);

#[test]
fn nobody_notices() -> Result<()> {
    let kinds = [Kind::Ayiya, Kind::Heartbeat];
    let setting = Setting::of(Spec::native(kinds), Hook::Auto, "")?;
    let lab = &setting.lab;
    lab.write_config(&lab.config_by_aiccu("", true)?)?;
    let mut daemon = setting.start()?;
    setting.is_up()?;
    let before = setting.program.status()?;
    let connects = lab.tic()?.connects().len();
    let rules = setting.own_rules()?;
    // Wait for the end of the burst of heartbeats at the start.
    std::thread::sleep(Duration::from_secs(3));
    let streams = lab.tunnels().each_ref().map(|tunnel| {
        let address = tunnel.plan.address;
        PingStream::start(lab.outside(), address, INTERVAL)
    });
    let beats: Vec<_> = counts(&setting, |counts| counts.beats)?;
    let ends: [fn(Daemon) -> Result<()>; 4] = [killed, stopped, killed, stopped];
    for end in ends {
        std::thread::sleep(Duration::from_millis(300));
        end(daemon)?;
        assert_eq!(setting.own_rules()?, rules);
        daemon = setting.start()?;
    }
    setting.is_up()?;
    std::thread::sleep(Duration::from_millis(300));
    let pings = streams.map(|stream| stream?.stop());
    let after = setting.program.status()?;
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
            INTERVAL * lost <= GAP * u32::try_from(ends.len())?,
            "{name}: {pings:?}"
        );
        assert_eq!(after.tunnel(name).ifindex, before.tunnel(name).ifindex);
        let echo = after.tunnel(name).echo;
        assert!(echo.requests_in >= pings.answered, "{echo:?} {pings:?}");
    }
    assert_eq!(lab.tic()?.connects().len(), connects);
    assert_eq!(counts(&setting, |counts| counts.endpoint_changes)?, [0, 0]);
    assert_eq!(counts(&setting, |counts| counts.beats)?, beats);
    setting.nothing_went_astray()?;
    assert_eq!(daemon.stop()?, 0);

    // `down` removes the devices and the saved sessions.
    let daemon = setting.start()?;
    setting.is_up()?;
    setting.program.ok(&["down"])?;
    let links = setting.host().sh("ip -brief link show")?;
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
    setting: &Setting,
    what: impl Fn(&sixxs_tests::broker::counts::Counts) -> u64,
) -> Result<Vec<u64>> {
    let tunnels = setting.lab.tunnels().iter();
    tunnels
        .map(|tunnel| Ok(what(&tunnel.broker()?.counts())))
        .collect()
}

/// A foreign device, and a device of the daemon for a tunnel that was removed from the configuration.
#[test]
fn only_our_own_are_taken_over() -> Result<()> {
    let setting = Setting::of(Spec::native([Kind::Ayiya, Kind::SixInFour]), Hook::Auto, "")?;
    let config = setting.lab.config("");
    let daemon = setting.start()?;
    setting.is_up()?;
    assert_eq!(daemon.stop()?, 0);
    // Both devices still exist, and the alias marks the first one as foreign.
    setting.host().ip("link set sixxs0 alias mine\n")?;
    let daemon = setting.start()?;
    let status = setting
        .program
        .status_until("it says whose it is", |status| {
            let reason = status.tunnel("sixxs0").reason.as_deref();
            reason.is_some_and(|reason| reason.contains("somebody else has an interface"))
        })?;
    assert_eq!(status.tunnel("sixxs1").state, "up");
    assert_eq!(daemon.stop()?, 0);
    setting.host().ip("link delete sixxs0\n")?;

    let at = config.rfind("[[tunnel]]").map_or(0, |at| at);
    setting.lab.write_config(&config[..at])?;
    let daemon = setting.start()?;
    let links = setting.host().sh("ip -brief link show")?;
    assert!(
        links.contains("sixxs0") && !links.contains("sixxs1"),
        "{links}"
    );
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A working tunnel is not stopped for a restart if no connect to its broker is left.
#[test]
fn without_a_connect_it_is_not_restarted() -> Result<()> {
    let setting = Setting::of(Spec::native([Kind::Ayiya, Kind::SixInFour]), Hook::Auto, "")?;
    let daemon = setting.start()?;
    setting.is_up().with_context(|| daemon.log())?;
    let [first, second] = setting.lab.tunnels();
    let [name, other] = [first, second].map(|tunnel| tunnel.plan.interface);
    for _ in 0..2 {
        setting.program.ok(&["restart", name])?;
        setting.is_up().with_context(|| daemon.log())?;
    }
    let pings = PingStream::start(
        setting.lab.outside(),
        first.plan.address,
        Duration::from_millis(10),
    )?;
    // The restart is refused for this tunnel alone, and with another one that needs no connect.
    for names in [&[name][..], &[other, name], &[]] {
        let refused = setting.program.run(&[&["restart"], names].concat())?;
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
    setting.program.ok(&["restart", other])?;
    setting.is_up().with_context(|| daemon.log())?;

    // An explicit stop and start is still possible.
    setting.program.ok(&["stop", name])?;
    setting.program.ok(&["start", name])?;
    setting
        .program
        .status_until("it waits for a connect", |status| {
            let reason = status.tunnel(name).reason.as_deref();
            reason.is_some_and(|reason| reason.starts_with("no connect until"))
        })?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
