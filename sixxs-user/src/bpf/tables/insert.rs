//! Inserts into maps whose elements are allocated one by one (`BPF_F_NO_PREALLOC`, and every LPM trie).
//!
//! The kernel takes the memory for an element from a cache of a few elements for each processor, and refills that a
//! moment later (`bpf_mem_alloc`: hash maps since 6.1, tries since 6.13). While the cache is empty an insert fails with
//! ENOMEM, however much memory is free. So a caller who inserts many elements in a row has to wait now and then.

use std::{io, thread, time::Duration};

use aya::maps::MapError;

/// The pause before another attempt. Most often the first pause is enough.
const PAUSE: Duration = Duration::from_millis(1);

/// How often to try again. After this time the host has no memory.
const PAUSES: u32 = 50;

/// Calls `insert` until it does not fail for lack of memory, for a limited time.
pub(super) fn insert(mut insert: impl FnMut() -> Result<(), MapError>) -> Result<(), MapError> {
    for _ in 0..PAUSES {
        match insert() {
            Err(error) if is_out_of_memory(&error) => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
    insert()
}

fn is_out_of_memory(error: &MapError) -> bool {
    let MapError::SyscallError(error) = error else {
        return false;
    };
    error.io_error.kind() == io::ErrorKind::OutOfMemory
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    /// The outcome of an insert that the kernel refuses `refusals` times, and how often it was tried.
    fn tried(refusals: u32, errno: i32) -> (Result<(), MapError>, u32) {
        let mut tries = 0;
        let outcome = insert(|| {
            tries += 1;
            match tries > refusals {
                true => Ok(()),
                false => Err(MapError::SyscallError(SyscallError {
                    call: "bpf_map_update_elem",
                    io_error: io::Error::from_raw_os_error(errno),
                })),
            }
        });
        (outcome, tries)
    }

    #[test]
    fn an_empty_cache_is_waited_for() {
        assert!(matches!(tried(0, libc::ENOMEM), (Ok(()), 1)));
        assert!(matches!(tried(3, libc::ENOMEM), (Ok(()), 4)));
    }

    #[test]
    fn a_lack_of_memory_is_an_error() {
        let (outcome, tries) = tried(u32::MAX, libc::ENOMEM);
        assert_eq!(tries, PAUSES + 1);
        assert!(is_out_of_memory(&outcome.unwrap_err()));
    }

    #[test]
    fn other_errors_are_not_tried_again() {
        let (outcome, tries) = tried(1, libc::E2BIG);
        assert!(outcome.is_err());
        assert_eq!(tries, 1);
    }
}
