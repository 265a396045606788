use std::collections::VecDeque;

use proptest::prelude::*;

use super::{file::FRAME, *};

const BROKER: &str = "tic.sixxs.net";

fn moment(boot: &str, seconds: f64) -> Moment {
    Moment {
        boot: boot.parse().unwrap(),
        since_boot: Duration::from_secs_f64(seconds),
    }
}

fn again(ledger: &Ledger, now: &Moment) -> Ledger {
    let (ledger, damaged) = Ledger::read(ledger.text().as_bytes(), now);
    assert_eq!(damaged, None);
    ledger
}

#[test]
fn three_connects_in_a_minute() {
    let limit = Limit::default();
    let mut ledger = Ledger::new("a".parse().unwrap());
    for second in [10.0, 20.0, 30.0] {
        let now = moment("a", second);
        assert_eq!(ledger.take(&[BROKER], &limit, &now), Ok(()));
        ledger = again(&ledger, &now);
    }
    let now = moment("a", 40.0);
    let wait = ledger.take(&[BROKER], &limit, &now).unwrap_err();
    assert_eq!(wait.remaining, Duration::from_secs(35));
    assert_eq!(
        wait.to_string(),
        "there were 3 connects to the broker recently; the next connect is possible in 35 s"
    );
    let standing = ledger.standing(BROKER, &limit, &now);
    assert_eq!((standing.slots_left, standing.slots), (0, 3));
    assert_eq!(standing.next_free, Some(Duration::from_secs(35)));
    assert_eq!(standing.wait_for(1), Some(Duration::from_secs(35)));
    assert_eq!(standing.wait_for(0), None);
    let unused = ledger.standing("192.0.2.1", &limit, &now);
    assert_eq!((unused.wait_for(3), unused.wait_for(4)), (None, None));
    // Another broker has its own slots, and the same broker has a free one a moment later.
    assert_eq!(ledger.take(&["192.0.2.1"], &limit, &now), Ok(()));
    assert_eq!(ledger.take(&[BROKER], &limit, &moment("a", 75.0)), Ok(()));
}

#[test]
fn names_for_the_same_broker() {
    for (name, expected) in [
        ("TIC.SixXS.net.", "tic.sixxs.net"),
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[2001:DB8::0:1]", "2001:db8::1"),
        ("two words\n", "two_words"),
        ("two\u{a0}words", "two_words"),
        ("", "_"),
    ] {
        assert_eq!(key(name), expected);
    }
    let limit = Limit {
        connects: 1,
        ..Limit::default()
    };
    let now = moment("a", 1.0);
    let mut ledger = Ledger::new(now.boot.clone());
    assert_eq!(
        ledger.take(&["192.0.2.1", BROKER, "192.0.2.1"], &limit, &now),
        Ok(())
    );
    assert!(ledger.take(&["192.0.2.1"], &limit, &now).is_err());
    // If one of two names has no free slot, neither slot is taken.
    assert!(ledger.take(&["192.0.2.2", BROKER], &limit, &now).is_err());
    assert_eq!(ledger.take(&["192.0.2.2"], &limit, &now), Ok(()));
}

#[test]
fn a_reboot_releases_nothing_and_counts_from_its_start() {
    let limit = Limit::default();
    let mut ledger = Ledger::new("a".parse().unwrap());
    for _ in 0..3 {
        let now = moment("a", 9000.0);
        assert_eq!(ledger.take(&[BROKER], &limit, &now), Ok(()));
    }
    let mut ledger = again(&ledger, &moment("b", 12.0));
    let now = moment("b", 64.9);
    assert!(ledger.take(&[BROKER], &limit, &now).is_err());
    let mut ledger = again(&ledger, &now);
    assert_eq!(ledger.take(&[BROKER], &limit, &moment("b", 65.0)), Ok(()));
}

