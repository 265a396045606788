//! The connect limit: the recent connects to each broker, as data that is saved in a file.
//!
//! A SixXS broker refuses a client for 5 minutes if it connects more than 4 times in 60 seconds. It
//! blocks a client that does so more than once in 24 hours for a week. So before any connect, a
//! slot is taken here, and the ledger is written to disk.
//!
//! No time is measured by the wall clock, which anybody may set. For every connect and refusal, the
//! ledger stores an age. Within a boot it grows with the time since boot; a reboot leaves it at the
//! value last written. So an age is never above the true one, and no slot is released too early.
//! Regular calls of [`Ledger::prune`] keep it close to the true age.
//!
//! The caller reads and writes the file, locks it and reads the clocks. It must take a [`Moment`]
//! after the lock.

mod file;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

pub use super::age::{BadBootId, BootId, Moment};

use super::age::Age;

/// The number of connects that a broker accepts, and its reaction to more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Connects in any `window`, 1 to [`MAX_CONNECTS`].
    pub connects: u32,
    /// The period in which they are counted.
    pub window: Duration,
    /// Time for which a broker refuses a client that exceeded the limit.
    pub lockout: Duration,
    /// Time for which it refuses a client that exceeded it again within [`MEMORY`].
    pub block: Duration,
}

impl Default for Limit {
    /// One less than SixXS allowed, since other programs may connect from the same address.
    fn default() -> Self {
        Self {
            connects: 3,
            window: Duration::from_secs(60),
            lockout: Duration::from_secs(300),
            block: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// The maximum of [`Limit::grace`]: enough for two repeated SYNs (after 1 and 3 s).
const MAX_GRACE: Duration = Duration::from_secs(5);

/// A second refusal within this time of the first one turns the lockout into a block.
pub const MEMORY: Duration = Duration::from_secs(24 * 3600);

/// During a lockout, its age is written down at this interval, so that a reboot does not restart
/// the lockout.
const LOCKOUT_SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// The age of a refusal after its lockout is written down at this interval.
const REFUSAL_SAVE_INTERVAL: Duration = Duration::from_secs(3600);

/// The maximum number of connects in a limit.
pub const MAX_CONNECTS: u32 = 1000;

/// A refusal by the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal {
    age: Age,
    /// It was the second one within [`MEMORY`].
    again: bool,
}

impl Refusal {
    fn remaining(self, limit: &Limit, now: Duration) -> Option<Duration> {
        let length = if self.again {
            limit.block
        } else {
            limit.lockout
        };
        // The broker's clock started no later than the local one, but the local one may run
        // slightly fast.
        self.age
            .remaining(length.saturating_add(limit.grace()), now)
    }

    fn forgotten(self, limit: &Limit, now: Duration) -> bool {
        self.remaining(limit, now).is_none() && self.age.at(now) >= MEMORY
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct BrokerEntry {
    /// The ages of taken slots.
    taken: Vec<Age>,
    refused: Option<Refusal>,
}

impl BrokerEntry {
    fn prune(&mut self, limit: &Limit, now: Duration) {
        self.taken
            .retain(|age| age.remaining(limit.slot_lifetime(), now).is_some());
        self.refused = self.refused.filter(|r| !r.forgotten(limit, now));
    }

    fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.refused.is_none()
    }

    fn ages(&mut self) -> impl Iterator<Item = &mut Age> {
        let refused = self.refused.as_mut().map(|refusal| &mut refusal.age);
        self.taken.iter_mut().chain(refused)
    }
}

impl Limit {
    fn slots(&self) -> u32 {
        self.connects.clamp(1, MAX_CONNECTS)
    }

    /// The validity of a slot. The caller must abandon a connect that is not complete by then. The
    /// connect may happen this long after the slot was taken, so the slot stays taken for this
    /// additional time.
    #[must_use]
    pub fn grace(&self) -> Duration {
        MAX_GRACE.min(self.window / 4)
    }

    /// The time for which a slot stays taken.
    fn slot_lifetime(&self) -> Duration {
        self.window.saturating_add(self.grace())
    }
}

/// No connect is possible now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The waiting time, from the given moment.
    pub remaining: Duration,
    /// The reason.
    pub why: WaitReason,
}

/// The reason why no connect is possible now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// Every slot is taken; the number of slots.
    Slots(u32),
    /// The ledger could not be read: every slot may be taken.
    Unreadable,
    /// The broker refused the client for connecting too often.
    LockedOut,
    /// The broker did so a second time within a day.
    Blocked,
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slots(1) => f.write_str("the last connect to the broker was too recent"),
            Self::Slots(connects) => {
                write!(f, "there were {connects} connects to the broker recently")
            }
            Self::Unreadable => f.write_str("the record of connects was damaged"),
            Self::LockedOut => f.write_str("the broker refused this host for too many connects"),
            Self::Blocked => f.write_str(
                "the broker refused this host for too many connects a second time in a day",
            ),
        }
    }
}

