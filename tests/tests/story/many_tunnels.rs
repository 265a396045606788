//! Two hundred native tunnels in one daemon: all come up, at low cost.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::probe;
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Tunnel;
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// Number of tunnels besides the lab's two.
const MORE: u8 = 198;
/// Limit on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);
/// Limit for `down`. One by one the tunnels would take at least twice as long.
const ENDS_WITHIN: Duration = Duration::from_secs(3);
const RESIDENT_KIB: u64 = 60 * 1024;

#[test]
fn two_hundred() -> Result<()> {
    let spec = Spec {
        extra_tunnels: MORE,
        ..Spec::native([Kind::Ayiya; 2])
    };
    // Each tunnel is a connect to the broker. All of them at once exceed the default limit.
    let fixture = Fixture::with_spec(spec, Hook::Auto, "[connect_limit]\nconnects = 1000\n")?;
    let daemon = fixture.start()?;
    let up = wait::until(
        "every tunnel is whole",
        LIMIT,
        || fixture.program.status(),
        |status| status.tunnels.iter().all(Tunnel::is_whole),
    );
    assert_eq!(up.with_context(|| daemon.log())?.tunnels.len(), 200);
    fixture.wait_for_addresses()?;
    for tunnel in fixture.lab.extra_tunnels().step_by(20) {
        let ping = || probe::ping(fixture.lab.outside(), tunnel.address(), 3);
        let what = format!("{} answers", tunnel.interface());
        // The broker may not have received its first packet yet.
        wait::until(&what, LIMIT, ping, probe::Pings::all_answered)?;
    }
    fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;
    let resident = daemon.resident_kib()?;
    println!("{resident} KiB resident");
    assert!(resident <= RESIDENT_KIB, "{resident} KiB resident");
    assert_eq!(daemon.stop_within(LIMIT)?, 0);

    // They are found again, and deleted together: the kernel takes at least 20 ms to delete a single one.
    let daemon = fixture.start()?;
    wait::until(
        "every tunnel is whole again",
        LIMIT,
        || fixture.program.status(),
        |status| status.tunnels.iter().all(Tunnel::is_whole),
    )?;
    let stops = Instant::now();
    let printed = fixture.program.run_ok(&["down"])?;
    let took = stops.elapsed();
    println!("down in {took:?}");
    assert!(
        took < ENDS_WITHIN * wait::patience(),
        "{took:?}: {printed:#?}"
    );
    assert_eq!(daemon.wait()?, 0);
    let left = fixture.host().sh("ip -o link show")?;
    assert!(
        !left.contains(" more") && !left.contains(" sixxs0:"),
        "{left}"
    );
    Ok(())
}
