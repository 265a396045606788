//! The layout of a tunnel's file: a header, then a ring with a place for each minute of [`DAYS`] days.
//!
//! A record has the number of its lap round the ring, so that those of an earlier lap count as absent. Nothing has to be
//! erased, no position has to be stored, and the file never grows beyond [`FILE_BYTES`]. Places that were never written
//! are zero, which is no record: the file may be sparse.

use super::minute::{Minute, PER_DAY};

/// The time for which records are kept.
pub const DAYS: u32 = 400;

/// The number of records of a ring.
pub const RECORDS: u32 = DAYS * PER_DAY;

/// The size of a record. Records are aligned, so that a write is never in two pages or sectors.
pub const RECORD_BYTES: usize = 8;

/// The size of the header.
pub const HEADER_BYTES: usize = 16;

/// The size of a whole file.
pub const FILE_BYTES: u64 = 16 + 8 * RECORDS as u64;

const _: () = assert!(FILE_BYTES < 4_610_000);

/// The version of records and layout.
const VERSION: u32 = 1;

/// The header of a file: a magic number, the version and the number of records.
pub const HEADER: [u8; HEADER_BYTES] = header();

const fn header() -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = VERSION.to_le_bytes();
    let [e, f, g, h] = RECORDS.to_le_bytes();
    [
        b's', b'i', b'x', b'x', b's', b'h', b'i', b's', a, b, c, d, e, f, g, h,
    ]
}

/// Laps with different numbers: some 16 years.
const LAPS: u32 = 15;

/// The number of a minute's place.
#[must_use]
pub const fn place(minute: Minute) -> u32 {
    minute.number() % RECORDS
}

/// The position of a minute's record in the file.
#[must_use]
pub const fn offset(minute: Minute) -> u64 {
    16 + 8 * place(minute) as u64
}

/// The lap of a minute, 1 to 15.
#[must_use]
pub const fn lap(minute: Minute) -> u32 {
    minute.number() / RECORDS % LAPS + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_minute_of_a_lap_has_its_place() {
        let first = Minute::new(51 * RECORDS);
        assert_eq!(offset(first), 16);
        assert_eq!(offset(first.plus(1)), 24);
        assert_eq!(offset(first.plus(RECORDS - 1)) + 8, FILE_BYTES);
        assert_eq!(offset(first.plus(RECORDS)), 16);
        assert_ne!(lap(first.plus(RECORDS)), lap(first));
    }

    #[test]
    fn a_lap_is_never_zero() {
        for number in 0..40 {
            let lap = lap(Minute::new(number * RECORDS));
            assert!((1..=15).contains(&lap), "{lap}");
        }
    }

    #[test]
    fn the_header_is_aligned_like_records() {
        assert_eq!(HEADER_BYTES % RECORD_BYTES, 0);
        assert_eq!(&HEADER[..8], b"sixxshis");
    }
}
