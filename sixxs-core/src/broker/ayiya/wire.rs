//! AYIYA datagrams (draft-massar-v6ops-ayiya-02) in the form that its brokers use: a string
//! identity of 16 bytes, SHA-1 with a shared secret.
//!
//! ```text
//!  0                   1                   2                   3
//! +-------+-------+-------+-------+-------+-------+---------------+
//! |IdLen 4| IdTyp1|SigLen5| Hash 2| Auth 1|  Op   |  Next header  |
//! +-------+-------+-------+-------+-------+-------+---------------+
//! |                     Unix time, in seconds                     |
//! +---------------------------------------------------------------+
//! |        identity: the sender's address in the tunnel (16)      |
//! +---------------------------------------------------------------+
//! |                       signature (20)                          |
//! +---------------------------------------------------------------+
//! |                        payload …                              |
//! ```

use std::net::Ipv6Addr;

use sha1::{Digest as _, Sha1};
use sixxs_common::ayiya::{self, MAGIC, NEXT_IPV6};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::secret::Secret;

/// The broker's UDP port.
pub const PORT: u16 = 5072;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = ayiya::HEADER_BYTES as usize;

/// The largest datagram that brokers accept, in bytes.
pub const LARGEST_BYTES: usize = 2092;

/// The maximum difference between the two clocks, in seconds.
pub const CLOCK_SECONDS: u64 = ayiya::CLOCK_SECONDS as u64;

const TIME: std::ops::Range<usize> = 4..8;
const IDENTITY: std::ops::Range<usize> = 8..24;
const SIGNATURE: std::ops::Range<usize> = 24..HEADER_BYTES;

/// The purpose of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A keepalive.
    Noop,
    /// The payload is a packet.
    Forward,
    /// Requests an answer.
    EchoRequest,
    /// Requests an answer, and the payload is a packet.
    EchoRequestForward,
    /// The answer.
    EchoResponse,
    /// Message of the day, queries and their answers: not used here.
    Other(u8),
}

impl Operation {
    const fn from_wire(bits: u8) -> Self {
        match bits {
            0 => Self::Noop,
            1 => Self::Forward,
            2 => Self::EchoRequest,
            3 => Self::EchoRequestForward,
            4 => Self::EchoResponse,
            other => Self::Other(other),
        }
    }
}

/// `next header` of a datagram without a packet.
const NEXT_NONE: u8 = 59;

/// SHA-1 of the password, the key for signatures. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct Key([u8; 20]);

impl Key {
    /// From the password as text: a password that looks like hexadecimal digits is not decoded.
    fn of(password: &Secret) -> Self {
        Self(Sha1::digest(password.expose()).into())
    }
}

/// Makes signed datagrams.
pub struct Sealer {
    identity: [u8; 16],
    key: Key,
}

impl Sealer {
    /// Signs as the end whose inner address is `identity`.
    #[must_use]
    pub fn new(identity: Ipv6Addr, password: &Secret) -> Self {
        Self {
            identity: identity.octets(),
            key: Key::of(password),
        }
    }

    /// A keepalive.
    #[must_use]
    pub fn keepalive(&self, unix_seconds: u64) -> [u8; HEADER_BYTES] {
        let mut datagram = [0; HEADER_BYTES];
        self.seal(&mut datagram, Operation::Noop, unix_seconds);
        datagram
    }

    /// Writes the header before the IPv6 packet that follows it. A `datagram` too short for a
    /// header stays unchanged.
    pub fn forward(&self, datagram: &mut [u8], unix_seconds: u64) {
        self.seal(datagram, Operation::Forward, unix_seconds);
    }

    fn seal(&self, datagram: &mut [u8], operation: Operation, unix_seconds: u64) {
        let Some((header, _)) = datagram.split_first_chunk_mut::<HEADER_BYTES>() else {
            return;
        };
        let [first, second, third] = MAGIC;
        let (operation, next) = match operation {
            Operation::Forward => (1, NEXT_IPV6),
            _ => (0, NEXT_NONE),
        };
        header[..4].copy_from_slice(&[first, second, third | operation, next]);
        // The field has 32 bits; it wraps in 2106.
        header[TIME].copy_from_slice(&unix_seconds.to_be_bytes()[4..]);
        header[IDENTITY].copy_from_slice(&self.identity);
        header[SIGNATURE].copy_from_slice(&self.key.0);
        // During hashing, the key is in place of the signature. Then the signature overwrites it.
        let signature = Sha1::digest(&*datagram);
        datagram[SIGNATURE].copy_from_slice(&signature);
    }
}

