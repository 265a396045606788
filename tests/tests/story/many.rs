//! Two hundred native tunnels in one daemon: they all come up, and are no burden.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::probe;
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Tunnel;
use sixxs_tests::wait;

use crate::setting::Setting;

/// Besides the lab's two.
const MORE: u8 = 198;
/// On a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);
/// One by one it would take at least twice as long.
const ENDS_WITHIN: Duration = Duration::from_secs(3);
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
    setting.addresses_are_taken()?;
    for tunnel in setting.lab.more().step_by(20) {
        let ping = || probe::ping(setting.lab.outside(), tunnel.address(), 3);
        let what = format!("{} answers", tunnel.interface());
        // The broker may not have had its first packet yet.
        wait::until(&what, LIMIT, ping, probe::Pings::all_answered)?;
    }
    setting.outside_is_answered(&setting.lab.tunnels()[0])?;
    let resident = daemon.resident_kib()?;
    println!("{resident} KiB resident");
    assert!(resident <= RESIDENT_KIB, "{resident} KiB resident");
    assert_eq!(daemon.stop_within(LIMIT)?, 0);

    // They are found again, and go together: for one alone the kernel takes 20 ms and more.
    let daemon = setting.start()?;
    wait::until(
        "every tunnel is whole again",
        LIMIT,
        || setting.program.status(),
        |status| status.tunnels.iter().all(Tunnel::is_whole),
    )?;
    let stops = Instant::now();
    let printed = setting.program.ok(&["down"])?;
    let took = stops.elapsed();
    println!("down in {took:?}");
    assert!(took < ENDS_WITHIN, "{took:?}: {printed:#?}");
    assert_eq!(daemon.wait()?, 0);
    let left = setting.host().sh("ip -o link show")?;
    assert!(
        !left.contains(" more") && !left.contains(" sixxs0:"),
        "{left}"
    );
    Ok(())
}
