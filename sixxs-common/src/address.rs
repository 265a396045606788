//! IPv6 addresses and prefixes as two machine words, the form in which the programs compare them.

use bytemuck::{Pod, Zeroable};

/// 2^64 divided by the golden ratio (Knuth, volume 3, section 6.4): the highest bits of a product with it depend on all
/// bits of the other factor.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// An IPv6 address: its sixteen bytes in network order, stored as two words of native byte order.
///
/// Only equality and masking are defined. Neither depends on the byte order, so the packet path
/// never swaps bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Address {
    words: [u64; 2],
}

impl Address {
    /// From the sixteen bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self {
            words: [
                u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
            ],
        }
    }

    /// From the sixteen bytes in network order, read as two words.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self { words }
    }

    /// The two words.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        self.words
    }

    /// The sixteen bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.words[0].to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.words[1].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// An IPv4 address as an IPv4-mapped IPv6 address, `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2).
    #[inline(always)]
    #[must_use]
    pub const fn from_ipv4([a, b, c, d]: [u8; 4]) -> Self {
        Self {
            words: [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])],
        }
    }

    /// Whether it is an IPv4-mapped address.
    #[must_use]
    pub const fn is_ipv4_mapped(self) -> bool {
        let [_, _, _, _, _, _, _, _, zeroes @ ..] = self.octets();
        self.words[0] == 0 && matches!(zeroes, [0, 0, 0xff, 0xff, ..])
    }

    /// `::`
    pub const UNSPECIFIED: Self = Self { words: [0; 2] };

    /// The address whose first `bits` bits are set and whose other bits are clear.
    #[must_use]
    pub const fn mask(bits: u8) -> Self {
        let mask = if bits == 0 {
            0
        } else if bits >= 128 {
            u128::MAX
        } else {
            !(u128::MAX >> bits)
        };
        Self::from_octets(mask.to_be_bytes())
    }

    /// The bits that are set in both addresses.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            words: [
                self.words[0] & other.words[0],
                self.words[1] & other.words[1],
            ],
        }
    }

    /// Zero if both addresses are equal. Callers combine several results, to have one branch
    /// instead of many.
    #[inline(always)]
    #[must_use]
    pub const fn difference(self, other: Self) -> u64 {
        (self.words[0] ^ other.words[0]) | (self.words[1] ^ other.words[1])
    }

    /// A hash of the address: an index below `count` (a power of two above 1), evenly distributed.
    #[inline(always)]
    #[must_use]
    pub const fn hash_below(self, count: usize) -> usize {
        let mixed = (self.words[0] ^ self.words[1]).wrapping_mul(GOLDEN);
        let highest = (mixed >> 32) as u32;
        (highest >> (32 - count.ilog2())) as usize & (count - 1)
    }

    /// Whether this address is in `prefix`.
    #[inline(always)]
    #[must_use]
    pub const fn within(self, prefix: &Prefix) -> bool {
        self.and(prefix.mask).difference(prefix.value) == 0
    }

    /// Whether this is a destination of link-local or interface-local scope, which routers never
    /// forward: fe80::/10, ff01::/16, ff02::/16 (RFC 4291 §2.5.6 and §2.7).
    #[inline(always)]
    #[must_use]
    pub const fn is_link_scope(self) -> bool {
        let [first, second, ..] = self.octets();
        (first == 0xfe && second & 0xc0 == 0x80) || (first == 0xff && matches!(second, 1 | 2))
    }

    /// Whether this is a multicast address, ff00::/8 (RFC 4291 §2.7).
    #[inline(always)]
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.octets()[0] == 0xff
    }
}

/// A prefix, as mask and value, ready for comparison.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Prefix {
    mask: Address,
    value: Address,
}

impl Prefix {
    /// The prefix of `bits` bits that contains `address`; a length above 128 means 128.
    #[must_use]
    pub const fn new(address: Address, bits: u8) -> Self {
        let mask = Address::mask(bits);
        Self {
            mask,
            value: address.and(mask),
        }
    }

