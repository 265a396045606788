//! The packet size that fits a 6in4 tunnel whose path MTU may be below the MTU of its ends (RFC 4213 §3.2.2),
//! and the ICMPv6 Packet Too Big (RFC 4443 §3.2) for larger packets.

use std::{net::Ipv6Addr, time::Duration};

use sixxs_common::{
    address::Address,
    packet::{self, ICMPV6},
    six_in_four::HEADER_BYTES,
    too_big::{self, MINIMUM_MTU, QUOTED_BYTES},
};

/// The maximum number of answers at once.
const BURST: u32 = 50;

/// The interval in which one more answer is allowed (RFC 4443 §2.4 f): one is enough for a flow.
const PER_ANSWER: Duration = Duration::from_millis(1);

/// The longest packet that a tunnel with a path of `path_mtu` bytes carries unfragmented. Packets up to the
/// IPv6 minimum MTU are always sent; if necessary the outer packet is fragmented.
#[must_use]
pub fn fits(path_mtu: u32) -> u32 {
    path_mtu.saturating_sub(HEADER_BYTES).max(MINIMUM_MTU)
}

/// The longest packet that a path of `path_mtu` bytes carries without fragments.
#[must_use]
pub const fn unfragmented(path_mtu: u32) -> u32 {
    path_mtu.saturating_sub(HEADER_BYTES)
}

/// Whether packets up to this length fit any path.
#[must_use]
pub const fn fits_always(bytes: usize) -> bool {
    bytes <= MINIMUM_MTU as usize
}

/// Splits a batch of packets of `stride` bytes each (the last one may be shorter) into packets longer than
/// `most` bytes, and the rest.
#[must_use]
pub fn split(batch: &[u8], stride: usize, most: u32) -> (&[u8], &[u8]) {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if stride <= most {
        return (&[], batch);
    }
    let last = batch.len() % stride.max(1);
    let is_fitting = last <= most;
    batch.split_at(batch.len() - if is_fitting { last } else { 0 })
}

/// The Packet Too Big that answers a packet; `None`: RFC 4443 forbids an answer, or the packet is malformed.
#[must_use]
pub fn answer(packet: &[u8], router: Ipv6Addr, mtu: u32) -> Option<Vec<u8>> {
    let quoted = packet.get(..QUOTED_BYTES as usize)?;
    let ipv6 = packet::ipv6_at(packet, 0)?;
    let source = Ipv6Addr::from(ipv6.source.octets());
    // RFC 4443 §2.4 e.6, and e.1: no error in reply to an error.
    if source.is_unspecified() || source.is_multicast() {
        return None;
    }
    let upper = packet::transport(packet, &ipv6).filter(|upper| upper.present);
    if let Some(upper) = upper.filter(|upper| upper.protocol == ICMPV6) {
        let at = usize::try_from(upper.offset).ok()?;
        if *packet.get(at)? < 128 {
            return None;
        }
    }
    let (words, _) = quoted.as_chunks::<2>();
    let sum = words
        .iter()
        .map(|word| u64::from(u16::from_ne_bytes(*word)));
    let router = Address::from_octets(router.octets());
    let headers = too_big::headers(router, ipv6.source, mtu, sum.sum());
    Some([&headers[..], quoted].concat())
}

/// A rate limit for answers.
#[derive(Debug)]
pub struct Budget {
    left: u32,
    since: Duration,
}

