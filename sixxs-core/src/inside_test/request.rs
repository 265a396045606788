//! The echo request of an inside test (RFC 4443 §4.1), in an Ethernet frame.

use std::net::Ipv6Addr;

/// The text in the request, for those who see it in a capture.
const TEXT: &[u8; 16] = b"sixxs check test";

const ETHERNET_BYTES: usize = 14;
const IPV6_BYTES: usize = 40;
const ICMPV6_BYTES: usize = 8 + TEXT.len();

/// Length of the request and of its reply, without a link layer.
pub const PACKET_BYTES: usize = IPV6_BYTES + ICMPV6_BYTES;

/// The same with an Ethernet header.
pub const FRAME_BYTES: usize = ETHERNET_BYTES + PACKET_BYTES;

/// The payload length in the IPv6 header.
const PAYLOAD_LENGTH: u16 = 24;

const _: () = assert!(PAYLOAD_LENGTH as usize == ICMPV6_BYTES);

const ICMPV6: u8 = 58;
const ECHO_REQUEST: u8 = 128;

/// Identifier and sequence number of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// The identifier.
    pub identifier: u16,
    /// The sequence number.
    pub sequence: u16,
}

impl Number {
    /// Its bytes in the packet, as the word that the programs read.
    #[must_use]
    pub const fn word(self) -> u32 {
        u32::from_ne_bytes(self.bytes())
    }

    const fn bytes(self) -> [u8; 4] {
        let [a, b] = self.identifier.to_be_bytes();
        let [c, d] = self.sequence.to_be_bytes();
        [a, b, c, d]
    }
}

/// The request from `source` to `address`. `mac` is the address of the interface that it is put into; an interface without
/// a link layer ignores the Ethernet header.
#[must_use]
pub fn frame(
    source: Ipv6Addr,
    address: Ipv6Addr,
    number: Number,
    mac: Option<[u8; 6]>,
) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    let (ethernet, packet) = frame.split_at_mut(ETHERNET_BYTES);
    ethernet[..6].copy_from_slice(&mac.unwrap_or_default());
    ethernet[12..].copy_from_slice(&[0x86, 0xdd]);
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&PAYLOAD_LENGTH.to_be_bytes());
    packet[6] = ICMPV6;
    packet[7] = 64;
    packet[8..24].copy_from_slice(&source.octets());
    packet[24..40].copy_from_slice(&address.octets());
    packet[40] = ECHO_REQUEST;
    packet[44..48].copy_from_slice(&number.bytes());
    packet[48..].copy_from_slice(TEXT);
    let checksum = checksum(packet);
    packet[42..44].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// The checksum over the pseudo-header (RFC 8200 §8.1) and the message.
fn checksum(packet: &[u8]) -> u16 {
    let pairs = packet[8..].chunks_exact(2);
    let words = pairs.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    // Length and next header, from the pseudo-header.
    let sum = words.sum::<u32>() + u32::from(PAYLOAD_LENGTH) + u32::from(ICMPV6);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
    let sum = sum as u16;
    !sum
}

#[cfg(test)]
mod tests {
    use sixxs_common::{
        inside_test::entry_index,
        packet::{self, Echo},
    };

    use super::*;

    /// The programs find the same numbers in it, and the sum over everything is all ones.
    #[test]
    fn the_programs_understand_it() {
        let [source, address] = ["3fff:fff::1", "2001:db8:a::2"].map(|text| text.parse().unwrap());
        for (identifier, sequence) in [(0, 0), (0x6978, 5), (0xffff, 0xffff), (1, 300)] {
            let number = Number {
                identifier,
                sequence,
            };
            let frame = frame(source, address, number, Some([2, 0, 0, 0, 0, 7]));
            assert_eq!(checksum(&frame[ETHERNET_BYTES..]), 0);
            assert_eq!(frame[..6], [2, 0, 0, 0, 0, 7]);
            let ipv6 = packet::ipv6(frame.as_slice(), 14).unwrap();
            assert_eq!(ipv6.source.octets(), source.octets());
            assert_eq!(ipv6.destination.octets(), address.octets());
            let message = packet::echo(frame.as_slice(), &ipv6).unwrap();
            assert_eq!(message.kind, Echo::Request);
            assert_eq!(message.number, Some(number.word()));
            assert_eq!(entry_index(number.word()), u32::from(sequence) % 256);
        }
    }
}