    /// The first words of its mask and of its first address.
    #[must_use]
    pub const fn first_words(&self) -> (u64, u64) {
        (self.mask.words[0], self.value.words[0])
    }

    /// A prefix that contains no address: its value has bits that its mask clears.
    pub const NEVER: Self = Self {
        mask: Address { words: [0; 2] },
        value: Address {
            words: [u64::MAX; 2],
        },
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv6Addr;
    use proptest::prelude::*;

    fn address(text: &str) -> Address {
        Address::from_octets(text.parse::<Ipv6Addr>().unwrap().octets())
    }

    #[test]
    fn link_scope_is_link_local_and_two_multicast_scopes() {
        for (text, expected) in [
            ("fe80::1", true),
            ("febf::1", true),
            ("fec0::1", false),
            ("ff01::1", true),
            ("ff02::1:ff00:1", true),
            ("ff05::2", false),
            ("ff0e::1", false),
            ("2001:db8::1", false),
            ("::", false),
        ] {
            assert_eq!(address(text).is_link_scope(), expected, "{text}");
        }
    }

    /// The hosts of a network, and the networks of a site, spread over all indexes.
    #[test]
    fn neighbours_are_spread() {
        for step in [1, 1 << 64, 1 << 80] {
            let base = address("2001:db8:a::").octets();
            let mut found = [0; 16];
            for number in 0..16 {
                let octets = (u128::from_be_bytes(base) + number * step).to_be_bytes();
                found[Address::from_octets(octets).hash_below(16)] += 1;
            }
            assert!(found.iter().all(|count| *count <= 4), "{step}: {found:?}");
        }
    }

    #[test]
    fn every_bit_of_an_address_counts() {
        let base = 0x2001_0db8_000a_0000_0000_0000_0000_0002_u128;
        let address = |number: u128| Address::from_octets(number.to_be_bytes());
        for place in 0..128 {
            let bit = 1 << (127 - place);
            // The second pair differs by the same bit in both halves.
            for other in [base ^ bit, base ^ bit ^ bit.rotate_left(64)] {
                assert_ne!(address(base).difference(address(other)), 0, "{place}");
            }
            for bits in 0..=128 {
                let prefix = Prefix::new(address(base), bits);
                let is_within = address(base ^ bit).within(&prefix);
                assert_eq!(is_within, bits <= place, "{bits} {place}");
            }
        }
        let longest = Prefix::new(address(base), 128);
        assert_eq!(Prefix::new(address(base), 129), longest);
        assert_eq!(Prefix::new(address(base), u8::MAX), longest);
    }

    #[test]
    fn multicast_is_ff00_with_eight_bits() {
        for (text, expected) in [("ff00::", true), ("ff0e::1", true), ("fe80::1", false)] {
            assert_eq!(address(text).is_multicast(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn within_agrees_with_arithmetic(a: u128, b: u128, bits in 0u8..=128) {
            let prefix = Prefix::new(Address::from_octets(b.to_be_bytes()), bits);
            let expected = bits == 0 || (a ^ b).leading_zeros() >= u32::from(bits);
            prop_assert_eq!(Address::from_octets(a.to_be_bytes()).within(&prefix), expected);
        }

        #[test]
        fn nothing_is_within_never(a: u128) {
            prop_assert!(!Address::from_octets(a.to_be_bytes()).within(&Prefix::NEVER));
        }

        #[test]
        fn difference_is_zero_for_the_same_only(a: u128, b: u128) {
            let [one, two] = [a, b].map(|a| Address::from_octets(a.to_be_bytes()));
            prop_assert_eq!(one.difference(two) == 0, a == b);
            prop_assert_eq!(one.difference(one), 0);
        }

        #[test]
        fn octets_round_trip(a: [u8; 16]) {
            prop_assert_eq!(Address::from_octets(a).octets(), a);
        }
    }
}
