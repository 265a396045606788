//! The pings with which a PoP monitors its tunnels. The PoP recognizes the replies to its own pings, and
//! forwards all others.

use std::net::Ipv6Addr;

use crate::probe::packets::{ECHO_REPLY, ECHO_REQUEST, ICMPV6, checksum, ipv6};

use super::protocol41;

/// Payload of every ping, and so of every reply.
const MARK: [u8; 16] = *b"the PoP's ping\0\0";
const IDENTIFIER: [u8; 2] = [0x13, 0xd0];
const IPV6_HEADER_BYTES: usize = 40;
const ICMPV6_BYTES: usize = 8 + MARK.len();

/// An echo request (RFC 4443 §4.1).
pub fn request(from: Ipv6Addr, to: Ipv6Addr, number: u16) -> Vec<u8> {
    let mut message = vec![ECHO_REQUEST, 0, 0, 0];
    message.extend(IDENTIFIER);
    message.extend(number.to_be_bytes());
    message.extend(MARK);
    let mut packet = ipv6(from, to, ICMPV6, &message);
    let sum = sum(&packet[8..IPV6_HEADER_BYTES], &message);
    packet[IPV6_HEADER_BYTES + 2..][..2].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Whether this packet is the reply of `from` to a [`request`] of `to`.
pub fn is_answer(packet: &[u8], from: Ipv6Addr, to: Ipv6Addr) -> bool {
    let message = packet.get(IPV6_HEADER_BYTES..).unwrap_or_default();
    protocol41::addresses(packet) == Some((from, to))
        && packet[6] == ICMPV6
        && message.len() == ICMPV6_BYTES
        && message[0] == ECHO_REPLY
        && message[4..6] == IDENTIFIER
        && message[8..] == MARK
        && sum(&packet[8..IPV6_HEADER_BYTES], message) == 0
}

/// The checksum of RFC 4443 §2.3; 0 over a message that includes a correct one.
fn sum(addresses: &[u8], message: &[u8]) -> u16 {
    let length = u8::try_from(message.len()).unwrap_or_default();
    let rest = [0, 0, 0, length, 0, 0, 0, ICMPV6];
    checksum(&[addresses, &rest, message].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_answers() {
        let (us, them) = (
            "2001:db8::1".parse().unwrap(),
            "2001:db8::2".parse().unwrap(),
        );
        let request = request(us, them, 7);
        assert!(!is_answer(&request, them, us));
        let mut answer = super::request(them, us, 7);
        // From request to reply the checksum changes with the type.
        answer[40] = ECHO_REPLY;
        let sum = u16::from_be_bytes([answer[42], answer[43]]) - 0x0100;
        answer[42..44].copy_from_slice(&sum.to_be_bytes());
        assert!(is_answer(&answer, them, us));
        assert!(!is_answer(&answer, us, them));
        answer[63] ^= 1;
        assert!(!is_answer(&answer, them, us));
        for length in 0..answer.len() {
            assert!(!is_answer(&answer[..length], them, us));
        }
    }
}
