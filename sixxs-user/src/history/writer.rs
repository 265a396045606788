//! Writes the records of the daemon in a thread of its own, so that a slow or hanging disk never delays the loop.
//!
//! Once a minute the thread gets a batch. It writes the records, evaluates the last day of each tunnel for the status, and
//! once a day removes files that are too old. A record that cannot be written is lost; the next minute is tried again. The
//! thread ends with its [`Writer`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use sixxs_core::{
    history::{Ended, LastDay, Minute, Summary, file_name, minute::PER_DAY, ring::DAYS},
    types::IfName,
};
use tracing::debug;

use super::{directory, ring};
use crate::host::files::remove_if_exists;

/// Batches that wait while the disk is slow: minutes.
const WAITING: usize = 2;

/// The thread needs little.
const STACK_BYTES: usize = 256 * 1024;

/// After this time without a write, the file of a tunnel that is not configured any more has no record left.
const MAX_AGE: Duration = Duration::from_secs(DAYS as u64 * 24 * 3600);

/// The work of a minute.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The present minute.
    pub(crate) now: Minute,
    /// The tunnels of the configuration.
    pub(crate) tunnels: BTreeSet<IfName>,
    /// Records to write.
    pub(crate) ended: Vec<Ended>,
}

/// What the thread has found out.
#[derive(Debug, Default)]
struct Results {
    last_days: BTreeMap<IfName, LastDay>,
    /// Why records were lost in the last minute, as a message.
    problem: Option<String>,
}

/// The sending end of the thread.
#[derive(Debug)]
pub(crate) struct Writer {
    batches: Option<SyncSender<Batch>>,
    results: Arc<Mutex<Results>>,
    /// Why the last batch was lost, as a message.
    refused: Option<String>,
}

impl Writer {
    /// Starts the thread. It calls `on_change` when the problem has changed.
    pub(crate) fn start(state_dir: &Path, on_change: impl Fn() + Send + 'static) -> Self {
        let (batches, receiver) = sync_channel(WAITING);
        let results = Arc::<Mutex<Results>>::default();
        let worker = Worker {
            directory: directory(state_dir),
            results: Arc::clone(&results),
            cleaned: None,
        };
        let thread = thread::Builder::new()
            .name("history".to_owned())
            .stack_size(STACK_BYTES);
        let started = thread.spawn(move || worker.run(&receiver, on_change));
        let error = started.err();
        Self {
            batches: error.is_none().then_some(batches),
            results,
            refused: error.map(|error| format!("the history is off: start its thread: {error}")),
        }
    }

    /// Hands over a batch. While the disk does not keep up, it is lost.
    pub(crate) fn send(&mut self, batch: Batch) {
        if let Some(batches) = &self.batches {
            let sent = batches.try_send(batch);
            self.refused = sent.err().map(|_| {
                "the history has a gap: the disk of the state directory does not answer".to_owned()
            });
        }
    }

    /// The last day of each tunnel with records, as of the last minute.
    pub(crate) fn last_days(&self) -> BTreeMap<IfName, LastDay> {
        lock(&self.results).last_days.clone()
    }

    /// Why records are lost, as a message.
    pub(crate) fn problem(&self) -> Option<String> {
        let refused = self.refused.clone();
        refused.or_else(|| lock(&self.results).problem.clone())
    }
}

/// The results are locked only to read or replace them, never during IO.
fn lock(results: &Mutex<Results>) -> MutexGuard<'_, Results> {
    results.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread.
struct Worker {
    directory: PathBuf,
    results: Arc<Mutex<Results>>,
    /// The day of the last removal of old files.
    cleaned: Option<u32>,
}

impl Worker {
    fn run(mut self, batches: &Receiver<Batch>, on_change: impl Fn()) {
        for batch in batches {
            let problem = self.write(&batch);
            let last_days = self.last_days(&batch);
            if self.cleaned.replace(batch.now.day()) != Some(batch.now.day()) {
                remove_old(&self.directory, &batch.tunnels);
            }
            let mut results = lock(&self.results);
            let has_changed = results.problem != problem;
            *results = Results { last_days, problem };
            drop(results);
            if has_changed {
                on_change();
            }
        }
    }

    fn path(&self, tunnel: &IfName) -> PathBuf {
        self.directory.join(file_name::of(tunnel))
    }

    /// Writes all records. Returns the first error, as a message.
    fn write(&self, batch: &Batch) -> Option<String> {
        let write = |ended: &Ended| {
            let path = self.path(&ended.tunnel);
            ring::write(&path, ended.minute, &ended.record).err()
        };
        let errors: Vec<_> = batch.ended.iter().filter_map(write).collect();
        let first = errors.first()?;
        let more = match errors.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Some(format!("the history has a gap: {first:#}{more}"))
    }

    fn last_days(&self, batch: &Batch) -> BTreeMap<IfName, LastDay> {
        let last_day = |tunnel: &IfName| {
            let from = batch.now.minus(PER_DAY - 1);
            let records = ring::read(&self.path(tunnel), from, batch.now);
            let records = records.unwrap_or_else(|error| {
                // Writing the next record reports it.
                debug!("{error:#}");
                Vec::new()
            });
            Some((tunnel.clone(), Summary::of(&records).last_day()?))
        };
        batch.tunnels.iter().filter_map(last_day).collect()
    }
}

/// Removes files that were set aside, and those of other tunnels, if they were not written for [`MAX_AGE`].
fn remove_old(directory: &Path, tunnels: &BTreeSet<IfName>) {
    let removed = old_files(directory, tunnels)
        .map_err(anyhow::Error::from)
        .and_then(|old| old.iter().try_for_each(|path| remove_if_exists(path)));
    if let Err(error) = removed {
        debug!("remove old files of the history: {error:#}");
    }
}

fn old_files(directory: &Path, tunnels: &BTreeSet<IfName>) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut old = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            continue;
        };
        let (name, is_aside) = match name.strip_suffix(file_name::ASIDE) {
            Some(name) => (name, true),
            None => (name, false),
        };
        let is_left = |tunnel: IfName| is_aside || !tunnels.contains(&tunnel);
        let is_candidate = file_name::tunnel(name).is_some_and(is_left);
        // An error means that the last write is in the future.
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if is_candidate && age > MAX_AGE {
            old.push(entry.path());
        }
    }
    Ok(old)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
