//! Recursive routing: a tunnel's own outer packets have the tunnel's address as source, and so would enter
//! the same tunnel. In each round they grow by the headers of one encapsulation.
//!
//! Three criteria at the tunnel's entrance distinguish them from all other packets, however they were routed
//! there:
//!
//! * *known*: they go to the tunnel's endpoint, if that is known with its protocol and port.
//! * *nested*: after the headers of its encapsulation, the packet contains, possibly through further tunnels,
//!   a packet between the same two addresses. This is proof, and appears in the second round.
//! * *growth*: if the inner packet cannot be read, the longest packet of the flow grows [`EQUAL_STEPS`] times in a
//!   row by exactly the same number of bytes.
//!
//! The result applies to the whole flow for a while, so that no packet of it recurses in that time.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::Address,
    layout::SLOTS,
    packet::{self, FRAGMENT, GRE, ICMPV6, IPV6_HEADER_BYTES, Ipv6, Packet, TCP, UDP},
    six_in_four::PROTOCOL as IPV6,
};

/// Maximum number of nested packets to inspect: a ring of this many tunnels is detected.
const DEPTH: u32 = 2;

/// Number of flows tracked at a time for each tunnel: a power of two.
const FLOWS_PER_TUNNEL: u32 = 8;

/// Entries of the table of [`Growth`].
pub const GROWTHS: u32 = SLOTS * FLOWS_PER_TUNNEL;

/// Number of equal steps in a row after which a flow counts as outer packets.
pub const EQUAL_STEPS: u32 = 5;

/// Bytes that one round adds: at least an IPv6 header, at most the headers of a ring of tunnels.
const STEPS: core::ops::RangeInclusive<u32> = IPV6_HEADER_BYTES..=400;

/// All steps of growth must be within this time.
const WINDOW_NS: u64 = 1_000_000_000;

/// Time for which a flow is treated as outer packets.
const RECURSIVE_NS: u64 = 60_000_000_000;

/// A flow that turned out not to be outer packets is not examined again for this time.
const CLEARED_NS: u64 = 60_000_000_000;

/// Whether packets of this protocol may be outer packets. Protocols that wait for answers cause no storm: a
/// TCP connection that recurses is never established.
#[inline(always)]
#[must_use]
pub const fn may_carry(next_header: u8) -> bool {
    !matches!(next_header, TCP | ICMPV6)
}

/// Whether a packet contains a packet between the same addresses.
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

/// The IPv6 packet that another one carries. It must extend to the end of the outer packet.
#[inline(always)]
fn inside<P: Packet + ?Sized>(packet: &P, outer: &Ipv6) -> Option<Ipv6> {
    let mut start = outer.offset + IPV6_HEADER_BYTES;
    let end = start + u32::from(outer.payload_bytes);
    // An outer packet above the path MTU leaves in fragments. Only the first fragment has the headers.
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
    // Bytes between outer and inner header: none; GTP, GUE, VXLAN-GPE, Teredo; AYIYA with a signature.
    let (first, others): (u32, [u32; 2]) = match next_header {
        UDP => (8, [16, 8 + 44]),
        GRE => (4, [8, 12]),
        IPV6 => (0, [0, 0]),
        _ => return None,
    };
    // The length nearly always rules an offset out, at the cost of one read.
    let at = |offset: u32| {
        let [first, _, _, _, high, low]: [u8; 6] = packet.load(offset)?;
        let payload_bytes = u32::from(u16::from_be_bytes([high, low]));
        let its_end = offset + IPV6_HEADER_BYTES + payload_bytes;
        let fits = its_end == end || (is_fragment && its_end > end);
        if first >> 4 != 6 || !fits {
            return None;
        }
        packet::ipv6_at(packet, offset)
    };
    let [second, third] = others;
    at(start + first)
        .or_else(|| at(start + second))
        .or_else(|| at(start + third))
}

