//! The connect limit: how many connects to a broker were made lately, as data that is kept in a
//! file.
//!
//! A SixXS broker refuses a client that connects more than 4 times in 60 seconds for 5 minutes,
//! and blocks one that does so more than once in 24 hours for a week. So a slot is taken here, and
//! the ledger is on the disk, before any connect is made.
//!
//! Nothing is measured by the wall clock, which anybody may set: what is kept of every connect and
//! refusal is an age, which grows by the time since boot within one boot, and which a reboot
//! leaves as it was last written down. An age is thus never more than the truth, and nothing is
//! released too early; [`Ledger::prune`] from time to time keeps it close to it.
//!
//! Reading and writing the file, its lock and the clocks are the caller's: a [`Moment`] must be
//! taken after the lock.

mod age;
mod file;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use age::Age;
pub use age::{BadBootId, BootId, Moment};
pub use file::Damaged;

/// How often a broker may be connected to, and what it does about more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Connects in any `window`, 1 to [`MAX_CONNECTS`].
    pub connects: u32,
    /// The time that they are counted over.
    pub window: Duration,
    /// How long a broker refuses a client that exceeded it.
    pub lockout: Duration,
    /// How long it refuses one that did so again within [`MEMORY`].
    pub block: Duration,
}

impl Default for Limit {
    /// One less than SixXS allowed, since others may connect from the same address.
    fn default() -> Self {
        Self {
            connects: 3,
            window: Duration::from_secs(60),
            lockout: Duration::from_secs(300),
            block: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// The most of [`Limit::grace`]: enough for two repeated SYNs (after 1 and 3 s).
const MAX_GRACE: Duration = Duration::from_secs(5);

/// A second refusal within this time of the first makes a block of a lockout.
pub const MEMORY: Duration = Duration::from_secs(24 * 3600);

/// While locked out, the age of the lockout is written down this often, so that reboots do not
/// start it from the beginning.
const NOTE_LOCKOUT: Duration = Duration::from_secs(60);

/// And that of a refusal which is only remembered, this often.
const NOTE_MEMORY: Duration = Duration::from_secs(3600);

/// No limit counts more connects.
pub const MAX_CONNECTS: u32 = 1000;

/// A refusal by the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal {
    age: Age,
    /// It was the second in a day.
    again: bool,
}

impl Refusal {
    fn left(self, limit: &Limit, now: Duration) -> Option<Duration> {
        let length = if self.again {
            limit.block
        } else {
            limit.lockout
        };
        // The broker's clock started no later than ours, but ours may run a little fast.
        self.age.left(length.saturating_add(limit.grace()), now)
    }

    fn forgotten(self, limit: &Limit, now: Duration) -> bool {
        self.left(limit, now).is_none() && self.age.at(now) >= MEMORY
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Account {
    /// When slots were taken.
    taken: Vec<Age>,
    refused: Option<Refusal>,
}

impl Account {
    fn prune(&mut self, limit: &Limit, now: Duration) {
        self.taken
            .retain(|age| age.left(limit.span(), now).is_some());
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

    /// How long a slot is good for: a connect that is not complete by then must be given up. It
    /// may have been made that much after the slot was taken, and is counted for as much longer.
    #[must_use]
    pub fn grace(&self) -> Duration {
        MAX_GRACE.min(self.window / 4)
    }

    /// How long a slot stays taken.
    fn span(&self) -> Duration {
        self.window.saturating_add(self.grace())
    }
}

/// No connect now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// For how long, from the moment that was given.
    pub remaining: Duration,
    /// Why.
    pub why: Why,
}

/// Why there is no connect now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Every slot is taken.
    Slots(u32),
    /// The ledger could not be read: every slot may be taken.
    Unreadable,
    /// The broker refused us for connecting too often.
    LockedOut,
    /// It did so a second time within a day.
    Blocked,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slots(1) => f.write_str("the broker was just connected to"),
            Self::Slots(connects) => {
                write!(f, "the broker was connected to {connects} times just now")
            }
            Self::Unreadable => f.write_str("the record of connects was damaged"),
            Self::LockedOut => f.write_str("the broker refused us for connecting too often"),
            Self::Blocked => {
                f.write_str("the broker refused us for connecting too often a second time in a day")
            }
        }
    }
}

impl Wait {
    /// The same in seconds, rounded up: when they have passed, it has passed.
    #[must_use]
    pub const fn seconds(&self) -> u64 {
        self.remaining.as_secs() + (self.remaining.subsec_nanos() > 0) as u64
    }
}

/// For who reads it at once: it says how long from now.
impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, seconds) = (self.why, self.seconds());
        write!(f, "{why}; the next connect is possible in {seconds} s")
    }
}

impl Why {
    /// Whether the broker said so, and not we ourselves.
    #[must_use]
    pub const fn is_lockout(self) -> bool {
        matches!(self, Self::LockedOut | Self::Blocked)
    }
}

/// How we stand with a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Connects that could be made at once, were there no lockout.
    pub slots_left: u32,
    /// Of how many.
    pub slots: u32,
    /// Until one more slot is free; `None` when all are.
    pub next_free: Option<Duration>,
    /// The lockout that has to be waited out.
    pub locked_out: Option<Wait>,
}

impl Standing {
    /// How long so many connects have to wait, at least; `None`: they can be made at once, or there
    /// never are as many.
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
    accounts: BTreeMap<String, Account>,
    /// Set when what was there could not be read: then every broker's slots count as taken.
    unreadable: Option<Age>,
}

