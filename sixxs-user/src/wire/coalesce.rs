//! Coalesces packets of one flow into one large packet, like the kernel's GRO; the virtio header describes the
//! segments to the device.
//!
//! Packet data is copied once and never moved. Only packets with a correct checksum are coalesced: the kernel
//! trusts the virtio header, and would give damaged packets a new checksum.

use tun_rs::{
    VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_LEN, VirtioNetHdr, checksum,
};

use super::NEEDS_CHECKSUM;

/// Maximum payload length of an IPv6 packet.
const MAX_BYTES: usize = 65_535;

/// The kernel's limit for UDP segments (`UDP_MAX_SEGMENTS`, 64 before Linux 6.9).
const MAX_DATAGRAMS: usize = 64;

const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Bits in the byte of TCP's flags (RFC 9293 §3.1).
const PUSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Offsets in a packet without extension headers.
mod at {
    use std::ops::Range;

    pub(super) const LENGTH: Range<usize> = 4..6;
    pub(super) const ADDRESSES: Range<usize> = 8..40;
    pub(super) const SEQUENCE: Range<usize> = 44..48;
    /// Acknowledgment number, and data offset.
    pub(super) const ACKNOWLEDGED: Range<usize> = 48..53;
    pub(super) const FLAGS: usize = 53;
    pub(super) const WINDOW: Range<usize> = 54..56;
    pub(super) const OPTIONS: usize = 60;
    pub(super) const UDP_LENGTH: Range<usize> = 44..46;
}

/// One packet, or several coalesced packets.
#[derive(Default)]
pub(super) struct CoalescedPacket {
    /// Room for the virtio header, then the packet.
    buffer: Vec<u8>,
    /// The properties of its packets; `None`: nothing can be appended.
    shape: Option<Shape>,
    count: usize,
    /// Whether the checksum of the first packet was verified.
    is_checked: bool,
    /// Whether it is complete: the last packet was shorter than the others, or has the flag PSH.
    is_closed: bool,
}

/// The properties of a packet that have to match for coalescing.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    transport: u8,
    header_bytes: usize,
    payload_bytes: usize,
}

impl CoalescedPacket {
    /// Starts over with this packet.
    pub(super) fn start_with(&mut self, packet: &[u8]) {
        self.buffer.clear();
        self.buffer.resize(VIRTIO_NET_HDR_LEN, 0);
        self.buffer.extend_from_slice(packet);
        self.shape = Shape::of(packet);
        self.count = 1;
        self.is_checked = false;
        self.is_closed = is_pushed(packet, self.shape);
    }

    /// Starts over with a packet whose checksum the kernel left incomplete: its GRO coalesced the packet before
    /// the raw socket received it, or it was never on a wire (veth). The checksum field then has the sum of the
    /// pseudo-header only. False: the checksum is complete. `mtu` is the maximum size of one inner packet.
    pub(super) fn start_with_partial_checksum(&mut self, packet: &[u8], mtu: usize) -> bool {
        let Some(checksum_at) = partial_checksum(packet) else {
            return false;
        };
        self.start_with(packet);
        let shape = self.shape.take();
        let small = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        let mut description = VirtioNetHdr {
            flags: NEEDS_CHECKSUM,
            csum_start: small(IPV6_BYTES),
            csum_offset: small(checksum_at - IPV6_BYTES),
            ..VirtioNetHdr::default()
        };
        // The original segment size is unknown, but it cannot exceed the MTU.
        if packet.len() > mtu
            && let Some(Shape {
                transport: TCP,
                header_bytes,
                ..
            }) = shape
        {
            description.gso_type = VIRTIO_NET_HDR_GSO_TCPV6;
            description.hdr_len = small(header_bytes);
            description.gso_size = small(mtu.saturating_sub(header_bytes));
        }
        let encoded = description.encode(&mut self.buffer[..VIRTIO_NET_HDR_LEN]);
        debug_assert!(encoded.is_ok(), "there is room for a header");
        true
    }

    /// Whether a packet has the same flow, so that the order matters.
    pub(super) fn has_same_flow(&self, packet: &[u8]) -> bool {
        let own = self.buffer.get(VIRTIO_NET_HDR_LEN..).unwrap_or_default();
        // Compare addresses and ports. With extension headers there is other data in place of the ports; if
        // that differs, it may be another flow.
        match (own.get(8..44), packet.get(8..44)) {
            (Some(flow), Some(other)) => flow == other && own[6] == packet[6],
            _ => false,
        }
    }

