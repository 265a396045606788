//! Two hundred tunnels in one daemon.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::program::status::Tunnel;
use sixxs_tests::program::{Hook, Program};
use sixxs_tests::wait;

/// Tunnels in addition to the lab's two.
const MORE: u8 = 198;
/// Limit until all tunnels work.
const LIMIT: Duration = Duration::from_secs(60);

/// Results.
pub(crate) struct Many {
    pub(crate) tunnels: usize,
    /// From the start of the daemon until the last tunnel works.
    pub(crate) until_all_answer: Duration,
    /// Processor time until then.
    pub(crate) starting: Duration,
    pub(crate) resident_kib: u64,
    /// Share of one processor, without traffic.
    pub(crate) idle: f64,
    pub(crate) idle_for: Duration,
    /// From SIGTERM to its end.
    pub(crate) until_stopped: Duration,
}

/// Starts them, and then leaves them idle for this time.
pub(crate) fn measure(idle_for: Duration) -> Result<Many> {
    let lab = Lab::new(Spec {
        extra_tunnels: MORE,
        ..Spec::native([Kind::Ayiya; 2])
    })?;
    // Each tunnel is a connect to the broker. The lab's brokers do not refuse frequent connects, so raise the
    // limit.
    lab.write_config(&lab.config("[connect_limit]\nconnects = 1000\n"))?;
    let program = Program::new(&lab, Hook::Auto)?;
    let started = Instant::now();
    let daemon = program.start()?;
    let status = wait::until(
        "every tunnel answers",
        LIMIT,
        || program.status(),
        |status| status.tunnels.iter().all(Tunnel::is_whole),
    );
    let tunnels = status.with_context(|| daemon.log())?.tunnels.len();
    let until_all_answer = started.elapsed();
    let starting = daemon.processor_time()?;
    // The last of the three initial heartbeats are still to come.
    thread::sleep(Duration::from_secs(5));
    let before = daemon.processor_time()?;
    thread::sleep(idle_for);
    let spent = daemon.processor_time()?.saturating_sub(before);
    let many = Many {
        tunnels,
        until_all_answer,
        starting,
        resident_kib: daemon.resident_kib()?,
        idle: spent.as_secs_f64() / idle_for.as_secs_f64(),
        idle_for,
        until_stopped: Duration::ZERO,
    };
    let stopping = Instant::now();
    daemon.stop_within(LIMIT)?;
    Ok(Many {
        until_stopped: stopping.elapsed(),
        ..many
    })
}
