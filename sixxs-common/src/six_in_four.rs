//! 6in4 (RFC 4213): IPv6 packets in IPv4 packets. The programs add and remove the outer header.
//!
//! They take the usual packets. Everything else (fragments, packets that are too long, packets that do not belong
//! to the tunnel) they leave to the kernel, and so to the daemon's socket.

use bytemuck::{Pod, Zeroable};

use crate::{
    decide::Tables,
    packet::{self, IPV6_HEADER_BYTES, Packet},
    too_big::{MINIMUM_MTU, fold},
};

/// The protocol number of IPv6 in IPv4.
pub const PROTOCOL: u8 = 41;

/// Length of an IPv4 header without options, in bytes.
pub const HEADER_BYTES: u32 = 20;

/// TTL of outer packets (RFC 4213 §3.3).
pub const TTL: u8 = 64;

/// Don't Fragment, in the first byte of flags and fragment offset.
const DONT_FRAGMENT: u8 = 0x40;

/// More Fragments and the fragment offset.
pub(crate) const FRAGMENT_BITS: u16 = 0x3fff;

/// The two bits of Explicit Congestion Notification in a traffic class or a type of service (RFC 3168 §5).
const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const CE: u8 = 0b11;

/// The outer path of a tunnel that the programs carry, by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct OuterPath {
    /// Index of the interface that leads to the broker; 0 if the programs do not carry the tunnel.
    pub ifindex: u32,
    /// This host's outer address.
    pub local: [u8; 4],
    /// The broker's address.
    pub remote: [u8; 4],
    /// The largest inner packet that fits the path, in bytes.
    pub largest_inner: u32,
    /// 1 if each segment of a batch fits: the path takes packets as large as the tunnel's MTU. Else 0.
    pub takes_batches: u32,
}

const _: () = assert!(size_of::<OuterPath>() == 20);

impl OuterPath {
    /// The key of the tunnel for packets from its broker: their source, then their destination.
    #[must_use]
    pub const fn ends(&self) -> [u8; 8] {
        let ([r0, r1, r2, r3], [l0, l1, l2, l3]) = (self.remote, self.local);
        [r0, r1, r2, r3, l0, l1, l2, l3]
    }

    /// Whether a packet of `bytes` fits the path, or each segment of a batch. `segment_bytes` is the length of its longest
    /// segment, `None` if that is unknown; it is called rarely.
    #[inline(always)]
    pub fn fit(
        &self,
        bytes: u32,
        is_batch: bool,
        segment_bytes: impl FnOnce() -> Option<u32>,
    ) -> PathFit {
        if is_batch && self.takes_batches != 0 {
            return PathFit::Fits;
        }
        let longest = if is_batch {
            match segment_bytes() {
                Some(longest) => longest,
                None => return PathFit::Unknown,
            }
        } else {
            bytes
        };
        if longest <= self.largest_inner {
            PathFit::Fits
        } else if longest <= MINIMUM_MTU {
            PathFit::Unknown
        } else {
            PathFit::TooBig(self.largest_inner.max(MINIMUM_MTU))
        }
    }
}

/// Whether a packet fits the path to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFit {
    /// It fits.
    Fits,
    /// It does not. The sender gets Packet Too Big with this MTU, in bytes.
    TooBig(u32),
    /// Only the daemon can send it: in fragments, as IPv6 requires of packets up to [`MINIMUM_MTU`], or in segments.
    Unknown,
}

/// The traffic class in the first two bytes of an IPv6 header (RFC 8200 §3).
#[inline(always)]
#[must_use]
pub const fn traffic_class([first, second]: [u8; 2]) -> u8 {
    first << 4 | second >> 4
}

/// The first two bytes of an IPv6 header with another traffic class.
#[inline(always)]
#[must_use]
pub const fn with_traffic_class([first, second]: [u8; 2], class: u8) -> [u8; 2] {
    [first & 0xf0 | class >> 4, second & 0x0f | class << 4]
}

