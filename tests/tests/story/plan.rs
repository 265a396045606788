//! The output of `sixxs plan`, run in a shell of a fresh lab, equals the daemon's routing.

use anyhow::Result;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::program::snapshot::{assert_same, take};
use sixxs_tests::shell;

use crate::fixture::Fixture;

variants!(pasted_into_a_shell: tun(Tun, Auto), veth(Veth, Auto));

fn pasted_into_a_shell(flavour: Flavour, hook: Hook) -> Result<()> {
    let by_hand = Fixture::new(flavour, hook)?;
    let before = take(&by_hand.lab)?;
    let plan = by_hand.program.run(&["plan"])?;
    assert_eq!(plan.code, 3, "{plan:#?}");
    assert_same(&before, &take(&by_hand.lab)?);
    let mut sh = by_hand.host().command("sh");
    shell::capture_with_input(sh.arg("-eu"), &plan.stdout)?;

    let by_daemon = Fixture::new(flavour, hook)?;
    let daemon = by_daemon.start()?;
    assert_eq!(
        by_hand.own_rules()?,
        by_daemon.own_rules()?,
        "plan was:\n{}",
        plan.stdout
    );
    assert_eq!(
        by_hand.own_routes()?,
        by_daemon.own_routes()?,
        "plan was:\n{}",
        plan.stdout
    );
    assert!(
        by_hand.own_rules()?.lines().count() == 2,
        "{}",
        by_hand.own_rules()?
    );
    assert!(
        by_hand.own_routes()?.lines().count() >= 4,
        "{}",
        by_hand.own_routes()?
    );
    let plan = by_daemon.program.run(&["plan"])?;
    assert_eq!(plan.code, 0, "{plan:#?}");
    drop(daemon);

    for tunnel in by_hand.lab.tunnels() {
        by_hand.ensure_outside_answered(tunnel)?;
    }
    by_hand.ensure_nothing_lost()?;
    let plan = by_hand.program.run(&["plan"])?;
    assert_eq!(plan.code, 0, "{plan:#?}");
    // A daemon that comes later finds nothing to correct.
    let daemon = by_hand.start()?;
    let status = by_hand.program.status()?;
    assert!(status.healthy, "{status:#?}");
    assert_eq!(status.corrections, 0);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
