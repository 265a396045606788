//! The record of a minute: 64 bits, of which the upper 8 are a check sum.

use std::time::Duration;

use super::{
    cause::Cause,
    minute::Minute,
    ring::{self, RECORD_BYTES},
    scale::{compress, expand},
};
use crate::{health::Level, tunnel};

/// The state of a tunnel, without its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Stopped by a user.
    Down,
    /// Waits for its interface.
    Waiting,
    /// The driver brings it up.
    Connecting,
    /// The interface is up.
    Up,
    /// The broker refuses connects.
    LockedOut,
    /// The driver has failed.
    Failed,
}

impl State {
    /// All, in the order of their codes in files.
    const ALL: [Self; 6] = [
        Self::Down,
        Self::Waiting,
        Self::Connecting,
        Self::Up,
        Self::LockedOut,
        Self::Failed,
    ];

    /// Its name in JSON, as that of [`tunnel::State`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Waiting => "waiting",
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::LockedOut => "locked_out",
            Self::Failed => "failed",
        }
    }

    const fn code(self) -> u64 {
        match self {
            Self::Down => 0,
            Self::Waiting => 1,
            Self::Connecting => 2,
            Self::Up => 3,
            Self::LockedOut => 4,
            Self::Failed => 5,
        }
    }
}

impl From<&tunnel::State> for State {
    fn from(state: &tunnel::State) -> Self {
        match state {
            tunnel::State::Down => Self::Down,
            tunnel::State::Waiting(_) => Self::Waiting,
            tunnel::State::Connecting(_) => Self::Connecting,
            tunnel::State::LockedOut(_) => Self::LockedOut,
            tunnel::State::Up => Self::Up,
            tunnel::State::Retrying(_) | tunnel::State::Failed(_) => Self::Failed,
        }
    }
}

/// A share, rounded down to one of 250 parts: all only if it is all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u8);

impl Share {
    const PARTS: u8 = 250;

    /// The code in files for no share.
    const NONE: u64 = 255;

    /// This part of a whole; `None`: the whole is nothing.
    #[must_use]
    pub fn of(part: u64, whole: u64) -> Option<Self> {
        let parts = u128::from(part) * u128::from(Self::PARTS) / u128::from(whole).max(1);
        let parts = u8::try_from(parts).unwrap_or(Self::PARTS);
        (whole > 0).then_some(Self(parts.min(Self::PARTS)))
    }

    /// In hundredths of a per cent.
    #[must_use]
    pub fn hundredths(self) -> u32 {
        u32::from(self.0) * (10_000 / u32::from(Self::PARTS))
    }

    fn code(share: Option<Self>) -> u64 {
        share.map_or(Self::NONE, |share| u64::from(share.0))
    }

    fn from_code(code: u64) -> Option<Self> {
        let parts = u8::try_from(code).ok()?;
        (parts <= Self::PARTS).then_some(Self(parts))
    }
}

/// What is known about a tunnel in a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its last state.
    pub state: State,
    /// Its worst health.
    pub level: Level,
    /// The part of the minute in which it failed, 0 to 60.
    pub failing_seconds: u8,
    /// The cause of its worst health.
    pub cause: Option<Cause>,
    /// Pings from outside that were answered; `None`: there were none.
    pub outside: Option<Share>,
    /// Inside tests that passed; `None`: there were none.
    pub inside: Option<Share>,
    /// The median time to the reply to a ping from outside, rounded down by at most a ninth; `None`: there was none.
    pub median: Option<Duration>,
    /// Leaks that were caught, rounded down by at most a fifth.
    pub leaks: u64,
    /// Corrections, rounded down by at most a third; up to 4 they are exact.
    pub corrections: u64,
}

/// Some bits of a record.
#[derive(Clone, Copy)]
struct Field {
    shift: u32,
    bits: u32,
}

impl Field {
    /// The lowest bits.
    const fn first(bits: u32) -> Self {
        Self { shift: 0, bits }
    }

    /// The bits above these.
    const fn next(self, bits: u32) -> Self {
        let shift = self.shift + self.bits;
        Self { shift, bits }
    }

    const fn max(self) -> u64 {
        (1 << self.bits) - 1
    }

