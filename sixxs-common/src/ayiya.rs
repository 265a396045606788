//! The header of AYIYA datagrams (draft-massar-v6ops-ayiya-02).

/// Length of a header with an identity of 16 bytes and a signature of SHA-1.
pub const HEADER_BYTES: u32 = 44;

/// The first bytes: identity of 16 bytes (an address), signature of 20 bytes (SHA-1), shared secret. The operation is
/// in the lower half of the third byte, which is 0 here.
pub const MAGIC: [u8; 3] = [0x41, 0x52, 0x10];

/// The next header for an IPv6 packet.
pub const NEXT_IPV6: u8 = 41;

/// The maximum difference between both clocks, in seconds.
pub const CLOCK_SECONDS: u32 = 120;

/// Whether a header begins like one of AYIYA, with any operation.
#[inline(always)]
#[must_use]
pub const fn is_header([first, second, third]: [u8; 3]) -> bool {
    first == MAGIC[0] && second == MAGIC[1] && third & 0xf0 == MAGIC[2]
}
