use std::{
    env,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use super::*;

const BROKER: &str = "tic.example";

/// A clock that the test sets.
struct ManualClock(Mutex<Moment>);

impl Clock for ManualClock {
    fn now(&self) -> anyhow::Result<Moment> {
        Ok(self.0.lock().unwrap().clone())
    }
}

impl ManualClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Moment {
            boot: "a".parse().unwrap(),
            since_boot: Duration::from_secs(1000),
        })))
    }

    fn pass(&self, time: Duration) {
        self.0.lock().unwrap().since_boot += time;
    }

    fn reboot(&self, boot: &str) {
        *self.0.lock().unwrap() = Moment {
            boot: boot.parse().unwrap(),
            since_boot: Duration::ZERO,
        };
    }
}

fn with_manual_clock(directory: &Path) -> (Connects, Arc<ManualClock>) {
    let clock = ManualClock::new();
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
    let connects = Connects::with_clock(directory, Limit::default(), shared);
    (connects, clock)
}

async fn take(connects: &Connects) -> Result<ConnectPermit, Wait> {
    connects.take(BROKER).await.unwrap()
}

#[tokio::test]
async fn the_limit_is_kept_across_processes_and_reboots() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("not/yet");
    let (connects, clock) = with_manual_clock(&state);
    for _ in 0..3 {
        // Like another process: the file is the only shared state.
        let other = Connects::with_clock(&state, Limit::default(), clock.clone());
        assert!(take(&other).await.is_ok());
    }
    let wait = take(&connects).await.err().unwrap();
    assert_eq!(
        (wait.why, wait.remaining),
        (WaitReason::Slots(3), Duration::from_secs(65))
    );
    let standing = connects.standing(BROKER).await.unwrap();
    assert_eq!((standing.slots_left, standing.slots), (0, 3));
    let mode = |name: &str| {
        let metadata = fs::metadata(state.join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!((mode("connects"), mode("connects.lock")), (0o600, 0o600));
    assert_eq!(mode(""), 0o700);

    clock.reboot("b");
    clock.pass(Duration::from_secs(64));
    assert!(take(&connects).await.is_err());
    clock.pass(Duration::from_secs(1));
    assert!(take(&connects).await.is_ok());
}

#[tokio::test]
async fn a_slot_expires() {
    let directory = tempfile::tempdir().unwrap();
    let (connects, clock) = with_manual_clock(directory.path());
    let slot = take(&connects).await.ok().unwrap();
    assert_eq!(slot.remaining().unwrap(), Some(Duration::from_secs(5)));
    clock.pass(Duration::from_secs(4));
    assert_eq!(slot.remaining().unwrap(), Some(Duration::from_secs(1)));
    clock.pass(Duration::from_secs(1));
    assert_eq!(slot.remaining().unwrap(), None);
}

#[tokio::test]
async fn a_lockout_survives_a_reboot() {
    let directory = tempfile::tempdir().unwrap();
    let (connects, clock) = with_manual_clock(directory.path());
    assert_eq!(connects.prune().await.unwrap(), None);
    assert!(!connects.file().exists());
    let names = [BROKER, "192.0.2.1"];
    assert!(connects.take_each(&names).await.unwrap().is_ok());
    let wait = connects.lock_out_each(&names).await.unwrap();
    assert_eq!(
        (wait.why, wait.remaining),
        (WaitReason::LockedOut, Duration::from_secs(305))
    );
    let standings = connects.standings().await.unwrap();
    assert_eq!(standings.keys().collect::<Vec<_>>(), ["192.0.2.1", BROKER]);
    assert!(standings.values().all(|s| s.locked_out == Some(wait)));

    let minute = Duration::from_secs(60);
    let text = || fs::read_to_string(connects.file()).unwrap();
    let before = text();
    assert_eq!(connects.prune().await.unwrap(), Some(minute));
    assert_eq!(text(), before);
    clock.pass(minute);
    connects.prune().await.unwrap();
    assert_ne!(text(), before);
    clock.reboot("b");
    let wait = take(&connects).await.err().unwrap();
    assert_eq!(wait.remaining, Duration::from_secs(245));
}

#[tokio::test]
async fn a_damaged_ledger_allows_no_connect() {
    let directory = tempfile::tempdir().unwrap();
    let (connects, clock) = with_manual_clock(directory.path());
    for damage in [Vec::new(), b"x".to_vec(), vec![b'#'; 2_000_000]] {
        fs::write(connects.file(), damage).unwrap();
        let wait = take(&connects).await.err().unwrap();
        assert_eq!(wait.why, WaitReason::Unreadable);
        clock.pass(wait.remaining);
        assert!(take(&connects).await.is_ok());
    }
}

#[tokio::test]
async fn a_slot_that_cannot_be_written_is_not_taken() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let (connects, _) = with_manual_clock(&file.join("state"));
    let error = format!("{:#}", connects.take(BROKER).await.err().unwrap());
    assert!(
        error.starts_with("record connects to brokers, without which no connect is made"),
        "{error}"
    );
    assert!(error.contains("Not a directory"), "{error}");

    let (connects, _) = with_manual_clock(directory.path());
    fs::create_dir(connects.file()).unwrap();
    assert!(connects.take(BROKER).await.is_err());

    // The draft cannot be written; the ledger does not change.
    fs::remove_dir(connects.file()).unwrap();
    assert!(take(&connects).await.is_ok());
    let before = fs::read(connects.file()).unwrap();
    fs::create_dir(directory.path().join("connects.new")).unwrap();
    assert!(connects.take(BROKER).await.is_err());
    assert_eq!(fs::read(connects.file()).unwrap(), before);
}

