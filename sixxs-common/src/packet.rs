//! Finds the headers of a frame. Every length comes from the wire and is treated as untrusted.

use crate::address::Address;

/// Bytes of a frame, by offset from its start.
pub trait Packet {
    /// `N` bytes (2 or more) at `offset`, or `None` if the frame ends before or the offset is above
    /// [`MAX_HEADER_OFFSET`].
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// `N` words in native byte order at `offset`, aligned or not, and the two bytes before them (zero at
    /// the start of the frame). For a word, the BPF compiler emits one load; for eight separate bytes it
    /// emits eight.
    fn words<const N: usize>(&self, offset: u32) -> Option<([u8; 2], [u64; N])>;

    /// Four bytes at `offset` in native byte order, by one load.
    #[inline(always)]
    fn word(&self, offset: u32) -> Option<u32> {
        self.load(offset).map(u32::from_ne_bytes)
    }

    /// Like `load`, by a method that is slower but easier for the verifier. For data that few packets
    /// need.
    #[inline(always)]
    fn peek<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.load(offset)
    }
}

impl Packet for [u8] {
    #[inline]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        if offset > MAX_HEADER_OFFSET {
            return None;
        }
        let start = offset as usize;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }

    #[inline]
    fn words<const N: usize>(&self, offset: u32) -> Option<([u8; 2], [u64; N])> {
        let before = match offset.checked_sub(2) {
            Some(before) => self.load(before)?,
            None => [0; 2],
        };
        if offset > MAX_HEADER_OFFSET {
            return None;
        }
        let (words, _) = self.get(offset as usize..)?.as_chunks();
        let words: &[[u8; 8]; N] = words.first_chunk()?;
        Some((before, words.map(u64::from_ne_bytes)))
    }
}

/// The largest offset at which a header is read. It limits the walk over extension headers: RFC 8504 §5.3
/// allows a node to limit their number and length.
pub const MAX_HEADER_OFFSET: u32 = 1024;

/// A chain of this many extension headers is given up.
const CHAIN: u32 = 8;

/// The maximum number of VLAN tags to walk (802.1ad: two).
const TAGS: u32 = 2;

const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// Length of the fixed IPv6 header (RFC 8200 §3).
pub const IPV6_HEADER_BYTES: u32 = 40;
/// Length of an Ethernet header without tags.
pub const ETHERNET_HEADER_BYTES: u32 = 14;

const HOP_BY_HOP: u8 = 0;
/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// Generic Routing Encapsulation (RFC 2784).
pub const GRE: u8 = 47;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
/// ICMPv6's protocol number: 58, not ICMP's 1.
pub const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;

/// ICMPv6 Echo Request (RFC 4443 §4.1).
pub const ECHO_REQUEST: u8 = 128;
/// Messages of neighbour discovery, from Router Solicitation to Redirect (RFC 4861 §4): routers never
/// forward them.
pub const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;
/// ICMPv6 Echo Reply (RFC 4443 §4.2).
pub const ECHO_REPLY: u8 = 129;

/// The fixed header of an IPv6 packet, and its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// Offset of the header from the start of the frame.
    pub offset: u32,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Payload length from the header, in bytes; 0 for a jumbogram.
    pub payload_bytes: u16,
    /// The next-header number of the fixed header.
    pub next_header: u8,
}

/// The reason why a frame has no [`Ipv6`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoIpv6 {
    /// The frame carries another protocol.
    OtherProtocol,
    /// The frame claims to carry IPv6 but does not, or ends before the header does.
    Malformed,
}

/// Words of the fixed header.
const WORDS: usize = IPV6_HEADER_BYTES as usize / 8;