#[test]
fn a_lockout_is_waited_out_across_reboots_and_a_second_one_is_a_block() {
    let limit = Limit::default();
    let mut ledger = Ledger::new("a".parse().unwrap());
    ledger.lock_out(&[BROKER], &limit, &moment("a", 100.0));
    // Two connects were in progress at the same time: still one incident.
    ledger.lock_out(&[BROKER], &limit, &moment("a", 101.0));
    let now = moment("a", 161.0);
    let wait = ledger.take(&[BROKER], &limit, &now).unwrap_err();
    assert_eq!(wait.why, WaitReason::LockedOut);
    assert_eq!(wait.remaining, Duration::from_secs(245));
    let standing = ledger.standing(BROKER, &limit, &now);
    assert_eq!(standing.locked_out, Some(wait));
    assert_eq!(standing.wait_for(1), Some(wait.remaining));

    // The age written before the reboot counts; the time after it does not.
    assert_eq!(ledger.prune_due(&limit, &now), Some(Duration::ZERO));
    ledger.prune(&limit, &now);
    assert_eq!(
        ledger.prune_due(&limit, &now),
        Some(Duration::from_secs(60))
    );
    let mut ledger = again(&ledger, &moment("b", 3.0));
    let wait = ledger
        .take(&[BROKER], &limit, &moment("b", 5.0))
        .unwrap_err();
    assert_eq!(wait.remaining, Duration::from_secs(240));

    assert_eq!(ledger.take(&[BROKER], &limit, &moment("b", 245.0)), Ok(()));
    ledger.lock_out(&[BROKER], &limit, &moment("b", 246.0));
    let wait = ledger
        .take(&[BROKER], &limit, &moment("b", 1000.0))
        .unwrap_err();
    assert_eq!(wait.why, WaitReason::Blocked);
    assert!(wait.remaining > Duration::from_secs(6 * 24 * 3600));
    let over = 7.0 * 24.0 * 3600.0 + 251.0;
    assert_eq!(ledger.take(&[BROKER], &limit, &moment("b", over)), Ok(()));
    // That was over a day ago: the next refusal counts as the first.
    ledger.lock_out(&[BROKER], &limit, &moment("b", over + 1.0));
    let standing = ledger.standing(BROKER, &limit, &moment("b", over + 1.0));
    assert_eq!(standing.locked_out.unwrap().why, WaitReason::LockedOut);
}

#[test]
fn a_pruned_ledger_is_empty() {
    let limit = Limit::default();
    let now = moment("a", 10.0);
    let empty = Ledger::new(now.boot.clone());
    let mut ledger = empty.clone();
    assert_eq!(ledger.prune_due(&limit, &now), None);
    assert_eq!(ledger.take(&[BROKER], &limit, &now), Ok(()));
    let due = ledger.prune_due(&limit, &now).unwrap();
    assert_eq!(due, Duration::from_secs(65));
    ledger.prune(&limit, &moment("a", 75.0));
    assert_eq!(ledger, empty);
}

#[test]
fn in_a_damaged_ledger_every_slot_is_taken() {
    let limit = Limit::default();
    let now = moment("a", 1000.0);
    let mut good = Ledger::new(now.boot.clone());
    assert_eq!(good.take(&[BROKER, "192.0.2.1"], &limit, &now), Ok(()));
    good.lock_out(&[BROKER], &limit, &now);
    let text = good.text();
    let lines: Vec<&str> = text.lines().collect();
    let mut files: Vec<Vec<u8>> = (0..text.len())
        .map(|n| text.as_bytes()[..n].to_vec())
        .collect();
    // Any line missing, and a future version.
    files.extend((0..lines.len()).map(|gone| {
        let kept = lines.iter().enumerate().filter(|(n, _)| *n != gone);
        kept.flat_map(|(_, line)| [line, "\n"])
            .collect::<String>()
            .into_bytes()
    }));
    files.push(text.replace(FRAME.version, "sixxs-connects 2").into_bytes());
    files.push(b"\xff\xff\xff".to_vec());
    for file in files {
        let (mut ledger, damaged) = Ledger::read(&file, &now);
        assert!(damaged.is_some(), "{}", String::from_utf8_lossy(&file));
        for broker in [BROKER, "any.example"] {
            let wait = ledger.take(&[broker], &limit, &now).unwrap_err();
            assert_eq!(wait.why, WaitReason::Unreadable);
            assert_eq!(wait.remaining, Duration::from_secs(65));
        }
        // Writing it back repairs it.
        let later = moment("a", 1065.0);
        assert_eq!(
            again(&ledger, &later).take(&[BROKER], &limit, &later),
            Ok(())
        );
    }
}

/// Events in any order.
#[derive(Clone, Debug)]
enum Event {
    /// Time passes, in milliseconds.
    Pass(u64),
    /// Time passes while the machine and its clocks stand still, in milliseconds.
    Freeze(u64),
    /// A process takes a slot; `true`: it is killed as soon as the ledger is on disk.
    Take(usize, bool),
    /// A process with a valid slot connects.
    Connect(usize),
    /// A refused process records the refusal.
    Note(usize),
    Kill(usize),
    /// Another program connects from the same address.
    Foreign,
    Prune,
    /// The machine is off for this time, in milliseconds.
    Reboot(u64),
    /// The file is truncated to this percentage.
    Damage(usize),
}