impl Wait {
    /// The waiting time in seconds, rounded up.
    #[must_use]
    pub const fn seconds(&self) -> u64 {
        self.remaining.as_secs() + (self.remaining.subsec_nanos() > 0) as u64
    }
}

/// The time is relative to now: for texts that are shown at once.
impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, seconds) = (self.why, self.seconds());
        write!(f, "{why}; the next connect is possible in {seconds} s")
    }
}

impl WaitReason {
    /// Whether the broker refused the client; false: the limit is local.
    #[must_use]
    pub const fn is_lockout(self) -> bool {
        matches!(self, Self::LockedOut | Self::Blocked)
    }
}

/// The remaining limit for a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Number of free slots, regardless of a lockout.
    pub slots_left: u32,
    /// Number of all slots.
    pub slots: u32,
    /// Time until one more slot is free; `None`: all are free.
    pub next_free: Option<Duration>,
    /// The lockout, if there is one.
    pub locked_out: Option<Wait>,
}

impl Standing {
    /// The minimum waiting time for this number of connects; `None`: they are possible now, or
    /// their number exceeds the limit.
    #[must_use]
    pub fn wait_for(&self, connects: u32) -> Option<Duration> {
        match self.locked_out {
            Some(lockout) => Some(lockout.remaining),
            None if self.slots_left < connects => self.next_free,
            None => None,
        }
    }
}

/// Connects and refusals, by broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    boot: BootId,
    entries: BTreeMap<String, BrokerEntry>,
    /// Set if the file could not be read: then all slots of every broker count as taken.
    unreadable: Option<Age>,
}

impl Ledger {
    /// An empty ledger, for a host without the file.
    #[must_use]
    pub const fn new(boot: BootId) -> Self {
        Self {
            boot,
            entries: BTreeMap::new(),
            unreadable: None,
        }
    }

    /// Takes a slot for each of `brokers`, or for none. All of them name one connect: the name from
    /// the configuration, and the broker's address.
    pub fn take(&mut self, brokers: &[&str], limit: &Limit, now: &Moment) -> Result<(), Wait> {
        self.forget(limit, now.since_boot);
        let brokers: BTreeSet<String> = brokers.iter().map(|b| key(b)).collect();
        let waits = brokers
            .iter()
            .filter_map(|broker| self.wait(broker, limit, now.since_boot));
        if let Some(wait) = waits.max_by_key(|wait| wait.remaining) {
            return Err(wait);
        }
        for broker in brokers {
            let entry = self.entries.entry(broker).or_default();
            entry.taken.push(Age::new(now.since_boot));
        }
        Ok(())
    }

    /// Records that the broker refused the client for connecting too often.
    pub fn lock_out(&mut self, brokers: &[&str], limit: &Limit, now: &Moment) {
        self.forget(limit, now.since_boot);
        for broker in brokers {
            let entry = self.entries.entry(key(broker)).or_default();
            let again = entry.refused.is_some_and(|earlier| {
                // During a lockout, only connects already in progress are refused: that is one
                // incident, not two.
                let same = earlier.remaining(limit, now.since_boot).is_some();
                if same { earlier.again } else { true }
            });
            entry.refused = Some(Refusal {
                age: Age::new(now.since_boot),
                again,
            });
        }
    }

    /// The remaining limit for a broker.
    #[must_use]
    pub fn standing(&self, broker: &str, limit: &Limit, now: &Moment) -> Standing {
        let now = now.since_boot;
        let broker = key(broker);
        let lefts = self.remaining_times(&broker, limit, now);
        let slots = limit.slots();
        let used = u32::try_from(lefts.len()).unwrap_or(u32::MAX);
        Standing {
            slots_left: slots.saturating_sub(used),
            slots,
            next_free: lefts.first().copied(),
            locked_out: self.lockout(&broker, limit, now),
        }
    }