impl Budget {
    /// A full budget.
    #[must_use]
    pub const fn new(now: Duration) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// Whether one more answer is allowed.
    pub fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.since);
        let earned = passed.as_micros() / PER_ANSWER.as_micros();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(earned).min(BURST);
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_that_fits_a_path() {
        for (path, most) in [
            (1500, 1480),
            (1400, 1380),
            (1300, 1280),
            (1299, 1280),
            (552, 1280),
            (0, 1280),
        ] {
            assert_eq!(fits(path), most, "{path}");
        }
    }

    #[test]
    fn a_batch_is_split_where_it_does_not_fit() {
        let batch = vec![0; 3 * 1400 + 900];
        for (bytes, stride, most, too_big) in [
            (4200, 1400, 1400, 0),
            (4200, 1400, 1380, 4200),
            (5100, 1400, 1380, 4200),
            (5100, 1400, 1280, 4200),
            (4200 + 900, 1500, 1380, 4500),
            (1390, 1390, 1380, 1390),
            (1400 + 1390, 1400, 1380, 2790),
            (0, 0, 1280, 0),
        ] {
            let (long, short) = split(&batch[..bytes], stride, most);
            assert_eq!(
                (long.len(), long.len() + short.len()),
                (too_big, bytes),
                "{bytes} {stride} {most}"
            );
        }
    }

    fn a_packet(next_header: u8, message: u8) -> Vec<u8> {
        let mut packet = vec![0; 1400];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&1360u16.to_be_bytes());
        packet[6] = next_header;
        packet[7] = 64;
        packet[8..24].copy_from_slice(&"2001:db8:a::2".parse::<Ipv6Addr>().unwrap().octets());
        packet[24..40].copy_from_slice(&"2001:db8:ffff::9".parse::<Ipv6Addr>().unwrap().octets());
        packet[40] = message;
        packet
    }

    #[test]
    fn a_sender_of_large_packets_gets_the_size_that_fits() {
        let router: Ipv6Addr = "2001:db8:a::1".parse().unwrap();
        let reply = answer(&a_packet(17, 0), router, 1380).unwrap();
        assert_eq!(reply.len(), 1280);
        assert_eq!(reply[8..24], router.octets());
        assert_eq!(reply[24..40], a_packet(17, 0)[8..24]);
        assert_eq!((reply[40], &reply[44..48]), (2, &1380u32.to_be_bytes()[..]));
        assert_eq!(reply[48..], a_packet(17, 0)[..1232]);
        // An echo request gets an answer. An error, an unspecified source and a truncated packet get none.
        assert!(answer(&a_packet(58, 128), router, 1380).is_some());
        assert!(answer(&a_packet(58, 1), router, 1380).is_none());
        let mut nobody = a_packet(17, 0);
        nobody[8..24].fill(0);
        assert!(answer(&nobody, router, 1380).is_none());
        assert!(answer(&a_packet(17, 0)[..1000], router, 1380).is_none());
    }

    #[test]
    fn answers_have_a_rate() {
        let at = Duration::from_millis;
        let mut budget = Budget::new(at(0));
        let mut sent = |now| (0..1000).filter(|_| budget.take(at(now))).count();
        assert_eq!(
            [sent(0), sent(0), sent(3), sent(1000), sent(900)],
            [50, 0, 3, 50, 0]
        );
    }

    #[test]
    fn up_to_the_minimum_mtu_everything_fits() {
        for (bytes, expected) in [(0, true), (1280, true), (1281, false)] {
            assert_eq!(fits_always(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn errors_are_recognised_behind_extension_headers() {
        let router: Ipv6Addr = "2001:db8:a::1".parse().unwrap();
        for (name, next_header, message, is_answered) in [
            ("the last error", 58, 127, false),
            ("the first query", 58, 128, true),
            ("no ICMPv6", 17, 1, true),
            ("behind options", 60, 58, false),
        ] {
            let packet = a_packet(next_header, message);
            assert_eq!(
                answer(&packet, router, 1380).is_some(),
                is_answered,
                "{name}"
            );
        }
        let mut group = a_packet(17, 0);
        group[8] = 0xff;
        assert!(answer(&group, router, 1380).is_none());
        let mut other = a_packet(17, 0);
        other[0] = 0x45;
        assert!(answer(&other, router, 1380).is_none(), "IPv4");
        // 1232 bytes are quoted.
        assert!(answer(&a_packet(17, 0)[..1232], router, 1380).is_some());
        assert!(answer(&a_packet(17, 0)[..1231], router, 1380).is_none());
    }
}
