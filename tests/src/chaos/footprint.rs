//! The daemon's resources: descriptors by kind, BPF objects among them, and memory.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;

/// Tolerated growth of memory between two measurements, besides a tenth: allocators keep freed memory.
const SLACK_KIB: u64 = 1024;

/// Resources at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Descriptors by type: `socket`, `anon_inode:bpf-map`…
    pub descriptors: BTreeMap<String, usize>,
    /// Private memory that it does not share with other processes.
    pub private_kib: u64,
    /// Number of threads.
    pub threads: usize,
}

impl Footprint {
    /// The present resources of a process.
    pub fn of(pid: Pid) -> Result<Self> {
        Ok(Self {
            descriptors: descriptors(pid)?,
            private_kib: private_kib(pid)?,
            threads: list(&format!("/proc/{pid}/task"))?.count(),
        })
    }

    /// Returns an error if it uses more than `earlier`, after the same kind of work. `room_kib` is the size
    /// of buffers that may have filled since then.
    pub fn ensure_no_larger_than(&self, earlier: &Self, room_kib: u64) -> Result<()> {
        // The earlier count may include a descriptor for a client that was connected at that time.
        let had = |kind| earlier.descriptors.get(kind).copied().unwrap_or_default();
        ensure!(
            self.descriptors
                .iter()
                .all(|(kind, count)| *count <= had(kind)),
            "more descriptors than before: {self}\nbefore: {earlier}"
        );
        let most = earlier.private_kib + earlier.private_kib / 10 + SLACK_KIB + room_kib;
        ensure!(
            self.private_kib <= most,
            "more than {most} KiB: {self}\nbefore: {earlier}"
        );
        Ok(())
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            descriptors,
            private_kib,
            threads,
        } = self;
        let count: usize = descriptors.values().sum();
        write!(
            f,
            "{private_kib} KiB private, {threads} threads, {count} descriptors {descriptors:?}"
        )
    }
}

fn descriptors(pid: Pid) -> Result<BTreeMap<String, usize>> {
    let mut kinds = BTreeMap::new();
    for entry in list(&format!("/proc/{pid}/fd"))? {
        // Skip a descriptor that was closed meanwhile.
        let Ok(target) = fs::read_link(entry.context("list descriptors")?.path()) else {
            continue;
        };
        let target = target.to_string_lossy();
        // `socket:[123]` and `pipe:[123]` contain a number. A link that the process made is a `bpf_link`; one
        // that it opened by its pin is a `bpf-link`.
        let kind = target.split(":[").next().unwrap_or_default();
        let kind = kind.replace('_', "-");
        *kinds.entry(kind).or_default() += 1;
    }
    Ok(kinds)
}

/// Reads Private_Dirty; see proc_pid_smaps(5).
fn private_kib(pid: Pid) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let dirty = text
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"));
    let number = dirty.and_then(|line| line.split_whitespace().next());
    number
        .context("no Private_Dirty")?
        .parse()
        .context("read Private_Dirty")
}

fn list(path: &str) -> Result<fs::ReadDir> {
    fs::read_dir(path).with_context(|| format!("list {path}"))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_descriptor_that_leaks_shows() {
        let before = Footprint::of(Pid::this()).unwrap();
        let held: Vec<_> = (0..3).map(|_| File::open("/proc/self/stat")).collect();
        let after = Footprint::of(Pid::this()).unwrap();
        drop(held);
        // Other tests of this process may open and close descriptors meanwhile.
        assert!(after.ensure_no_larger_than(&before, 0).is_err());
        let grown = Footprint {
            private_kib: before.private_kib * 2 + SLACK_KIB,
            ..before.clone()
        };
        assert!(grown.ensure_no_larger_than(&before, 0).is_err());
        assert!(before.ensure_no_larger_than(&before, 0).is_ok());
    }
}
