//! Numbers in a few bits: small ones exactly, larger ones rounded down to a few leading bits.

/// The code of a number. With `mantissa` bits behind the leading one, it is rounded down by less than one part in
/// `2^mantissa`.
pub(super) fn compress(value: u64, mantissa: u32) -> u64 {
    if value < 1 << mantissa {
        return value;
    }
    let exponent = value.ilog2() - mantissa;
    let fraction = (value >> exponent) - (1 << mantissa);
    (u64::from(exponent + 1) << mantissa) | fraction
}

/// The number that a code stands for. Codes have at most 8 bits.
pub(super) fn expand(code: u64, mantissa: u32) -> u64 {
    let exponent = code >> mantissa;
    let fraction = code & ((1 << mantissa) - 1);
    match exponent {
        0 => fraction,
        exponent => ((1 << mantissa) | fraction) << (exponent - 1).min(56),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_numbers_are_exact() {
        for mantissa in 1..=3 {
            for value in 0..2 << mantissa {
                assert_eq!(expand(compress(value, mantissa), mantissa), value);
            }
        }
        assert_eq!(expand(compress(13, 2), 2), 12);
        assert_eq!(expand(compress(13, 1), 1), 12);
    }

    proptest! {
        #[test]
        fn larger_ones_are_rounded_down_a_little(value in 0u64..1 << 32, mantissa in 1u32..=3) {
            let code = compress(value, mantissa);
            let found = expand(code, mantissa);
            prop_assert!(found <= value);
            prop_assert!(value - found <= value >> mantissa);
            // A rounded number stays as it is, and codes have the order of their numbers.
            prop_assert_eq!(compress(found, mantissa), code);
            prop_assert!(compress(value + 1, mantissa) >= code);
        }
    }
}
