//! How soon the daemon is ready, and how much memory it takes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::kernel;
use sixxs_tests::program::Hook;
use sixxs_tests::topology::Flavour;

use crate::setting::{Setting, alone};

/// For existing interfaces, in the release build: the program's own time, without what the kernel
/// waits while programs are attached.
const READY_WITHIN: Duration = Duration::from_millis(120);
/// Programs that are attached at a start: one at the uplink, two at each tunnel.
const ATTACHED: u32 = 5;
/// With two tunnels, after some work.
const RESIDENT_KIB: u64 = 15 * 1024;

variants!(start_and_memory: tun(Tun, Auto), tun_clsact(Tun, Clsact));

fn start_and_memory(flavour: Flavour, hook: Hook) -> Result<()> {
    let setting = Setting::new(flavour, hook)?;
    let _alone = alone();
    // Filters of a clsact qdisc wait for nothing.
    let grace_period = if hook != Hook::Clsact && kernel::has_tcx()? {
        kernel::grace_period()?
    } else {
        Duration::ZERO
    };
    let within = READY_WITHIN + grace_period * ATTACHED;
    let mut best = Duration::MAX;
    // Other tests keep the processors busy: the best of several is its own time.
    for _ in 0..20 {
        if best <= within {
            break;
        }
        let daemon = setting.start()?;
        best = best.min(daemon.ready_after().context("it was ready")?);
        assert_eq!(daemon.stop()?, 0);
        setting.program.ok(&["down"])?;
    }
    println!("ready after {best:?}; a grace period takes {grace_period:?}");
    assert!(best <= within, "ready after {best:?}, not {within:?}");

    let daemon = setting.start()?;
    for tunnel in setting.lab.tunnels() {
        setting.outside_is_answered(tunnel)?;
    }
    for _ in 0..20 {
        setting.program.status()?;
        setting.program.ok(&["counters"])?;
    }
    let resident = daemon.resident_kib()?;
    println!("{resident} KiB resident");
    assert!(resident <= RESIDENT_KIB, "{resident} KiB resident");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
