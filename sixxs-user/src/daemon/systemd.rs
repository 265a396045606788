//! Notifications to systemd, if systemd started the daemon: ready, reloading, stopping, and watchdog pings while
//! the loop runs.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::debug;

/// Notifies systemd, and the readers of stderr.
pub(super) fn notify_ready() -> anyhow::Result<()> {
    notify(&[NotifyState::Ready])?;
    writeln!(io::stderr(), "ready").context("write to stderr")
}

/// A reload begins.
pub(super) fn reloading() -> anyhow::Result<()> {
    let now = NotifyState::monotonic_usec_now().context("read the clock")?;
    notify(&[NotifyState::Reloading, now])
}

/// The reload has ended, with or without success.
pub(super) fn reloaded() -> anyhow::Result<()> {
    notify(&[NotifyState::Ready])
}

/// The daemon is ending.
pub(super) fn stopping() -> anyhow::Result<()> {
    notify(&[NotifyState::Stopping])
}

fn notify(what: &[NotifyState<'_>]) -> anyhow::Result<()> {
    sd_notify::notify(what).context("tell systemd")
}

/// Sends watchdog pings, if systemd wants them. systemd restarts a service whose pings stop.
pub(super) struct Watchdog(Option<Interval>);

impl Watchdog {
    /// At the interval that systemd requests.
    pub(super) fn new() -> Self {
        // Twice as often as necessary.
        let every = sd_notify::watchdog_enabled().map(|time| time / 2);
        Self(every.filter(|every| *every > Duration::ZERO).map(|every| {
            let mut interval = interval(every);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Returns when the next ping is due; never, if systemd wants none.
    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Sends a ping. After an error the next ping is sent as usual.
    pub(super) fn ping(&self) {
        if let Err(error) = notify(&[NotifyState::Watchdog]) {
            debug!("{error:#}");
        }
    }

    /// Sends pings until it is dropped.
    pub(super) async fn keep_pinging(&mut self) {
        loop {
            self.due().await;
            self.ping();
        }
    }
}
