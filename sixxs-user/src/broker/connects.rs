//! The connect limit of brokers: the ledger of [`sixxs_core::broker::connects`] in `STATE_DIR/connects`, shared
//! by all processes.
//!
//! A slot is on disk before `take` returns it. If the process is killed before it connects, the slot is
//! still spent. The file is replaced atomically, under a lock on `STATE_DIR/connects.lock`. If it cannot be
//! written, no connect is allowed.

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
pub use sixxs_core::broker::connects::{Limit, Standing, Wait, WaitReason};

use super::{blocking, durable};

/// Maximum size of the file. This is enough for thousands of brokers; a larger file is damaged.
const MAX_BYTES: u64 = 1024 * 1024;

/// Time limit to get the lock. Another process holds it only while it writes a small file.
const LOCK_LIMIT: Duration = Duration::from_secs(20);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Longest sleep before checking again: timers stop while the host is suspended, but slots still expire.
const LONGEST_SLEEP: Duration = Duration::from_secs(20);

/// The clock of the ledger.
pub trait Clock: Send + Sync {
    /// The ID of this boot, and the time since boot.
    fn now(&self) -> anyhow::Result<Moment>;
}

impl Clock for crate::host::clock::Clock {
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

/// The ledger of a state directory. Clones share it.
#[derive(Clone)]
pub struct Connects {
    state_dir: Arc<Path>,
    limit: Arc<RwLock<Limit>>,
    clock: Arc<dyn Clock>,
    /// Writers of this process wait here, so that only one of them waits for other processes.
    writer: Arc<Mutex<()>>,
}

/// Permission for one connect.
#[must_use = "a slot that was taken is spent"]
pub struct ConnectPermit {
    taken: Moment,
    grace: Duration,
    clock: Arc<dyn Clock>,
}

impl ConnectPermit {
    /// The time limit for the connect from now on; abort the connect when it expires. `None`: the permission
    /// has expired, and another slot is needed.
    pub fn remaining(&self) -> anyhow::Result<Option<Duration>> {
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
    /// The ledger of `state_dir`, which need not exist yet. All processes should use the same limit.
    #[must_use]
    pub fn new(state_dir: &Path, limit: Limit) -> Self {
        Self::with_clock(
            state_dir,
            limit,
            Arc::new(crate::host::clock::Clock::default()),
        )
    }

    /// Like `new`, with a given clock.
    #[must_use]
    pub fn with_clock(state_dir: &Path, limit: Limit, clock: Arc<dyn Clock>) -> Self {
        Self {
            state_dir: state_dir.into(),
            limit: Arc::new(RwLock::new(limit)),
            clock,
            writer: Arc::default(),
        }
    }

    /// Changes the limit.
    pub fn set_limit(&self, limit: Limit) {
        *self.limit.write().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    fn limit(&self) -> Limit {
        *self.limit.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot for a broker, by its name or address. Connect immediately: see [`ConnectPermit::remaining`].
    pub async fn take(&self, broker: &str) -> anyhow::Result<Result<ConnectPermit, Wait>> {
        self.take_each(&[broker]).await
    }

    /// Takes a slot for one connect to a broker with several names. Takes none if one of the names has none
    /// left.
    pub async fn take_each(&self, brokers: &[&str]) -> anyhow::Result<Result<ConnectPermit, Wait>> {
        let brokers = owned(brokers);
        self.change_locked(move |ledger, limit, now| {
            let taken = ledger.take(&borrowed(&brokers), limit, now);
            taken.map(|()| now.clone())
        })
        .await
        .map(|taken| {
            taken.map(|taken| ConnectPermit {
                taken,
                grace: self.limit().grace(),
                clock: Arc::clone(&self.clock),
            })
        })
    }

    /// Waits until there is a slot, and takes it. It is cancel safe.
    pub async fn wait_for_slot(&self, broker: &str) -> anyhow::Result<ConnectPermit> {
        loop {
            match self.take(broker).await? {
                Ok(slot) => return Ok(slot),
                Err(wait) => tokio::time::sleep(wait.remaining.min(LONGEST_SLEEP)).await,
            }
        }
    }

    /// Records that a broker refused the login because of too many connects, and locks it out. Returns the lockout's
    /// time.
    pub async fn lock_out(&self, broker: &str) -> anyhow::Result<Wait> {
        self.lock_out_each(&[broker]).await
    }

    /// Like `lock_out`, for a broker with several names.
    pub async fn lock_out_each(&self, brokers: &[&str]) -> anyhow::Result<Wait> {
        let brokers = owned(brokers);
        let wait = self
            .change_locked(move |ledger, limit, now| {
                ledger.lock_out(&borrowed(&brokers), limit, now);
                let standings = brokers.iter().map(|b| ledger.standing(b, limit, now));
                let lockouts = standings.filter_map(|standing| standing.locked_out);
                lockouts.max_by_key(|wait| wait.remaining)
            })
            .await?;
        Ok(wait.unwrap_or(Wait {
            remaining: self.limit().lockout,
            why: WaitReason::LockedOut,
        }))
    }

    /// The remaining limit of a broker.
    pub async fn standing(&self, broker: &str) -> anyhow::Result<Standing> {
        let broker = broker.to_owned();
        self.read(move |ledger, limit, now| ledger.standing(&broker, limit, now))
            .await
    }

    /// The remaining limit of every broker with recent connects.
    pub async fn standings(&self) -> anyhow::Result<BTreeMap<String, Standing>> {
        self.read(|ledger, limit, now| {
            let standing = |broker: &str| (broker.to_owned(), ledger.standing(broker, limit, now));
            ledger.brokers().map(standing).collect()
        })
        .await
    }

    /// Removes expired entries and saves the ages of the others, if that is due, so that a reboot adds little
    /// waiting time. Returns the time until it is due again; `None`: not before the next slot is taken. A
    /// daemon calls it at start and about once a minute.
    pub async fn prune(&self) -> anyhow::Result<Option<Duration>> {
        let due = self
            .read(|ledger, limit, now| ledger.prune_due(limit, now))
            .await?;
        if due != Some(Duration::ZERO) {
            return Ok(due);
        }
        self.change_locked(|ledger, limit, now| {
            ledger.prune(limit, now);
            ledger.prune_due(limit, now)
        })
        .await
    }

    /// Reads the ledger without a lock; it may have changed by the time this returns.
    async fn read<T: Send + 'static>(
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

    /// Changes the ledger under the lock; the change is on disk when this returns.
    async fn change_locked<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Ledger, &Limit, &Moment) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let connects = self.clone();
        blocking(move || connects.change(change)).await.context(
            "record connects to brokers, without which no connect is made; the state directory must be \
             writable and have room (--state-dir)",
        )
    }

    fn change<T>(&self, act: impl FnOnce(&mut Ledger, &Limit, &Moment) -> T) -> anyhow::Result<T> {
        durable::directory(&self.state_dir)?;
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let _lock = self.lock()?;
        let bytes = self.bytes()?;
        // After locking: otherwise entries that another process wrote meanwhile would lie in the future.
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
        // Too long: treat it as damaged.
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

    /// Waits for the lock, with a limit, since a stopped process may hold it.
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
            if begun.elapsed() > LOCK_LIMIT {
                bail!(
                    "lock {}: another process has had it for {} s",
                    path.display(),
                    LOCK_LIMIT.as_secs()
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
