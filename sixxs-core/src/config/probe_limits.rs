//! How a link is probed, and when it counts as failing.

use std::time::Duration;

/// How a link is probed by pings, and the limits beyond which it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Time between two probes.
    pub interval: Duration,
    /// The period that is evaluated.
    pub window: Duration,
    /// Percentage of the probes of a window: with as many without a reply, the link fails.
    pub loss_percent: u32,
    /// With a longer median time from probe to reply, the link fails.
    pub reply: Duration,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(500),
            window: Duration::from_secs(10),
            loss_percent: 20,
            reply: Duration::from_millis(500),
        }
    }
}

impl Probe {
    /// A probe without a reply after this time counts as lost.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.reply.max(Duration::from_secs(1))
    }
}
