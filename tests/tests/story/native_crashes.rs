//! A daemon that dies repeatedly: however fast it restarts, no broker gets more connects than it allows.

use std::time::Duration;

use anyhow::Result;
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Status;
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// Connects to one broker in a minute.
const MOST: u64 = 3;

/// With what the broker said forgotten each time: the worst that a crash could do.
#[test]
fn ten_deaths_are_three_connects() -> Result<()> {
    let kinds = [Kind::Ayiya, Kind::Heartbeat];
    let fixture = Fixture::of(Spec::native(kinds), Hook::Auto, "")?;
    let lab = &fixture.lab;
    lab.write_config(&lab.config_by_aiccu("", true)?)?;
    let tic = lab.tic()?;
    let kept = lab.paths().state().join("tic");
    for round in 0..10 {
        let daemon = fixture.start()?;
        // At some point of its work, a different one each time.
        let until = tic.connects().len() + round % 3;
        let seen = || Ok(tic.connects().len());
        let brief = Duration::from_millis(100 + 20 * round as u64);
        let _came_or_not = wait::until("it connects", brief, seen, |count| *count > until);
        daemon.kill()?;
        if round % 2 == 0 && kept.exists() {
            std::fs::remove_dir_all(&kept)?;
        }
    }
    let connects = tic.connects();
    assert!(
        (1..=MOST).contains(&(connects.len() as u64)),
        "{connects:#?}"
    );
    for (tunnel, kind) in lab.tunnels().iter().zip(kinds) {
        let counts = tunnel.broker()?.counts();
        // Each set-up begins with some beats, and for AYIYA from another port.
        let burst = if kind == Kind::Ayiya { 3 } else { 2 };
        assert!(counts.beats <= MOST * burst, "{kind:?}: {counts:?}");
        assert!(counts.endpoint_changes < MOST, "{kind:?}: {counts:?}");
    }
    Ok(())
}

/// With it kept: the server is asked once for each tunnel, and the tunnels' brokers hear of one start,
/// whatever happens after.
#[test]
fn ten_deaths_with_a_memory() -> Result<()> {
    let kinds = [Kind::Ayiya, Kind::Heartbeat];
    let fixture = Fixture::of(Spec::native(kinds), Hook::Auto, "")?;
    let lab = &fixture.lab;
    lab.write_config(&lab.config_by_aiccu("", true)?)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    daemon.kill()?;
    for _ in 0..10 {
        fixture.start()?.kill()?;
    }
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    assert_eq!(lab.tic()?.connects().len(), 2);
    // For the PoPs it was one run: the beats of one start, from one port.
    for tunnel in lab.tunnels() {
        let counts = tunnel.broker()?.counts();
        assert!(counts.beats <= 3, "{counts:?}");
        assert_eq!(counts.endpoint_changes, 0, "{counts:?}");
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The time that is told does not change while one waits for it.
#[test]
fn until_when_there_is_no_connect_is_told() -> Result<()> {
    let fixture = Fixture::of(Spec::native([Kind::Ayiya, Kind::SixInFour]), Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    for _ in 0..3 {
        fixture.program.ok(&["stop", "sixxs0"])?;
        fixture.program.ok(&["start", "sixxs0"])?;
    }
    let reason = |status: &Status| status.tunnel("sixxs0").reason.clone();
    let waits = |status: &Status| {
        reason(status).is_some_and(|reason| {
            reason.starts_with("no connect until ")
                && reason.ends_with(" UTC: the broker was connected to 3 times just now")
        })
    };
    let first = fixture.program.status_until("it waits", waits)?;
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(reason(&fixture.program.status()?), reason(&first));
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
