//! The AYIYA datagram on the broker's side (draft-massar-v6ops-ayiya-02): a shared secret, SHA-1, and IPv6
//! addresses as identities. This code is independent of the program's, so that each checks the other.

use std::net::Ipv6Addr;

use sha1::{Digest as _, Sha1};

/// The UDP port of a PoP.
pub const PORT: u16 = 5072;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 44;
/// Size of the broker's receive buffer; longer datagrams are invalid.
pub const LONGEST_BYTES: usize = 2092;
/// Largest tolerated clock difference, in seconds.
pub const CLOCK_SKEW_SECONDS: u64 = 120;

/// Operation: none; a heartbeat.
pub const NOOP: u8 = 0;
/// Operation: forward the payload.
pub const FORWARD: u8 = 1;
/// The highest operation in the draft: query response.
const LAST_OPERATION: u8 = 7;

/// Next header: an IPv6 packet.
pub const IPV6: u8 = 41;
/// Next header: no payload.
pub const NONE: u8 = 59;

/// An identity of 2^4 bytes, of type integer.
const IDENTITY: u8 = 0x41;
/// A signature of 5 words, by SHA-1.
const SIGNATURE: u8 = 0x52;
/// High nibble: a shared secret.
const SHARED_SECRET: u8 = 1;
const TIME_AT: usize = 4;
const IDENTITY_AT: usize = 8;
const SIGNATURE_AT: usize = 24;

/// SHA-1 of a password.
#[derive(Clone, Debug)]
pub struct Key([u8; 20]);

impl Key {
    /// The key for a password, as text.
    pub fn of(password: &str) -> Self {
        Self(Sha1::digest(password).into())
    }

    fn signature(&self, datagram: &[u8]) -> [u8; 20] {
        let mut hash = Sha1::new();
        hash.update(&datagram[..SIGNATURE_AT]);
        hash.update(self.0);
        hash.update(&datagram[HEADER_BYTES..]);
        hash.finalize().into()
    }

    /// Writes the correct signature into a datagram that has a whole header.
    pub fn sign(&self, datagram: &mut [u8]) {
        let signature = self.signature(datagram);
        datagram[SIGNATURE_AT..HEADER_BYTES].copy_from_slice(&signature);
    }

    /// Whether a datagram that has a whole header is signed with this key.
    pub fn signed(&self, datagram: &[u8]) -> bool {
        self.signature(datagram) == datagram[SIGNATURE_AT..HEADER_BYTES]
    }
}

/// Makes a signed datagram.
pub fn seal(
    key: &Key,
    identity: Ipv6Addr,
    unix_seconds: u64,
    carry: (u8, u8),
    payload: &[u8],
) -> Vec<u8> {
    let mut datagram = vec![0; HEADER_BYTES];
    datagram.extend(payload);
    seal_in_place(key, identity, unix_seconds, carry, &mut datagram);
    datagram
}

/// Writes the header into the first bytes of the datagram, before the payload.
pub fn seal_in_place(
    key: &Key,
    identity: Ipv6Addr,
    unix_seconds: u64,
    (operation, next_header): (u8, u8),
    datagram: &mut [u8],
) {
    datagram[..TIME_AT].copy_from_slice(&[
        IDENTITY,
        SIGNATURE,
        SHARED_SECRET << 4 | operation,
        next_header,
    ]);
    // The field wraps in 2106, as the protocol defines it.
    let seconds = u32::try_from(unix_seconds & u64::from(u32::MAX)).unwrap_or_default();
    datagram[TIME_AT..IDENTITY_AT].copy_from_slice(&seconds.to_be_bytes());
    datagram[IDENTITY_AT..SIGNATURE_AT].copy_from_slice(&identity.octets());
    key.sign(datagram);
}

/// The header of a well-formed datagram; its signature is not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The identity that the sender claims.
    pub identity: Ipv6Addr,
    /// Time of sending, in Unix seconds.
    pub unix_seconds: u64,
    /// The operation.
    pub operation: u8,
    /// Protocol of the payload.
    pub next_header: u8,
}

