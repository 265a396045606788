//! Replay protection: refuses exact copies of datagrams.
//!
//! A datagram has a timestamp, exact to a second, but no sequence number. So a part of its signature
//! is stored for the time in which the timestamp stays valid. Memory is bounded. If it does not
//! suffice for that time, the oldest entries are removed, and all datagrams up to their time are
//! refused. A copy passes only if memory does not suffice for one second (at about 500,000 datagrams
//! per second), and only within that second.

use super::wire::CLOCK_SECONDS;

/// The range of valid datagram times, from before to after local time.
const LIFETIME_SECONDS: u64 = 2 * CLOCK_SECONDS;

/// Initial number of slots of a generation; a power of two.
const FIRST_SLOTS: usize = 64;

/// The maximum number of slots of a generation; a power of two. Two generations of 8-byte slots use
/// 4 MiB each.
const MAX_SLOTS: usize = 1 << 19;

/// The accepted datagrams of the last minutes.
#[derive(Debug)]
pub struct Replay {
    young: Generation,
    old: Generation,
    /// Datagrams with a time up to this one are refused.
    forgotten_until: u64,
    /// The latest time of any datagram. A copy cannot advance it.
    latest: u64,
    most_slots: usize,
}

impl Default for Replay {
    fn default() -> Self {
        Self::with_slots(MAX_SLOTS)
    }
}

impl Replay {
    fn with_slots(most_slots: usize) -> Self {
        Self {
            young: Generation::default(),
            old: Generation::default(),
            forgotten_until: 0,
            latest: 0,
            most_slots,
        }
    }

    /// Whether a datagram with this signature and time is new. The caller must have verified the
    /// signature.
    pub fn is_new(&mut self, signature: &[u8; 20], unix_seconds: u64) -> bool {
        if unix_seconds <= self.forgotten_until {
            return false;
        }
        let [a, b, c, d, e, f, g, h, ..] = *signature;
        // Nobody can choose these bytes without the key. 0 marks empty slots.
        let print = u64::from_ne_bytes([a, b, c, d, e, f, g, h]).max(1);
        if self.old.has(print) {
            return false;
        }
        self.latest = self.latest.max(unix_seconds);
        self.make_room();
        self.young.insert(print, unix_seconds)
    }

    fn make_room(&mut self) {
        let is_over = self.latest > self.young.begun + LIFETIME_SECONDS;
        if self.young.used == 0 {
            self.young.begun = self.latest;
        } else if is_over || !self.young.has_room(self.most_slots) {
            let forgotten = std::mem::take(&mut self.old);
            // Datagrams of the latest second must not be refused: they may be new.
            let until = forgotten.latest.min(self.latest - 1);
            self.forgotten_until = self.forgotten_until.max(until);
            self.old = std::mem::take(&mut self.young);
            self.young.begun = self.latest;
        }
    }
}

/// A set of signature parts: open addressing, at most half full.
#[derive(Debug, Default)]
struct Generation {
    slots: Vec<u64>,
    used: usize,
    /// [`Replay::latest`] at the time of the first entry.
    begun: u64,
    /// The latest time of its entries.
    latest: u64,
}

impl Generation {
    fn has(&self, print: u64) -> bool {
        self.slots
            .get(self.index_of(print))
            .is_some_and(|s| *s != 0)
    }

    fn has_room(&self, most_slots: usize) -> bool {
        (self.used + 1) * 2 <= most_slots
    }

