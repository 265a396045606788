//! The log of a run; a failure shows its last part.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Entries to keep.
const KEPT: usize = 120;

/// A log; clones share it.
#[derive(Clone, Debug)]
pub struct Chronicle {
    began: Instant,
    entries: Arc<Mutex<VecDeque<(Duration, String)>>>,
}

impl Default for Chronicle {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            entries: Arc::default(),
        }
    }
}

impl Chronicle {
    /// Logs an event.
    pub fn note(&self, what: impl Into<String>) {
        let mut entries = self.entries();
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back((self.began.elapsed(), what.into()));
    }

    /// Updates the last entry if it is about `what`; else adds an entry.
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

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<(Duration, String)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Chronicle {
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
    fn what_goes_on_is_one_entry() {
        let chronicle = Chronicle::default();
        chronicle.note("a");
        for count in 1..=3 {
            chronicle.note_on("lost: ", count);
        }
        let shown = chronicle.to_string();
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(shown.ends_with("lost: 1 ... 3\n"), "{shown}");
    }

    #[test]
    fn the_last_entries_are_kept() {
        let chronicle = Chronicle::default();
        for number in 0..2 * KEPT {
            chronicle.note(format!("number {number}."));
        }
        let shown = chronicle.to_string();
        assert_eq!(shown.lines().count(), KEPT);
        assert!(
            !shown.contains("number 0.") && shown.contains("number 239."),
            "{shown}"
        );
    }
}