    /// Appends a packet of the flow; false if it cannot be coalesced.
    pub(super) fn append(&mut self, packet: &[u8], has_uso: bool) -> bool {
        let (Some(own), Some(shape)) = (self.shape, Shape::of(packet)) else {
            return false;
        };
        let head = &self.buffer[VIRTIO_NET_HDR_LEN..];
        let fits = !self.is_closed
            && shape.transport == own.transport
            && shape.header_bytes == own.header_bytes
            && shape.payload_bytes <= own.payload_bytes
            && head.len() + shape.payload_bytes <= MAX_BYTES
            // Version, traffic class and flow label; hop limit.
            && head[..4] == packet[..4]
            && head[7] == packet[7];
        let follows = match own.transport {
            TCP => {
                let next = sequence(head)
                    .wrapping_add(u32::try_from(self.count * own.payload_bytes).unwrap_or(0));
                sequence(packet) == next
                    && head[at::ACKNOWLEDGED] == packet[at::ACKNOWLEDGED]
                    && head[at::WINDOW] == packet[at::WINDOW]
                    && head[at::OPTIONS..own.header_bytes] == packet[at::OPTIONS..own.header_bytes]
            }
            _ => has_uso && self.count < MAX_DATAGRAMS,
        };
        if !fits || !follows {
            return false;
        }
        if !self.is_checked {
            self.is_checked = has_valid_checksum(head);
            if !self.is_checked {
                self.shape = None;
                return false;
            }
        }
        if !has_valid_checksum(packet) {
            return false;
        }
        self.buffer.extend_from_slice(&packet[own.header_bytes..]);
        self.count += 1;
        self.is_closed = shape.payload_bytes < own.payload_bytes || is_pushed(packet, Some(shape));
        if self.is_closed && own.transport == TCP {
            self.buffer[VIRTIO_NET_HDR_LEN + at::FLAGS] |= packet[at::FLAGS] & PUSH;
        }
        true
    }

    /// The bytes to write, with the virtio header.
    pub(super) fn finish(&mut self) -> &[u8] {
        if let Some(shape) = self.shape
            && self.count > 1
        {
            self.describe(shape);
        }
        &self.buffer
    }

    fn describe(&mut self, shape: Shape) {
        let (header, packet) = self.buffer.split_at_mut(VIRTIO_NET_HDR_LEN);
        // `append` keeps it below `MAX_BYTES`.
        let length = u16::try_from(packet.len() - IPV6_BYTES).unwrap_or(u16::MAX);
        let small = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        packet[at::LENGTH].copy_from_slice(&length.to_be_bytes());
        let (gso_type, checksum_offset) = match shape.transport {
            TCP => (VIRTIO_NET_HDR_GSO_TCPV6, 16),
            _ => {
                packet[at::UDP_LENGTH].copy_from_slice(&length.to_be_bytes());
                (VIRTIO_NET_HDR_GSO_UDP_L4, 6)
            }
        };
        // The kernel completes the checksum when necessary.
        let sum = u16::try_from(pseudo_header(packet, length)).unwrap_or_default();
        let field = IPV6_BYTES + checksum_offset;
        packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        let description = VirtioNetHdr {
            flags: NEEDS_CHECKSUM,
            gso_type,
            hdr_len: small(shape.header_bytes),
            gso_size: small(shape.payload_bytes),
            csum_start: small(IPV6_BYTES),
            csum_offset: small(checksum_offset),
        };
        let encoded = description.encode(header);
        debug_assert!(encoded.is_ok(), "there is room for a header");
    }
}

impl Shape {
    /// `None`: the packet cannot be coalesced.
    fn of(packet: &[u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<IPV6_BYTES>()?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if header[0] >> 4 != 6 || length != rest.len() {
            return None;
        }
        let transport = header[6];
        let header_bytes = match transport {
            // Only plain data segments: all others are rare, and must stay unchanged.
            TCP if rest.len() > 20 && rest[13] & !PUSH == ACK => usize::from(rest[12] >> 4) * 4,
            // Without a checksum, damage could not be detected.
            UDP if rest.len() > UDP_BYTES && rest[4..6] == header[4..6] && rest[6..8] != [0, 0] => {
                UDP_BYTES
            }
            _ => return None,
        };
        let payload_bytes = rest.len().checked_sub(header_bytes)?;
        let is_right = header_bytes >= UDP_BYTES
            && (transport == UDP || header_bytes >= 20)
            && payload_bytes > 0;
        is_right.then_some(Self {
            transport,
            header_bytes: IPV6_BYTES + header_bytes,
            payload_bytes,
        })
    }
}

/// Offset of the checksum, if it contains only the sum of the pseudo-header. About one complete checksum in
/// 65,000 has that value by chance; then the kernel computes it again, with the same result.
fn partial_checksum(packet: &[u8]) -> Option<usize> {
    let header = packet.first_chunk::<IPV6_BYTES>()?;
    let (offset, least) = match header[6] {
        TCP => (16, 20),
        UDP => (6, UDP_BYTES),
        _ => return None,
    };
    let length = u16::from_be_bytes([header[4], header[5]]);
    let checksum_at = IPV6_BYTES + offset;
    let sum = packet.get(checksum_at..checksum_at + 2)?;
    let sum = u64::from(u16::from_be_bytes([sum[0], sum[1]]));
    let is_whole = usize::from(length) >= least && packet.len() == IPV6_BYTES + usize::from(length);
    (is_whole && sum == pseudo_header(packet, length)).then_some(checksum_at)
}

fn is_pushed(packet: &[u8], shape: Option<Shape>) -> bool {
    shape.is_some_and(|shape| shape.transport == TCP) && packet[at::FLAGS] & PUSH != 0
}

fn sequence(packet: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&packet[at::SEQUENCE]);
    u32::from_be_bytes(bytes)
}

/// Sum of the pseudo-header (RFC 8200 §8.1).
fn pseudo_header(packet: &[u8], length: u16) -> u64 {
    let rest = u64::from(packet[6]) + u64::from(length);
    u64::from(checksum(&packet[at::ADDRESSES], rest))
}

fn has_valid_checksum(packet: &[u8]) -> bool {
    let length = u16::from_be_bytes([packet[4], packet[5]]);
    checksum(&packet[IPV6_BYTES..], pseudo_header(packet, length)) == u16::MAX
}
