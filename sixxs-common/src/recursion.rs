//! Recursive routing: a tunnel's own outer packets have the tunnel's address, and so would go into the very
//! tunnel that they carry, each round longer by the headers of one more.
//!
//! What tells them from all others is seen where they enter the tunnel, whoever led them there:
//!
//! * *nested*: behind the headers of its encapsulation the packet holds, perhaps through further tunnels,
//!   a packet between the very same addresses. That is proof, and is found in the second round;
//! * *growth*: where the inside cannot be read, the longest packet of the flow grows by exactly the same
//!   number of bytes [`ROUNDS`] times, at once after each other.
//!
//! What was found holds for the flow for a while, so that none of its packets goes round meanwhile.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::Address,
    layout::SLOTS,
    packet::{self, FRAGMENT, ICMPV6, IPV6_HEADER_BYTES, Ipv6, Packet, TCP, UDP},
};

/// IPv6 in IPv6 (RFC 2473).
const IPV6: u8 = 41;
/// Generic Routing Encapsulation (RFC 2784).
const GRE: u8 = 47;

/// Packets within packets that are looked at: as many tunnels in a ring are told apart.
const DEPTH: u32 = 2;

/// Flows watched at a time for each tunnel: a power of two.
const PLACES: u32 = 8;

/// Entries of the table of [`Growth`].
pub const GROWTHS: u32 = SLOTS * PLACES;

/// Equal steps in a row that prove growth.
pub const ROUNDS: u32 = 5;

/// What a round adds, in bytes: at least a header of IPv6, at most those of a ring of tunnels.
const STEPS: core::ops::RangeInclusive<u32> = IPV6_HEADER_BYTES..=400;

/// Growth counts within this time.
const WINDOW_NS: u64 = 1_000_000_000;

/// For how long a flow is taken for outer packets.
const HOLDS_NS: u64 = 60_000_000_000;

/// For how long a flow is watched no more of which it turned out that it is none.
const ACQUITTED_NS: u64 = 60_000_000_000;

/// Whether packets of this protocol may be outer packets. What asks for answers makes no storm: a TCP
/// connection that goes round is never opened.
#[inline(always)]
#[must_use]
pub const fn may_carry(next_header: u8) -> bool {
    !matches!(next_header, TCP | ICMPV6)
}

/// Whether a packet holds a packet between the same addresses.
#[inline(always)]
pub fn is_nested<P: Packet + ?Sized>(packet: &P, outer: &Ipv6) -> bool {
    let mut header = *outer;
    let mut depth = 0;
    while depth < DEPTH {
        let Some(inner) = inside(packet, &header) else {
            return false;
        };
        let is_same =
            inner.source.difference(outer.source) | inner.destination.difference(outer.destination);
        if is_same == 0 {
            return true;
        }
        header = inner;
        depth += 1;
    }
    false
}

/// The IPv6 packet that another one carries, up to its end.
#[inline(always)]
fn inside<P: Packet + ?Sized>(packet: &P, outer: &Ipv6) -> Option<Ipv6> {
    let mut start = outer.offset + IPV6_HEADER_BYTES;
    let end = start + u32::from(outer.payload_bytes);
    // An outer packet that is too long for the way leaves in fragments, of which the first one tells.
    let is_fragment = outer.next_header == FRAGMENT;
    let mut next_header = outer.next_header;
    if is_fragment {
        let [next, _, high, low] = packet.peek(start)?;
        if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
            return None;
        }
        next_header = next;
        start += 8;
    }
    // What may stand between: nothing; GTP, GUE, VXLAN-GPE, Teredo; AYIYA with a signature.
    let (first, others): (u32, [u32; 2]) = match next_header {
        UDP => (8, [16, 8 + 44]),
        GRE => (4, [8, 12]),
        IPV6 => (0, [0, 0]),
        _ => return None,
    };
    let at = |offset: u32| {
        let inner = packet::ipv6_at(packet, offset)?;
        let its_end = offset + IPV6_HEADER_BYTES + u32::from(inner.payload_bytes);
        (its_end == end || (is_fragment && its_end > end)).then_some(inner)
    };
    let [second, third] = others;
    at(start + first)
        .or_else(|| at(start + second))
        .or_else(|| at(start + third))
}