/// Whether both headers have the same ECN.
#[inline(always)]
#[must_use]
pub const fn has_same_ecn(outer_class: u8, inner_class: u8) -> bool {
    (outer_class ^ inner_class) & ECN == 0
}

/// The outer header of an inner packet of `inner_bytes` with this traffic class. Its DSCP is 0, and its ECN that of
/// the inner packet (RFC 6040 §4.1). It must not be fragmented, so it needs no identification (RFC 6864 §4.1).
#[inline(always)]
#[must_use]
pub const fn header(path: &OuterPath, inner_bytes: u32, class: u8) -> [u8; HEADER_BYTES as usize] {
    let total = inner_bytes + HEADER_BYTES;
    // A batch may be longer than an IPv4 packet. The kernel writes the length of each segment.
    let [_, _, high, low] = if total <= u16::MAX as u32 { total } else { 0 }.to_be_bytes();
    let [l0, l1, l2, l3] = path.local;
    let [r0, r1, r2, r3] = path.remote;
    let mut header = [
        0x45,
        class & ECN,
        high,
        low,
        0,
        0,
        DONT_FRAGMENT,
        0,
        TTL,
        PROTOCOL,
        0,
        0,
        l0,
        l1,
        l2,
        l3,
        r0,
        r1,
        r2,
        r3,
    ];
    let (words, _) = header.as_chunks();
    let (mut sum, mut at) = (0, 0);
    while at < words.len() {
        sum += u16::from_ne_bytes(words[at]) as u64;
        at += 1;
    }
    [header[10], header[11]] = (!fold(sum)).to_ne_bytes();
    header
}

/// An outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Offset of the inner packet from the start of the frame.
    pub inner_offset: u32,
    /// Length of the header with its options, in bytes.
    pub header_bytes: u32,
    /// Length of the inner packet from the header, in bytes.
    pub inner_bytes: u32,
    /// Type of service.
    pub class: u8,
    /// Whether it is a fragment.
    pub is_fragment: bool,
    /// Source address, then destination address: the key of the tunnel.
    pub ends: [u8; 8],
}

/// The outer header at `offset`; `None` if there is no IPv4 packet with IPv6 in it.
#[inline(always)]
pub fn outer<P: Packet + ?Sized>(packet: &P, offset: u32) -> Option<Outer> {
    let header: [u8; HEADER_BYTES as usize] = packet.load(offset)?;
    let [
        version,
        class,
        t0,
        t1,
        _,
        _,
        f0,
        f1,
        _,
        protocol,
        _,
        _,
        ends @ ..,
    ] = header;
    if protocol != PROTOCOL || version >> 4 != 4 {
        return None;
    }
    let header_bytes = (version & 0x0f) as u32 * 4;
    let total = u16::from_be_bytes([t0, t1]) as u32;
    if header_bytes < HEADER_BYTES || total < header_bytes {
        return None;
    }
    Some(Outer {
        inner_offset: offset + header_bytes,
        header_bytes,
        inner_bytes: total - header_bytes,
        class,
        is_fragment: u16::from_be_bytes([f0, f1]) & FRAGMENT_BITS != 0,
        ends,
    })
}

/// Why the programs leave a packet of a tunnel's broker to the kernel, or drop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is a fragment.
    Fragment,
    /// The inner packet is not a complete IPv6 packet.
    Malformed,
    /// The inner source is an address behind this host: a loop (RFC 6324), or forged.
    OwnSource,
    /// The inner destination does not belong to the tunnel.
    OtherDestination,
    /// A router on the outer path reported congestion, and the inner packet cannot (RFC 6040 §4.2): to be dropped.
    Congestion,
}

/// An inner packet for this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The first two bytes of its header, with the ECN that it is to have.
    pub start: [u8; 2],
    /// Whether these bytes differ from the received ones.
    pub is_remarked: bool,
}

