//! The ICMPv6 Packet Too Big (RFC 4443 §3.2) that answers a leak which does not fit the tunnel.

use crate::{
    address::Address,
    packet::{ICMPV6, IPV6_HEADER_BYTES},
};

/// The minimum MTU of an IPv6 link (RFC 8200 §5), and the maximum length of an ICMPv6 error (RFC
/// 4443 §2.4 c). A packet up to this length is never too big.
pub const MINIMUM_MTU: u32 = 1280;

/// Length of the ICMPv6 header with the MTU field.
const ICMP_HEADER_BYTES: u32 = 8;

/// Length of the IPv6 and ICMPv6 headers before the quoted packet.
pub const HEADER_BYTES: u32 = IPV6_HEADER_BYTES + ICMP_HEADER_BYTES;

/// Number of quoted bytes of the offending packet. It is constant, because every packet that is too
/// big for a tunnel is longer than [`MINIMUM_MTU`].
pub const QUOTED_BYTES: u32 = MINIMUM_MTU - HEADER_BYTES;

/// ICMPv6 type Packet Too Big.
const PACKET_TOO_BIG: u8 = 2;

/// Hop limit of the packets that the programs send: nodes use 64 (RFC 1700, to which CurHopLimit in RFC 4861
/// §6.3.2 refers).
const HOP_LIMIT: u8 = 64;

/// Builds the headers before [`QUOTED_BYTES`] of the offending packet.
///
/// * `router` – source of the error: the far end of the tunnel
/// * `sender` – source of the offending packet
/// * `mtu` – the size that would have fitted, in bytes
/// * `quoted_sum` – the one's complement sum (RFC 1071) of the quoted bytes, not inverted
#[inline(always)]
#[must_use]
pub fn headers(
    router: Address,
    sender: Address,
    mtu: u32,
    quoted_sum: u64,
) -> [u8; HEADER_BYTES as usize] {
    const PAYLOAD_BYTES: u32 = MINIMUM_MTU - IPV6_HEADER_BYTES;
    let mut bytes = [0; HEADER_BYTES as usize];
    let [.., high, low] = PAYLOAD_BYTES.to_be_bytes();
    bytes[0] = 0x60;
    bytes[4] = high;
    bytes[5] = low;
    bytes[6] = ICMPV6;
    bytes[7] = HOP_LIMIT;
    bytes[8..24].copy_from_slice(&router.octets());
    bytes[24..40].copy_from_slice(&sender.octets());
    bytes[40] = PACKET_TOO_BIG;
    bytes[44..48].copy_from_slice(&mtu.to_be_bytes());

    // Pseudo-header (RFC 8200 §8.1) and ICMPv6 header, in native byte order like the kernel's own
    // sums: the one's complement sum does not depend on the byte order (RFC 1071 §2 B).
    let mut sum = quoted_sum;
    let mut at = 8;
    while at < 48 {
        sum += u64::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        at += 2;
    }
    sum += u64::from(u16::from_ne_bytes([high, low]));
    sum += u64::from(u16::from_ne_bytes([0, ICMPV6]));
    let [first, second] = (!fold(sum)).to_ne_bytes();
    bytes[42] = first;
    bytes[43] = second;
    bytes
}

/// Folds a sum of 16-bit words into one (RFC 1071 §2 A).
#[inline(always)]
pub(crate) const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    // After two folds, no bits above the lowest sixteen are set.
    (sum & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A direct implementation of RFC 1071: 16-bit words, big-endian, end-around carry.
    fn internet_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_fields_are_at_their_places() {
        let [router, sender] = [1, 2].map(|byte| [byte; 16]);
        let [to, from] = [sender, router].map(Address::from_octets);
        let bytes = headers(from, to, 0x0001_2345, 0);
        let fields: [(&str, core::ops::Range<usize>, &[u8]); 7] = [
            ("version, class and label", 0..4, &[0x60, 0, 0, 0]),
            ("payload length: 1240", 4..6, &[4, 216]),
            ("ICMPv6 and hop limit", 6..8, &[58, 64]),
            ("source", 8..24, &router),
            ("destination", 24..40, &sender),
            ("type and code", 40..42, &[2, 0]),
            ("MTU", 44..48, &[0, 1, 0x23, 0x45]),
        ];
        for (name, range, expected) in fields {
            assert_eq!(&bytes[range], expected, "{name}");
        }
        assert_eq!(bytes.len(), 48);
    }

    #[test]
    fn sums_at_the_edges_are_folded() {
        for (sum, expected) in [
            (0, 0),
            (0xffff, 0xffff),
            (0x1_0000, 1),
            (0x1_ffff_ffff, 1),
            (0xffff_ffff, 0xffff),
            (0xffff_0001_0000, 1),
            (u64::MAX, 0xffff),
        ] {
            assert_eq!(fold(sum), expected, "{sum:#x}");
        }
    }

    proptest! {
        /// One's complement arithmetic is arithmetic modulo 2^16 - 1, where only a sum of nothing is zero.
        #[test]
        fn a_folded_sum_is_the_remainder(sum: u64) {
            prop_assert_eq!(u64::from(fold(sum)) % 0xffff, sum % 0xffff);
            prop_assert_eq!(fold(sum) == 0, sum == 0);
        }

        #[test]
        fn checksum_is_right(router: [u8; 16], sender: [u8; 16], mtu in 1280u32..=65535, seed: u64) {
            let mut state = seed | 1;
            let quoted: Vec<u8> = (0..QUOTED_BYTES)
                .map(|_| { state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1); state.to_be_bytes()[0] })
                .collect();
            let quoted_sum = quoted.chunks(2)
                .map(|pair| u64::from(u16::from_ne_bytes([pair[0], pair[1]])))
                .sum();
            let headers = headers(
                Address::from_octets(router), Address::from_octets(sender), mtu, quoted_sum);

            let mut covered = Vec::new();
            covered.extend(&headers[8..40]);
            covered.extend(u32::try_from(8 + quoted.len()).unwrap().to_be_bytes());
            covered.extend([0, 0, 0, ICMPV6]);
            covered.extend(&headers[40..]);
            covered.extend(&quoted);
            prop_assert_eq!(internet_sum(&covered), 0xffff);
            prop_assert_eq!(headers.len() + quoted.len(), 1280);
        }
    }
}
