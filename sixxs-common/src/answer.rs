//! Echo requests that the programs answer themselves: which they answer, and how many.

use crate::packet::{ECHO_REPLY, ECHO_REQUEST, ICMPV6, IPV6_HEADER_BYTES, Ipv6};

/// The maximum number of answers per second, for each tunnel and processor. The kernel answers further requests as if
/// the programs did not.
pub const ANSWERS_PER_SECOND: u64 = 1000;

/// Hop limit of an answer.
pub const HOP_LIMIT: u8 = 64;

/// Whether the programs may answer an echo request to a tunnel's own address. They leave to the kernel what needs more
/// than an exchange of the addresses: extension headers, and so fragments; link layers with tags; sources of link scope
/// and those that are no unicast addresses; answers that do not fit the tunnel's MTU; packets that are longer or shorter
/// than their header shows. `offset` is the one that a packet without tags has; `bytes` is the length of
/// the frame from there on.
#[inline(always)]
#[must_use]
pub const fn may_answer(ipv6: &Ipv6, offset: u32, bytes: u32, mtu: u32) -> bool {
    let [high, _] = ipv6.source.words();
    let is_plain = ipv6.next_header == ICMPV6 && ipv6.offset == offset;
    let fits = IPV6_HEADER_BYTES + ipv6.payload_bytes as u32 == bytes && bytes <= mtu;
    // ::/64 has the unspecified, the loopback and the IPv4-mapped addresses (RFC 4291 §2.5).
    let is_unicast = high != 0 && !ipv6.source.is_multicast() && !ipv6.source.is_link_scope();
    is_plain && fits && is_unicast
}

/// The checksum of a reply, from that of its request: only the type differs (RFC 1624 §3, equation 3).
#[inline(always)]
#[must_use]
pub const fn reply_sum(sum: [u8; 2]) -> [u8; 2] {
    let request = !u16::from_be_bytes([ECHO_REQUEST, 0]);
    let reply = u16::from_be_bytes([ECHO_REPLY, 0]);
    let (partial, carry) = (!u16::from_be_bytes(sum)).overflowing_add(request);
    let (total, second) = (partial + carry as u16).overflowing_add(reply);
    (!(total + second as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{address::Address, packet::UDP};

    /// The sum of a message with this checksum and the rest of it, folded.
    fn total(kind: u8, sum: [u8; 2], rest: u16) -> u32 {
        let words = [u16::from_be_bytes([kind, 0]), u16::from_be_bytes(sum), rest];
        let total: u32 = words.map(u32::from).iter().sum();
        let folded = (total & 0xffff) + (total >> 16);
        (folded & 0xffff) + (folded >> 16)
    }

    #[test]
    fn a_reply_has_the_sum_of_its_request() {
        for rest in 0..=u16::MAX {
            // The checksum that makes the total all ones.
            let words = u32::from(u16::from_be_bytes([ECHO_REQUEST, 0])) + u32::from(rest);
            let folded = (words & 0xffff) + (words >> 16);
            let sum = (!u16::try_from(folded).unwrap()).to_be_bytes();
            assert_eq!(total(ECHO_REQUEST, sum, rest), 0xffff);
            assert_eq!(total(ECHO_REPLY, reply_sum(sum), rest), 0xffff, "{rest:#x}");
        }
    }

    fn request() -> Ipv6 {
        Ipv6 {
            offset: 14,
            source: address("2001:db8:ffff::9"),
            destination: address("2001:db8:a::2"),
            payload_bytes: 1240,
            next_header: ICMPV6,
        }
    }

    fn address(text: &str) -> Address {
        Address::from_octets(text.parse::<core::net::Ipv6Addr>().unwrap().octets())
    }

    #[test]
    fn only_plain_requests_that_fit_are_answered() {
        assert!(may_answer(&request(), 14, 1280, 1280));
        assert!(!may_answer(&request(), 14, 1280, 1279), "too long");
        assert!(!may_answer(&request(), 0, 1280, 1280), "a tag");
        assert!(!may_answer(&request(), 14, 1279, 1280), "cut off");
        assert!(!may_answer(&request(), 14, 1281, 1300), "padded");
        let fragment = Ipv6 {
            next_header: 44,
            ..request()
        };
        assert!(!may_answer(&fragment, 14, 1280, 1280));
        let datagram = Ipv6 {
            next_header: UDP,
            ..request()
        };
        assert!(!may_answer(&datagram, 14, 1280, 1280));
        for source in [
            "::",
            "::1",
            "::ffff:192.0.2.1",
            "fe80::1",
            "ff02::1",
            "ff0e::1",
        ] {
            let request = Ipv6 {
                source: address(source),
                ..request()
            };
            assert!(!may_answer(&request, 14, 1280, 1280), "{source}");
        }
    }
}
