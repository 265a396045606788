//! Simulates an impaired path: it loses, duplicates and reorders datagrams. The random decisions depend only
//! on a seed. It replaces tc's netem, which not every kernel has.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::random::Random;

/// A delayed datagram lets at most this many others pass.
const OVERTAKEN_BY: usize = 4;
/// Longest delay, if no others come.
const HELD: Duration = Duration::from_millis(10);
/// Limit of datagrams that are delayed at the same time.
const MOST_HELD: usize = 64;

/// Settings of a path, in percent of the datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Impairment {
    /// Datagrams to lose.
    pub loss: f64,
    /// Datagrams to delay, so that the next ones overtake them.
    pub reorder: f64,
    /// Datagrams to send twice.
    pub duplicate: f64,
    /// Seed of the random decisions.
    pub seed: u64,
}

/// Counters of an impairment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Impaired {
    /// Datagrams lost.
    pub lost: u64,
    /// Datagrams held back.
    pub reordered: u64,
    /// Datagrams sent twice.
    pub duplicated: u64,
}

/// One direction of a path.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    settings: Impairment,
    random: Random,
    held: VecDeque<Held<T>>,
    done: Impaired,
}

#[derive(Debug)]
struct Held<T> {
    item: T,
    others: usize,
    until: Instant,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            settings: Impairment::default(),
            random: Random::new(0),
            held: VecDeque::new(),
            done: Impaired::default(),
        }
    }
}

impl<T: Clone> Lane<T> {
    /// Changes the settings; delayed datagrams come out with the next datagram.
    pub(crate) fn set(&mut self, settings: Impairment) {
        self.settings = settings;
        self.random = Random::new(settings.seed);
        for held in &mut self.held {
            held.others = 0;
        }
    }

    /// Whether it changes nothing, and delays no datagram now.
    pub(crate) fn is_idle(&self) -> bool {
        self.settings == Impairment::default() && self.held.is_empty()
    }

    /// The counters.
    pub(crate) fn done(&self) -> Impaired {
        self.done
    }

    /// Takes a datagram; appends the datagrams that come out now.
    pub(crate) fn pass(&mut self, item: T, now: Instant, out: &mut Vec<T>) {
        if self.random.percent(self.settings.loss) {
            self.done.lost += 1;
        } else if self.held.len() < MOST_HELD && self.random.percent(self.settings.reorder) {
            self.done.reordered += 1;
            let others = 1 + self.random.below(OVERTAKEN_BY);
            let until = now + HELD;
            self.held.push_back(Held {
                item,
                others,
                until,
            });
            return;
        } else {
            if self.random.percent(self.settings.duplicate) {
                self.done.duplicated += 1;
                out.push(item.clone());
            }
            out.push(item);
        }
        for held in &mut self.held {
            held.others = held.others.saturating_sub(1);
        }
        self.release(now, out);
    }

    /// Appends the datagrams whose delay is over.
    pub(crate) fn release(&mut self, now: Instant, out: &mut Vec<T>) {
        let (free, held) = std::mem::take(&mut self.held)
            .into_iter()
            .partition::<Vec<_>, _>(|held| held.others == 0 || held.until <= now);
        self.held = held.into();
        out.extend(free.into_iter().map(|held| held.item));
    }

    /// The latest time at which [`Lane::release`] has a datagram.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(settings: Impairment) -> (Vec<usize>, Impaired) {
        let mut lane = Lane::default();
        lane.set(settings);
        let now = Instant::now();
        let mut out = Vec::new();
        for item in 0..10_000 {
            lane.pass(item, now, &mut out);
        }
        lane.release(now + HELD, &mut out);
        assert_eq!(lane.deadline(), None);
        (out, lane.done())
    }

    #[test]
    fn a_good_path_changes_nothing() {
        let (out, done) = run(Impairment::default());
        assert!(out.into_iter().eq(0..10_000));
        assert_eq!(done, Impaired::default());
    }

    #[test]
    fn a_bad_path_does_as_configured() {
        let settings = Impairment {
            loss: 1.0,
            reorder: 2.0,
            duplicate: 3.0,
            seed: 5,
        };
        let (mut out, done) = run(settings);
        assert_eq!(run(settings), (out.clone(), done));
        assert!((50..200).contains(&done.lost), "{done:?}");
        assert!((100..400).contains(&done.reordered), "{done:?}");
        assert!((150..600).contains(&done.duplicated), "{done:?}");
        assert!(!out.is_sorted());
        let count = 10_000 - done.lost + done.duplicated;
        assert_eq!(u64::try_from(out.len()).unwrap(), count);
        out.sort_unstable();
        out.dedup();
        assert_eq!(out.len(), 10_000 - usize::try_from(done.lost).unwrap());
    }
}