/// Identifies a flow by one word; without ports, all packets between two addresses are one flow.
#[inline(always)]
#[must_use]
pub const fn key(source: Address, destination: Address, next_header: u8, ports: u32) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let [a, b] = source.words();
    let [c, d] = destination.words();
    // The first word is spread before the second is added, so that no bit of one undoes a bit of the other.
    let source = a.wrapping_mul(GOLDEN) ^ b.rotate_left(17);
    let destination = c.wrapping_mul(GOLDEN) ^ d.rotate_left(31);
    let mixed = (source.wrapping_mul(GOLDEN) ^ destination).wrapping_mul(GOLDEN);
    let ends = ((next_header as u64) << 32) | ports as u64;
    (mixed ^ mixed >> 29 ^ ends).wrapping_mul(GOLDEN)
}

/// The entry in the table for a flow into the tunnel in `slot`.
#[inline(always)]
#[must_use]
pub const fn entry_index(slot: u32, key: u64) -> u32 {
    (slot.wrapping_mul(FLOWS_PER_TUNNEL) + (key >> 61) as u32) % GROWTHS
}

const _: () = assert!(FLOWS_PER_TUNNEL == 8); // three bits of the key

/// State of a flow into a tunnel. Processors may race for it; then detection needs a round more or less.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Growth {
    /// [`key`] of the flow. Another flow may replace it.
    pub key: u64,
    /// Time of its first packet, in nanoseconds of CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// Time until which the verdict is valid: it is treated as outer packets, or passes unexamined.
    pub until_ns: u64,
    /// Number of packets of other flows that had entered the tunnel at detection.
    pub others: u64,
    /// Its longest packet, in bytes.
    pub longest: u32,
    /// Difference between the longest packet and the longest one before it, in bytes.
    pub step: u32,
    /// Number of times in a row that `step` was the same.
    pub equal_steps: u32,
    /// Packets of the flow that passed before detection.
    pub passed: u32,
    /// Packets of the flow that were dropped since detection; 0: not detected.
    pub dropped: u32,
    /// 1: detected by nesting or by the known endpoint, which needs no further proof.
    pub is_proved: u32,
}

/// The verdict on a packet of a flow that was examined before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowVerdict {
    /// The packet passes.
    Passes,
    /// It is an outer packet: drop it.
    Recursion,
}

