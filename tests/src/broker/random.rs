//! Reproducible pseudorandom numbers from a seed (SplitMix64).

/// A random number generator; the same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: usize) -> usize {
        // The bias of the remainder is negligible for bounds far below 2^64.
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        usize::try_from(self.number() % bound).unwrap_or_default()
    }

    /// True with this probability, in percent.
    pub fn percent(&mut self, percent: f64) -> bool {
        // 32 bits are exact in a double.
        let number = u32::try_from(self.number() >> 32).unwrap_or(u32::MAX);
        f64::from(number) < percent / 100.0 * (f64::from(u32::MAX) + 1.0)
    }

    /// `length` random bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let numbers = std::iter::repeat_with(|| self.number().to_le_bytes());
        numbers.flatten().take(length).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_about_right_and_repeat() {
        let hits = |percent| {
            let mut random = Random::new(1);
            (0..100_000).filter(|_| random.percent(percent)).count()
        };
        assert_eq!((hits(0.0), hits(100.0)), (0, 100_000));
        assert!((900..1100).contains(&hits(1.0)), "{}", hits(1.0));
        assert_eq!(hits(1.0), hits(1.0));
        assert_ne!(Random::new(1).bytes(20), Random::new(2).bytes(20));
    }
}
