//! A filter over the sources of all tunnels: most packets that leave by an uplink are of no tunnel, and one lookup shows
//! that.

use bytemuck::{Pod, Zeroable};

use crate::address::{GOLDEN, Prefix};

/// Number of bits: 64 times a power of two. With a thousand prefixes, one foreign packet in 66 is looked up.
const BITS: usize = 65_536;

const WORDS: usize = BITS / 64;

/// A Bloom filter with one hash function, over the beginnings of the sources.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SourceFilter {
    /// 1 if the filter has all sources. 0: it shows nothing.
    pub is_complete: u64,
    /// The bits of an address's first word that count, as in [`Address::words`](crate::address::Address::words): at
    /// most as many as the shortest prefix has.
    mask: u64,
    words: [u64; WORDS],
}

impl SourceFilter {
    /// A filter that shows nothing.
    pub const EMPTY: Self = Self {
        is_complete: 0,
        mask: 0,
        words: [0; WORDS],
    };

    /// Writes the filter for these prefixes.
    pub fn set(&mut self, prefixes: impl Iterator<Item = Prefix> + Clone) {
        *self = Self::EMPTY;
        self.is_complete = 1;
        let masks = prefixes.clone().map(|prefix| prefix.first_words().0);
        self.mask = masks.fold(u64::MAX, |all, mask| all & mask);
        for prefix in prefixes {
            let at = self.at(prefix.first_words().1);
            self.words[at / 64] |= 1 << (at % 64);
        }
    }

    /// Whether a source with this first word may be a tunnel's.
    #[inline(always)]
    #[must_use]
    pub const fn may_have(&self, first: u64) -> bool {
        let at = self.at(first);
        self.is_complete == 0 || self.words[at / 64] >> (at % 64) & 1 != 0
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "sixteen bits are left")]
    const fn at(&self, first: u64) -> usize {
        ((first & self.mask).wrapping_mul(GOLDEN) >> (64 - BITS.ilog2())) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::Address;

    fn filter(prefixes: &[Prefix]) -> Box<SourceFilter> {
        let mut filter = Box::new(SourceFilter::EMPTY);
        filter.set(prefixes.iter().copied());
        filter
    }

    fn address(bits: u128) -> Address {
        Address::from_octets(bits.to_be_bytes())
    }

    #[test]
    fn nearly_all_foreign_addresses_are_recognised() {
        const NET: u128 = 0x2001_0db8 << 96;
        let prefixes: Vec<_> = (0..1000_u128)
            .map(|at| Prefix::new(address(NET | at << 64), if at % 2 == 0 { 64 } else { 128 }))
            .collect();
        let filter = filter(&prefixes);
        let foreign = (1000..101_000_u128).map(|at| address(NET | at << 64));
        let passed = foreign.filter(|address| filter.may_have(address.words()[0]));
        let passed = passed.count();
        assert!(passed < 100_000 / 50, "{passed}");
    }

    #[test]
    fn without_sources_nothing_passes_and_an_unwritten_filter_shows_nothing() {
        let none = filter(&[]);
        let address = address(0x2001_0db8 << 96);
        assert!(!none.may_have(address.words()[0]));
        assert!(SourceFilter::EMPTY.may_have(address.words()[0]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_source_is_missed(
            prefixes in proptest::collection::vec((any::<u128>(), 0_u8..=128), 1..20),
            within in any::<u128>(),
        ) {
            let prefixes: Vec<_> = prefixes
                .into_iter()
                .map(|(value, bits)| (value, bits, Prefix::new(address(value), bits)))
                .collect();
            let all: Vec<_> = prefixes.iter().map(|(_, _, prefix)| *prefix).collect();
            let filter = filter(&all);
            for (value, bits, _) in prefixes {
                let host = if bits == 128 { 0 } else { u128::MAX >> bits };
                let inside = address(value & !host | within & host);
                prop_assert!(filter.may_have(inside.words()[0]));
            }
        }
    }
}
