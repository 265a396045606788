//! AYIYA to a broker by its IPv6 address, and by a name whose address changes.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::setting::Setting;

/// A lab whose first tunnel is AYIYA, with this line as the address of its broker.
fn with_remote(remote: &str) -> Result<Setting> {
    let setting = Setting::of(Spec::native([Kind::Ayiya, Kind::Ayiya]), Hook::Auto, "")?;
    let config = setting.lab.config("");
    let changed = config.replacen("remote4 = \"198.51.100.1\"", remote, 1);
    ensure!(changed != config, "the lab has a broker to be replaced");
    setting.lab.write_config(&changed)?;
    Ok(setting)
}

#[test]
fn over_ipv6() -> Result<()> {
    let setting = with_remote("remote = \"2001:db8:c0::1\"")?;
    let daemon = setting.start()?;
    setting.is_up()?;
    let [first, _] = setting.lab.tunnels();
    setting.outside_is_answered(first)?;
    let session = first.broker()?.first()?;
    ensure!(
        session.endpoint.is_some_and(|at| at.is_ipv6()),
        "{session:?}"
    );
    setting.nothing_went_astray()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The name is resolved again when the broker does not answer.
#[test]
fn a_name_that_moves() -> Result<()> {
    let setting = with_remote("remote = \"pop.example\"")?;
    let hosts = setting.lab.paths().config().with_file_name("hosts");
    // The address of a broker that does not have this tunnel.
    fs::write(&hosts, "198.51.100.2 pop.example\n")?;
    // The daemon has its own /etc/hosts, in a mount namespace.
    let script = format!(
        "mount --bind {} /etc/hosts && exec {} run",
        hosts.display(),
        setting.program.binary().display()
    );
    let mut command = setting.host().command("unshare");
    setting.program.dress(&mut command);
    command.args(["--mount", "sh", "-c", &script]);
    let daemon = setting.program.start_as(command)?;
    let [first, second] = setting.lab.tunnels().each_ref().map(|t| t.plan.interface);
    let status = setting
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
        || setting.program.status(),
        |status| status.tunnel(first).is_whole(),
    )?;
    setting.outside_is_answered(&setting.lab.tunnels()[0])?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
