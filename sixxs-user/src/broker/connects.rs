//! The connect limit of brokers: the ledger of [`sixxs_core::broker::connects`] in
//! `STATE_DIR/connects`, one for all processes.
//!
//! A slot is on the disk before it is given out. What a process does with it is its own affair: if
//! it is killed, the slot is spent. The file is replaced whole, under a lock on
//! `STATE_DIR/connects.lock`; where it cannot be written there is no connect.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use sixxs_core::broker::connects::{Ledger, Moment};
pub use sixxs_core::broker::connects::{Limit, Standing, Wait, Why};

use super::{blocking, durable};

/// A ledger of thousands of brokers; more is damage.
const MAX_BYTES: u64 = 1024 * 1024;

/// How long another process may hold the lock: it writes a small file.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The longest sleep without another look: timers stand still while the host is suspended, and
/// slots do not.
const LONGEST_SLEEP: Duration = Duration::from_secs(20);

/// Tells the time that the ledger counts in.
pub trait Clock: Send + Sync {
    /// This boot, and the time since.
    fn now(&self) -> anyhow::Result<Moment>;
}

impl Clock for crate::clock::Clock {
    fn now(&self) -> anyhow::Result<Moment> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        let boot = fs::read_to_string(BOOT_ID).with_context(|| format!("read {BOOT_ID}"))?;
        let boot = boot.trim().parse().with_context(|| BOOT_ID.to_owned())?;
        Ok(Moment {
            boot,
            since_boot: self.since_boot()?,
        })
    }
}

/// The ledger of a state directory. Clones are the same ledger.
#[derive(Clone)]
pub struct Connects {
    state_dir: Arc<Path>,
    limit: Arc<RwLock<Limit>>,
    clock: Arc<dyn Clock>,
    /// Our own writers queue here, and only one of them waits for other processes.
    writer: Arc<Mutex<()>>,
}

/// Leave to connect, once.
#[must_use = "a slot that was taken is spent"]
pub struct Slot {
    taken: Moment,
    grace: Duration,
    clock: Arc<dyn Clock>,
}

impl Slot {
    /// How long the connect may take from now on; it must be given up when that is over. `None`:
    /// it is too late, and another slot has to be taken.
    pub fn left(&self) -> anyhow::Result<Option<Duration>> {
        let now = self.clock.now()?;
        if now.boot != self.taken.boot {
            return Ok(None);
        }
        let passed = now.since_boot.checked_sub(self.taken.since_boot);
        let left = passed.and_then(|passed| self.grace.checked_sub(passed));
        Ok(left.filter(|left| !left.is_zero()))
    }
}

impl Connects {
    /// That of `state_dir`, which need not exist yet. All processes should have the same limit.
    #[must_use]
    pub fn new(state_dir: &Path, limit: Limit) -> Self {
        Self::with_clock(state_dir, limit, Arc::new(crate::clock::Clock::default()))
    }

    /// With a clock of the caller's.
    #[must_use]
    pub fn with_clock(state_dir: &Path, limit: Limit, clock: Arc<dyn Clock>) -> Self {
        Self {
            state_dir: state_dir.into(),
            limit: Arc::new(RwLock::new(limit)),
            clock,
            writer: Arc::default(),
        }
    }

