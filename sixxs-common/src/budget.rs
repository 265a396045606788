//! A limit per second.

use bytemuck::{Pod, Zeroable};

/// The number of times that something may happen in a second, of which some are taken. Without a lock: if several
/// processors take from one budget at the same time, a few too many or too few may pass.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Budget {
    /// Start of the second, in nanoseconds of CLOCK_MONOTONIC.
    pub window_ns: u64,
    /// Number taken in this second.
    pub taken: u64,
}

impl Budget {
    /// Takes one from the `limit` of this second; false if nothing is left.
    #[inline(always)]
    pub const fn take(&mut self, limit: u64, now_ns: u64) -> bool {
        if now_ns.wrapping_sub(self.window_ns) >= 1_000_000_000 {
            self.window_ns = now_ns;
            self.taken = 0;
        }
        if self.taken >= limit {
            return false;
        }
        self.taken += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_admitted_up_to_the_limit_each_second() {
        let mut budget = Budget::default();
        let second = 1_000_000_000;
        let taken =
            |budget: &mut Budget, now: u64| (0..1000).filter(|_| budget.take(64, now)).count();
        assert_eq!(taken(&mut budget, 5 * second), 64);
        assert_eq!(taken(&mut budget, 6 * second - 1), 0);
        assert_eq!(taken(&mut budget, 6 * second), 64);
    }
}
