//! The request of an outside test: an echo request (RFC 4443 §4.1) of any size, in an Ethernet frame.

use std::net::Ipv6Addr;

use sixxs_common::packet::ICMPV6;

use crate::inside_test::request::{Message, Number, PACKET_BYTES, echo_request, framed};

/// The length of a small request: long enough for its text.
pub const SMALL_BYTES: u32 = 64;

const _: () = assert!(SMALL_BYTES as usize == PACKET_BYTES);

/// The length of the largest request. The kernel takes a frame for a test run only if it fits into a page with its own data.
pub const LARGEST_BYTES: u32 = 3500;

/// A frame with a request of `bytes` bytes, without the link layer. Its Ethernet header has no addresses: the programs send it
/// to the next hop.
#[must_use]
pub fn frame(source: Ipv6Addr, destination: Ipv6Addr, number: Number, bytes: u32) -> Vec<u8> {
    let message = echo_request(number, bytes.min(LARGEST_BYTES));
    let place = (ICMPV6, Message::Echo(number).checksum_offset());
    framed([source, destination], place, message, None)
}

#[cfg(test)]
mod tests {
    use sixxs_common::{outside_test::request, packet};

    use super::*;
    use crate::inside_test::request::{fold, sum};

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
            assert_eq!(ends.number, Message::Echo(number).word());
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