impl Growth {
    /// The verdict on a packet of a flow that was examined before; `None`: unknown flow. `others` counts the
    /// packets of other flows that entered the tunnel; it is called rarely. `now_ns` reads the clock.
    ///
    /// Growth alone may be a coincidence. But outer packets do not occur on their own. While the flow is kept
    /// out of the tunnel, each outer packet is caused by a packet of another flow, or by one already in
    /// transit. If there are more packets than these, or if the flow continues to grow, the tunnel is not
    /// their origin.
    #[inline(always)]
    pub fn known_verdict(
        &mut self,
        key: u64,
        bytes: u32,
        now_ns: impl Fn() -> u64,
        others: impl Fn() -> u64,
    ) -> Option<FlowVerdict> {
        if self.key != key {
            return None;
        }
        let now_ns = now_ns();
        if now_ns >= self.until_ns {
            return None;
        }
        if self.dropped == 0 {
            return Some(FlowVerdict::Passes);
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
                self.until_ns = now_ns + CLEARED_NS;
                return Some(FlowVerdict::Passes);
            }
        }
        Some(FlowVerdict::Recursion)
    }

    /// Marks the flow as outer packets.
    #[inline(always)]
    pub fn mark_recursive(&mut self, key: u64, is_proved: bool, now_ns: u64, others: u64) {
        self.key = key;
        self.until_ns = now_ns + RECURSIVE_NS;
        self.others = others;
        self.dropped = 1;
        self.is_proved = is_proved as u32;
    }

    /// Records a packet of `bytes` bytes. Returns whether the flow has grown like outer packets do. A flow
    /// with a valid result keeps its entry.
    #[inline(always)]
    pub fn record_growth(&mut self, key: u64, bytes: u32, now_ns: u64) -> bool {
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
            self.equal_steps = 0;
        }
        if !STEPS.contains(&step) {
            return false;
        }
        self.equal_steps += 1;
        self.equal_steps >= EQUAL_STEPS
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

    /// A packet inside an encapsulation with `head` bytes before it.
    fn around(to: &str, from: &str, next_header: u8, head: usize, inner: &[u8]) -> Vec<u8> {
        packet(from, to, next_header, &[&vec![1; head][..], inner].concat())
    }

    fn nested(bytes: &[u8]) -> bool {
        is_nested(bytes, &packet::ipv6(bytes, 0).unwrap())
    }

    #[test]
    fn recursive_outer_packets_are_recognised() {
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
            // Through another tunnel, which this one carries.
            let by = around("2001:db8:c0::2", "2001:db8:b::2", UDP, 8, &once);
            assert!(!nested(&by), "{name}: two tunnels");
            let round = around(ENDPOINT, OURS, next_header, head, &by);
            assert!(nested(&round), "{name}: a ring of two");
            // Fragmented.
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
            // Bytes that look like an inner packet but do not extend to the end.
            let mut shorter = once.clone();
            shorter.pop();
            let length = u16::try_from(shorter.len() - 40).unwrap().to_be_bytes();
            shorter[4..6].copy_from_slice(&length);
            let other = around(ENDPOINT, OURS, UDP, 9, &shorter);
            assert!(!nested(&other), "{name}: no header there");
        }
        // A user's own tunnel through this one, to the same endpoint or another.
        let users = around(ENDPOINT, OURS, UDP, 8, &ping);
        assert!(!nested(&around("2001:db8:c0::9", OURS, UDP, 8, &users)));
    }

    fn record_growth(sizes: impl IntoIterator<Item = u32>) -> bool {
        let mut growth = Growth::default();
        sizes
            .into_iter()
            .any(|size| growth.record_growth(7, size, 1000))
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
            assert_eq!(record_growth(sizes), expected, "{name}");
        }
    }

    #[test]
    fn growth_is_of_one_flow_and_of_one_second() {
        let mut growth = Growth::default();
        for (number, size) in (100..1280).step_by(48).enumerate() {
            assert!(!growth.record_growth(number as u64 % 2 + 1, size, 1000));
        }
        for (second, size) in (1..).zip((100..1280).step_by(48)) {
            assert!(!growth.record_growth(7, size, second * 1_100_000_000));
        }
    }

    #[test]
    fn a_flow_with_more_packets_than_the_tunnel_causes_is_cleared() {
        let second = 1_000_000_000;
        let mut growth = Growth {
            passed: 5,
            longest: 392,
            step: 48,
            ..Growth::default()
        };
        let none = || 100;
        assert_eq!(growth.known_verdict(7, 152, || second, none), None);
        growth.mark_recursive(7, false, second, 100);
        assert_eq!(
            growth.known_verdict(8, 152, || second, none),
            None,
            "another flow"
        );
        // The packets in transit, then one for each packet of other flows.
        let mut held = growth;
        for number in 0..1000 {
            let others = || 100 + number;
            assert_eq!(
                held.known_verdict(7, 152, || second, others),
                Some(FlowVerdict::Recursion)
            );
        }
        assert_eq!(
            held.known_verdict(7, 152, || 62 * second, none),
            None,
            "long ago"
        );
        // More than that.
        let mut alone = growth;
        let dropped = (0..100).take_while(|_| {
            alone.known_verdict(7, 152, || second, none) == Some(FlowVerdict::Recursion)
        });
        assert!(dropped.count() < 8);
        assert_eq!(
            alone.known_verdict(7, 152, || second, none),
            Some(FlowVerdict::Passes)
        );
        // The flow continues to grow.
        assert_eq!(
            growth.clone().known_verdict(7, 440, || second, none),
            Some(FlowVerdict::Passes)
        );
        // A flow detected by nesting is never cleared.
        growth.mark_recursive(7, true, second, 100);
        assert!(
            (0..100)
                .all(|_| growth.known_verdict(7, 440, || second, none)
                    == Some(FlowVerdict::Recursion))
        );
        // No other flow takes the entry in that time.
        assert!(!growth.record_growth(9, 100, 2 * second) && growth.key == 7);
    }

    #[test]
    fn what_waits_for_answers_carries_nothing() {
        for (protocol, expected) in [(TCP, false), (ICMPV6, false), (UDP, true), (GRE, true)] {
            assert_eq!(may_carry(protocol), expected, "{protocol}");
        }
    }

    /// A bit that did not count would make two flows one.
    #[test]
    fn keys_differ_in_each_field_and_spread() {
        let mut places = [0; FLOWS_PER_TUNNEL as usize];
        for field in 0..6 {
            let mut keys = std::collections::BTreeSet::new();
            let changes = (0..64).map(|bit| 1_u64 << bit).chain([0]);
            for change in changes {
                let mut words = [0x2001_0db8, 7, 0x2001_0db9, 9, 17, 0x1234_5678];
                words[field] ^= change;
                let [a, b, c, d, protocol, ports] = words;
                let (Ok(protocol), Ok(ports)) = (u8::try_from(protocol), u32::try_from(ports))
                else {
                    continue;
                };
                let [source, destination] = [[a, b], [c, d]].map(Address::from_words);
                let key = key(source, destination, protocol, ports);
                assert!(keys.insert(key), "{field} {change:#x}");
                places[entry_index(0, key) as usize] += 1;
            }
        }
        // 38 flows at each place would be even.
        assert!(
            places.iter().all(|count| (15..75).contains(count)),
            "{places:?}"
        );
        // Nor do two bits undo each other.
        let mut pairs = std::collections::BTreeSet::new();
        for (high, low) in (0..48).flat_map(|high| (0..48).map(move |low| (high, low))) {
            let changed = Address::from_words([7 ^ 1 << high, 9 ^ 1 << low]);
            let same = Address::from_words([7, 9]);
            assert!(pairs.insert(key(changed, same, UDP, 0)), "{high} {low}");
            assert!(pairs.insert(key(same, changed, UDP, 0)), "{high} {low}");
        }
        let ends = [[1, 2], [3, 4]].map(Address::from_words);
        let [there, back] = [(0, 1), (1, 0)].map(|(from, to)| key(ends[from], ends[to], UDP, 0));
        assert_ne!(there, back);
    }

    /// Both ends have to be the same, also if they differ by the same bit.
    #[test]
    fn packets_of_neighbours_are_no_outer_packets() {
        for (from, to, expected) in [
            (OURS, ENDPOINT, true),
            ("2001:db8:a::3", ENDPOINT, false),
            (OURS, "2001:db8:c0::", false),
            ("2001:db8:a::3", "2001:db8:c0::", false),
            (ENDPOINT, OURS, false),
        ] {
            let inner = packet(from, to, UDP, &[0; 8]);
            let outer = around(ENDPOINT, OURS, UDP, 8, &inner);
            assert_eq!(nested(&outer), expected, "{from} to {to}");
        }
    }

    #[test]
    fn only_so_many_packets_are_looked_into() {
        let mut bytes = packet(OURS, ENDPOINT, UDP, &[0; 8]);
        for depth in 1..=4 {
            // Rings of this many tunnels, of which the packet crosses the first one again.
            let ring = around(ENDPOINT, OURS, UDP, 8, &bytes);
            assert_eq!(nested(&ring), depth <= 2, "{depth}");
            let other = format!("2001:db8:b::{depth}");
            bytes = around(ENDPOINT, &other, UDP, 8, &bytes);
        }
    }

    /// The growth of a flow is proved at the fifth equal step.
    #[test]
    fn the_fifth_equal_step_is_the_proof() {
        for (step, expected) in [(39, None), (40, Some(5)), (400, Some(5)), (401, None)] {
            let mut growth = Growth::default();
            let proof = (0..20).position(|round| growth.record_growth(7, 100 + round * step, 1000));
            assert_eq!(proof, expected, "{step}");
        }
    }

    #[test]
    fn growth_has_a_second_from_its_first_packet() {
        const SECOND: u64 = 1_000_000_000;
        for (last, expected) in [(SECOND, true), (SECOND + 1, false)] {
            let mut growth = Growth::default();
            let mut found = false;
            for (round, size) in (0..=6).zip((100..).step_by(48)) {
                let now = 1000 + if round == 6 { last } else { round };
                found = growth.record_growth(7, size, now);
            }
            assert_eq!(found, expected, "{last}");
        }
        // Packets of the flow that entered the tunnel are counted.
        let mut growth = Growth::default();
        for size in [100, 100, 90, 148] {
            growth.record_growth(7, size, 1000);
        }
        let Growth {
            passed,
            longest,
            step,
            equal_steps: rounds,
            ..
        } = growth;
        assert_eq!((passed, longest, step, rounds), (4, 148, 48, 1));
    }

    #[test]
    fn a_verdict_holds_for_a_minute() {
        const MINUTE: u64 = 60_000_000_000;
        let begin = 5_000_000_000;
        let mut growth = Growth {
            longest: 200,
            step: 48,
            ..Growth::default()
        };
        growth.mark_recursive(7, false, begin, 100);
        let mut held = growth;
        let recursion = Some(FlowVerdict::Recursion);
        assert_eq!(
            held.known_verdict(7, 152, || begin + MINUTE - 1, || 200),
            recursion
        );
        assert_eq!(held.known_verdict(7, 152, || begin + MINUTE, || 200), None);
        // Acquitted, because it grows on: for a minute from then.
        let mut free = growth;
        let passes = Some(FlowVerdict::Passes);
        let then = begin + 10;
        assert_eq!(free.known_verdict(7, 248, || then, || 200), passes);
        assert_eq!(
            free.known_verdict(7, 152, || then + MINUTE - 1, || 200),
            passes
        );
        assert!(!free.record_growth(9, 100, then + MINUTE - 1) && free.key == 7);
        assert_eq!(free.known_verdict(7, 152, || then + MINUTE, || 200), None);
        assert!(!free.record_growth(9, 100, then + MINUTE) && free.key == 9);
    }

    /// Each outer packet has its cause: a packet of another flow, or one that was in transit.
    #[test]
    fn one_packet_more_than_its_causes_is_allowed() {
        for (passed, others, dropped, expected) in [
            (0, 0, 1, FlowVerdict::Passes),
            (1, 0, 1, FlowVerdict::Recursion),
            (0, 1, 1, FlowVerdict::Recursion),
            (2, 0, 3, FlowVerdict::Passes),
            (1, 2, 3, FlowVerdict::Recursion),
            (0, 2, 3, FlowVerdict::Passes),
            // Only powers of two are compared.
            (0, 0, 4, FlowVerdict::Recursion),
        ] {
            let mut growth = Growth {
                passed,
                longest: 500,
                step: 48,
                ..Growth::default()
            };
            growth.mark_recursive(7, false, 1000, 100);
            growth.dropped = dropped;
            let found = growth.known_verdict(7, 100, || 2000, || 100 + others);
            assert_eq!(found, Some(expected), "{passed} {others} {dropped}");
        }
    }

    proptest! {
        /// Arbitrary bytes cause no panic.
        #[test]
        fn any_bytes_are_safe(payload in proptest::collection::vec(any::<u8>(), 0..300), header: u8) {
            let _found = nested(&packet(OURS, ENDPOINT, header, &payload));
        }

        /// Packets of random lengths are not taken for growth.
        #[test]
        fn random_lengths_are_no_growth(sizes in proptest::collection::vec(48u32..1280, 0..2000)) {
            prop_assert!(!record_growth(sizes));
        }

        #[test]
        fn entries_are_in_the_table(slot in 0..SLOTS, key: u64) {
            prop_assert!(entry_index(slot, key) / FLOWS_PER_TUNNEL == slot);
        }
    }
}
