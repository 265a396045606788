//! `sixxs check`: pings from each tunnel address, and whether requests from outside were answered.

use anyhow::Result;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;

variants!(passes_and_fails: tun(Tun, Auto), veth(Veth, Auto));

fn passes_and_fails(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    let printed = fixture.program.run(&["check"])?;
    assert_eq!(printed.code, 0, "{printed:#?}");
    let (code, values) = fixture.program.json(&["check"])?;
    assert_eq!(code, 0, "{values:#?}");
    let requests: Vec<u64> = fixture
        .program
        .status()?
        .tunnels
        .iter()
        .map(|t| t.echo.requests_out)
        .collect();
    assert!(
        requests.iter().all(|sent| *sent > 0),
        "its pings are counted: {requests:?}"
    );

    let [first, second] = fixture.lab.tunnels();
    first.delete()?;
    fixture
        .program
        .status_until("it is seen as gone", |status| !status.healthy)?;
    let printed = fixture.program.run(&["check"])?;
    assert_eq!(printed.code, 3, "{printed:#?}");
    let printed = fixture.program.run(&["check", first.plan.interface])?;
    assert_eq!(printed.code, 3, "{printed:#?}");
    assert!(
        printed.stdout.contains(first.plan.interface),
        "{printed:#?}"
    );
    let printed = fixture.program.run(&["check", second.plan.interface])?;
    assert_eq!(printed.code, 0, "{printed:#?}");
    let printed = fixture.program.run(&["check", "nobody"])?;
    assert!(
        printed.code != 0 && printed.stderr.contains("nobody"),
        "{printed:#?}"
    );
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A broker that no longer answers.
#[test]
fn a_dead_peer_fails() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let [first, second] = fixture.lab.tunnels();
    first.silence()?;
    let printed = fixture.program.run(&["check"])?;
    assert_eq!(printed.code, 3, "{printed:#?}");
    let printed = fixture.program.run(&["check", second.plan.interface])?;
    assert_eq!(printed.code, 0, "{printed:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