/// Finds the IPv6 header of a frame: after an Ethernet header, which VLAN tags may follow, or, if
/// `link_bytes` is 0, at the start.
#[inline(always)]
pub fn ipv6<P: Packet + ?Sized>(packet: &P, link_bytes: u8) -> Result<Ipv6, NoIpv6> {
    if link_bytes == 0 {
        return match packet.words(0) {
            Some((_, words)) => header(0, words).ok_or(NoIpv6::OtherProtocol),
            // The link layer has not declared IPv6 here: a short IPv4 packet is not malformed.
            None => match packet.load(0) {
                Some([first, _]) if first >> 4 != 6 => Err(NoIpv6::OtherProtocol),
                _ => Err(NoIpv6::Malformed),
            },
        };
    }
    match packet.words(ETHERNET_HEADER_BYTES) {
        // The EtherType is in the last two bytes before the packet.
        Some((ethertype, words)) if u16::from_be_bytes(ethertype) == ETHERTYPE_IPV6 => {
            header(ETHERNET_HEADER_BYTES, words)
        }
        // VLAN tags, another protocol, or too short for IPv6.
        _ => {
            let offset = behind_tags(packet)?;
            packet
                .words(offset)
                .and_then(|(_, words)| header(offset, words))
        }
    }
    .ok_or(NoIpv6::Malformed)
}

/// The IPv6 header at `offset`, where [`ipv6`] has already found it.
#[inline(always)]
pub fn ipv6_again<P: Packet + ?Sized>(packet: &P, offset: u32) -> Option<Ipv6> {
    let (_, words) = packet.words(offset)?;
    header(offset, words)
}

/// The IPv6 header at `offset`, read by [`Packet::peek`]: for an inner packet.
#[inline(always)]
pub fn ipv6_at<P: Packet + ?Sized>(packet: &P, offset: u32) -> Option<Ipv6> {
    let [first, _] = packet.peek(offset)?;
    if first >> 4 != 6 {
        return None;
    }
    let [high, low, next_header] = packet.peek(offset + 4)?;
    Some(Ipv6 {
        offset,
        source: Address::from_octets(packet.peek(offset + 8)?),
        destination: Address::from_octets(packet.peek(offset + 24)?),
        payload_bytes: u16::from_be_bytes([high, low]),
        next_header,
    })
}

/// Parses these words as a header; `None` for another IP version.
#[inline(always)]
const fn header(offset: u32, [start, s0, s1, d0, d1]: [u64; WORDS]) -> Option<Ipv6> {
    let [first, _, _, _, high, low, next_header, _] = start.to_ne_bytes();
    if first >> 4 != 6 {
        return None;
    }
    Some(Ipv6 {
        offset,
        source: Address::from_words([s0, s1]),
        destination: Address::from_words([d0, d1]),
        payload_bytes: u16::from_be_bytes([high, low]),
        next_header,
    })
}

/// The offset of the IPv6 header in an Ethernet frame that may have VLAN tags.
#[inline(always)]
fn behind_tags<P: Packet + ?Sized>(packet: &P) -> Result<u32, NoIpv6> {
    let mut offset = ETHERNET_HEADER_BYTES;
    let mut ethertype = ethertype_at(packet, offset - 2)?;
    let mut tags = 0;
    while matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) && tags < TAGS {
        offset += 4;
        ethertype = ethertype_at(packet, offset - 2)?;
        tags += 1;
    }
    if ethertype == ETHERTYPE_IPV6 {
        Ok(offset)
    } else {
        Err(NoIpv6::OtherProtocol)
    }
}

#[inline(always)]
fn ethertype_at<P: Packet + ?Sized>(packet: &P, offset: u32) -> Result<u16, NoIpv6> {
    packet
        .load::<2>(offset)
        .map(u16::from_be_bytes)
        .ok_or(NoIpv6::Malformed)
}

/// The upper-layer header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Its protocol number.
    pub protocol: u8,
    /// Its offset from the start of the frame.
    pub offset: u32,
    /// Whether the bytes at `offset` are the header: false in all fragments except the first.
    pub present: bool,
}

/// Walks the extension headers (RFC 8200 §4). `None`: the chain is truncated, too long, or exceeds
/// [`MAX_HEADER_OFFSET`].
#[inline(always)]
pub fn transport<P: Packet + ?Sized>(packet: &P, ipv6: &Ipv6) -> Option<Transport> {
    walk(packet, ipv6.next_header, ipv6.offset)
}

