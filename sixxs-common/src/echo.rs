//! Echo pairing: echo requests from outside are matched with their replies, as proof that a tunnel
//! answers.
//!
//! A request is stored in one of [`ENTRIES`] entries; its [`tag`] selects the entry. The reply with the
//! same tag removes it. This needs no lock and no search. A flood of requests uses no additional
//! memory; at worst it evicts unanswered requests, which a counter shows.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, GOLDEN};

/// Number of requests stored at a time; a power of two.
pub const ENTRIES: u32 = 4096;

/// After this time, an unanswered request may be evicted without being counted, and the same request
/// counts as new.
pub const REQUEST_LIFETIME_NS: u64 = 10_000_000_000;

/// A request that waits for its reply. Processors may race for an entry: then one of two requests for
/// the same entry is evicted without being counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Pending {
    /// [`tag`] of the request; 0 for none.
    pub tag: u64,
    /// Time of arrival, in nanoseconds of CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Slot of the tunnel by which the request arrived.
    pub slot: u32,
    /// 1: `at_ns` is exact, and the reply time is measured; 0: `at_ns` is the time of the last clock
    /// tick.
    pub is_timed: u32,
}

const _: () = assert!(size_of::<Pending>() == 24);

/// Result of storing a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// The request now waits for its reply.
    New,
    /// The request now waits for its reply. It evicted a waiting request of the tunnel in this slot.
    Evicted(u32),
    /// The request was already waiting: it arrived twice.
    Repeated,
}

impl Pending {
    /// Stores a request that arrived since the last clock tick, which was at `tick_ns`.
    #[inline(always)]
    pub fn watch(&mut self, tag: u64, slot: u32, tick_ns: u64) -> Watched {
        // An exact `at_ns` may be later than the last tick: a difference of the two could underflow.
        let waits = self.tag != 0 && self.at_ns.wrapping_add(REQUEST_LIFETIME_NS) > tick_ns;
        let watched = match waits {
            true if self.tag == tag => return Watched::Repeated,
            true => Watched::Evicted(self.slot),
            false => Watched::New,
        };
        self.tag = tag;
        self.at_ns = tick_ns;
        self.slot = slot;
        self.is_timed = 0;
        watched
    }

    /// Sets the exact time of arrival, so that the reply time is measured.
    #[inline(always)]
    pub fn time(&mut self, now_ns: u64) {
        self.at_ns = now_ns;
        self.is_timed = 1;
    }

    /// Removes the request that a reply with this tag answers; false if the entry has another request.
    #[inline(always)]
    pub fn answer(&mut self, tag: u64) -> bool {
        let is_answer = self.tag == tag;
        if is_answer {
            self.tag = 0;
        }
        is_answer
    }
}

/// Identifies a request and its reply by one number, never 0: a hash of this host's address, the remote
/// address, and the message's identifier and sequence number (RFC 4443 §4.1) as they are in the
/// packet.
#[inline(always)]
#[must_use]
pub const fn tag(local: Address, remote: Address, message: u32) -> u64 {
    // Its powers. With one factor per word, the processor can compute the products in parallel.
    const SQUARE: u64 = GOLDEN.wrapping_mul(GOLDEN);
    const CUBE: u64 = SQUARE.wrapping_mul(GOLDEN);
    const FOURTH: u64 = CUBE.wrapping_mul(GOLDEN);
    const FIFTH: u64 = FOURTH.wrapping_mul(GOLDEN);
    let [a, b] = local.words();
    let [c, d] = remote.words();
    let sum = a
        .wrapping_mul(FIFTH)
        .wrapping_add(b.wrapping_mul(FOURTH))
        .wrapping_add(c.wrapping_mul(CUBE))
        .wrapping_add(d.wrapping_mul(SQUARE))
        .wrapping_add((message as u64).wrapping_mul(GOLDEN));
    (sum ^ (sum >> 29)).wrapping_mul(GOLDEN) | 1
}

/// Index of the entry for a tag.
#[inline(always)]
#[must_use]
pub const fn entry_index(tag: u64) -> u32 {
    let highest = (tag >> 32) as u32;
    highest >> (u32::BITS - ENTRIES.ilog2())
}

/// Reply times of one tunnel on one processor, for requests with exact times ([`Pending::is_timed`]):
/// the number of replies in each [`bucket`], and the sum of all times.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Times {
    /// Replies by bucket; entries from [`BUCKETS`] on are 0.
    pub replies: [u64; 63],
    /// The sum of all times, in nanoseconds.
    pub sum_ns: u64,
}

/// Buckets in use: two per doubling of the time from about 1 µs to 8.6 s, one for shorter times and
/// one for longer times.
pub const BUCKETS: usize = 48;

impl Times {
    /// No replies.
    pub const NONE: Self = Self {
        replies: [0; 63],
        sum_ns: 0,
    };
}

/// The bucket for a time.
#[inline(always)]
#[must_use]
pub const fn bucket(ns: u64) -> usize {
    let units = ns >> 10;
    if units == 0 {
        return 0;
    }
    let octave = units.ilog2();
    let in_upper_half = octave > 0 && (units >> (octave - 1)) & 1 == 1;
    let bucket = 1 + 2 * octave as usize + in_upper_half as usize;
    if bucket < BUCKETS {
        bucket
    } else {
        BUCKETS - 1
    }
}

