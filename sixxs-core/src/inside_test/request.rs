//! The packet of an inside test, in an Ethernet frame: an echo request (RFC 4443 §4.1), the SYN of a TCP connection (RFC 9293
//! §3.5) and the RST that ends it, or a UDP datagram.

use std::net::Ipv6Addr;

use sixxs_common::packet::{ECHO_REQUEST, ICMPV6, TCP, UDP};

/// The text in echo requests and datagrams, for those who see it in a capture.
const TEXT: &[u8; 16] = b"sixxs check test";

const ETHERNET_BYTES: usize = 14;
const IPV6_BYTES: usize = 40;

/// Length of an echo request and of its reply, without a link layer. A SYN and its SYN-ACK have the same.
pub const PACKET_BYTES: usize = IPV6_BYTES + 8 + TEXT.len();

/// The same with an Ethernet header.
pub const FRAME_BYTES: usize = ETHERNET_BYTES + PACKET_BYTES;

/// The sequence number of a SYN.
const SEQUENCE: u32 = 0x7369_7878;

/// The maximum segment size in a SYN: what the smallest MTU takes.
const SEGMENT_BYTES: u16 = 1220;

/// Flags of TCP (RFC 9293 §3.1).
const SYN: u8 = 2;
const RST: u8 = 4;

/// Identifier and sequence number of an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// The identifier.
    pub identifier: u16,
    /// The sequence number.
    pub sequence: u16,
}

/// The ports of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The tested port.
    pub local: u16,
    /// The other one.
    pub remote: u16,
}

impl Ports {
    /// The bytes at the beginning of a packet to the tested port.
    const fn bytes(self) -> [u8; 4] {
        pair(self.remote, self.local)
    }
}

/// A packet of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// An echo request.
    Echo(Number),
    /// The beginning of a TCP connection.
    Syn(Ports),
    /// The end of a TCP connection that has just begun.
    Reset(Ports),
    /// A UDP datagram.
    Datagram(Ports),
}

impl Message {
    /// The number by which the programs recognise it: [`Ends::number`](sixxs_common::inside_test::Ends::number).
    #[must_use]
    pub const fn word(self) -> u32 {
        u32::from_ne_bytes(match self {
            Self::Echo(number) => pair(number.identifier, number.sequence),
            Self::Syn(ports) | Self::Reset(ports) | Self::Datagram(ports) => {
                pair(ports.local, ports.remote)
            }
        })
    }

    const fn protocol(self) -> u8 {
        match self {
            Self::Echo(_) => ICMPV6,
            Self::Syn(_) | Self::Reset(_) => TCP,
            Self::Datagram(_) => UDP,
        }
    }

    /// Offset of its checksum.
    pub(crate) const fn checksum_offset(self) -> usize {
        match self {
            Self::Echo(_) => 2,
            Self::Syn(_) | Self::Reset(_) => 16,
            Self::Datagram(_) => 6,
        }
    }

    /// Its bytes behind the IPv6 header, with a checksum of 0.
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Echo(number) => {
                let number = pair(number.identifier, number.sequence);
                [&[ECHO_REQUEST, 0, 0, 0], &number[..], TEXT].concat()
            }
            Self::Syn(ports) => {
                let [high, low] = SEGMENT_BYTES.to_be_bytes();
                // Kind 2: the maximum segment size (RFC 9293 §3.7.1).
                tcp(ports, SEQUENCE, SYN, &[2, 4, high, low])
            }
            Self::Reset(ports) => tcp(ports, SEQUENCE.wrapping_add(1), RST, &[]),
            Self::Datagram(ports) => [
                &ports.bytes()[..],
                &DATAGRAM_BYTES.to_be_bytes(),
                &[0; 2],
                TEXT,
            ]
            .concat(),
        }
    }
}

/// Length of a datagram with its header.
const DATAGRAM_BYTES: u16 = 24;

const _: () = assert!(DATAGRAM_BYTES as usize == 8 + TEXT.len());

/// An echo request behind an IPv6 header, without a checksum, for a packet of this length, or of
/// [`PACKET_BYTES`] if that is longer.
#[must_use]
pub fn echo_request(number: Number, packet_bytes: u32) -> Vec<u8> {
    let mut bytes = Message::Echo(number).bytes();
    let wanted = usize::try_from(packet_bytes).unwrap_or_default();
    bytes.resize(wanted.saturating_sub(IPV6_BYTES).max(bytes.len()), 0);
    bytes
}

const fn pair(first: u16, second: u16) -> [u8; 4] {
    let [a, b] = first.to_be_bytes();
    let [c, d] = second.to_be_bytes();
    [a, b, c, d]
}

