//! Echo requests from outside and the replies to them, paired: the proof that a tunnel answers.
//!
//! A request is remembered in one of [`PLACES`] places, which its [`tag`] chooses; the reply with the
//! same tag takes it out again. No lock and no search: a flood of requests costs memory that is there
//! anyway, and at worst drives out what had not been answered, which is counted.

use bytemuck::{Pod, Zeroable};

use crate::address::Address;

/// Requests remembered at a time; a power of two.
pub const PLACES: u32 = 4096;

/// A request that is not answered within this time may be driven out, or come again, as if it were
/// none any more.
pub const PATIENCE_NS: u64 = 10_000_000_000;

/// A request that waits for its reply. Processors may race for it: then one of two requests with the
/// same place is driven out without being counted so.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Pending {
    /// Which request; 0 for none.
    pub tag: u64,
    /// When it came, in nanoseconds of CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Slot of the tunnel that it came by.
    pub slot: u32,
    /// 1: `at_ns` is exact, and the time of the reply is wanted; 0: `at_ns` is that of the last tick.
    pub is_timed: u32,
}

const _: () = assert!(size_of::<Pending>() == 24);

/// What became of a request when it was remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// It is waited for.
    New,
    /// It is waited for, and one of the tunnel in this slot no more, which had its place.
    Instead(u32),
    /// It was waited for already: the same request came twice.
    Again,
}

impl Pending {
    /// Remembers a request here, which came at the last tick.
    #[inline(always)]
    pub fn watch(&mut self, tag: u64, slot: u32, tick_ns: u64) -> Watched {
        // What came since the last tick came after it.
        let waits = self.tag != 0 && self.at_ns.wrapping_add(PATIENCE_NS) > tick_ns;
        let watched = match waits {
            true if self.tag == tag => return Watched::Again,
            true => Watched::Instead(self.slot),
            false => Watched::New,
        };
        self.tag = tag;
        self.at_ns = tick_ns;
        self.slot = slot;
        self.is_timed = 0;
        watched
    }

    /// The request came at this time exactly, and how long its reply takes is of interest.
    #[inline(always)]
    pub fn time(&mut self, now_ns: u64) {
        self.at_ns = now_ns;
        self.is_timed = 1;
    }

    /// Takes a request out whose reply has come; false: it is another's place.
    #[inline(always)]
    pub fn answer(&mut self, tag: u64) -> bool {
        let is_answer = self.tag == tag;
        if is_answer {
            self.tag = 0;
        }
        is_answer
    }
}

/// What a request and its reply have in common, as one number that is not 0: our address, the other
/// one, and the message's identifier and sequence number (RFC 4443 §4.1), as they stand in it.
#[inline(always)]
#[must_use]
pub const fn tag(local: Address, remote: Address, message: u32) -> u64 {
    // 2^64 divided by the golden ratio, as in `Address::place_among`.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    // Powers of it; a processor multiplies by several at a time.
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

/// The place of a tag.
#[inline(always)]
#[must_use]
pub const fn place(tag: u64) -> u32 {
    let highest = (tag >> 32) as u32;
    highest >> (u32::BITS - PLACES.ilog2())
}

/// How long replies took, of one tunnel and on one processor, to requests that were timed
/// ([`Pending::is_timed`]): numbers of replies by [`bucket`], and the sum of all times.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Times {
    /// Replies, by bucket; those from [`BUCKETS`] on are 0.
    pub replies: [u64; 63],
    /// All times together, in nanoseconds.
    pub sum_ns: u64,
}

/// Buckets in use: two for each doubling of the time from about 1 µs to 8.6 s, one for what is shorter
/// and one for what is longer.
pub const BUCKETS: usize = 48;

impl Times {
    /// Nothing.
    pub const NONE: Self = Self {
        replies: [0; 63],
        sum_ns: 0,
    };
}

/// The bucket of a time.
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

/// The time that all of a bucket's are below, in nanoseconds; `None` for the last, which has no end.
#[must_use]
pub const fn bucket_end_ns(bucket: usize) -> Option<u64> {
    if bucket + 1 >= BUCKETS {
        return None;
    }
    if bucket == 0 {
        return Some(1 << 10);
    }
    let (octave, half) = ((bucket - 1) / 2, (bucket - 1) % 2);
    // Of the first octave, one unit long, there is no upper half.
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
    fn a_reply_takes_its_request_out_once() {
        let tag = tag(address(1), address(2), 7);
        let mut place = Pending::default();
        assert!(!place.answer(tag));
        assert_eq!(place.watch(tag, 3, 100), Watched::New);
        place.time(105);
        // The last tick was before that.
        assert_eq!(place.watch(tag, 3, 100), Watched::Again);
        assert!(!place.answer(tag ^ 2));
        assert_eq!((place.at_ns, place.slot, place.is_timed), (105, 3, 1));
        assert!(place.answer(tag));
        assert!(!place.answer(tag));
        assert_eq!(place.watch(tag, 3, 200), Watched::New);
        assert_eq!((place.at_ns, place.is_timed), (200, 0));
    }

    #[test]
    fn who_is_driven_out_is_told_unless_nobody_waits_for_it_any_more() {
        let [one, two] = [1, 2].map(|message| tag(address(1), address(2), message));
        let mut place = Pending::default();
        assert_eq!(place.watch(one, 3, 100), Watched::New);
        assert_eq!(place.watch(two, 4, 200), Watched::Instead(3));
        assert_eq!(place.watch(one, 3, 200 + PATIENCE_NS), Watched::New);
        assert_eq!(place.watch(one, 3, 200 + 2 * PATIENCE_NS), Watched::New);
    }

    #[test]
    fn tags_differ_and_spread() {
        let mut tags = BTreeSet::new();
        let mut places = BTreeSet::new();
        for message in 0..1000 {
            for last in 0..4 {
                let tag = tag(address(1), address(last), message);
                assert_ne!(tag, 0);
                assert!(place(tag) < PLACES);
                tags.insert(tag);
                places.insert(place(tag));
            }
        }
        assert_eq!(tags.len(), 4000);
        // 4096 places, 4000 balls: chance leaves some 2,550 of them with one or more.
        assert!(places.len() > 2400, "{}", places.len());
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
