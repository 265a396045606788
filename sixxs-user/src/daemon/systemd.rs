//! What systemd is told, where it has started us: that everything is in place, that the configuration is
//! being taken over, that the end has begun; and as long as the loop goes round, that it does.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::debug;

/// Tells systemd, and whoever reads stderr.
pub(super) fn ready() -> anyhow::Result<()> {
    tell(&[NotifyState::Ready])?;
    writeln!(io::stderr(), "ready").context("write to stderr")
}

/// The configuration is being taken over.
pub(super) fn reloading() -> anyhow::Result<()> {
    let now = NotifyState::monotonic_usec_now().context("read the clock")?;
    tell(&[NotifyState::Reloading, now])
}

/// It was, or was not.
pub(super) fn reloaded() -> anyhow::Result<()> {
    tell(&[NotifyState::Ready])
}

/// The end has begun, by whosever order.
pub(super) fn stopping() -> anyhow::Result<()> {
    tell(&[NotifyState::Stopping])
}

fn tell(what: &[NotifyState<'_>]) -> anyhow::Result<()> {
    sd_notify::notify(what).context("tell systemd")
}

/// Tells systemd that we are not stuck, if it wants to know: who says nothing for long is ended, and
/// started again.
pub(super) struct Watchdog(Option<Interval>);

impl Watchdog {
    /// As systemd wants it.
    pub(super) fn new() -> Self {
        // Twice as often as it must be.
        let every = sd_notify::watchdog_enabled().map(|time| time / 2);
        Self(every.filter(|every| *every > Duration::ZERO).map(|every| {
            let mut interval = interval(every);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Returns whenever it is time to say so; never, if nobody wants to know.
    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Says so. What cannot be told now is told the next time.
    pub(super) fn tell(&self) {
        if let Err(error) = tell(&[NotifyState::Watchdog]) {
            debug!("{error:#}");
        }
    }

    /// Says so for as long as it is asked to.
    pub(super) async fn keep_telling(&mut self) {
        loop {
            self.due().await;
            self.tell();
        }
    }
}