    /// From now on another limit counts.
    pub fn set_limit(&self, limit: Limit) {
        *self.limit.write().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    fn limit(&self) -> Limit {
        *self.limit.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot with a broker, known by its name or address. The connect must be made at once:
    /// see [`Slot::left`].
    pub async fn take(&self, broker: &str) -> anyhow::Result<Result<Slot, Wait>> {
        self.take_each(&[broker]).await
    }

    /// Takes a slot for one connect to a broker that is known by several names; none, if one of
    /// them has none.
    pub async fn take_each(&self, brokers: &[&str]) -> anyhow::Result<Result<Slot, Wait>> {
        let brokers = owned(brokers);
        self.locked(move |ledger, limit, now| {
            let taken = ledger.take(&borrowed(&brokers), limit, now);
            taken.map(|()| now.clone())
        })
        .await
        .map(|taken| {
            taken.map(|taken| Slot {
                taken,
                grace: self.limit().grace(),
                clock: Arc::clone(&self.clock),
            })
        })
    }

    /// Waits until there is a slot, and takes it. May be dropped at any time.
    pub async fn wait_for_slot(&self, broker: &str) -> anyhow::Result<Slot> {
        loop {
            match self.take(broker).await? {
                Ok(slot) => return Ok(slot),
                Err(wait) => tokio::time::sleep(wait.remaining.min(LONGEST_SLEEP)).await,
            }
        }
    }

    /// A broker refused us for connecting too often: from now on it is locked out. Says for how
    /// long.
    pub async fn refused(&self, broker: &str) -> anyhow::Result<Wait> {
        self.refused_each(&[broker]).await
    }

    /// The same, for a broker that is known by several names.
    pub async fn refused_each(&self, brokers: &[&str]) -> anyhow::Result<Wait> {
        let brokers = owned(brokers);
        let wait = self
            .locked(move |ledger, limit, now| {
                ledger.refused(&borrowed(&brokers), limit, now);
                let standings = brokers.iter().map(|b| ledger.standing(b, limit, now));
                let lockouts = standings.filter_map(|standing| standing.locked_out);
                lockouts.max_by_key(|wait| wait.remaining)
            })
            .await?;
        Ok(wait.unwrap_or(Wait {
            remaining: self.limit().lockout,
            why: Why::LockedOut,
        }))
    }

    /// How we stand with a broker.
    pub async fn standing(&self, broker: &str) -> anyhow::Result<Standing> {
        let broker = broker.to_owned();
        self.seen(move |ledger, limit, now| ledger.standing(&broker, limit, now))
            .await
    }

    /// How we stand with every broker that was lately connected to.
    pub async fn standings(&self) -> anyhow::Result<BTreeMap<String, Standing>> {
        self.seen(|ledger, limit, now| {
            let standing = |broker: &str| (broker.to_owned(), ledger.standing(broker, limit, now));
            ledger.brokers().map(standing).collect()
        })
        .await
    }

    /// Forgets what is over and notes how old the rest is, if that is due, so that a reboot costs
    /// little waiting. Says how long until it is due again; `None`: not before the next slot is
    /// taken. A daemon calls it at its start and about once a minute.
    pub async fn prune(&self) -> anyhow::Result<Option<Duration>> {
        let due = self
            .seen(|ledger, limit, now| ledger.prune_due(limit, now))
            .await?;
        if due != Some(Duration::ZERO) {
            return Ok(due);
        }
        self.locked(|ledger, limit, now| {
            ledger.prune(limit, now);
            ledger.prune_due(limit, now)
        })
        .await
    }

    /// Looks at the ledger, which may be older by the time it was looked at.
    async fn seen<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Ledger, &Limit, &Moment) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let connects = self.clone();
        blocking(move || {
            let bytes = connects.bytes()?;
            let now = connects.clock.now()?;
            let ledger = connects.ledger(bytes.as_deref(), &now);
            Ok(look(&ledger, &connects.limit(), &now))
        })
        .await
    }

    /// Changes the ledger; it is on the disk before this returns.
    async fn locked<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Ledger, &Limit, &Moment) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let connects = self.clone();
        blocking(move || connects.change(change)).await.context(
            "record connects to brokers, without which none is made; the state directory must be \
             writable and have room (--state-dir)",
        )
    }

    fn change<T>(&self, act: impl FnOnce(&mut Ledger, &Limit, &Moment) -> T) -> anyhow::Result<T> {
        durable::directory(&self.state_dir)?;
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let _lock = self.lock()?;
        let bytes = self.bytes()?;
        // Not before the lock: what another process wrote meanwhile would lie in the future.
        let now = self.clock.now()?;
        let mut ledger = self.ledger(bytes.as_deref(), &now);
        let result = act(&mut ledger, &self.limit(), &now);
        let text = ledger.text();
        if bytes.as_deref() != Some(text.as_bytes()) {
            durable::replace(&self.file(), text.as_bytes())?;
        }
        Ok(result)
    }

    fn bytes(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let bytes = durable::read(&self.file(), MAX_BYTES)?;
        // No ledger is that long: read as one that is damaged.
        Ok(bytes.map(|bytes| {
            if bytes.len() as u64 > MAX_BYTES {
                Vec::new()
            } else {
                bytes
            }
        }))
    }

    fn ledger(&self, bytes: Option<&[u8]>, now: &Moment) -> Ledger {
        let Some(bytes) = bytes else {
            return Ledger::new(now.boot.clone());
        };
        let (ledger, damaged) = Ledger::read(bytes, now);
        if let Some(damaged) = damaged {
            let file = self.file();
            tracing::warn!(
                "{}: {damaged}; every broker counts as connected to as often as allowed",
                file.display()
            );
        }
        ledger
    }

    /// A process that was stopped may have it: waited for, but not for ever.
    fn lock(&self) -> anyhow::Result<Flock<File>> {
        let path = self.state_dir.join("connects.lock");
        let open = || {
            File::options()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&path)
        };
        let mut file = open().with_context(|| format!("open {}", path.display()))?;
        let begun = Instant::now();
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((again, Errno::EWOULDBLOCK | Errno::EINTR)) => file = again,
                Err((_, error)) => {
                    return Err(error).with_context(|| format!("lock {}", path.display()));
                }
            }
            if begun.elapsed() > LOCK_PATIENCE {
                bail!(
                    "lock {}: another process has had it for {} s",
                    path.display(),
                    LOCK_PATIENCE.as_secs()
                );
            }
            thread::sleep(LOCK_PAUSE);
        }
    }

    fn file(&self) -> PathBuf {
        self.state_dir.join("connects")
    }
}

fn owned(brokers: &[&str]) -> Vec<String> {
    brokers.iter().map(|broker| (*broker).to_owned()).collect()
}

fn borrowed(brokers: &[String]) -> Vec<&str> {
    brokers.iter().map(String::as_str).collect()
}

#[cfg(test)]
#[path = "connects_tests.rs"]
mod tests;