/// Which flow a packet belongs to, in a word: where there are no ports, all between two addresses.
#[inline(always)]
#[must_use]
pub const fn key(source: Address, destination: Address, next_header: u8, ports: u32) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let [a, b] = source.words();
    let [c, d] = destination.words();
    let mixed = (a ^ b.rotate_left(17)).wrapping_mul(GOLDEN) ^ c;
    let mixed = (mixed ^ d.rotate_left(31)).wrapping_mul(GOLDEN);
    let ends = ((next_header as u64) << 32) | ports as u64;
    (mixed ^ mixed >> 29 ^ ends).wrapping_mul(GOLDEN)
}

/// Where in the table a flow into the tunnel in `slot` is watched.
#[inline(always)]
#[must_use]
pub const fn place(slot: u32, key: u64) -> u32 {
    (slot.wrapping_mul(PLACES) + (key >> 61) as u32) % GROWTHS
}

const _: () = assert!(PLACES == 8); // three bits of the key

/// What is known of a flow into a tunnel. Processors may race for it: then a round more is needed, or less.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Growth {
    /// [`key`] of the flow; another one takes the place over.
    pub key: u64,
    /// When it was first seen, in nanoseconds of CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// Until when it is taken for outer packets, or was acquitted of it.
    pub until_ns: u64,
    /// Packets of others that had entered the tunnel when it was found.
    pub others: u64,
    /// Its longest packet, in bytes.
    pub longest: u32,
    /// By how much that was longer than the one before.
    pub step: u32,
    /// How often in a row it was that.
    pub rounds: u32,
    /// Packets of it that passed before it was found.
    pub passed: u32,
    /// Packets of it that were dropped since; 0: it was not found.
    pub dropped: u32,
    /// 1: it was found nested, and so needs no further proof.
    pub is_proved: u32,
}

/// What is to be done with a packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing is known against it.
    Passes,
    /// It is an outer packet: drop it.
    Recursion,
}

impl Growth {
    /// What is known of a packet already; `others` counts packets of others that entered the tunnel, and is
    /// asked seldom. `None`: nothing.
    ///
    /// Growth alone may be chance. But outer packets do not come by themselves: since the flow is kept out of
    /// the tunnel, each of them is caused by a packet of others, or by one that was under way before. When
    /// there are more than these, or the flow grows on, it is none that the tunnel makes.
    #[inline(always)]
    pub fn known(
        &mut self,
        key: u64,
        bytes: u32,
        now_ns: u64,
        others: impl Fn() -> u64,
    ) -> Option<Found> {
        if self.key != key || now_ns >= self.until_ns {
            return None;
        }
        if self.dropped == 0 {
            return Some(Found::Passes);
        }
        self.dropped = self.dropped.wrapping_add(1).max(1);
        if self.is_proved == 0 {
            let grows_on = bytes == self.longest.wrapping_add(self.step);
            let comes_by_itself = || {
                let caused = others().wrapping_sub(self.others) + u64::from(self.passed);
                u64::from(self.dropped) > caused + 1
            };
            if grows_on || (self.dropped.is_power_of_two() && comes_by_itself()) {
                self.dropped = 0;
                self.until_ns = now_ns + ACQUITTED_NS;
                return Some(Found::Passes);
            }
        }
        Some(Found::Recursion)
    }

    /// The flow is one of outer packets.
    #[inline(always)]
    pub fn convict(&mut self, key: u64, is_proved: bool, now_ns: u64, others: u64) {
        self.key = key;
        self.until_ns = now_ns + HOLDS_NS;
        self.others = others;
        self.dropped = 1;
        self.is_proved = is_proved as u32;
    }

