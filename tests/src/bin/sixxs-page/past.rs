//! A history of two months for the lab's tunnels, as a daemon would have written it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use sixxs_core::health::Level;
use sixxs_core::history::minute::PER_DAY;
use sixxs_core::history::ring::{HEADER, offset};
use sixxs_core::history::{Cause, Minute, Record, Share, State};
use sixxs_tests::lab::Lab;

/// Days with a record. The host was off before.
const DAYS: u32 = 52;

/// Writes it into the state directory.
pub(crate) fn write(lab: &Lab) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let now = Minute::of_unix(now);
    let directory = lab.paths().state().join("history");
    std::fs::create_dir_all(&directory).context("make the directory of the history")?;
    for (tunnel, number) in lab.tunnels().iter().zip(0..) {
        let path = directory.join(format!("{}.ring", tunnel.plan.interface));
        let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
        file.write_all_at(&HEADER, 0)?;
        for ago in 1..DAYS * PER_DAY {
            let minute = now.minus(ago);
            if let Some(record) = record(number, ago) {
                file.write_all_at(&record.to_bytes(minute), offset(minute))?;
            }
        }
    }
    Ok(())
}

/// The record of a minute of a tunnel; `None`: the host was off.
fn record(tunnel: u32, ago: u32) -> Option<Record> {
    let answered = 1000 - u64::from(ago * 7 % 5);
    let healthy = Record {
        state: State::Up,
        level: Level::Healthy,
        failing_seconds: 0,
        cause: None,
        outside: Share::of(answered, 1000),
        inside: Share::of(1, 1),
        median: Some(Duration::from_micros(45)),
        leaks: 0,
        corrections: 0,
    };
    let failing = |cause| Record {
        level: Level::Failing,
        failing_seconds: 60,
        cause: Some(cause),
        outside: Share::of(0, 1),
        inside: Share::of(0, 1),
        ..healthy
    };
    let day = ago / PER_DAY;
    Some(match (tunnel, day, ago % PER_DAY) {
        (0, 0, 300..330) => failing(Cause::NoCarrier),
        (0, 0, 620..700) => Record {
            level: Level::Degraded,
            leaks: 3,
            outside: Share::of(97, 100),
            ..healthy
        },
        (0, 9, 100..160) | (0, 33, 0..400) => failing(Cause::BrokerSilent),
        (0, 21, 500..505) => failing(Cause::RepliesAstray),
        (1, 0, 900..1020) | (1, 14, 200..800) => return None,
        (1, 4, 700..703) => failing(Cause::NoReply),
        _ => healthy,
    })
}