fn tcp(ports: Ports, sequence: u32, flags: u8, options: &[u8]) -> Vec<u8> {
    // The header has 5 words, and an option one.
    let words: u8 = if options.is_empty() { 5 } else { 6 };
    let window = u16::MAX.to_be_bytes();
    [
        &ports.bytes()[..],
        &sequence.to_be_bytes(),
        &[0; 4],
        &[words << 4, flags],
        &window,
        &[0; 4],
        options,
    ]
    .concat()
}

/// A frame with a message from `source` to `address`. `mac` is the address of the interface that it is put into; an interface
/// without a link layer ignores the Ethernet header.
#[must_use]
pub fn frame(
    source: Ipv6Addr,
    address: Ipv6Addr,
    message: Message,
    mac: Option<[u8; 6]>,
) -> Vec<u8> {
    let ends = [source, address];
    let place = (message.protocol(), message.checksum_offset());
    framed(ends, place, message.bytes(), mac)
}

/// A frame with these bytes behind the IPv6 header. They have a checksum of 0 at this offset.
pub(crate) fn framed(
    [source, destination]: [Ipv6Addr; 2],
    (protocol, checksum_offset): (u8, usize),
    mut bytes: Vec<u8>,
    mac: Option<[u8; 6]>,
) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    let addresses = [source.octets(), destination.octets()].concat();
    let sum = sum(&addresses) + sum(&bytes) + u32::from(length) + u32::from(protocol);
    let checksum = match fold(sum) {
        // RFC 768: 0 means that there is none.
        0xffff if protocol == UDP => 0xffff,
        folded => !folded,
    };
    bytes[checksum_offset..checksum_offset + 2].copy_from_slice(&checksum.to_be_bytes());
    [
        &mac.unwrap_or_default()[..],
        &[0; 6],
        &[0x86, 0xdd],
        &[0x60, 0, 0, 0],
        &length.to_be_bytes(),
        &[protocol, HOP_LIMIT],
        &addresses,
        &bytes,
    ]
    .concat()
}

/// The hop limit of the packets.
const HOP_LIMIT: u8 = 64;

/// The sum of all pairs of bytes (RFC 1071 §1); a single last byte is the high one of its pair.
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks(2);
    pairs
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from))
        .sum()
}

/// The one's complement sum in 16 bits.
pub(crate) fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
    let sum = sum as u16;
    sum
}

#[cfg(test)]
mod tests {
    use sixxs_common::{
        inside_test::{entry_index, request},
        packet,
    };

    use super::*;

    /// The programs find the same numbers in it, and the sum over everything is all ones.
    #[test]
    fn the_programs_understand_it() {
        let [source, address] = ["3fff:fff::1", "2001:db8:a::2"].map(|text| text.parse().unwrap());
        for (high, low) in [(0, 0), (0x6978, 5), (0xffff, 0xffff), (1, 300)] {
            let number = Number {
                identifier: high,
                sequence: low,
            };
            let ports = Ports {
                local: high,
                remote: low,
            };
            for message in [
                Message::Echo(number),
                Message::Syn(ports),
                Message::Reset(ports),
                Message::Datagram(ports),
            ] {
                let frame = frame(source, address, message, Some([2, 0, 0, 0, 0, 7]));
                assert_eq!(frame[..6], [2, 0, 0, 0, 0, 7]);
                let ipv6 = packet::ipv6(frame.as_slice(), 14).unwrap();
                let payload = &frame[54..];
                assert_eq!(usize::from(ipv6.payload_bytes), payload.len());
                let pseudo = u32::from(ipv6.payload_bytes) + u32::from(ipv6.next_header);
                let whole = sum(&frame[22..54]) + sum(payload) + pseudo;
                assert_eq!(fold(whole), 0xffff, "{message:?}");
                let ends = request(frame.as_slice(), &ipv6).unwrap();
                assert_eq!(ends.local.octets(), address.octets());
                assert_eq!(ends.remote.octets(), source.octets());
                assert_eq!(ends.number, message.word());
                assert_eq!(entry_index(ends.number), u32::from(low) % 256);
            }
        }
    }

    #[test]
    fn a_connection_ends_behind_its_beginning() {
        let ports = Ports {
            local: 443,
            remote: 5000,
        };
        let [syn, reset] = [Message::Syn(ports), Message::Reset(ports)].map(Message::bytes);
        assert_eq!((syn.len(), reset.len()), (24, 20));
        assert_eq!(
            (syn[12..14].to_vec(), reset[12..14].to_vec()),
            (vec![0x60, 2], vec![0x50, 4])
        );
        let sequence = |bytes: &[u8]| u32::from_be_bytes(bytes[4..8].try_into().unwrap());
        assert_eq!(sequence(&reset), sequence(&syn) + 1);
    }
}