/// A limit with a window of a second instead of a minute.
const FAST: Limit = Limit {
    connects: 3,
    window: Duration::from_secs(1),
    lockout: Duration::from_secs(5),
    block: Duration::from_secs(60),
};

#[tokio::test]
async fn waiting_processes_get_a_slot() {
    let directory = tempfile::tempdir().unwrap();
    let connects = Connects::new(directory.path(), FAST);
    let begun = Instant::now();
    let mut slots = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let connects = connects.clone();
        slots.spawn(async move { connects.wait_for_slot(BROKER).await.unwrap() });
    }
    assert_eq!(slots.join_all().await.len(), 6);
    assert!(begun.elapsed() >= FAST.window);
}

const CHILD: &str = "SIXXS_TEST_CONNECTS";

/// Not a test of its own: a child process of the next test runs it.
#[test]
fn a_process_that_connects() {
    let Some(directory) = env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let connects = Connects::new(&directory, FAST);
        let mut log = File::options()
            .create(true)
            .append(true)
            .open(directory.join("log"))
            .unwrap();
        loop {
            if let Ok(slot) = take(&connects).await
                && slot.remaining().unwrap().is_some()
            {
                // The connect.
                let now = crate::host::clock::Clock::default().since_boot().unwrap();
                log.write_all(format!("{}\n", now.as_nanos()).as_bytes())
                    .unwrap();
            }
        }
    });
}

fn start(directory: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "broker::connects::tests::a_process_that_connects",
        ])
        .env(CHILD, directory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Several processes at once, killed at any point and started again.
#[test]
fn processes_that_are_killed_do_not_exceed_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let mut children: Vec<Child> = (0..4).map(|_| start(directory.path())).collect();
    let begun = Instant::now();
    let mut round: usize = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        // The kill comes between the start and many connects.
        let pause = (round * 7919) % 97;
        thread::sleep(Duration::from_millis(pause as u64));
        let child = &mut children[round % 4];
        child.kill().unwrap();
        child.wait().unwrap();
        *child = start(directory.path());
        round += 1;
    }
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    let mut times: Vec<Duration> = log
        .lines()
        .map(|line| Duration::from_nanos(line.parse().unwrap()))
        .collect();
    times.sort_unstable();
    for four in times.windows(4) {
        assert!(four[3] - four[0] >= FAST.window, "{four:?}");
    }
    // There were connects, although killed processes spent many slots.
    assert!(times.len() >= 4, "{times:?}");
}