    /// A value at its place. A value that is too large becomes the largest one.
    fn put(self, value: u64) -> u64 {
        value.min(self.max()) << self.shift
    }

    const fn get(self, word: u64) -> u64 {
        (word >> self.shift) & self.max()
    }
}

const LAP: Field = Field::first(4);
const LEVEL: Field = LAP.next(2);
const STATE: Field = LEVEL.next(3);
const FAILING: Field = STATE.next(6);
const CAUSE: Field = FAILING.next(5);
const OUTSIDE: Field = CAUSE.next(8);
const INSIDE: Field = OUTSIDE.next(8);
const MEDIAN: Field = INSIDE.next(8);
const LEAKS: Field = MEDIAN.next(7);
const CORRECTIONS: Field = LEAKS.next(5);
const CHECK: Field = CORRECTIONS.next(8);

const _: () = assert!(CHECK.shift == 56 && CHECK.bits == 8);

/// Bits behind the leading one of rounded numbers.
const MEDIAN_BITS: u32 = 3;
const LEAKS_BITS: u32 = 2;
const CORRECTIONS_BITS: u32 = 1;

impl Record {
    /// The record as it is stored for a minute.
    #[must_use]
    pub fn to_bytes(&self, minute: Minute) -> [u8; RECORD_BYTES] {
        let micros = |median: Duration| u64::try_from(median.as_micros()).unwrap_or(u64::MAX);
        let median = self.median.map_or(0, |median| micros(median).max(1));
        let level = match self.level {
            Level::Healthy => 0,
            Level::Degraded => 1,
            Level::Failing => 2,
        };
        let word = LAP.put(u64::from(ring::lap(minute)))
            | LEVEL.put(level)
            | STATE.put(self.state.code())
            | FAILING.put(u64::from(self.failing_seconds.min(60)))
            | CAUSE.put(self.cause.map_or(0, Cause::code))
            | OUTSIDE.put(Share::code(self.outside))
            | INSIDE.put(Share::code(self.inside))
            | MEDIAN.put(compress(median, MEDIAN_BITS))
            | LEAKS.put(compress(self.leaks, LEAKS_BITS))
            | CORRECTIONS.put(compress(self.corrections, CORRECTIONS_BITS));
        (word | CHECK.put(check_sum(word))).to_le_bytes()
    }

    /// The stored record of a minute; `None`: it is damaged, or of another minute with the same place.
    #[must_use]
    pub fn from_bytes(bytes: [u8; RECORD_BYTES], minute: Minute) -> Option<Self> {
        let word = u64::from_le_bytes(bytes);
        if LAP.get(word) != u64::from(ring::lap(minute)) || CHECK.get(word) != check_sum(word) {
            return None;
        }
        let failing_seconds = u8::try_from(FAILING.get(word)).ok()?;
        let median = expand(MEDIAN.get(word), MEDIAN_BITS);
        Some(Self {
            state: *State::ALL.get(usize::try_from(STATE.get(word)).ok()?)?,
            level: match LEVEL.get(word) {
                0 => Level::Healthy,
                1 => Level::Degraded,
                2 => Level::Failing,
                _ => return None,
            },
            failing_seconds: Some(failing_seconds).filter(|seconds| *seconds <= 60)?,
            cause: Cause::from_code(CAUSE.get(word)),
            outside: Share::from_code(OUTSIDE.get(word)),
            inside: Share::from_code(INSIDE.get(word)),
            median: (median > 0).then(|| Duration::from_micros(median)),
            leaks: expand(LEAKS.get(word), LEAKS_BITS),
            corrections: expand(CORRECTIONS.get(word), CORRECTIONS_BITS),
        })
    }

    /// Whether the minute counts in the availability: not while a user has stopped the tunnel.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.state != State::Down
    }
}

/// CRC-8 with the polynomial 0x07 of all bytes but the check sum.
fn check_sum(word: u64) -> u64 {
    let mut sum = 0_u8;
    for byte in &word.to_le_bytes()[..RECORD_BYTES - 1] {
        sum ^= byte;
        for _ in 0..8 {
            let carry = sum & 0x80 != 0;
            sum <<= 1;
            if carry {
                sum ^= 0x07;
            }
        }
    }
    u64::from(sum)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
