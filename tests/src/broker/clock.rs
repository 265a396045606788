//! A broker's clock, which a test can set wrong or advance without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A clock; clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    ahead_ms: Arc<AtomicI64>,
}

impl Clock {
    /// A clock that shows the correct time.
    pub fn new() -> Self {
        Self::default()
    }

    /// Time since the Unix epoch, by this clock.
    pub fn now(&self) -> Duration {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let ahead = self.ahead_ms.load(Ordering::Relaxed);
        let by = Duration::from_millis(ahead.unsigned_abs());
        if ahead < 0 {
            now.saturating_sub(by)
        } else {
            now + by
        }
    }

    /// Whole seconds since the Unix epoch, by this clock.
    pub fn seconds(&self) -> u64 {
        self.now().as_secs()
    }

    /// Sets it this many seconds ahead of the correct time; behind if negative.
    pub fn set_ahead(&self, seconds: i64) {
        self.ahead_ms
            .store(seconds.saturating_mul(1000), Ordering::Relaxed);
    }

    /// Advances it, as if that time had passed.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.ahead_ms.fetch_add(by, Ordering::Relaxed);
    }
}
