//! Ages that do not depend on the wall clock, and that a reboot cannot increase.

use std::{str::FromStr, time::Duration};

/// The kernel's identifier of this boot: `/proc/sys/kernel/random/boot_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootId(pub(super) String);

/// The text is not a boot id.
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

/// A point in time, measured by the boot clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The present boot.
    pub boot: BootId,
    /// Time since that boot, including suspend (`CLOCK_BOOTTIME`).
    pub since_boot: Duration,
}

/// A lower bound of an event's age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age {
    /// The age when it was written down.
    pub(super) then: Duration,
    /// Time since boot when it was written down.
    pub(super) noted: Duration,
}

impl Age {
    pub(super) const fn new(now: Duration) -> Self {
        Self {
            then: Duration::ZERO,
            noted: now,
        }
    }

    /// From the words of a saved line, both in nanoseconds. `has_rebooted`: another boot wrote them.
    pub(super) fn read(then: &str, noted: &str, has_rebooted: bool) -> Option<Self> {
        let mut age = Self {
            then: Duration::from_nanos(then.parse().ok()?),
            noted: Duration::from_nanos(noted.parse().ok()?),
        };
        if has_rebooted {
            age.reboot();
        }
        Some(age)
    }

    pub(super) const fn at(self, now: Duration) -> Duration {
        self.then.saturating_add(now.saturating_sub(self.noted))
    }

    /// The rest at `now` of a period of `length`; `None`: the period has ended.
    pub(super) fn remaining(self, length: Duration, now: Duration) -> Option<Duration> {
        length.checked_sub(self.at(now)).filter(|d| !d.is_zero())
    }

    pub(super) fn note(&mut self, now: Duration) {
        *self = Self {
            then: self.at(now),
            noted: now,
        };
    }

    /// Continues after a reboot of unknown duration.
    pub(super) const fn reboot(&mut self) {
        self.noted = Duration::ZERO;
    }
}
