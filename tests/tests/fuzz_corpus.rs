//! Replays the corpora of the fuzz targets in an ordinary test: each file unchanged, and with random changes
//! of bytes that are the same in each run.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker;
use sixxs_tests::broker::random::Random;

#[path = "../../fuzz/src/bodies.rs"]
#[expect(unreachable_pub, reason = "there it is a library's")]
mod bodies;

/// Number of changed inputs for each file.
const CHANGED: usize = 500;

fn replay(name: &str) -> Result<()> {
    let target = bodies::TARGETS.iter().find(|target| target.name == name);
    let target = target.context("no such target")?;
    let corpus = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus")).join(name);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&corpus).with_context(|| format!("{}", corpus.display()))? {
        let path = entry?.path();
        files.push((path.clone(), std::fs::read(path)?));
    }
    files.sort();
    ensure!(
        files.len() > 3,
        "{}: {} files",
        corpus.display(),
        files.len()
    );
    let mut random = Random::new(1);
    for (path, bytes) in &files {
        // The test harness shows it only if the test fails.
        println!("{}", path.display());
        (target.body)(bytes);
        for _ in 0..CHANGED {
            let (_, other) = &files[random.below(files.len())];
            let changed = change(bytes, other, &mut random);
            println!("{changed:02x?}");
            (target.body)(&changed);
        }
    }
    Ok(())
}

/// Flips, removes, inserts or copies some bytes.
fn change(bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let to = at + random.below(bytes.len() - at + 1).min(8);
        match random.below(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..to)),
            2 => {
                let length = random.below(8);
                bytes.splice(at..at, random.bytes(length));
            }
            3 => {
                let from = random.below(other.len() + 1);
                bytes.splice(at..to, other[from..].iter().take(20).copied());
            }
            _ => bytes.truncate(to),
        }
    }
    bytes
}

#[test]
fn ayiya() -> Result<()> {
    replay("ayiya")
}

#[test]
fn tic() -> Result<()> {
    replay("tic")
}

#[test]
fn heartbeat() -> Result<()> {
    replay("heartbeat")
}

#[test]
fn aiccu_conf() -> Result<()> {
    replay("aiccu_conf")
}

#[test]
fn wg_quick() -> Result<()> {
    replay("wg_quick")
}

#[test]
fn config() -> Result<()> {
    replay("config")
}

#[test]
fn tunnel_info() -> Result<()> {
    replay("tunnel_info")
}

#[test]
fn endpoint_update() -> Result<()> {
    replay("endpoint_update")
}

#[test]
fn connects() -> Result<()> {
    replay("connects")
}

#[test]
fn saved() -> Result<()> {
    replay("saved")
}

/// Each target has a test here, and each corpus has a target.
#[test]
fn nothing_is_left_out() -> Result<()> {
    let corpus = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus"));
    let mut there = Vec::new();
    for entry in std::fs::read_dir(corpus)? {
        there.push(entry?.file_name().into_string().ok().context("a name")?);
    }
    there.sort();
    let mut targets = bodies::TARGETS.map(|target| target.name.to_owned());
    targets.sort();
    assert_eq!(there, targets);
    Ok(())
}

#[test]
fn outer() -> Result<()> {
    replay("outer")
}
