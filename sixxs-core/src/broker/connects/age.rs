//! Time that neither a wall clock nor a reboot can make pass.

use std::{str::FromStr, time::Duration};

/// What the kernel calls this boot: `/proc/sys/kernel/random/boot_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootId(pub(super) String);

/// The text is no name of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a boot id: 1 to 64 letters, digits and hyphens")]
pub struct BadBootId;

impl FromStr for BootId {
    type Err = BadBootId;

    fn from_str(text: &str) -> Result<Self, BadBootId> {
        let fits = (1..=64).contains(&text.len());
        if fits && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadBootId)
        }
    }
}

/// A point in time, as far as one can be sure of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The present boot.
    pub boot: BootId,
    /// Since it began, suspended time included (`CLOCK_BOOTTIME`).
    pub since_boot: Duration,
}

/// How long ago something was, at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age {
    /// When it was written down.
    pub(super) then: Duration,
    /// How long after the boot it was written down.
    pub(super) noted: Duration,
}

impl Age {
    pub(super) const fn new(now: Duration) -> Self {
        Self {
            then: Duration::ZERO,
            noted: now,
        }
    }

    pub(super) const fn at(self, now: Duration) -> Duration {
        self.then.saturating_add(now.saturating_sub(self.noted))
    }

    /// What is left at `now` of something that lasts for `length`; `None` when it is over.
    pub(super) fn left(self, length: Duration, now: Duration) -> Option<Duration> {
        length.checked_sub(self.at(now)).filter(|d| !d.is_zero())
    }

    pub(super) fn note(&mut self, now: Duration) {
        *self = Self {
            then: self.at(now),
            noted: now,
        };
    }

    /// After a reboot, however long that took.
    pub(super) const fn reboot(&mut self) {
        self.noted = Duration::ZERO;
    }
}
