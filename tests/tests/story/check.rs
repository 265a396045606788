//! `sixxs check`: pings of its own from each tunnel address, and whether outside requests were
//! answered.

use anyhow::Result;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;

use crate::setting::Setting;

variants!(passes_and_fails: tun(Tun, Auto), veth(Veth, Auto));

fn passes_and_fails(flavour: Flavour, hook: Hook) -> Result<()> {
    let setting = Setting::new(flavour, hook)?;
    let daemon = setting.start()?;
    for tunnel in setting.lab.tunnels() {
        setting.outside_is_answered(tunnel)?;
    }
    let printed = setting.program.run(&["check"])?;
    assert_eq!(printed.code, 0, "{printed:#?}");
    let (code, values) = setting.program.json(&["check"])?;
    assert_eq!(code, 0, "{values:#?}");
    let requests: Vec<u64> = setting
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

    let [first, second] = setting.lab.tunnels();
    first.delete()?;
    setting
        .program
        .status_until("it is seen as gone", |status| !status.healthy)?;
    let printed = setting.program.run(&["check"])?;
    assert_eq!(printed.code, 3, "{printed:#?}");
    let printed = setting.program.run(&["check", first.plan.interface])?;
    assert_eq!(printed.code, 3, "{printed:#?}");
    assert!(
        printed.stdout.contains(first.plan.interface),
        "{printed:#?}"
    );
    let printed = setting.program.run(&["check", second.plan.interface])?;
    assert_eq!(printed.code, 0, "{printed:#?}");
    let printed = setting.program.run(&["check", "nobody"])?;
    assert!(
        printed.code != 0 && printed.stderr.contains("nobody"),
        "{printed:#?}"
    );
    setting.nothing_went_astray()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A broker that no longer answers.
#[test]
fn a_dead_peer_fails() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let daemon = setting.start()?;
    let [first, second] = setting.lab.tunnels();
    first.silence()?;
    let printed = setting.program.run(&["check"])?;
    assert_eq!(printed.code, 3, "{printed:#?}");
    let printed = setting.program.run(&["check", second.plan.interface])?;
    assert_eq!(printed.code, 0, "{printed:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