impl Header {
    /// Whether it was sent within the allowed difference of `now`.
    pub fn is_recent(&self, now_unix_seconds: u64) -> bool {
        self.unix_seconds.abs_diff(now_unix_seconds) <= CLOCK_SKEW_SECONDS
    }
}

/// Reads the header. `None` if it is not AYIYA as this broker supports it.
pub fn header(datagram: &[u8]) -> Option<Header> {
    if datagram.len() > LONGEST_BYTES {
        return None;
    }
    let bytes: &[u8; HEADER_BYTES] = datagram.first_chunk()?;
    let operation = bytes[2] & 0x0f;
    let exact = bytes[0] == IDENTITY
        && bytes[1] == SIGNATURE
        && bytes[2] >> 4 == SHARED_SECRET
        && operation <= LAST_OPERATION
        && [IPV6, NONE].contains(&bytes[3]);
    let time: [u8; 4] = *bytes[TIME_AT..].first_chunk()?;
    let identity: [u8; 16] = *bytes[IDENTITY_AT..].first_chunk()?;
    exact.then_some(Header {
        identity: identity.into(),
        unix_seconds: u32::from_be_bytes(time).into(),
        operation,
        next_header: bytes[3],
    })
}

/// Whether the payload is as the header declares: an IPv6 packet, or nothing.
pub fn payload_fits(header: &Header, payload: &[u8]) -> bool {
    match header.next_header {
        NONE => payload.is_empty(),
        _ => payload.first().is_some_and(|byte| byte >> 4 == 6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "f3d47c2de40fb698e1ab15d757a09bfc";
    const BEAT: &str = "4152103b5f5e100020010db802ff000100000000000000029\
        3804198dc5b91b5e96165e6f9482893d33dd8b9";
    const DATA: &str = "415211295f5e100020010db802ff00010000000000000002\
        e4b5ad249bd09d5b1a906fd0cafdab48cf7edb506000000000103a4020010db802ff0001\
        000000000000000220010db802ff0001000000000000000180007a75123400016162636465666768";
    const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x2ff, 1, 0, 0, 0, 2);
    const TIME: u64 = 0x5f5e_1000;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pairs = digits
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).unwrap());
        pairs
            .map(|pair| u8::from_str_radix(pair, 16).unwrap())
            .collect()
    }

    #[test]
    fn datagrams_of_the_historical_client() {
        let key = Key::of(PASSWORD);
        let (heartbeat, data) = (bytes(BEAT), bytes(DATA));
        assert_eq!(seal(&key, CLIENT, TIME, (NOOP, NONE), &[]), heartbeat);
        let payload = &data[HEADER_BYTES..];
        assert_eq!(seal(&key, CLIENT, TIME, (FORWARD, IPV6), payload), data);
        for (datagram, operation, next_header) in [(&heartbeat, NOOP, NONE), (&data, FORWARD, IPV6)]
        {
            let read = header(datagram).unwrap();
            let expected = Header {
                identity: CLIENT,
                unix_seconds: TIME,
                operation,
                next_header,
            };
            assert_eq!(read, expected);
            assert!(key.signed(datagram) && !Key::of("other").signed(datagram));
            assert!(payload_fits(&read, &datagram[HEADER_BYTES..]));
        }
    }

    #[test]
    fn every_change_shows() {
        let key = Key::of(PASSWORD);
        let data = bytes(DATA);
        for bit in 0..data.len() * 8 {
            let mut changed = data.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(
                header(&changed).is_none() || !key.signed(&changed),
                "bit {bit}"
            );
        }
        for length in 0..data.len() {
            let cut = &data[..length];
            assert!(header(cut).is_none() || !key.signed(cut), "{length} bytes");
        }
        let long = seal(&key, CLIENT, TIME, (FORWARD, IPV6), &[0x60; 2049]);
        assert_eq!(header(&long), None);
    }

    #[test]
    fn clocks_may_differ_by_two_minutes() {
        let header = header(&bytes(BEAT)).unwrap();
        for (now, recent) in [
            (TIME - 121, false),
            (TIME - 120, true),
            (TIME + 120, true),
            (TIME + 121, false),
        ] {
            assert_eq!(header.is_recent(now), recent, "{now}");
        }
    }
}
