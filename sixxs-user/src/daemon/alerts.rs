//! Alerts: in the log, kept for those who ask later, and sent to those who listen.

use std::collections::VecDeque;

use sixxs_core::health::Level;
use tokio::sync::broadcast;
use tracing::{info, warn};

use crate::{
    api::{About, Alert},
    clock::Clock,
    hooks::Hooks,
    plain::Plain,
};

/// Alerts kept; the oldest go first.
const KEPT: usize = 1000;

/// Alerts that a slow listener may lag behind before it loses some.
const LAG: usize = 256;

/// All alerts of this run.
pub(super) struct Alerts {
    clock: Clock,
    kept: VecDeque<Alert>,
    listeners: broadcast::Sender<Alert>,
    pub(super) hooks: Hooks,
}

impl Alerts {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            kept: VecDeque::new(),
            listeners: broadcast::channel(LAG).0,
            hooks: Hooks::default(),
        }
    }

    pub(super) fn raise(&mut self, about: About) {
        let alert = Alert {
            time: self.now(),
            about,
        };
        let shown = Plain::line(&crate::text::alert(&alert.about));
        match &alert.about {
            About::Tunnel { .. } => info!("{shown}"),
            About::Health { health, .. } if health == Level::Healthy.name() => info!("{shown}"),
            _ => warn!("{shown}"),
        }
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(alert.clone());
        self.hooks.raise(&alert);
        // An error means that nobody listens.
        let _nobody = self.listeners.send(alert);
    }

    pub(super) fn subscribe(&self) -> (Vec<Alert>, broadcast::Receiver<Alert>) {
        let so_far = self.kept.iter().cloned().collect();
        (so_far, self.listeners.subscribe())
    }

    fn now(&self) -> String {
        stamp(self.clock.wall())
    }
}

/// A time in RFC 3339, to the millisecond, always as long.
fn stamp(time: jiff::Timestamp) -> String {
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_all_as_long() {
        for (time, expected) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000Z"),
            ("2026-01-02T03:04:51.7Z", "2026-01-02T03:04:51.700Z"),
            ("2026-01-02T03:04:05.0129Z", "2026-01-02T03:04:05.012Z"),
        ] {
            assert_eq!(stamp(time.parse().unwrap()), expected);
        }
    }
}
