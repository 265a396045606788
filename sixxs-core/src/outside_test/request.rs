//! The request of an outside test: an echo request (RFC 4443 §4.1) of any size, in an Ethernet frame.

use std::net::Ipv6Addr;

use sixxs_common::packet::{ECHO_REQUEST, ICMPV6};

use crate::inside_test::request::Number;

/// The text in requests, for those who see them in a capture.
const TEXT: &[u8; 16] = b"sixxs check test";

const IPV6_BYTES: usize = 40;

/// Length of the ICMPv6 header of an echo request.
const ECHO_BYTES: usize = 8;

/// The length of a small request: long enough for its text.
pub const SMALL_BYTES: u32 = 64;

/// The length of the largest request. The kernel takes a frame for a test run only if it fits into a page with its own data.
pub const LARGEST_BYTES: u32 = 3500;

/// The hop limit of requests.
const HOP_LIMIT: u8 = 64;

/// A frame with a request of `bytes` bytes, without the link layer. Its Ethernet header has no addresses: the programs send it
/// to the next hop.
#[must_use]
pub fn frame(source: Ipv6Addr, destination: Ipv6Addr, number: Number, bytes: u32) -> Vec<u8> {
    let bytes = bytes.clamp(SMALL_BYTES, LARGEST_BYTES);
    let text_bytes = usize::try_from(bytes).unwrap_or(IPV6_BYTES) - IPV6_BYTES - ECHO_BYTES;
    let text = TEXT.iter().copied().cycle().take(text_bytes);
    let mut message = vec![ECHO_REQUEST, 0, 0, 0];
    message.extend(number.identifier.to_be_bytes());
    message.extend(number.sequence.to_be_bytes());
    message.extend(text);
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let addresses = [source.octets(), destination.octets()].concat();
    let sum = sum(&addresses) + sum(&message) + u32::from(length) + u32::from(ICMPV6);
    message[2..4].copy_from_slice(&(!fold(sum)).to_be_bytes());
    [
        &[0; 12],
        &[0x86, 0xdd][..],
        &[0x60, 0, 0, 0],
        &length.to_be_bytes(),
        &[ICMPV6, HOP_LIMIT],
        &addresses,
        &message,
    ]
    .concat()
}

/// The sum of all pairs of bytes (RFC 1071 §1); a single last byte is the high one of its pair.
fn sum(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks(2);
    pairs
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from))
        .sum()
}

/// The one's complement sum in 16 bits.
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
    let sum = sum as u16;
    sum
}

#[cfg(test)]
mod tests {
    use sixxs_common::{outside_test::request, packet};

    use super::*;

    #[test]
    fn the_programs_understand_it() {
        let [source, destination] =
            ["2001:db8:a::2", "2001:db8:b::2"].map(|text| text.parse().unwrap());
        for (sequence, bytes) in [(0, 64), (7, 1280), (300, 1481), (0xffff, 1500)] {
            let number = Number {
                identifier: 0x6978,
                sequence,
            };
            let frame = frame(source, destination, number, bytes);
            assert_eq!(frame.len(), 14 + usize::try_from(bytes).unwrap());
            let ipv6 = packet::ipv6(frame.as_slice(), 14).unwrap();
            let payload = &frame[54..];
            assert_eq!(usize::from(ipv6.payload_bytes), payload.len());
            let pseudo = u32::from(ipv6.payload_bytes) + u32::from(ipv6.next_header);
            let whole = sum(&frame[22..54]) + sum(payload) + pseudo;
            assert_eq!(fold(whole), 0xffff, "{bytes}");
            let ends = request(frame.as_slice(), &ipv6).unwrap();
            assert_eq!(ends.local.octets(), destination.octets());
            assert_eq!(ends.remote.octets(), source.octets());
            assert_eq!(
                ends.number,
                crate::inside_test::request::Message::Echo(number).word()
            );
        }
    }

    #[test]
    fn sizes_have_limits() {
        let address = Ipv6Addr::LOCALHOST;
        let number = Number {
            identifier: 1,
            sequence: 2,
        };
        assert_eq!(frame(address, address, number, 0).len(), 14 + 64);
        assert_eq!(frame(address, address, number, 9000).len(), 14 + 3500);
    }
}