    /// Adds an entry; false: it exists already.
    fn insert(&mut self, print: u64, unix_seconds: u64) -> bool {
        if (self.used + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let index = self.index_of(print);
        if self.slots[index] != 0 {
            return false;
        }
        self.slots[index] = print;
        self.used += 1;
        self.latest = self.latest.max(unix_seconds);
        true
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(FIRST_SLOTS);
        let prints = std::mem::replace(&mut self.slots, vec![0; slots]);
        for print in prints.into_iter().filter(|print| *print != 0) {
            let index = self.index_of(print);
            self.slots[index] = print;
        }
    }

    /// The slot of an entry, or the free slot for it.
    fn index_of(&self, print: u64) -> usize {
        let mask = self.slots.len().wrapping_sub(1);
        #[expect(clippy::cast_possible_truncation, reason = "any of its bits will do")]
        let mut index = print as usize & mask;
        while self
            .slots
            .get(index)
            .is_some_and(|s| *s != 0 && *s != print)
        {
            index = (index + 1) & mask;
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn signature(number: u64) -> [u8; 20] {
        // Distributed like the output of a hash function.
        let mut signature = [7; 20];
        let print = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        signature[..8].copy_from_slice(&print.to_ne_bytes());
        signature
    }

    #[test]
    fn repeats_are_refused_while_their_time_is_valid() {
        let mut replay = Replay::default();
        for second in 1000..3000 {
            assert!(replay.is_new(&signature(second), second));
            for before in (second - LIFETIME_SECONDS).max(1000)..=second {
                assert!(!replay.is_new(&signature(before), before), "{before}");
            }
        }
        // A delayed datagram is accepted while its time is valid.
        assert!(replay.is_new(&signature(1), 3000 - CLOCK_SECONDS));
        assert!(!replay.is_new(&signature(1), 3000 - CLOCK_SECONDS));
    }

    #[test]
    fn memory_is_bounded_and_repeats_are_refused_beyond_it() {
        let mut replay = Replay::with_slots(256);
        let mut number = 0;
        for second in 1000..1100 {
            for _ in 0..50 {
                number += 1;
                assert!(replay.is_new(&signature(number), second), "{second}");
            }
        }
        assert!(replay.young.slots.len() <= 256 && replay.old.slots.len() <= 256);
        for (number, second) in (1..=number).zip((1000..1100).flat_map(|s| [s; 50])) {
            assert!(!replay.is_new(&signature(number), second), "{second}");
        }
    }

    #[test]
    fn a_second_with_more_datagrams_than_memory_loses_none() {
        let mut replay = Replay::with_slots(256);
        for number in 0..5000 {
            assert!(replay.is_new(&signature(number), 1000));
        }
        assert!(replay.is_new(&signature(5000), 1001));
    }

    proptest! {
        /// Compared with a set that stores everything.
        #[test]
        fn never_the_same_twice(steps in prop::collection::vec((0u64..40, 0u64..8), 1..400)) {
            let mut replay = Replay::default();
            let mut taken = BTreeSet::new();
            let mut now = 10_000;
            for (number, forward) in steps {
                now += forward;
                let time = now - number % 5;
                let id = number * 1_000_000 + time;
                if taken.insert(id) {
                    prop_assert!(replay.is_new(&signature(id), time));
                }
                prop_assert!(!replay.is_new(&signature(id), time));
            }
        }
    }

    #[test]
    fn a_generation_is_at_most_half_full_and_not_wasteful() {
        let mut generation = Generation::default();
        assert!(generation.has_room(FIRST_SLOTS));
        for number in 1..=1000 {
            assert!(generation.insert(number, 1000 + number % 7));
            assert!(!generation.insert(number, 5000), "it is there already");
            let (used, slots) = (generation.used, generation.slots.len());
            assert_eq!(used, usize::try_from(number).unwrap());
            assert!(
                slots.is_power_of_two() && slots >= 2 * used,
                "{used} {slots}"
            );
            assert!(slots <= (4 * used).max(FIRST_SLOTS), "{used} {slots}");
            assert!((1..=number).all(|known| generation.has(known)), "{number}");
            assert!(!generation.has(number + 1));
        }
        assert_eq!(generation.latest, 1006);
        for (slots, has_room) in [(2000, false), (2001, false), (2002, true)] {
            assert_eq!(generation.has_room(slots), has_room, "{slots}");
        }
    }

    /// A full memory forgets the oldest entries, and with them all datagrams up to their time.
    #[test]
    fn what_is_forgotten_is_refused_up_to_its_time() {
        let mut replay = Replay::with_slots(FIRST_SLOTS);
        for number in 0..200 {
            assert!(replay.is_new(&signature(number), 1000 + number));
        }
        assert!(replay.forgotten_until > 1000);
        let until = replay.forgotten_until;
        assert!(!replay.is_new(&signature(900), until), "it could be a copy");
        assert!(replay.is_new(&signature(901), until + 1));
        // Two generations hold the latest ones.
        assert!(until + 32 <= 1199, "{until}");
    }
}
