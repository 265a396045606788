//! Packets built by hand, for programs that run on them without a network.
//!
//! Only the fields that the programs read are correct: lengths, types and addresses. Upper-layer checksums
//! are zero.

use std::net::Ipv6Addr;

/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: TCP.
pub const TCP: u8 = 6;
/// Next header: UDP.
pub const UDP: u8 = 17;
/// Next header: routing.
pub const ROUTING: u8 = 43;
/// Next header: fragment.
pub const FRAGMENT: u8 = 44;
/// Next header: authentication.
pub const AUTHENTICATION: u8 = 51;
/// Next header: ICMPv6.
pub const ICMPV6: u8 = 58;
/// Next header: destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// ICMPv6 type (RFC 4443 §3.1).
pub const DESTINATION_UNREACHABLE: u8 = 1;
/// ICMPv6 type (RFC 4443 §4.1).
pub const ECHO_REQUEST: u8 = 128;
/// ICMPv6 type (RFC 4443 §4.2).
pub const ECHO_REPLY: u8 = 129;

/// Ethernet type.
pub const IPV4_TYPE: u16 = 0x0800;
/// Ethernet type.
pub const ARP_TYPE: u16 = 0x0806;
/// Ethernet type of a tag (802.1Q).
pub const VLAN_TYPE: u16 = 0x8100;
/// Ethernet type.
pub const IPV6_TYPE: u16 = 0x86dd;
/// Ethernet type of an outer tag (802.1ad).
pub const SERVICE_VLAN_TYPE: u16 = 0x88a8;
/// Ethernet type of an outer tag before 802.1ad.
pub const OLD_SERVICE_VLAN_TYPE: u16 = 0x9100;
/// Ethernet type (RFC 3032 §5).
pub const MPLS_TYPE: u16 = 0x8847;
/// Ethernet type of a PPPoE session (RFC 2516 §4).
pub const PPPOE_TYPE: u16 = 0x8864;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_BYTES: usize = 14;

/// An Ethernet frame. Tags are pairs of type and tag, the outer one first.
#[must_use]
pub fn ethernet(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (kind, tag) in tags {
        frame.extend(kind.to_be_bytes());
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv6 packet (RFC 8200 §3).
///
/// # Panics
/// If the payload is longer than 65,535 bytes.
#[must_use]
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a payload of at most 65,535 bytes");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend([from.octets(), to.octets()].concat());
    packet.extend(payload);
    packet
}

/// An ICMPv6 message of this type, with identifier 0x1234 if the type has one.
#[must_use]
pub fn icmpv6(kind: u8, payload_bytes: usize) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0x12, 0x34, 0, 1], &*payload(payload_bytes)].concat()
}

/// A UDP datagram from port 53.
#[must_use]
pub fn udp(to_port: u16, payload_bytes: usize) -> Vec<u8> {
    let [high, low] = to_port.to_be_bytes();
    [&[0, 53, high, low, 0, 0, 0, 0], &*payload(payload_bytes)].concat()
}

/// An extension header of eight bytes (hop-by-hop or destination options: one PadN) before `rest`.
#[must_use]
pub fn options(next_header: u8, rest: &[u8]) -> Vec<u8> {
    [&[next_header, 0, 1, 4, 0, 0, 0, 0], rest].concat()
}

/// A fragment header (RFC 8200 §4.5) before `rest`; `offset` in units of eight bytes.
#[must_use]
pub fn fragment(next_header: u8, offset: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let [high, low] = ((offset << 3) | u16::from(more)).to_be_bytes();
    [&[next_header, 0, high, low, 0, 0, 0, 7], rest].concat()
}

/// An authentication header (RFC 4302 §2) of 24 bytes before `rest`.
#[must_use]
pub fn authentication(next_header: u8, rest: &[u8]) -> Vec<u8> {
    // The length field is the number of 4-byte words, minus two.
    [&[next_header, 4], &[0; 22][..], rest].concat()
}

/// Bytes that differ from their neighbours, so that a test detects a shift by one.
fn payload(bytes: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(bytes).collect()
}

/// The Internet checksum (RFC 1071), as its field contains it.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or_default();
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // The sum is folded in every step, so it fits.
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The ICMPv6 Packet Too Big (RFC 4443 §3.2) for `packet`; it quotes as much of the packet as fits into 1,280
/// bytes.
#[must_use]
pub fn packet_too_big(router: Ipv6Addr, sender: Ipv6Addr, mtu: u32, packet: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 40 + 8;
    let quoted = &packet[..packet.len().min(1280 - HEADERS)];
    let mut message = vec![2, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(quoted);
    // RFC 8200 §8.1: the checksum includes addresses, length and next header.
    let mut summed = [router.octets(), sender.octets()].concat();
    summed.extend(
        u32::try_from(message.len())
            .expect("at most 1,240 bytes")
            .to_be_bytes(),
    );
    summed.extend([0, 0, 0, ICMPV6]);
    summed.extend(&message);
    message[2..4].copy_from_slice(&checksum(&summed).to_be_bytes());
    ipv6(router, sender, ICMPV6, &message)
}