#[inline(always)]
fn walk<P: Packet + ?Sized>(packet: &P, next_header: u8, offset: u32) -> Option<Transport> {
    let mut protocol = next_header;
    let mut offset = offset + IPV6_HEADER_BYTES;
    let mut headers = 0;
    while headers < CHAIN {
        if !is_extension(protocol) {
            return Some(Transport {
                protocol,
                offset,
                present: true,
            });
        }
        let [next, length, high, low] = packet.peek(offset)?;
        let length = u32::from(length);
        let bytes = match protocol {
            FRAGMENT => 8,
            AUTHENTICATION => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        if protocol == FRAGMENT && u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
            // The payload continues an earlier fragment: there is no header to walk on to.
            return Some(Transport {
                protocol: next,
                offset: offset + bytes,
                present: false,
            });
        }
        protocol = next;
        offset += bytes;
        if offset > MAX_HEADER_OFFSET {
            return None;
        }
        headers += 1;
    }
    None
}

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS | MOBILITY
    )
}

/// Whether an echo message is a request or a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// ICMPv6 type 128.
    Request,
    /// ICMPv6 type 129.
    Reply,
}

/// An echo message, as far as the packet contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoMessage {
    /// Request or reply.
    pub kind: Echo,
    /// Its identifier and sequence number (RFC 4443 §4.1), as they are in the packet, in one word; `None`
    /// if the packet ends before them.
    pub number: Option<u32>,
}

/// The echo message in a packet, if there is one.
#[inline(always)]
pub fn echo<P: Packet + ?Sized>(packet: &P, ipv6: &Ipv6) -> Option<EchoMessage> {
    let offset = match ipv6.next_header {
        // Most packets are TCP or UDP; they need no further check.
        TCP | UDP => return None,
        ICMPV6 => ipv6.offset + IPV6_HEADER_BYTES,
        header if is_extension(header) => icmpv6_behind_extensions(packet, header, ipv6.offset)?,
        _ => return None,
    };
    let Some([kind, _, _, _, number @ ..]) = packet.load::<8>(offset) else {
        let [kind, ..] = packet.load::<4>(offset)?;
        let kind = echo_kind(kind)?;
        return Some(EchoMessage { kind, number: None });
    };
    Some(EchoMessage {
        kind: echo_kind(kind)?,
        number: Some(u32::from_ne_bytes(number)),
    })
}

/// The offset of an ICMPv6 message after extension headers. Not inlined: rare, and expensive to verify.
/// The parameters are numbers instead of the header, so that the common path need not keep the header in
/// memory.
#[cold]
#[inline(never)]
fn icmpv6_behind_extensions<P: Packet + ?Sized>(
    packet: &P,
    next_header: u8,
    offset: u32,
) -> Option<u32> {
    let transport = walk(packet, next_header, offset)?;
    (transport.protocol == ICMPV6 && transport.present).then_some(transport.offset)
}

#[inline(always)]
const fn echo_kind(kind: u8) -> Option<Echo> {
    match kind {
        ECHO_REQUEST => Some(Echo::Request),
        ECHO_REPLY => Some(Echo::Reply),
        _ => None,
    }
}

