//! Owns the log of a run. Its last entries are shown when the run fails.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most entries; older ones are dropped.
const CAPACITY: usize = 120;

/// A log; clones share it.
#[derive(Clone, Debug)]
pub struct RunLog {
    began: Instant,
    entries: Arc<Mutex<VecDeque<(Duration, String)>>>,
}

impl Default for RunLog {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            entries: Arc::default(),
        }
    }
}

impl RunLog {
    /// Appends an entry.
    pub fn note(&self, what: impl Into<String>) {
        let mut entries = self.entries();
        if entries.len() == CAPACITY {
            entries.pop_front();
        }
        entries.push_back((self.began.elapsed(), what.into()));
    }

    /// Updates the last entry if it begins with `what`; appends one otherwise.
    pub fn note_on(&self, what: &str, how: impl fmt::Display) {
        let mut entries = self.entries();
        if let Some((_, last)) = entries.back_mut()
            && let Some(began) = last.strip_prefix(what)
        {
            let began = began.split(" ... ").next().unwrap_or_default();
            *last = format!("{what}{began} ... {how}");
            return;
        }
        drop(entries);
        self.note(format!("{what}{how}"));
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<(Duration, String)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for RunLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, what) in self.entries().iter() {
            writeln!(f, "{:10.3} s  {what}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_are_one_entry() {
        let log = RunLog::default();
        log.note("a");
        for count in 1..=3 {
            log.note_on("lost: ", count);
        }
        let shown = log.to_string();
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(shown.ends_with("lost: 1 ... 3\n"), "{shown}");
    }

    #[test]
    fn the_last_entries_are_kept() {
        let log = RunLog::default();
        for number in 0..2 * CAPACITY {
            log.note(format!("number {number}."));
        }
        let shown = log.to_string();
        assert_eq!(shown.lines().count(), CAPACITY);
        assert!(
            !shown.contains("number 0.") && shown.contains("number 239."),
            "{shown}"
        );
    }
}