/// The reason why a datagram was refused. The sender gets no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Shorter than a header.
    Short,
    /// The header is not the one that brokers use.
    Header,
    /// The identity is not that of the other end.
    Identity,
    /// The clocks differ too much, or the datagram is old.
    Time,
    /// Not signed with this tunnel's password.
    Signature,
    /// The payload does not match the header.
    Payload,
    /// An exact copy of an earlier datagram.
    Repeat,
    /// A packet whose source is the local inner address.
    OwnSource,
}

impl DropReason {
    /// All faults, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Short,
        Self::Header,
        Self::Identity,
        Self::Time,
        Self::Signature,
        Self::Payload,
        Self::Repeat,
        Self::OwnSource,
    ];

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Header => "header",
            Self::Identity => "identity",
            Self::Time => "time",
            Self::Signature => "signature",
            Self::Payload => "payload",
            Self::Repeat => "repeat",
            Self::OwnSource => "own_source",
        }
    }
}

/// A valid datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Its purpose.
    pub operation: Operation,
    /// Its time, in seconds.
    pub unix_seconds: u64,
    /// Its signature, unique to this datagram.
    pub signature: [u8; 20],
    /// The IPv6 packet, if it carries one.
    pub packet: Option<&'a [u8]>,
}

/// Opens datagrams of the other end.
pub struct Opener {
    identity: [u8; 16],
    key: Key,
}

impl Opener {
    /// Accepts datagrams signed by the end whose inner address is `identity`.
    #[must_use]
    pub fn new(identity: Ipv6Addr, password: &Secret) -> Self {
        Self {
            identity: identity.octets(),
            key: Key::of(password),
        }
    }

    /// Checks a datagram, the cheap parts first.
    pub fn open<'a>(&self, datagram: &'a [u8], now_unix: u64) -> Result<Opened<'a>, DropReason> {
        let Some((header, payload)) = datagram.split_first_chunk::<HEADER_BYTES>() else {
            return Err(DropReason::Short);
        };
        if !ayiya::is_header([header[0], header[1], header[2]]) {
            return Err(DropReason::Header);
        }
        if header[IDENTITY] != self.identity {
            return Err(DropReason::Identity);
        }
        let time = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let unix_seconds = nearest(time, now_unix);
        if unix_seconds.abs_diff(now_unix) > CLOCK_SECONDS {
            return Err(DropReason::Time);
        }
        let expected = Sha1::new()
            .chain_update(&header[..SIGNATURE.start])
            .chain_update(self.key.0)
            .chain_update(payload)
            .finalize();
        if !bool::from(header[SIGNATURE].ct_eq(&expected)) {
            return Err(DropReason::Signature);
        }
        let operation = Operation::from_wire(header[2] & 0x0f);
        let forwards = matches!(
            operation,
            Operation::Forward | Operation::EchoRequestForward
        );
        let packet = match header[3] {
            NEXT_IPV6 if forwards && is_whole_packet(payload) => Some(payload),
            NEXT_NONE if !forwards || payload.is_empty() => None,
            // Other payloads are not used here, but a broker may send them.
            _ if !forwards => None,
            _ => return Err(DropReason::Payload),
        };
        let mut signature = [0; 20];
        signature.copy_from_slice(&expected);
        Ok(Opened {
            operation,
            unix_seconds,
            signature,
            packet,
        })
    }
}

/// The time nearest to `now` whose lower 32 bits are `time`.
fn nearest(time: u32, now: u64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower 32 bits are meant"
    )]
    let ahead = time.wrapping_sub(now as u32);
    if ahead < 1 << 31 {
        now.saturating_add(u64::from(ahead))
    } else {
        let behind = u64::from(ahead.wrapping_neg());
        now.checked_sub(behind).unwrap_or(u64::from(time))
    }
}