/// Decides about the inner packet of a packet from the broker of the tunnel in `slot`.
#[inline(always)]
pub fn accept<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    outer: &Outer,
    slot: u32,
    tables: &T,
) -> Result<Accepted, Refusal> {
    if outer.is_fragment {
        return Err(Refusal::Fragment);
    }
    let Some(inner) = packet::ipv6_again(packet, outer.inner_offset) else {
        return Err(Refusal::Malformed);
    };
    let Some(start) = packet.load(outer.inner_offset) else {
        return Err(Refusal::Malformed);
    };
    // 0 means a jumbogram, or no payload at all.
    if inner.payload_bytes == 0
        || IPV6_HEADER_BYTES + inner.payload_bytes as u32 > outer.inner_bytes
        || inner.source.is_multicast()
    {
        return Err(Refusal::Malformed);
    }
    if tables.comes_here(inner.source) && !tables.is_expected(packet, &inner) {
        return Err(Refusal::OwnSource);
    }
    let is_for_tunnel = || match tables.source(inner.destination) {
        // The packets of a group may arrive by each of its links.
        Some(source) => source.is_here() && (source.slot() == slot || source.is_of_group()),
        None => false,
    };
    if !(inner.destination.is_link_scope() || inner.destination.is_multicast() || is_for_tunnel()) {
        return Err(Refusal::OtherDestination);
    }
    let class = traffic_class(start);
    let ecn = received_ecn(outer.class & ECN, class & ECN).ok_or(Refusal::Congestion)?;
    Ok(Accepted {
        start: with_traffic_class(start, class & !ECN | ecn),
        is_remarked: ecn != class & ECN,
    })
}

