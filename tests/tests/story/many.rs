//! Two hundred native tunnels in one daemon: they all come up, and are no burden.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::probe;
use sixxs_tests::program::Hook;
use sixxs_tests::status::Tunnel;
use sixxs_tests::wait;

use crate::setting::Setting;

/// Besides the lab's two.
const MORE: u8 = 198;
/// On a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);
const RESIDENT_KIB: u64 = 60 * 1024;

#[test]
fn two_hundred() -> Result<()> {
    let spec = Spec {
        more: MORE,
        ..Spec::native([Kind::Ayiya; 2])
    };
    // Each is a connect to the broker, and all of them at once are more than it would take.
    let setting = Setting::of(spec, Hook::Auto, "[connect_limit]\nconnects = 1000\n")?;
    let daemon = setting.start()?;
    let up = wait::until(
        "every tunnel is whole",
        LIMIT,
        || setting.program.status(),
        |status| status.tunnels.iter().all(Tunnel::is_whole),
    );
    assert_eq!(up.with_context(|| daemon.log())?.tunnels.len(), 200);
    for tunnel in setting.lab.more().step_by(20) {
        let pings = probe::ping(setting.lab.outside(), tunnel.address(), 3)?;
        assert!(pings.all_answered(), "{}: {pings:?}", tunnel.interface());
    }
    setting.outside_is_answered(&setting.lab.tunnels()[0])?;
    let resident = daemon.resident_kib()?;
    println!("{resident} KiB resident");
    assert!(resident <= RESIDENT_KIB, "{resident} KiB resident");
    // The kernel takes some 40 ms for each device.
    assert_eq!(daemon.stop_within(LIMIT)?, 0);
    Ok(())
}
