//! Reads `[tunnel.probe]`: how a link is probed, and when it counts as failing.

use std::time::Duration;

use super::{Probe, Tunnel, section::Section};
use crate::diagnostics::Diagnostics;

/// The keys of the section.
const KEYS: &[&str] = &["interval_ms", "window_seconds", "loss_percent", "reply_ms"];

/// Fewer probes in a window prove little.
const FEWEST: u32 = 4;

impl Tunnel {
    /// How the link is probed: by its own section, or because something depends on the result; `None`: not at all.
    #[must_use]
    pub fn probe_if(&self, is_needed: bool) -> Option<Probe> {
        self.probe.or_else(|| is_needed.then(Probe::default))
    }
}

/// Reads the section.
pub(super) fn read(mut section: Section<'_>) -> (Option<Probe>, Diagnostics) {
    let location = section.head().location("window_seconds");
    let interval = section.integer("interval_ms", 100..=60_000);
    let window = section.integer("window_seconds", 1..=600);
    let loss = section.integer("loss_percent", 1..=100);
    let reply = section.integer("reply_ms", 1..=10_000);
    let default = Probe::default();
    let probe = Probe {
        interval: match interval.value() {
            Some(milliseconds) => Duration::from_millis(milliseconds.into()),
            None => default.interval,
        },
        window: match window.value() {
            Some(seconds) => Duration::from_secs(seconds.into()),
            None => default.window,
        },
        loss_percent: loss.value().unwrap_or(default.loss_percent),
        reply: match reply.value() {
            Some(milliseconds) => Duration::from_millis(milliseconds.into()),
            None => default.reply,
        },
    };
    let mut diagnostics = section.finish(KEYS);
    if probe.interval.saturating_mul(FEWEST) > probe.window {
        let message = format!(
            "expected at least {FEWEST} probes in a window, found {} s with a probe every {} ms; write a longer \
             window_seconds or a shorter interval_ms",
            probe.window.as_secs(),
            probe.interval.as_millis()
        );
        diagnostics.add(&location, message);
    }
    (Some(probe), diagnostics)
}
