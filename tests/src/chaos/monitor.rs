//! Owns the monitor: it polls the filters' counters, so that the log has the time of each loss, and counts
//! the connects to the brokers.
//!
//! Tasks: one thread, which ends when the [`Monitor`] is dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::host::counts;
use super::run_log::RunLog;
use crate::lab::Lab;
use crate::wait;

/// Between two polls.
const INTERVAL: Duration = Duration::from_millis(100);
/// No broker allows more than [`CONNECTS`] connects in this time.
const WINDOW: Duration = Duration::from_secs(60);
const CONNECTS: usize = 4;

/// A running monitor.
#[derive(Debug)]
pub struct Monitor<'scope> {
    stop: Arc<AtomicBool>,
    thread: Option<ScopedJoinHandle<'scope, Result<()>>>,
}

impl<'scope> Monitor<'scope> {
    /// Starts it.
    pub fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        lab: &'scope Lab,
        native: bool,
        log: &RunLog,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, log) = (Arc::clone(&stop), log.clone());
        let thread = scope.spawn(move || poll(lab, native, &log, &stopped));
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends it and reports violations.
    pub fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let polled = thread.join();
        polled.map_err(|_| anyhow!("the monitor panicked"))?
    }
}

impl Drop for Monitor<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn poll(lab: &Lab, native: bool, log: &RunLog, stop: &AtomicBool) -> Result<()> {
    let mut last = counts(lab)?;
    let mut connects = [Connects::default(), Connects::default()];
    while !stop.load(Ordering::Relaxed) {
        let now = counts(lab)?;
        if now != last {
            log.note_on("  lost: ", format_args!("{now:?}"));
            last = now;
        }
        if native {
            for (tunnel, connects) in lab.tunnels().iter().zip(&mut connects) {
                let changes = tunnel.broker()?.counts().endpoint_changes;
                connects.observe(changes, Instant::now())?;
            }
        }
        sleep(INTERVAL * wait::patience());
    }
    Ok(())
}

/// The connects to one broker. The broker counts them as changes of the client's endpoint.
#[derive(Debug, Default)]
struct Connects {
    seen: u64,
    lately: VecDeque<Instant>,
}

impl Connects {
    fn observe(&mut self, changes: u64, now: Instant) -> Result<()> {
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
            connects.observe(connects.seen + 1, at).unwrap();
        }
        let at = |second| start + Duration::from_secs(second);
        assert!(connects.observe(4, at(59)).is_ok());
        assert!(
            connects.observe(5, at(60)).is_ok(),
            "the first is a minute ago"
        );
        assert!(connects.observe(6, at(61)).is_err());
    }
}