/// The upper bound of a bucket, exclusive, in nanoseconds; `None` for the last one, which has no
/// bound.
#[must_use]
pub const fn bucket_end_ns(bucket: usize) -> Option<u64> {
    if bucket + 1 >= BUCKETS {
        return None;
    }
    if bucket == 0 {
        return Some(1 << 10);
    }
    let (octave, half) = ((bucket - 1) / 2, (bucket - 1) % 2);
    // The first octave is one unit long and has no upper half.
    let halves = if octave == 0 { 4 } else { 3 + half as u64 };
    Some((halves << octave << 10) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn address(last: u8) -> Address {
        Address::from_octets([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
    }

    #[test]
    fn a_reply_removes_its_request_once() {
        let tag = tag(address(1), address(2), 7);
        let mut pending = Pending::default();
        assert!(!pending.answer(tag));
        assert_eq!(pending.watch(tag, 3, 100), Watched::New);
        pending.time(105);
        // The last clock tick was before the exact time.
        assert_eq!(pending.watch(tag, 3, 100), Watched::Repeated);
        assert!(!pending.answer(tag ^ 2));
        assert_eq!((pending.at_ns, pending.slot, pending.is_timed), (105, 3, 1));
        assert!(pending.answer(tag));
        assert!(!pending.answer(tag));
        assert_eq!(pending.watch(tag, 3, 200), Watched::New);
        assert_eq!((pending.at_ns, pending.is_timed), (200, 0));
    }

    #[test]
    fn an_evicted_request_is_reported_unless_it_has_expired() {
        let [one, two] = [1, 2].map(|message| tag(address(1), address(2), message));
        let mut pending = Pending::default();
        assert_eq!(pending.watch(one, 3, 100), Watched::New);
        assert_eq!(pending.watch(two, 4, 200), Watched::Evicted(3));
        assert_eq!(
            pending.watch(one, 3, 200 + REQUEST_LIFETIME_NS),
            Watched::New
        );
        assert_eq!(
            pending.watch(one, 3, 200 + 2 * REQUEST_LIFETIME_NS),
            Watched::New
        );
    }

    #[test]
    fn a_request_waits_until_the_patience_ends() {
        let [one, two] = [1, 2].map(|message| tag(address(1), address(2), message));
        for (passed, again, other) in [
            (
                REQUEST_LIFETIME_NS - 1,
                Watched::Repeated,
                Watched::Evicted(3),
            ),
            (REQUEST_LIFETIME_NS, Watched::New, Watched::New),
        ] {
            let mut place = Pending::default();
            assert_eq!(place.watch(one, 3, 100), Watched::New);
            assert_eq!({ place }.watch(one, 3, 100 + passed), again);
            assert_eq!(place.watch(two, 4, 100 + passed), other);
            assert_eq!((place.tag, place.slot), (two, 4));
        }
    }

    /// The words of a request are the coefficients of a polynomial, here by Horner's method. It is the same
    /// in all versions, since the entries of one serve the next.
    #[test]
    fn a_tag_is_a_polynomial_of_all_words() {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        for words in [
            [1, 2, 3, 4, 5],
            [u64::MAX, 0, u64::MAX, 0, 7],
            [0x20, 1 << 63, 0x30, 1 << 62, u32::MAX.into()],
        ] {
            let [a, b, c, d, message] = words;
            let sum = words.iter().fold(0_u64, |sum, word| {
                sum.wrapping_add(*word).wrapping_mul(GOLDEN)
            });
            let mixed = (sum ^ (sum / (1 << 29))).wrapping_mul(GOLDEN);
            let [local, remote] = [[a, b], [c, d]].map(Address::from_words);
            let message = u32::try_from(message).unwrap();
            assert_eq!(tag(local, remote, message), mixed / 2 * 2 + 1);
        }
    }

    #[test]
    fn tags_differ_and_spread() {
        let mut tags = BTreeSet::new();
        let mut entries = BTreeSet::new();
        for message in 0..1000 {
            for last in 0..4 {
                let tag = tag(address(1), address(last), message);
                assert_ne!(tag, 0);
                assert!(entry_index(tag) < ENTRIES);
                tags.insert(tag);
                entries.insert(entry_index(tag));
            }
        }
        assert_eq!(tags.len(), 4000);
        // With 4096 entries and 4000 random tags, about 2,550 entries get one tag or more.
        assert!(entries.len() > 2400, "{}", entries.len());
        assert_ne!(
            tag(address(1), address(2), 7),
            tag(address(2), address(1), 7)
        );
    }

    #[test]
    fn each_time_is_in_the_bucket_whose_ends_it_lies_between() {
        let mut times: Vec<u64> = (0..40)
            .flat_map(|bits| {
                let power = 1_u64 << bits;
                [power - 1, power, power + power / 2, power + power / 2 - 1]
            })
            .collect();
        times.push(u64::MAX);
        for ns in times {
            let bucket = bucket(ns);
            assert!(bucket < BUCKETS);
            assert!(bucket_end_ns(bucket).is_none_or(|end| ns < end), "{ns}");
            let begin = bucket.checked_sub(1).and_then(bucket_end_ns).unwrap_or(0);
            assert!(begin <= ns, "{ns} in {bucket}, which begins at {begin}");
        }
        assert_eq!(bucket_end_ns(0), Some(1024));
        assert_eq!(bucket_end_ns(BUCKETS - 2), Some(1 << 33));
        assert_eq!(bucket_end_ns(BUCKETS - 1), None);
        assert!((1..BUCKETS - 1).all(|b| bucket_end_ns(b - 1) <= bucket_end_ns(b)));
    }
}
