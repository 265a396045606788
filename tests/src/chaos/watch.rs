//! Polls the filters' counters several times a second, so that the log shows the time of each loss; and
//! limits the connects to brokers.
//!
//! Tasks: one thread, which ends when the [`Watch`] is dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::chronicle::Chronicle;
use super::host::counts;
use crate::lab::Lab;
use crate::wait;

/// Poll interval.
const INTERVAL: Duration = Duration::from_millis(100);
/// No broker allows more than [`CONNECTS`] connects in this time.
const WINDOW: Duration = Duration::from_secs(60);
const CONNECTS: usize = 4;

/// A running watch.
#[derive(Debug)]
pub struct Watch<'scope> {
    stop: Arc<AtomicBool>,
    thread: Option<ScopedJoinHandle<'scope, Result<()>>>,
}

impl<'scope> Watch<'scope> {
    /// Starts it.
    pub fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        lab: &'scope Lab,
        native: bool,
        chronicle: &Chronicle,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, chronicle) = (Arc::clone(&stop), chronicle.clone());
        let thread = scope.spawn(move || look_out(lab, native, &chronicle, &stopped));
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends it; returns an error if it detected too many connects or could not read a counter.
    pub fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let seen = thread.join();
        seen.map_err(|_| anyhow!("the look-out panicked"))?
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn look_out(lab: &Lab, native: bool, chronicle: &Chronicle, stop: &AtomicBool) -> Result<()> {
    let mut last = counts(lab)?;
    let mut connects = [Connects::default(), Connects::default()];
    while !stop.load(Ordering::Relaxed) {
        let now = counts(lab)?;
        if now != last {
            chronicle.note_on("  lost: ", format_args!("{now:?}"));
            last = now;
        }
        if native {
            for (tunnel, connects) in lab.tunnels().iter().zip(&mut connects) {
                let changes = tunnel.broker()?.counts().endpoint_changes;
                connects.saw(changes, Instant::now())?;
            }
        }
        sleep(INTERVAL * wait::patience());
    }
    Ok(())
}

/// The connects to one broker, counted by the client's endpoint changes at the broker.
#[derive(Debug, Default)]
struct Connects {
    seen: u64,
    lately: VecDeque<Instant>,
}

impl Connects {
    fn saw(&mut self, changes: u64, now: Instant) -> Result<()> {
        for _ in self.seen..changes {
            self.lately.push_back(now);
        }
        self.seen = changes;
        self.lately
            .retain(|at| now.saturating_duration_since(*at) < WINDOW);
        ensure!(
            self.lately.len() <= CONNECTS,
            "a broker was connected to {} times within {WINDOW:?}",
            self.lately.len()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_four_in_a_minute_are_too_many() {
        let (mut connects, start) = (Connects::default(), Instant::now());
        for second in [0, 20, 40, 59] {
            let at = start + Duration::from_secs(second);
            connects.saw(connects.seen + 1, at).unwrap();
        }
        let at = |second| start + Duration::from_secs(second);
        assert!(connects.saw(4, at(59)).is_ok());
        assert!(connects.saw(5, at(60)).is_ok(), "the first is a minute ago");
        assert!(connects.saw(6, at(61)).is_err());
    }
}
