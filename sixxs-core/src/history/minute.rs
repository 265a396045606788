//! Minutes of Unix time.

/// Minutes of a day.
pub const PER_DAY: u32 = 24 * 60;

/// A minute of Unix time. Its day and hour are in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minute(u32);

impl Minute {
    /// The first minute of the year 2024. A clock that shows an earlier time was never set.
    pub const EARLIEST: Self = Self(28_401_120);

    /// The minute with this number, counted from 1970.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The minute that a time belongs to.
    #[must_use]
    pub fn of_unix(seconds: u64) -> Self {
        Self(u32::try_from(seconds / 60).unwrap_or(u32::MAX))
    }

    /// Its number, counted from 1970.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The time at which it begins.
    #[must_use]
    pub fn unix_seconds(self) -> u64 {
        u64::from(self.0) * 60
    }

    /// A later minute.
    #[must_use]
    pub const fn plus(self, minutes: u32) -> Self {
        Self(self.0.saturating_add(minutes))
    }

    /// An earlier minute.
    #[must_use]
    pub const fn minus(self, minutes: u32) -> Self {
        Self(self.0.saturating_sub(minutes))
    }

    /// Its day, counted from 1970.
    #[must_use]
    pub const fn day(self) -> u32 {
        self.0 / PER_DAY
    }

    /// The hour of its day, 0 to 23.
    #[must_use]
    pub const fn hour(self) -> u32 {
        self.0 % PER_DAY / 60
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_minute_an_hour_and_a_day() {
        // 2026-11-02 03:12:59 UTC.
        let minute = Minute::of_unix(1_793_589_179);
        assert_eq!(minute.unix_seconds(), 1_793_589_120);
        assert_eq!((minute.day(), minute.hour()), (20_759, 3));
        assert_eq!(minute.plus(60).hour(), 4);
        assert_eq!(minute.minus(4 * 60).day(), 20_758);
        assert_eq!(Minute::of_unix(u64::MAX).number(), u32::MAX);
        // 2024-01-01 00:00:00 UTC.
        assert_eq!(Minute::EARLIEST.unix_seconds(), 1_704_067_200);
    }
}
