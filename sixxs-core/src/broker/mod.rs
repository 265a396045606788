//! The protocols of tunnel brokers, without IO. Input: bytes and time. Output: bytes, timers and
//! results.
//!
//! Nothing here opens a socket, reads a file or reads a clock.

mod age;
pub mod ayiya;
pub mod connects;
pub mod endpoint_update;
pub mod heartbeat;
pub mod heartbeat_schedule;
pub mod link;
pub mod path_mtu;
pub mod tic;

/// Lowercase hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}
