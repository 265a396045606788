//! A daemon that dies repeatedly: however fast it restarts, no broker gets more connects than it allows.

use std::time::Duration;

use anyhow::Result;
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Status;
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// Limit of connects to one broker per minute.
const MOST: u64 = 3;

/// After every second crash the parameters from the broker are deleted too, as in the worst crash.
#[test]
fn ten_crashes_cause_at_most_three_connects() -> Result<()> {
    let kinds = [Kind::Ayiya, Kind::Heartbeat];
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, "")?;
    let lab = &fixture.lab;
    lab.write_config(&lab.write_aiccu_confs("", true)?)?;
    let tic = lab.tic()?;
    let kept = lab.paths().state().join("tic");
    for round in 0..10 {
        let daemon = fixture.start()?;
        // Each round kills the daemon at a different stage of its work.
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
        // Each session set-up starts with several heartbeats, and for AYIYA from another port.
        let burst = if kind == Kind::Ayiya { 3 } else { 2 };
        assert!(counts.heartbeats <= MOST * burst, "{kind:?}: {counts:?}");
        assert!(counts.endpoint_changes < MOST, "{kind:?}: {counts:?}");
    }
    Ok(())
}

/// With the saved parameters, the server gets one query for each tunnel, and the PoPs observe only one start,
/// however many crashes follow.
#[test]
fn ten_crashes_with_a_saved_session_cause_no_connect() -> Result<()> {
    let kinds = [Kind::Ayiya, Kind::Heartbeat];
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, "")?;
    let lab = &fixture.lab;
    lab.write_config(&lab.write_aiccu_confs("", true)?)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    daemon.kill()?;
    for _ in 0..10 {
        fixture.start()?.kill()?;
    }
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    assert_eq!(lab.tic()?.connects().len(), 2);
    // The PoPs observed one run: the heartbeats of one start, from one port.
    for tunnel in lab.tunnels() {
        let counts = tunnel.broker()?.counts();
        assert!(counts.heartbeats <= 3, "{counts:?}");
        assert_eq!(counts.endpoint_changes, 0, "{counts:?}");
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The reported time does not change during the wait.
#[test]
fn the_time_of_the_next_connect_is_reported() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::SixInFour]), Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    for _ in 0..3 {
        fixture.program.run_ok(&["stop", "sixxs0"])?;
        fixture.program.run_ok(&["start", "sixxs0"])?;
    }
    let reason = |status: &Status| status.tunnel("sixxs0").reason.clone();
    let waits = |status: &Status| {
        reason(status).is_some_and(|reason| {
            reason.starts_with("no connect until ")
                && reason.ends_with(" UTC: there were 3 connects to the broker recently")
        })
    };
    let first = fixture.program.status_until("it waits", waits)?;
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(reason(&fixture.program.status()?), reason(&first));
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