    /// Takes a packet of so many bytes into account; whether the flow has grown as outer packets do. A flow
    /// that something is known of keeps its place.
    #[inline(always)]
    pub fn grows(&mut self, key: u64, bytes: u32, now_ns: u64) -> bool {
        if self.key != key || now_ns.wrapping_sub(self.since_ns) > WINDOW_NS {
            if now_ns < self.until_ns {
                return false;
            }
            *self = Self {
                key,
                since_ns: now_ns,
                longest: bytes,
                passed: 1,
                ..Self::default()
            };
            return false;
        }
        self.passed = self.passed.wrapping_add(1);
        if bytes <= self.longest {
            return false;
        }
        let step = bytes - self.longest;
        self.longest = bytes;
        if step != self.step {
            self.step = step;
            self.rounds = 0;
        }
        if !STEPS.contains(&step) {
            return false;
        }
        self.rounds += 1;
        self.rounds >= ROUNDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: &str = "2001:db8:a::2";
    const ENDPOINT: &str = "2001:db8:c0::1";

    fn octets(text: &str) -> [u8; 16] {
        text.parse::<core::net::Ipv6Addr>().unwrap().octets()
    }

    fn packet(from: &str, to: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend([next_header, 64]);
        bytes.extend(octets(from));
        bytes.extend(octets(to));
        bytes.extend(payload);
        bytes
    }

    /// A packet in an encapsulation with so many bytes before it.
    fn around(to: &str, from: &str, next_header: u8, head: usize, inner: &[u8]) -> Vec<u8> {
        packet(from, to, next_header, &[&vec![1; head][..], inner].concat())
    }

    fn nested(bytes: &[u8]) -> bool {
        is_nested(bytes, &packet::ipv6(bytes, 0).unwrap())
    }

    #[test]
    fn outer_packets_of_outer_packets_are_known() {
        let ping = packet(
            OURS,
            "2001:db8:ffff::9",
            ICMPV6,
            &[128, 0, 0, 0, 0, 0, 0, 1],
        );
        for (name, next_header, head) in [
            ("UDP", UDP, 8),
            ("UDP and a header", UDP, 16),
            ("AYIYA", UDP, 52),
            ("GRE", GRE, 4),
            ("GRE with a key", GRE, 8),
            ("IPv6 in IPv6", IPV6, 0),
        ] {
            let once = around(ENDPOINT, OURS, next_header, head, &ping);
            assert!(
                !nested(&once),
                "{name}: a packet that is carried for the first time"
            );
            let twice = around(ENDPOINT, OURS, next_header, head, &once);
            assert!(nested(&twice), "{name}");
            // By another tunnel, which is carried by this one.
            let by = around("2001:db8:c0::2", "2001:db8:b::2", UDP, 8, &once);
            assert!(!nested(&by), "{name}: two tunnels");
            let round = around(ENDPOINT, OURS, next_header, head, &by);
            assert!(nested(&round), "{name}: a ring of two");
            // Cut into fragments.
            let long = around(
                ENDPOINT,
                OURS,
                next_header,
                head,
                &packet(ENDPOINT, OURS, UDP, &[0; 1200]),
            );
            let long = around(
                ENDPOINT,
                OURS,
                next_header,
                head,
                &around(ENDPOINT, OURS, next_header, head, &long),
            );
            let fragment = |offset: u16, bytes: &[u8]| {
                let [high, low] = (offset | 1).to_be_bytes();
                let fragment = [&[next_header, 0, high, low, 0, 0, 0, 7][..], bytes].concat();
                packet(OURS, ENDPOINT, 44, &fragment)
            };
            assert!(nested(&fragment(0, &long[40..1240])), "{name}");
            assert!(!nested(&fragment(1200, &long[40..1240])), "{name}");
            // Bytes that look like one and end elsewhere.
            let mut shorter = once.clone();
            shorter.pop();
            let length = u16::try_from(shorter.len() - 40).unwrap().to_be_bytes();
            shorter[4..6].copy_from_slice(&length);
            let other = around(ENDPOINT, OURS, UDP, 9, &shorter);
            assert!(!nested(&other), "{name}: no header there");
        }
        // A user's own tunnel through ours, for the same far end or another.
        let users = around(ENDPOINT, OURS, UDP, 8, &ping);
        assert!(!nested(&around("2001:db8:c0::9", OURS, UDP, 8, &users)));
    }

    fn grows(sizes: impl IntoIterator<Item = u32>) -> bool {
        let mut growth = Growth::default();
        sizes.into_iter().any(|size| growth.grows(7, size, 1000))
    }

    #[test]
    fn only_equal_steps_are_growth() {
        let rounds = |step: usize| (152..1280).step_by(step);
        for (name, sizes, expected) in [
            ("one ping in UDP", rounds(48).collect::<Vec<u32>>(), true),
            ("one ping in WireGuard", rounds(80).collect(), true),
            (
                "many at a time",
                rounds(48).flat_map(|size| [size; 9]).collect(),
                true,
            ),
            (
                "many, and others that are shorter",
                rounds(48).flat_map(|size| [size, 120, size, 97]).collect(),
                true,
            ),
            ("all of one length", vec![1200; 100], false),
            ("two lengths", [100, 180].repeat(50), false),
            ("smaller than a header", rounds(39).collect(), false),
            (
                "datagrams of a thousand each",
                (1..9).map(|n| n * 1000).collect(),
                false,
            ),
            (
                "not quite",
                vec![100, 148, 197, 245, 294, 342, 391, 439, 488],
                false,
            ),
            (
                "a search for the path MTU",
                vec![1280, 1380, 1430, 1455, 1467, 1473],
                false,
            ),
        ] {
            assert_eq!(grows(sizes), expected, "{name}");
        }
    }

    #[test]
    fn growth_is_of_one_flow_and_of_one_second() {
        let mut growth = Growth::default();
        for (number, size) in (100..1280).step_by(48).enumerate() {
            assert!(!growth.grows(number as u64 % 2 + 1, size, 1000));
        }
        for (second, size) in (1..).zip((100..1280).step_by(48)) {
            assert!(!growth.grows(7, size, second * 1_100_000_000));
        }
    }

    #[test]
    fn who_comes_by_himself_is_acquitted() {
        let second = 1_000_000_000;
        let mut growth = Growth {
            passed: 5,
            longest: 392,
            step: 48,
            ..Growth::default()
        };
        let none = || 100;
        assert_eq!(growth.known(7, 152, second, none), None);
        growth.convict(7, false, second, 100);
        assert_eq!(growth.known(8, 152, second, none), None, "another flow");
        // As many as were under way; then one for each packet of others.
        let mut held = growth;
        for number in 0..1000 {
            let others = || 100 + number;
            assert_eq!(held.known(7, 152, second, others), Some(Found::Recursion));
        }
        assert_eq!(held.known(7, 152, 62 * second, none), None, "long ago");
        // More than that.
        let mut alone = growth;
        let dropped =
            (0..100).take_while(|_| alone.known(7, 152, second, none) == Some(Found::Recursion));
        assert!(dropped.count() < 8);
        assert_eq!(alone.known(7, 152, second, none), Some(Found::Passes));
        // It grows on.
        assert_eq!(
            growth.clone().known(7, 440, second, none),
            Some(Found::Passes)
        );
        // What was found nested is no chance.
        growth.convict(7, true, second, 100);
        assert!((0..100).all(|_| growth.known(7, 440, second, none) == Some(Found::Recursion)));
        // Nobody else takes the place meanwhile.
        assert!(!growth.grows(9, 100, 2 * second) && growth.key == 7);
    }

    proptest! {
        /// Whatever the bytes: no panic.
        #[test]
        fn any_bytes_are_safe(payload in proptest::collection::vec(any::<u8>(), 0..300), header: u8) {
            let _found = nested(&packet(OURS, ENDPOINT, header, &payload));
        }

        /// Packets of random lengths are no growth.
        #[test]
        fn random_lengths_are_no_growth(sizes in proptest::collection::vec(48u32..1280, 0..2000)) {
            prop_assert!(!grows(sizes));
        }

        #[test]
        fn places_are_in_the_table(slot in 0..SLOTS, key: u64) {
            prop_assert!(place(slot, key) / PLACES == slot);
        }
    }
}