/// Length of the largest IPv6 packet that segmentation offload makes from a batch, with `gso_bytes` of
/// payload per segment; `None` if this protocol is not segmented.
#[inline(always)]
pub fn segment_bytes<P: Packet + ?Sized>(
    packet: &P,
    ipv6: &Ipv6,
    upper: &Transport,
    gso_bytes: u32,
) -> Option<u32> {
    let header = match upper.protocol {
        TCP => {
            let [data_offset, _] = packet.peek(upper.offset + 12)?;
            u32::from(data_offset >> 4) * 4
        }
        UDP => 8,
        _ => return None,
    };
    Some(upper.offset - ipv6.offset + header + gso_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const SOURCE: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0xa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    pub(crate) const DESTINATION: [u8; 16] =
        [0x20, 1, 0xd, 0xb8, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

    /// An IPv6 packet without a link layer.
    pub(crate) fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend([next_header, 64]);
        bytes.extend(SOURCE);
        bytes.extend(DESTINATION);
        bytes.extend(payload);
        bytes
    }

    pub(crate) fn framed(link: &[u8], packet: &[u8]) -> Vec<u8> {
        [&[2; 12], link, packet].concat()
    }

    const ECHO: [u8; 8] = [ECHO_REQUEST, 0, 0, 0, 0x12, 0x34, 0, 1];

    #[test]
    fn header_is_found_behind_each_link_layer() {
        let inner = packet(ICMPV6, &ECHO);
        for (name, bytes, link_bytes, offset) in [
            ("none", inner.clone(), 0, 0),
            ("Ethernet", framed(&[0x86, 0xdd], &inner), 14, 14),
            (
                "one tag",
                framed(&[0x81, 0, 0, 5, 0x86, 0xdd], &inner),
                14,
                18,
            ),
            (
                "two tags",
                framed(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x86, 0xdd], &inner),
                14,
                22,
            ),
        ] {
            let ipv6 = ipv6(bytes.as_slice(), link_bytes).unwrap();
            assert_eq!(ipv6.offset, offset, "{name}");
            assert_eq!(ipv6.source.octets(), SOURCE, "{name}");
            assert_eq!(ipv6.destination.octets(), DESTINATION, "{name}");
            let kind = echo(bytes.as_slice(), &ipv6).map(|message| message.kind);
            assert_eq!(kind, Some(Echo::Request), "{name}");
        }
    }

    #[test]
    fn other_protocols_are_not_reported_as_invalid() {
        let ipv4 = [
            0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
        ];
        let short = &packet(ICMPV6, &ECHO)[..30];
        for (name, bytes, link_bytes, expected) in [
            (
                "IPv4 without link layer",
                ipv4.to_vec(),
                0,
                NoIpv6::OtherProtocol,
            ),
            ("ARP", framed(&[8, 6], &[0; 28]), 14, NoIpv6::OtherProtocol),
            (
                "IPv4 called IPv6",
                framed(&[0x86, 0xdd], &[0x45; 40]),
                14,
                NoIpv6::Malformed,
            ),
            ("short", short.to_vec(), 0, NoIpv6::Malformed),
            (
                "short frame",
                framed(&[0x86, 0xdd], short),
                14,
                NoIpv6::Malformed,
            ),
            ("empty", vec![], 0, NoIpv6::Malformed),
            ("runt", vec![0; 13], 14, NoIpv6::Malformed),
            (
                "three tags",
                framed(
                    &[0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x86, 0xdd],
                    short,
                ),
                14,
                NoIpv6::OtherProtocol,
            ),
        ] {
            assert_eq!(ipv6(bytes.as_slice(), link_bytes), Err(expected), "{name}");
        }
    }

    /// A chain of extension headers before ICMPv6: types as in RFC 8200 §4.1.
    #[test]
    fn extension_headers_are_walked() {
        let options = |next| [next, 0, 1, 4, 0, 0, 0, 0];
        for (name, first, chain, found) in [
            ("hop-by-hop", HOP_BY_HOP, options(ICMPV6).to_vec(), true),
            (
                "hop-by-hop, destination",
                HOP_BY_HOP,
                [options(DESTINATION_OPTIONS), options(ICMPV6)].concat(),
                true,
            ),
            (
                "authentication",
                AUTHENTICATION,
                [&[ICMPV6, 4][..], &[0; 22]].concat(),
                true,
            ),
            (
                "first fragment",
                FRAGMENT,
                vec![ICMPV6, 0, 0, 1, 0, 0, 0, 7],
                true,
            ),
            (
                "later fragment",
                FRAGMENT,
                vec![ICMPV6, 0, 0, 9, 0, 0, 0, 7],
                false,
            ),
            ("unknown header", 253, vec![], false),
        ] {
            let bytes = packet(first, &[&chain[..], &ECHO].concat());
            let ipv6 = ipv6(bytes.as_slice(), 0).unwrap();
            assert_eq!(echo(bytes.as_slice(), &ipv6).is_some(), found, "{name}");
        }
    }

    #[test]
    fn a_chain_without_end_is_given_up() {
        let chain = [DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0].repeat(50);
        let bytes = packet(DESTINATION_OPTIONS, &chain);
        let ipv6 = ipv6(bytes.as_slice(), 0).unwrap();
        assert_eq!(transport(bytes.as_slice(), &ipv6), None);
    }

    /// The upper layer behind extension headers of these lengths, in units of eight bytes.
    fn behind(lengths: &[u8]) -> Option<Transport> {
        let (last, first) = lengths.split_last().unwrap();
        let header = |next: u8, length: &u8| {
            let mut header = vec![0; usize::from(*length) * 8];
            [header[0], header[1]] = [next, length - 1];
            header
        };
        let mut chain: Vec<u8> = first
            .iter()
            .flat_map(|length| header(DESTINATION_OPTIONS, length))
            .collect();
        chain.extend(header(TCP, last));
        let bytes = packet(DESTINATION_OPTIONS, &[&chain[..], &[0; 20]].concat());
        let ipv6 = ipv6(bytes.as_slice(), 0).unwrap();
        transport(bytes.as_slice(), &ipv6)
    }

    #[test]
    fn a_chain_is_walked_up_to_its_limits() {
        for (name, lengths, offset) in [
            ("one", vec![1], Some(48)),
            ("one that is long", vec![4], Some(72)),
            ("two", vec![2, 3], Some(80)),
            ("seven", vec![1; 7], Some(96)),
            ("eight", vec![1; 8], None),
            ("up to the reach", vec![123], Some(1024)),
            ("above the reach", vec![124], None),
        ] {
            let found = behind(&lengths);
            assert_eq!(found.map(|upper| upper.offset), offset, "{name}");
            let is_tcp = |upper: Transport| upper.protocol == TCP && upper.present;
            assert!(found.is_none_or(is_tcp), "{name}");
        }
    }

    #[test]
    fn a_later_fragment_names_its_protocol_only() {
        for (high, low, present) in [(0, 0, true), (0, 7, true), (0, 8, false), (1, 0, false)] {
            let bytes = packet(FRAGMENT, &[TCP, 0, high, low, 0, 0, 0, 7]);
            let ipv6 = ipv6(bytes.as_slice(), 0).unwrap();
            let expected = Transport {
                protocol: TCP,
                offset: 48,
                present,
            };
            let found = transport(bytes.as_slice(), &ipv6);
            assert_eq!(found, Some(expected), "{high} {low}");
        }
    }

    #[test]
    fn nothing_is_read_above_the_reach_or_the_end() {
        let bytes = [7; MAX_HEADER_OFFSET as usize + 24];
        let bytes = &bytes[..];
        for (offset, length, expected) in [
            (MAX_HEADER_OFFSET, 2000, true),
            (MAX_HEADER_OFFSET + 1, 2000, false),
            (8, 24, true),
            (8, 23, false),
            (0, 16, true),
            (25, 24, false),
            (u32::MAX, 24, false),
        ] {
            let bytes = &bytes[..bytes.len().min(length)];
            let is_loaded = bytes.load::<16>(offset).is_some();
            let is_read = bytes.words::<2>(offset).is_some();
            assert_eq!(
                (is_loaded, is_read),
                (expected, expected),
                "{offset} {length}"
            );
        }
        let (before, [word]) = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11][..].words(3).unwrap();
        assert_eq!(
            (before, word.to_ne_bytes()),
            ([2, 3], [4, 5, 6, 7, 8, 9, 10, 11])
        );
        let (before, [_]) = [1; 9][..].words(1).unwrap();
        assert_eq!(before, [0; 2], "there are no two bytes before it");
    }

    #[test]
    fn a_header_is_the_same_by_each_way_to_it() {
        let inner = packet(UDP, &[0; 8]);
        let frame = framed(&[0x86, 0xdd], &inner);
        let found = ipv6(frame.as_slice(), 14).unwrap();
        let (length, next) = (found.payload_bytes, found.next_header);
        assert_eq!((length, next), (8, UDP));
        assert_eq!(ipv6_again(frame.as_slice(), 14), Some(found));
        assert_eq!(ipv6_at(frame.as_slice(), 14), Some(found));
        let mut other = frame;
        other[14] = 0x45;
        assert_eq!(ipv6_again(other.as_slice(), 14), None);
        assert_eq!(ipv6_at(other.as_slice(), 14), None);
    }

    #[test]
    fn an_echo_message_may_end_early() {
        let number = Some(u32::from_ne_bytes([0x12, 0x34, 0, 1]));
        let [mut reply, mut error] = [ECHO; 2];
        reply[0] = ECHO_REPLY;
        error[0] = 1;
        for (name, protocol, message, expected) in [
            ("request", ICMPV6, &ECHO[..], Some((Echo::Request, number))),
            ("reply", ICMPV6, &reply, Some((Echo::Reply, number))),
            (
                "without a number",
                ICMPV6,
                &ECHO[..7],
                Some((Echo::Request, None)),
            ),
            (
                "only the start",
                ICMPV6,
                &reply[..4],
                Some((Echo::Reply, None)),
            ),
            ("too short", ICMPV6, &ECHO[..3], None),
            ("an error", ICMPV6, &error, None),
            ("an error that is cut off", ICMPV6, &error[..4], None),
            ("the same bytes in UDP", UDP, &ECHO, None),
            ("the same bytes in TCP", TCP, &ECHO, None),
            ("ICMP of IPv4", 1, &ECHO, None),
        ] {
            let bytes = packet(protocol, message);
            let ipv6 = ipv6(bytes.as_slice(), 0).unwrap();
            let found = echo(bytes.as_slice(), &ipv6);
            let found = found.map(|message| (message.kind, message.number));
            assert_eq!(found, expected, "{name}");
        }
        // Behind an extension header, only ICMPv6 has echo messages.
        let options = [UDP, 0, 1, 4, 0, 0, 0, 0];
        let bytes = packet(HOP_BY_HOP, &[options, ECHO].concat());
        let ipv6 = ipv6(bytes.as_slice(), 0).unwrap();
        assert_eq!(echo(bytes.as_slice(), &ipv6), None);
    }

    #[test]
    fn only_tcp_and_udp_are_segmented() {
        let mut tcp = [0; 32];
        tcp[12] = 5 << 4;
        for (protocol, link, expected) in [
            (TCP, &[][..], Some(40 + 20 + 1000)),
            (TCP, &[2; 14], Some(40 + 20 + 1000)),
            (UDP, &[2; 14], Some(40 + 8 + 1000)),
            (ICMPV6, &[], None),
        ] {
            let frame = [link, &packet(protocol, &tcp)].concat();
            let offset = u32::try_from(link.len()).unwrap();
            let ipv6 = ipv6_again(frame.as_slice(), offset).unwrap();
            let upper = transport(frame.as_slice(), &ipv6).unwrap();
            let found = segment_bytes(frame.as_slice(), &ipv6, &upper, 1000);
            assert_eq!(found, expected, "{protocol}");
        }
    }

    #[test]
    fn segments_count_all_headers() {
        let mut tcp = [0; 32];
        tcp[12] = 8 << 4; // 32 bytes: with the timestamp option
        let bytes = packet(TCP, &tcp);
        let ipv6 = ipv6(bytes.as_slice(), 0).unwrap();
        let upper = transport(bytes.as_slice(), &ipv6).unwrap();
        assert_eq!(
            segment_bytes(bytes.as_slice(), &ipv6, &upper, 1208),
            Some(1280)
        );
    }

    proptest! {
        /// Arbitrary bytes cause no panic, and any header found is inside the frame.
        #[test]
        fn any_bytes_are_safe(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            link_bytes in prop_oneof![Just(0u8), Just(14u8)],
            pretend in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if pretend && bytes.len() > 20 {
                if link_bytes == 14 { bytes[12] = 0x86; bytes[13] = 0xdd; }
                bytes[usize::from(link_bytes)] = 0x60;
            }
            if let Ok(header) = ipv6(bytes.as_slice(), link_bytes) {
                prop_assert!(header.offset as usize + 40 <= bytes.len());
                let _ignored = echo(bytes.as_slice(), &header);
                if let Some(upper) = transport(bytes.as_slice(), &header) {
                    prop_assert!(upper.offset >= header.offset + 40);
                    let _ignored = segment_bytes(bytes.as_slice(), &header, &upper, 1000);
                }
            }
        }
    }
}