impl Ledger {
    /// One in which nothing stands: there was no file.
    #[must_use]
    pub const fn new(boot: BootId) -> Self {
        Self {
            boot,
            accounts: BTreeMap::new(),
            unreadable: None,
        }
    }

    /// Takes a slot with every one of `brokers`, or with none. These are names for one connect:
    /// what the user calls the broker, and the address that it has.
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
            let account = self.accounts.entry(broker).or_default();
            account.taken.push(Age::new(now.since_boot));
        }
        Ok(())
    }

    /// The broker refused us for connecting too often.
    pub fn refused(&mut self, brokers: &[&str], limit: &Limit, now: &Moment) {
        self.forget(limit, now.since_boot);
        for broker in brokers {
            let account = self.accounts.entry(key(broker)).or_default();
            let again = account.refused.is_some_and(|earlier| {
                // While locked out, only connects that were under way already are refused: that is
                // one incident, not two.
                let same = earlier.left(limit, now.since_boot).is_some();
                if same { earlier.again } else { true }
            });
            account.refused = Some(Refusal {
                age: Age::new(now.since_boot),
                again,
            });
        }
    }

    /// How we stand with a broker.
    #[must_use]
    pub fn standing(&self, broker: &str, limit: &Limit, now: &Moment) -> Standing {
        let now = now.since_boot;
        let broker = key(broker);
        let lefts = self.lefts(&broker, limit, now);
        let slots = limit.slots();
        let used = u32::try_from(lefts.len()).unwrap_or(u32::MAX);
        Standing {
            slots_left: slots.saturating_sub(used),
            slots,
            next_free: lefts.first().copied(),
            locked_out: self.lockout(&broker, limit, now),
        }
    }

    /// The brokers of which something is known.
    pub fn brokers(&self) -> impl Iterator<Item = &str> {
        self.accounts.keys().map(String::as_str)
    }

    /// Whether the file was damaged not long ago, so that there is no connect to any broker.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.unreadable.is_some()
    }

    /// Forgets what is over, and notes how old the rest is, so that a reboot costs little or no
    /// waiting. The ledger should then be written.
    pub fn prune(&mut self, limit: &Limit, now: &Moment) {
        self.forget(limit, now.since_boot);
        let ages = self.accounts.values_mut().flat_map(Account::ages);
        for age in ages.chain(self.unreadable.as_mut()) {
            age.note(now.since_boot);
        }
    }

    /// How long until [`Self::prune`] is due; `None`: there is nothing to prune.
    #[must_use]
    pub fn prune_due(&self, limit: &Limit, now: &Moment) -> Option<Duration> {
        let now = now.since_boot;
        // One write for all connects, when the last of them is over.
        let connects = self.accounts.values().flat_map(|account| &account.taken);
        let connects = connects.chain(&self.unreadable);
        let connects = connects.map(|age| age.left(limit.span(), now).unwrap_or_default());
        let refusals = self.accounts.values().filter_map(|account| {
            let refusal = account.refused?;
            let (every, over) = match refusal.left(limit, now) {
                Some(left) => (NOTE_LOCKOUT, left),
                None => (NOTE_MEMORY, MEMORY.saturating_sub(refusal.age.at(now))),
            };
            let unnoted = now.saturating_sub(refusal.age.noted);
            Some(every.saturating_sub(unnoted).min(over))
        });
        connects.max().into_iter().chain(refusals).min()
    }

    fn forget(&mut self, limit: &Limit, now: Duration) {
        self.accounts.retain(|_, account| {
            account.prune(limit, now);
            !account.is_empty()
        });
        let over = |age: &Age| age.left(limit.span(), now).is_none();
        self.unreadable = self.unreadable.filter(|age| !over(age));
    }

    fn wait(&self, broker: &str, limit: &Limit, now: Duration) -> Option<Wait> {
        let lefts = self.lefts(broker, limit, now);
        let slots = limit.slots();
        let free = lefts.len().checked_sub(slots as usize);
        let slot = free.and_then(|index| lefts.get(index)).map(|left| Wait {
            remaining: *left,
            why: if self.unreadable.is_some() {
                Why::Unreadable
            } else {
                Why::Slots(slots)
            },
        });
        let lockout = self.lockout(broker, limit, now);
        slot.into_iter()
            .chain(lockout)
            .max_by_key(|wait| wait.remaining)
    }

    /// For how long each slot is still taken, the shortest time first.
    fn lefts(&self, broker: &str, limit: &Limit, now: Duration) -> Vec<Duration> {
        let taken = self.accounts.get(broker).map(|account| &account.taken);
        let taken = taken.into_iter().flatten();
        let unreadable = self
            .unreadable
            .iter()
            .flat_map(|age| std::iter::repeat_n(age, limit.slots() as usize));
        let left = |age: &Age| age.left(limit.span(), now);
        let mut lefts: Vec<Duration> = taken.chain(unreadable).filter_map(left).collect();
        lefts.sort_unstable();
        lefts
    }

    fn lockout(&self, broker: &str, limit: &Limit, now: Duration) -> Option<Wait> {
        let refusal = self.accounts.get(broker)?.refused?;
        let remaining = refusal.left(limit, now)?;
        let why = if refusal.again {
            Why::Blocked
        } else {
            Why::LockedOut
        };
        Some(Wait { remaining, why })
    }
}

/// What a broker is called in the ledger: one word, the same for all ways to write a name or an
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