/// Whether the payload is an IPv6 header with the length of the rest. A jumbogram (RFC 2675) fits
/// in no datagram.
fn is_whole_packet(payload: &[u8]) -> bool {
    let Some((header, rest)) = payload.split_first_chunk::<40>() else {
        return false;
    };
    header[0] >> 4 == 6 && usize::from(u16::from_be_bytes([header[4], header[5]])) == rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME_SENT: u64 = 0x5f5e_1000;
    const BEAT: &str =
        "4152103b5f5e100020010db802ff0001000000000000000293804198dc5b91b5e96165e6f9482893d33dd8b9";
    const FORWARD: &str = "415211295f5e100020010db802ff00010000000000000002e4b5ad249bd09d5b1a906fd0cafdab48cf7edb506000000000103a4020010db802ff0001000000000000000220010db802ff0001000000000000000180007a75123400016162636465666768";

    fn bytes(hex: &str) -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn password() -> Secret {
        Secret::from("f3d47c2de40fb698e1ab15d757a09bfc")
    }

    fn us() -> Ipv6Addr {
        "2001:db8:2ff:1::2".parse().unwrap()
    }

    #[test]
    fn test_vectors_in_both_directions() {
        let key = Key::of(&password());
        assert_eq!(
            key.0[..],
            bytes("5ec7fae6e1e0bbc6ffb40837a5c26b2855dc7fba")[..]
        );
        let sealer = Sealer::new(us(), &password());
        assert_eq!(sealer.keepalive(TIME_SENT)[..], bytes(BEAT)[..]);
        let forward = bytes(FORWARD);
        let mut made = vec![0; HEADER_BYTES];
        made.extend_from_slice(&forward[HEADER_BYTES..]);
        sealer.forward(&mut made, TIME_SENT);
        assert_eq!(made, forward);

        let opener = Opener::new(us(), &password());
        let opened = opener.open(&forward, TIME_SENT + 120).unwrap();
        assert_eq!(opened.operation, Operation::Forward);
        assert_eq!(opened.packet, Some(&forward[HEADER_BYTES..]));
        assert_eq!(opened.unix_seconds, TIME_SENT);
        let beat = bytes(BEAT);
        let opened = opener.open(&beat, TIME_SENT - 120).unwrap();
        assert_eq!((opened.operation, opened.packet), (Operation::Noop, None));
    }

    #[test]
    fn every_changed_bit_and_every_truncation_is_detected() {
        let opener = Opener::new(us(), &password());
        let forward = bytes(FORWARD);
        for bit in 0..forward.len() * 8 {
            let mut changed = forward.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(opener.open(&changed, TIME_SENT).is_err(), "bit {bit}");
        }
        for length in 0..forward.len() {
            assert!(opener.open(&forward[..length], TIME_SENT).is_err());
        }
        let longer = [&forward[..], &[0]].concat();
        assert_eq!(opener.open(&longer, TIME_SENT), Err(DropReason::Signature));
    }

    #[test]
    fn faults_are_named() {
        let forward = bytes(FORWARD);
        let opener = Opener::new(us(), &password());
        let open = |datagram: &[u8], now| opener.open(datagram, now).unwrap_err();
        assert_eq!(open(&[], TIME_SENT), DropReason::Short);
        assert_eq!(open(&[0; 44], TIME_SENT), DropReason::Header);
        assert_eq!(open(&forward, TIME_SENT + 121), DropReason::Time);
        assert_eq!(open(&forward, TIME_SENT - 121), DropReason::Time);
        let other = Opener::new("2001:db8:2ff:1::1".parse().unwrap(), &password());
        assert_eq!(other.open(&forward, TIME_SENT), Err(DropReason::Identity));
        let other = Opener::new(us(), &Secret::from("f3d47c2d"));
        assert_eq!(other.open(&forward, TIME_SENT), Err(DropReason::Signature));
        // Signed, but not a packet: truncated after the version.
        let sealer = Sealer::new(us(), &password());
        for payload in [&[][..], &[0x60], &[0x45; 40], &forward[44..90]] {
            let mut datagram = [&[0; HEADER_BYTES][..], payload].concat();
            sealer.forward(&mut datagram, TIME_SENT);
            assert_eq!(
                open(&datagram, TIME_SENT),
                DropReason::Payload,
                "{payload:?}"
            );
        }
    }

    #[test]
    fn the_time_field_wraps() {
        let sealer = Sealer::new(us(), &password());
        let opener = Opener::new(us(), &password());
        let wrap = 1u64 << 32;
        let beat = sealer.keepalive(wrap + 5);
        assert_eq!(opener.open(&beat, wrap - 5).unwrap().unix_seconds, wrap + 5);
        let beat = sealer.keepalive(wrap - 5);
        assert_eq!(opener.open(&beat, wrap + 5).unwrap().unix_seconds, wrap - 5);
        // A machine without a real-time clock starts in 1970.
        let beat = sealer.keepalive(wrap - 1);
        assert_eq!(opener.open(&beat, 3), Err(DropReason::Time));
    }

    /// A signed datagram with these two bytes of the header and this payload.
    fn signed(operation: u8, next: u8, payload: &[u8]) -> Vec<u8> {
        let sealer = Sealer::new(us(), &password());
        let mut datagram = sealer.keepalive(TIME_SENT).to_vec();
        datagram[2] = MAGIC[2] | operation;
        datagram[3] = next;
        let signature = Sha1::new()
            .chain_update(&datagram[..SIGNATURE.start])
            .chain_update(sealer.key.0)
            .chain_update(payload)
            .finalize();
        datagram[SIGNATURE].copy_from_slice(&signature);
        datagram.extend_from_slice(payload);
        datagram
    }

    #[test]
    fn every_operation_is_read() {
        use Operation::{EchoRequest, EchoRequestForward, EchoResponse, Forward, Noop, Other};
        let forward = bytes(FORWARD);
        let packet = &forward[HEADER_BYTES..];
        let (none, bad) = (Ok(None), Err(DropReason::Payload));
        for (operation, bits, next, payload, expected) in [
            (Noop, 0, NEXT_NONE, &[][..], none),
            (Noop, 0, NEXT_NONE, &[1, 2], none),
            (Forward, 1, NEXT_IPV6, packet, Ok(Some(packet))),
            (Forward, 1, NEXT_IPV6, &[], bad),
            (Forward, 1, NEXT_NONE, &[], none),
            (Forward, 1, NEXT_NONE, packet, bad),
            (Forward, 1, 17, packet, bad),
            (EchoRequest, 2, NEXT_NONE, &[], none),
            (EchoRequest, 2, NEXT_IPV6, packet, none),
            (EchoRequestForward, 3, NEXT_IPV6, packet, Ok(Some(packet))),
            (EchoResponse, 4, 17, &[7], none),
            (Other(5), 5, 17, &[7], none),
            (Other(15), 15, NEXT_NONE, &[], none),
        ] {
            let datagram = signed(bits, next, payload);
            let opened = Opener::new(us(), &password()).open(&datagram, TIME_SENT);
            let packet = opened.map(|opened| opened.packet);
            assert_eq!(packet, expected, "{operation:?} {next}");
            if let Ok(opened) = opened {
                assert_eq!(opened.operation, operation);
            }
        }
    }

    #[test]
    fn a_packet_has_its_own_length() {
        let forward = bytes(FORWARD);
        let packet = &forward[HEADER_BYTES..];
        assert!(is_whole_packet(packet));
        assert!(!is_whole_packet(&packet[..packet.len() - 1]));
        assert!(!is_whole_packet(&[packet, &[0]].concat()));
        let mut other = packet.to_vec();
        other[0] = 0x45;
        assert!(!is_whole_packet(&other), "IPv4");
    }

    #[test]
    fn a_datagram_without_room_for_a_header_stays_as_it_is() {
        let sealer = Sealer::new(us(), &password());
        let mut short = [7; HEADER_BYTES - 1];
        sealer.forward(&mut short, TIME_SENT);
        assert_eq!(short, [7; HEADER_BYTES - 1]);
    }

    /// Metrics and status have a value for each.
    #[test]
    fn reasons_are_counted_by_name_and_place() {
        let names = DropReason::ALL.map(DropReason::name);
        let expected = [
            "short",
            "header",
            "identity",
            "time",
            "signature",
            "payload",
            "repeat",
            "own_source",
        ];
        assert_eq!(names, expected);
        for (place, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }

    #[test]
    fn the_nearest_time_is_at_most_half_the_range_away() {
        const HALF: u64 = 1 << 31;
        for (time, now, expected) in [
            (7, 7, 7),
            (8, 7, 8),
            (6, 7, 6),
            (0, HALF - 1 + 2 * HALF, 2 * HALF),
            (0, HALF + 2 * HALF, 2 * HALF),
            (0, HALF + 1 + 2 * HALF, 4 * HALF),
            (u32::MAX, 4 * HALF, 4 * HALF - 1),
            // Before 1970 there is no time.
            (u32::MAX, 3, u32::MAX.into()),
            (3, u64::MAX, u64::MAX),
        ] {
            assert_eq!(nearest(time, now), expected, "{time} {now}");
        }
    }
}
