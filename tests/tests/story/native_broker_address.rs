//! AYIYA to a broker by its IPv6 address, and by a name whose address changes.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// A lab whose first tunnel is AYIYA, with this line as the address of its broker.
fn with_remote(remote: &str) -> Result<Fixture> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::Ayiya]), Hook::Auto, "")?;
    let config = fixture.lab.config("");
    let changed = config.replacen("remote4 = \"198.51.100.1\"", remote, 1);
    ensure!(changed != config, "the lab has a broker to be replaced");
    fixture.lab.write_config(&changed)?;
    Ok(fixture)
}

#[test]
fn over_ipv6() -> Result<()> {
    let fixture = with_remote("remote = \"2001:db8:c0::1\"")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let [first, _] = fixture.lab.tunnels();
    fixture.ensure_outside_answered(first)?;
    let session = first.broker()?.first()?;
    ensure!(
        session.endpoint.is_some_and(|at| at.is_ipv6()),
        "{session:?}"
    );
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The name is resolved again when the broker does not answer.
#[test]
fn a_name_that_moves() -> Result<()> {
    let fixture = with_remote("remote = \"pop.example\"")?;
    let hosts = fixture.lab.paths().config().with_file_name("hosts");
    // The address of a broker that does not have this tunnel.
    fs::write(&hosts, "198.51.100.2 pop.example\n")?;
    // The daemon has its own /etc/hosts, in a mount namespace.
    let script = format!(
        "mount --bind {} /etc/hosts && exec {} run",
        hosts.display(),
        fixture.program.binary().display()
    );
    let mut command = fixture.host().command("unshare");
    fixture.program.apply_environment(&mut command);
    command.args(["--mount", "sh", "-c", &script]);
    let daemon = fixture.program.start_as(command)?;
    let [first, second] = fixture.lab.tunnels().each_ref().map(|t| t.plan.interface);
    let status = fixture
        .program
        .status_until("the second tunnel is up", |status| {
            status.tunnel(second).is_whole()
        })?;
    assert_eq!(status.tunnel(first).state, "connecting");
    let reason = status.tunnel(first).reason.clone().unwrap_or_default();
    ensure!(reason.contains("198.51.100.2 has not answered"), "{reason}");

    fs::write(&hosts, "198.51.100.1 pop.example\n")?;
    wait::until(
        "the broker was found where it is now",
        Duration::from_secs(60),
        || fixture.program.status(),
        |status| status.tunnel(first).is_whole(),
    )?;
    fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