/// The ECN of an inner packet after its outer header is removed (RFC 6040 §4.2, figure 4); `None`: it is dropped.
#[inline(always)]
const fn received_ecn(outer: u8, inner: u8) -> Option<u8> {
    match (outer, inner) {
        (CE, NOT_ECT) => None,
        (_, NOT_ECT) => Some(NOT_ECT),
        (CE, _) | (_, CE) => Some(CE),
        (ECT_1, _) => Some(ECT_1),
        _ => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use super::*;
    use crate::{
        address::{Address, Prefix},
        layout::Source,
    };

    const PATH: OuterPath = OuterPath {
        ifindex: 2,
        local: [192, 0, 2, 10],
        remote: [198, 51, 100, 1],
        largest_inner: 1480,
        takes_batches: 1,
    };

    /// The sum of a header with its checksum, which is all ones.
    fn sum(header: &[u8]) -> u32 {
        let words = header
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum: u32 = words.sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum & 0xffff) + (sum >> 16)
    }

    #[test]
    fn packets_fit_or_are_answered_or_left() {
        use PathFit::{Fits, TooBig, Unknown};
        // longest packet of the path, whether it takes batches, length, segment of a batch, result
        for (largest_inner, takes_batches, bytes, segment, expected) in [
            (1480, 1, 1480, None, Fits),
            (1480, 1, 1481, None, TooBig(1480)),
            (1480, 1, 60_000, Some(Some(1480)), Fits),
            (1380, 0, 1380, None, Fits),
            (1380, 0, 1381, None, TooBig(1380)),
            (1380, 0, 60_000, Some(Some(1380)), Fits),
            (1380, 0, 60_000, Some(Some(1381)), TooBig(1380)),
            (1380, 0, 60_000, Some(None), Unknown),
            (1180, 0, 1180, None, Fits),
            (1180, 0, 1181, None, Unknown),
            (1180, 0, 1280, None, Unknown),
            (1180, 0, 1281, None, TooBig(1280)),
            (1180, 0, 60_000, Some(Some(1280)), Unknown),
        ] {
            let path = OuterPath {
                largest_inner,
                takes_batches,
                ..PATH
            };
            let found = path.fit(bytes, segment.is_some(), || segment.unwrap());
            assert_eq!(found, expected, "{path:?} {bytes} {segment:?}");
        }
    }

    #[test]
    fn the_outer_header_is_complete() {
        // DSCP 46 and ECT(0): only the ECN is copied.
        let made = header(&PATH, 1280, 46 << 2 | 0b10);
        assert_eq!(made[..10], [0x45, 0b10, 0x05, 0x14, 0, 0, 0x40, 0, 64, 41]);
        assert_eq!(made[12..], [192, 0, 2, 10, 198, 51, 100, 1]);
        // Any sum, with one carry and with two.
        for path in [
            PATH,
            OuterPath {
                local: [255; 4],
                remote: [255, 255, 255, 254],
                ..PATH
            },
            OuterPath::default(),
        ] {
            for bytes in [40, 1280, 65_515, 65_516, 200_000] {
                for class in [0, 0xff] {
                    let made = header(&path, bytes, class);
                    assert_eq!(sum(&made), 0xffff, "{path:?} {bytes}");
                    let length = u32::from(u16::from_be_bytes([made[2], made[3]]));
                    let expected = if bytes > 65_515 { 0 } else { bytes + 20 };
                    assert_eq!(length, expected);
                }
            }
        }
    }

    #[test]
    fn a_traffic_class_lies_across_two_bytes() {
        assert_eq!(traffic_class([0x6b, 0x8f]), 0xb8);
        assert_eq!(with_traffic_class([0x6b, 0x8f], 0x03), [0x60, 0x3f]);
        assert_eq!(with_traffic_class([0x60, 0x0f], 0xff), [0x6f, 0xff]);
    }

    /// RFC 6040, figure 4.
    #[test]
    fn ecn_of_both_headers() {
        const ECT_0: u8 = 0b10;
        for (inner, by_outer) in [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_1), Some(ECT_0), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE); 4]),
        ] {
            let found = [NOT_ECT, ECT_1, ECT_0, CE].map(|outer| received_ecn(outer, inner));
            assert_eq!(found, by_outer, "{inner:#b}");
        }
    }

    #[test]
    fn only_complete_packets_of_protocol_41_are_outer_packets() {
        let mut frame = vec![0; 14];
        frame.extend(header(&PATH, 48, 0));
        frame.extend([0x60; 48]);
        let found = outer(&frame[..], 14).unwrap();
        let expected = Outer {
            inner_offset: 34,
            header_bytes: 20,
            inner_bytes: 48,
            class: 0,
            is_fragment: false,
            ends: [192, 0, 2, 10, 198, 51, 100, 1],
        };
        assert_eq!(found, expected);
        type Change = fn(&mut Vec<u8>);
        let changed = |change: Change| {
            let mut frame = frame.clone();
            change(&mut frame);
            outer(&frame[..], 14)
        };
        let nothing: [(&str, Change); 5] = [
            ("TCP", |frame| frame[23] = 6),
            ("another version", |frame| frame[14] = 0x65),
            ("a short header", |frame| frame[14] = 0x44),
            ("shorter than its header", |frame| frame[17] = 19),
            ("cut off", |frame| frame.truncate(33)),
        ];
        for (name, change) in nothing {
            assert_eq!(changed(change), None, "{name}");
        }
        let options = changed(|frame| frame[14] = 0x46).unwrap();
        assert_eq!((options.inner_offset, options.inner_bytes), (38, 44));
        for (flags, is_fragment) in [(0x40, false), (0x20, true), (0x00, false), (0x1f, true)] {
            let mut frame = frame.clone();
            frame[20] = flags;
            assert_eq!(
                outer(&frame[..], 14).unwrap().is_fragment,
                is_fragment,
                "{flags:#x}"
            );
        }
    }

    /// A host with a tunnel in slot 3 and another in slot 4.
    struct Host;

    fn address(text: &str) -> Address {
        Address::from_octets(text.parse::<Ipv6Addr>().unwrap().octets())
    }

    impl Tables for Host {
        fn source(&self, wanted: Address) -> Option<Source> {
            let entries = [
                ("2001:db8:a::2", 128, Source::new(3, 128, 0)),
                ("2001:db8:aa::", 48, Source::new(3, 48, 0)),
                ("2001:db8:b::2", 128, Source::new(4, 128, 0)),
                ("2001:db8:cc::", 48, Source::of_group(5, 48, 0)),
            ];
            let mut entries = entries.into_iter();
            entries
                .find(|(prefix, bits, _)| wanted.within(&Prefix::new(address(prefix), *bits)))
                .map(|(_, _, source)| source)
        }

        fn is_direct(&self, _tunnel: u32, _destination: Address) -> bool {
            false
        }

        fn leads_here(&self, _tunnel: u32) -> bool {
            false
        }
    }

    fn inner(source: &str, destination: &str) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
        packet.extend(source.parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(destination.parse::<Ipv6Addr>().unwrap().octets());
        packet.extend([0; 8]);
        packet
    }

    fn decide(packet: &[u8], class: u8, slot: u32) -> Result<Accepted, Refusal> {
        let outer = Outer {
            inner_offset: 0,
            header_bytes: 20,
            inner_bytes: 48,
            class,
            is_fragment: false,
            ends: [0; 8],
        };
        accept(packet, &outer, slot, &Host)
    }

    #[test]
    fn what_belongs_to_the_tunnel_is_accepted() {
        use Refusal::{Malformed, OtherDestination, OwnSource};
        let outside = "2001:db8:ffff::9";
        for (source, destination, slot, expected) in [
            (outside, "2001:db8:a::2", 3, None),
            (outside, "2001:db8:aa:1::5", 3, None),
            ("fe80::1", "fe80::2", 3, None),
            (outside, "ff02::1", 3, None),
            (outside, "ff0e::1", 3, None),
            (outside, "2001:db8:b::2", 3, Some(OtherDestination)),
            (outside, "2001:db8:a::2", 4, Some(OtherDestination)),
            (outside, "2001:db8:1::1", 3, Some(OtherDestination)),
            ("2001:db8:a::2", "2001:db8:a::2", 3, Some(OwnSource)),
            ("2001:db8:aa:1::5", "2001:db8:a::2", 3, Some(OwnSource)),
            ("2001:db8:b::2", "2001:db8:a::2", 3, Some(OwnSource)),
            ("ff02::1", "2001:db8:a::2", 3, Some(Malformed)),
        ] {
            let packet = inner(source, destination);
            let found = decide(&packet, 0, slot);
            assert_eq!(found.err(), expected, "{source} > {destination}");
        }
    }

    #[test]
    fn incomplete_packets_are_refused() {
        let whole = inner("2001:db8:ffff::9", "2001:db8:a::2");
        assert!(decide(&whole, 0, 3).is_ok());
        let mut other = whole.clone();
        other[0] = 0x40;
        assert_eq!(decide(&other, 0, 3), Err(Refusal::Malformed));
        let mut longer = whole.clone();
        longer[5] = 9;
        assert_eq!(decide(&longer, 0, 3), Err(Refusal::Malformed));
        let mut jumbo = whole.clone();
        jumbo[5] = 0;
        assert_eq!(decide(&jumbo, 0, 3), Err(Refusal::Malformed));
        // Padding behind it belongs to the link.
        let mut shorter = whole.clone();
        shorter[5] = 7;
        assert!(decide(&shorter, 0, 3).is_ok());
        assert_eq!(decide(&whole[..39], 0, 3), Err(Refusal::Malformed));
    }

    #[test]
    fn a_congestion_mark_is_taken_over_or_the_packet_dropped() {
        let mut packet = inner("2001:db8:ffff::9", "2001:db8:a::2");
        assert_eq!(decide(&packet, CE, 3), Err(Refusal::Congestion));
        // DSCP 46, ECT(0), and a flow label.
        packet[..2].copy_from_slice(&[0x6b, 0xaf]);
        let plain = decide(&packet, 0, 3).unwrap();
        assert_eq!((plain.start, plain.is_remarked), ([0x6b, 0xaf], false));
        let marked = decide(&packet, CE, 3).unwrap();
        assert_eq!((marked.start, marked.is_remarked), ([0x6b, 0xbf], true));
    }
}
