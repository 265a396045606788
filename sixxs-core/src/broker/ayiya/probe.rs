//! An echo request (RFC 4443 §4.1) to the broker's inner address, and its reply.

use std::net::Ipv6Addr;

/// Length of the request and of its reply: an IPv6 header and an ICMPv6 echo header.
const BYTES: usize = 48;

const ICMPV6: u8 = 58;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

/// Identifies the replies to probes. Replies for ping programs belong to the host, and pass.
const IDENTIFIER: [u8; 2] = *b"6x";

/// Makes numbered requests.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    address: Ipv6Addr,
    peer: Ipv6Addr,
    sent: u16,
}

impl Probe {
    /// Requests from `address` to `peer`.
    #[must_use]
    pub const fn new(address: Ipv6Addr, peer: Ipv6Addr) -> Self {
        Self {
            address,
            peer,
            sent: 0,
        }
    }

    /// The next request.
    pub fn request(&mut self) -> [u8; BYTES] {
        self.sent = self.sent.wrapping_add(1);
        message(self.address, self.peer, ECHO_REQUEST, self.sent)
    }

    /// Whether a packet is the reply to one of the last requests.
    #[must_use]
    pub fn is_answer(&self, packet: &[u8]) -> bool {
        if packet.len() != BYTES {
            return false;
        }
        let last = self.sent.min(8);
        (0..last).any(|back| {
            let expected = message(self.peer, self.address, ECHO_REPLY, self.sent - back);
            // Compares everything except traffic class, flow label and hop limit, which the sender
            // chooses.
            packet[4..7] == expected[4..7] && packet[8..] == expected[8..]
        })
    }
}

fn message(from: Ipv6Addr, to: Ipv6Addr, kind: u8, number: u16) -> [u8; BYTES] {
    let mut packet = [0; BYTES];
    packet[0] = 0x60;
    packet[5] = 8;
    packet[6] = ICMPV6;
    packet[7] = 64;
    packet[8..24].copy_from_slice(&from.octets());
    packet[24..40].copy_from_slice(&to.octets());
    packet[40] = kind;
    packet[44..46].copy_from_slice(&IDENTIFIER);
    packet[46..48].copy_from_slice(&number.to_be_bytes());
    let checksum = checksum(&packet);
    packet[42..44].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The checksum over the pseudo-header (RFC 8200 §8.1) and the message.
fn checksum(packet: &[u8; BYTES]) -> u16 {
    let words = packet[8..]
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    // Length (8) and next header, from the pseudo-header.
    let sum = words.map(u32::from).sum::<u32>() + 8 + u32::from(ICMPV6);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
    let sum = sum as u16;
    !sum
}

/// The broker's reply.
#[cfg(test)]
pub(super) fn answer(address: Ipv6Addr, peer: Ipv6Addr, number: u16) -> [u8; BYTES] {
    message(peer, address, ECHO_REPLY, number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum over everything, including the checksum, is all ones.
    #[test]
    fn checksums_are_right() {
        let mut probe = Probe::new(
            "2001:db8:a::2".parse().unwrap(),
            "2001:db8:a::1".parse().unwrap(),
        );
        for _ in 0..300 {
            let request = probe.request();
            assert_eq!(checksum(&request), 0);
        }
    }

    #[test]
    fn only_replies_to_probes_are_accepted() {
        let (us, peer) = (
            "2001:db8:a::2".parse().unwrap(),
            "2001:db8:a::1".parse().unwrap(),
        );
        let mut probe = Probe::new(us, peer);
        assert!(!probe.is_answer(&message(peer, us, ECHO_REPLY, 0)));
        for _ in 0..20 {
            probe.request();
        }
        for (number, is_ours) in [(20, true), (13, true), (12, false), (21, false)] {
            let reply = message(peer, us, ECHO_REPLY, number);
            assert_eq!(probe.is_answer(&reply), is_ours, "{number}");
        }
        let mut reply = message(peer, us, ECHO_REPLY, 20);
        reply[7] = 63;
        assert!(probe.is_answer(&reply));
        reply[44] = b'7';
        assert!(!probe.is_answer(&reply));
        assert!(!probe.is_answer(&message(us, peer, ECHO_REQUEST, 20)));
        assert!(!probe.is_answer(&[]));
    }

    #[test]
    fn replies_to_the_last_eight_requests_are_known() {
        let [address, peer] = ["2001:db8:a::2", "2001:db8:a::1"].map(|a| a.parse().unwrap());
        let mut probe = Probe::new(address, peer);
        let known = |probe: &Probe| -> Vec<u16> {
            let numbers = (0..30).filter(|n| probe.is_answer(&answer(address, peer, *n)));
            numbers.collect()
        };
        assert_eq!(known(&probe), [0; 0]);
        probe.request();
        assert_eq!(known(&probe), [1]);
        for _ in 0..10 {
            probe.request();
        }
        assert_eq!(known(&probe), (4..=11).collect::<Vec<_>>());
        // The sender chooses traffic class, flow label and hop limit, and nothing else.
        let reply = answer(address, peer, 11);
        for (byte, is_free) in (0..BYTES).map(|byte| (byte, matches!(byte, 0..=3 | 7))) {
            let mut changed = reply;
            changed[byte] ^= 1;
            assert_eq!(probe.is_answer(&changed), is_free, "{byte}");
        }
        assert!(!probe.is_answer(&reply[..BYTES - 1]));
        assert!(!probe.is_answer(&[&reply[..], &[0]].concat()));
    }
}