    /// The brokers with entries.
    pub fn brokers(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether the file was damaged recently, so that no connect to any broker is possible.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.unreadable.is_some()
    }

    /// Removes expired entries and updates the ages of the others, so that a reboot costs little or
    /// no waiting. The caller should write the ledger afterwards.
    pub fn prune(&mut self, limit: &Limit, now: &Moment) {
        self.forget(limit, now.since_boot);
        let ages = self.entries.values_mut().flat_map(BrokerEntry::ages);
        for age in ages.chain(self.unreadable.as_mut()) {
            age.note(now.since_boot);
        }
    }

    /// Time until [`Self::prune`] is due; `None`: there is nothing to prune.
    #[must_use]
    pub fn prune_due(&self, limit: &Limit, now: &Moment) -> Option<Duration> {
        let now = now.since_boot;
        // One write for all connects, when the last one has expired.
        let connects = self.entries.values().flat_map(|entry| &entry.taken);
        let connects = connects.chain(&self.unreadable);
        let connects = connects.map(|age| {
            age.remaining(limit.slot_lifetime(), now)
                .unwrap_or_default()
        });
        let refusals = self.entries.values().filter_map(|entry| {
            let refusal = entry.refused?;
            let (every, over) = match refusal.remaining(limit, now) {
                Some(left) => (LOCKOUT_SAVE_INTERVAL, left),
                None => (
                    REFUSAL_SAVE_INTERVAL,
                    MEMORY.saturating_sub(refusal.age.at(now)),
                ),
            };
            let unnoted = now.saturating_sub(refusal.age.noted);
            Some(every.saturating_sub(unnoted).min(over))
        });
        connects.max().into_iter().chain(refusals).min()
    }

    fn forget(&mut self, limit: &Limit, now: Duration) {
        self.entries.retain(|_, entry| {
            entry.prune(limit, now);
            !entry.is_empty()
        });
        let over = |age: &Age| age.remaining(limit.slot_lifetime(), now).is_none();
        self.unreadable = self.unreadable.filter(|age| !over(age));
    }

    fn wait(&self, broker: &str, limit: &Limit, now: Duration) -> Option<Wait> {
        let lefts = self.remaining_times(broker, limit, now);
        let slots = limit.slots();
        let free = lefts.len().checked_sub(slots as usize);
        let slot = free.and_then(|index| lefts.get(index)).map(|left| Wait {
            remaining: *left,
            why: if self.unreadable.is_some() {
                WaitReason::Unreadable
            } else {
                WaitReason::Slots(slots)
            },
        });
        let lockout = self.lockout(broker, limit, now);
        slot.into_iter()
            .chain(lockout)
            .max_by_key(|wait| wait.remaining)
    }

    /// The remaining times of the taken slots, shortest first.
    fn remaining_times(&self, broker: &str, limit: &Limit, now: Duration) -> Vec<Duration> {
        let taken = self.entries.get(broker).map(|entry| &entry.taken);
        let taken = taken.into_iter().flatten();
        let unreadable = self
            .unreadable
            .iter()
            .flat_map(|age| std::iter::repeat_n(age, limit.slots() as usize));
        let left = |age: &Age| age.remaining(limit.slot_lifetime(), now);
        let mut lefts: Vec<Duration> = taken.chain(unreadable).filter_map(left).collect();
        lefts.sort_unstable();
        lefts
    }

    fn lockout(&self, broker: &str, limit: &Limit, now: Duration) -> Option<Wait> {
        let refusal = self.entries.get(broker)?.refused?;
        let remaining = refusal.remaining(limit, now)?;
        let why = if refusal.again {
            WaitReason::Blocked
        } else {
            WaitReason::LockedOut
        };
        Some(Wait { remaining, why })
    }
}

/// The name of a broker in the ledger: one word, the same for all spellings of a name or an
/// address.
fn key(broker: &str) -> String {
    let bare = broker.trim().trim_end_matches('.');
    let bare = bare.strip_prefix('[').unwrap_or(bare);
    let bare = bare.strip_suffix(']').unwrap_or(bare);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return address.to_canonical().to_string();
    }
    let clean = |c: char| {
        if c.is_whitespace() || c.is_control() {
            '_'
        } else {
            c.to_ascii_lowercase()
        }
    };
    let key: String = bare.chars().map(clean).take(253).collect();
    if key.is_empty() { "_".to_owned() } else { key }
}

#[cfg(test)]
mod tests;