/// Mostly times at which a period is about to end, or has just ended.
fn time() -> impl Strategy<Value = u64> {
    const NEAR: &[u64] = &[4_950, 55_100, 60_000, 65_000];
    const FAR: &[u64] = &[300_000, 305_000, 86_400_000, 604_800_000];
    prop_oneof![
        6 => 0..1_000u64,
        2 => 1_000..70_000u64,
        4 => (prop::sample::select(NEAR), 0..200u64).prop_map(|(edge, more)| edge + more),
        1 => (prop::sample::select(FAR), 0..200u64).prop_map(|(edge, more)| edge + more),
    ]
}

fn event() -> impl Strategy<Value = Vec<Event>> {
    let process = 0..4usize;
    // A normal process, with a pause before the connect.
    let whole = (process.clone(), 0..6_000u64).prop_map(|(p, pause)| {
        vec![
            Event::Take(p, false),
            Event::Pass(pause),
            Event::Connect(p),
            Event::Note(p),
        ]
    });
    // All processes at once, each with a slot, and delayed together.
    let together = prop::bool::ANY.prop_map(|late| {
        let mut events: Vec<_> = (0..4).map(|p| Event::Take(p, false)).collect();
        events.push(Event::Pass(if late { 4_990 } else { 10 }));
        events.extend((0..4).map(Event::Connect));
        events.extend((0..4).map(Event::Note));
        events
    });
    prop_oneof![
        6 => whole,
        4 => together,
        6 => time().prop_map(|t| vec![Event::Pass(t)]),
        1 => time().prop_map(|t| vec![Event::Freeze(t)]),
        2 => process.clone().prop_map(|p| vec![Event::Take(p, false)]),
        1 => process.clone().prop_map(|p| vec![Event::Take(p, true)]),
        3 => process.clone().prop_map(|p| vec![Event::Connect(p)]),
        1 => process.clone().prop_map(|p| vec![Event::Note(p)]),
        1 => process.prop_map(|p| vec![Event::Kill(p)]),
        2 => (1..6usize).prop_map(|n| vec![Event::Foreign; n]),
        2 => Just(vec![Event::Prune]),
        1 => time().prop_map(|t| vec![Event::Reboot(t)]),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let many = prop::collection::vec(event(), 0..60).prop_map(|events| events.concat());
    // In half of the cases the file is damaged at some point.
    let damage = prop::option::of((0..200usize, 0..100usize));
    (many, damage).prop_map(|(mut events, damage)| {
        if let Some((at, percent)) = damage {
            events.insert(at.min(events.len()), Event::Damage(percent));
        }
        events
    })
}

#[derive(Clone, Copy)]
enum Process {
    Idle,
    /// Took a slot at this time since boot, when this many refusals were recorded.
    Slot(Duration, usize),
    /// Was refused by a connect at this true time, with a slot from when this many refusals were recorded.
    Refused(Duration, usize),
}

/// A broker that applies its rule by true time.
#[derive(Default)]
struct Broker {
    connects: VecDeque<Duration>,
    exceeded: Option<Duration>,
    closed_until: Duration,
}

impl Broker {
    /// Whether the broker refuses a connect.
    fn connect(&mut self, now: Duration) -> bool {
        while self
            .connects
            .front()
            .is_some_and(|t| now - *t >= Duration::from_secs(60))
        {
            self.connects.pop_front();
        }
        self.connects.push_back(now);
        if now < self.closed_until {
            return true;
        }
        if self.connects.len() <= 4 {
            return false;
        }
        let second = self.exceeded.is_some_and(|t| now - t < MEMORY);
        let limit = Limit::default();
        self.closed_until = now + if second { limit.block } else { limit.lockout };
        self.exceeded = Some(now);
        true
    }
}

struct World {
    truth: Duration,
    boot: u32,
    since_boot: Duration,
    file: Option<Vec<u8>>,
    processes: [Process; 4],
    broker: Broker,
    /// The client's connects, by true time.
    ours: Vec<Duration>,
    /// The recorded refusals, by true time, one per incident; and the number of records.
    refusals: Vec<Duration>,
    notes: usize,
}

impl World {
    fn now(&self) -> Moment {
        Moment {
            boot: format!("boot-{}", self.boot).parse().unwrap(),
            since_boot: self.since_boot,
        }
    }

    /// The actions of every process under the lock.
    fn locked<T>(&mut self, act: impl FnOnce(&mut Ledger, &Limit, &Moment) -> T) -> T {
        let now = self.now();
        let mut ledger = match &self.file {
            Some(file) => Ledger::read(file, &now).0,
            None => Ledger::new(now.boot.clone()),
        };
        let result = act(&mut ledger, &Limit::default(), &now);
        self.file = Some(ledger.text().into_bytes());
        result
    }

    fn pass(&mut self, milliseconds: u64) {
        self.truth += Duration::from_millis(milliseconds);
        self.since_boot += Duration::from_millis(milliseconds);
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Pass(milliseconds) => self.pass(milliseconds),
            Event::Freeze(milliseconds) => self.truth += Duration::from_millis(milliseconds),
            Event::Take(p, killed) => {
                if let Process::Idle = self.processes[p]
                    && self
                        .locked(|l, limit, now| l.take(&[BROKER], limit, now))
                        .is_ok()
                    && !killed
                {
                    self.processes[p] = Process::Slot(self.since_boot, self.notes);
                }
            }
            Event::Connect(p) => {
                let Process::Slot(since, notes) = self.processes[p] else {
                    return;
                };
                self.processes[p] = Process::Idle;
                if self.since_boot - since < Limit::default().grace() {
                    self.connect(p, notes);
                }
            }
            Event::Note(p) => {
                if let Process::Refused(connected, notes) = self.processes[p] {
                    self.processes[p] = Process::Idle;
                    self.locked(|l, limit, now| l.lock_out(&[BROKER], limit, now));
                    let limit = Limit::default();
                    // The refusal of a connect that was in progress when the last one was recorded is of the same incident.
                    let was_in_progress = notes < self.notes;
                    self.notes += 1;
                    match self.refusals.last_mut() {
                        Some(last)
                            if was_in_progress
                                || connected < *last + limit.lockout + limit.grace() =>
                        {
                            *last = self.truth;
                        }
                        _ => self.refusals.push(self.truth),
                    }
                }
            }
            Event::Kill(p) => self.processes[p] = Process::Idle,
            Event::Foreign => {
                self.broker.connect(self.truth);
            }
            Event::Prune => self.locked(Ledger::prune),
            Event::Reboot(off) => {
                self.processes = [Process::Idle; 4];
                self.truth += Duration::from_millis(off);
                self.boot += 1;
                self.since_boot = Duration::ZERO;
            }
            Event::Damage(percent) => {
                if let Some(file) = &mut self.file {
                    file.truncate(file.len() * percent / 100);
                    // The recorded refusals are lost; the rate still holds.
                    self.refusals.clear();
                }
            }
        }
    }

    fn connect(&mut self, p: usize, notes: usize) {
        let minute_ago = self.truth.saturating_sub(Duration::from_secs(60));
        self.ours.push(self.truth);
        let lately = self
            .ours
            .iter()
            .filter(|t| **t > minute_ago || self.truth < Duration::from_secs(60));
        assert!(lately.count() <= 3, "too often: {:?}", self.ours);
        // A connect that was in progress when the refusal was recorded cannot be cancelled.
        if notes == self.notes
            && let [earlier @ .., last] = &self.refusals[..]
        {
            let limit = Limit::default();
            let block = earlier.last().is_some_and(|t| *last - *t < MEMORY);
            let length = if block { limit.block } else { limit.lockout };
            assert!(self.truth >= *last + length, "inside a lockout");
        }
        if self.broker.connect(self.truth) {
            self.processes[p] = Process::Refused(self.truth, notes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Wall clocks may jump: the ledger does not use them.
    #[test]
    fn no_course_of_events_connects_too_often(events in events()) {
        let mut world = World {
            truth: Duration::ZERO,
            boot: 0,
            since_boot: Duration::ZERO,
            file: None,
            processes: [Process::Idle; 4],
            broker: Broker::default(),
            ours: Vec::new(),
            refusals: Vec::new(),
            notes: 0,
        };
        for event in &events {
            world.happens(event);
        }
        // It never locks itself out permanently.
        world.happens(&Event::Prune);
        world.pass(8 * 24 * 3600 * 1000);
        prop_assert_eq!(world.locked(|l, limit, now| l.take(&[BROKER], limit, now)), Ok(()));
    }

    #[test]
    fn no_file_is_too_strange(file in prop::collection::vec(any::<u8>(), 0..300)) {
        let (ledger, damaged) = Ledger::read(&file, &moment("a", 5.0));
        prop_assert!(damaged.is_some() && ledger.is_unreadable());
    }

    #[test]
    fn no_numbers_are_too_strange(numbers in prop::collection::vec(any::<u64>(), 6), now in any::<u64>()) {
        let lines = FRAME.text(&format!(
            "boot a\nunreadable {} {}\nconnect b {} {}\nrefused b again {} {}\n",
            numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5],
        ));
        let now = Moment { boot: "a".parse().unwrap(), since_boot: Duration::from_nanos(now) };
        let (mut ledger, damaged) = Ledger::read(lines.as_bytes(), &now);
        prop_assert_eq!(damaged, None);
        prop_assert_eq!(ledger.text(), lines);
        let limit = Limit::default();
        let _either = ledger.prune_due(&limit, &now);
        let _either = ledger.standing("b", &limit, &now);
        let _either = ledger.take(&["b"], &limit, &now);
        ledger.prune(&limit, &now);
        let (later, damaged) = Ledger::read(ledger.text().as_bytes(), &now);
        prop_assert_eq!(damaged, None);
        prop_assert_eq!(later, ledger);
    }
}

#[test]
#[rustfmt::skip] // one case per line
fn reasons_are_told_and_whose_they_are() {
    for (why, expected, is_lockout) in [
        (WaitReason::Slots(1), "the last connect to the broker was too recent", false),
        (WaitReason::Slots(2), "there were 2 connects to the broker recently", false),
        (WaitReason::Unreadable, "the record of connects was damaged", false),
        (WaitReason::LockedOut, "the broker refused this host for too many connects", true),
        (WaitReason::Blocked, "the broker refused this host for too many connects a second time in a day", true),
    ] {
        assert_eq!(why.to_string(), expected);
        assert_eq!(why.is_lockout(), is_lockout, "{expected}");
    }
}

#[test]
fn seconds_are_rounded_up() {
    for (remaining, expected) in [
        (Duration::ZERO, 0),
        (Duration::from_nanos(1), 1),
        (Duration::from_secs(1), 1),
        (Duration::new(1, 1), 2),
    ] {
        let why = WaitReason::Unreadable;
        assert_eq!(Wait { remaining, why }.seconds(), expected);
    }
}

#[test]
fn brokers_with_entries_are_listed() {
    let limit = Limit::default();
    let mut ledger = Ledger::new("a".parse().unwrap());
    assert_eq!(ledger.brokers().count(), 0);
    let now = moment("a", 10.0);
    assert_eq!(ledger.take(&[BROKER, "192.0.2.1"], &limit, &now), Ok(()));
    ledger.lock_out(&["pop.example.net"], &limit, &now);
    let brokers: Vec<_> = ledger.brokers().collect();
    assert_eq!(brokers, ["192.0.2.1", "pop.example.net", BROKER]);
}

/// A connect that is not complete yet counts for a while longer.
#[test]
fn a_slot_stays_taken_for_the_window_and_the_grace() {
    for (window, grace) in [(60, 5.0), (20, 5.0), (16, 4.0), (1, 0.25)] {
        let limit = Limit {
            connects: 1,
            window: Duration::from_secs(window),
            ..Limit::default()
        };
        assert_eq!(limit.grace(), Duration::from_secs_f64(grace));
        let mut ledger = Ledger::new("a".parse().unwrap());
        assert_eq!(ledger.take(&[BROKER], &limit, &moment("a", 10.0)), Ok(()));
        let end = 10.0 + f64::from(u32::try_from(window).unwrap()) + grace;
        assert!(
            ledger
                .take(&[BROKER], &limit, &moment("a", end - 0.01))
                .is_err()
        );
        assert_eq!(ledger.take(&[BROKER], &limit, &moment("a", end)), Ok(()));
    }
}

#[test]
fn boot_ids_are_short_words() {
    let longest = "a".repeat(64);
    for (text, is_good) in [
        ("9f1c6ac5-9d5b-4d8c-a3cb-4aa7d4c2b7f1", true),
        (longest.as_str(), true),
        (&format!("{longest}a"), false),
        ("", false),
        ("a b", false),
        ("ö", false),
    ] {
        assert_eq!(text.parse::<BootId>().is_ok(), is_good, "{text}");
    }
}
