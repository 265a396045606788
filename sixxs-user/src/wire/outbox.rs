//! Outgoing packets: segments the device's packets, and leaves room for a header before each.

use std::io;

use tun_rs::{VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_LEN, VirtioNetHdr, checksum, gso_split};

use super::{NEEDS_CHECKSUM, Tun};

/// `VIRTIO_NET_HDR_GSO_NONE`: not coalesced.
const GSO_NONE: u8 = 0;

/// Maximum size of a packet from the device, with its header.
const READ_BYTES: usize = VIRTIO_NET_HDR_LEN + 65_535;

/// Maximum number of segments in one read; a sender with small segments may reach it.
const MAX_SEGMENTS: usize = 256;

/// Size of the slab: 64 KiB of payload, and the headers.
const SLAB_BYTES: usize = 65_536 + MAX_SEGMENTS * 160;

/// Number of packets that completes a batch, if the device did not coalesce them.
const BATCH_PACKETS: usize = 64;

/// A batch of packets of the same length; the last one may be shorter.
pub struct Outbox {
    raw: Box<[u8]>,
    /// Length of a packet that was read but did not fit into the slab.
    waiting: Option<usize>,
    slab: Box<[u8]>,
    headroom: usize,
    stride: usize,
    used: usize,
    is_closed: bool,
    dropped: u64,
}

impl Outbox {
    /// `headroom`: room before each packet, in bytes.
    #[must_use]
    pub fn new(headroom: usize) -> Self {
        Self {
            raw: vec![0; READ_BYTES].into(),
            waiting: None,
            slab: vec![0; SLAB_BYTES].into(),
            headroom,
            stride: 0,
            used: 0,
            is_closed: false,
            dropped: 0,
        }
    }

    /// Reads until the batch is complete or the device is empty (false). The caller has to process the batch
    /// before the next call. With `None`, processes only a packet that was read before: call it so at the end
    /// of a turn.
    pub fn fill(&mut self, device: Option<&impl Tun>) -> io::Result<bool> {
        self.used = 0;
        self.stride = 0;
        self.is_closed = false;
        if let Some(length) = self.waiting.take() {
            self.append(length);
        }
        let Some(device) = device else {
            return Ok(false);
        };
        while !self.is_closed {
            let Some(length) = device.read(&mut self.raw)? else {
                return Ok(false);
            };
            if !self.append(length) {
                self.waiting = Some(length);
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// The packets, each with its headroom.
    pub fn datagrams(&mut self) -> impl Iterator<Item = &mut [u8]> {
        // An empty slab has no chunks, so any nonzero size works.
        self.slab[..self.used].chunks_mut(self.stride.max(1))
    }

    /// The whole batch, and the length of each of its packets except the last.
    #[must_use]
    pub fn batch(&self) -> (&[u8], usize) {
        (&self.slab[..self.used], self.stride)
    }

    /// The number of invalid packets since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Segments the packet that was read into the slab; false if there is no room.
    fn append(&mut self, length: usize) -> bool {
        let is_empty = self.used == 0;
        match self.segment(length) {
            Ok(true) => true,
            Ok(false) => {
                debug_assert!(!is_empty, "an empty slab has room for everything");
                false
            }
            // The packet from the kernel cannot be segmented.
            Err(_) => {
                self.dropped += 1;
                true
            }
        }
    }

    fn segment(&mut self, length: usize) -> io::Result<bool> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let raw = self.raw.get_mut(..length).ok_or_else(invalid)?;
        let (header, packet) = raw
            .split_at_mut_checked(VIRTIO_NET_HDR_LEN)
            .ok_or_else(invalid)?;
        let mut header = VirtioNetHdr::decode(header)?;
        if packet.first().is_none_or(|first| first >> 4 != 6) {
            return Err(invalid());
        }
        if header.gso_type != GSO_NONE {
            if self.used > 0 {
                return Ok(false);
            }
            // For forwarded packets the kernel may set it to the length of the whole packet.
            header.hdr_len = header_length(&header, packet).ok_or_else(invalid)?;
            let stride = self.headroom + usize::from(header.hdr_len) + usize::from(header.gso_size);
            let mut chunks = self.slab.chunks_exact_mut(stride);
            let mut bufs: [&mut [u8]; MAX_SEGMENTS] =
                std::array::from_fn(|_| chunks.next().unwrap_or_default());
            let room = bufs.iter().take_while(|buf| !buf.is_empty()).count();
            let mut sizes = [0; MAX_SEGMENTS];
            let count = gso_split(
                packet,
                header,
                &mut bufs[..room],
                &mut sizes[..room],
                self.headroom,
                true,
            )?;
            let last = count.checked_sub(1).ok_or_else(invalid)?;
            self.stride = stride;
            self.used = last * stride + self.headroom + sizes[last];
            self.is_closed = true;
            return Ok(true);
        }
        let datagram = self.headroom + packet.len();
        let fits = self.used == 0
            || (datagram <= self.stride && self.used + self.stride <= self.slab.len());
        if !fits {
            return Ok(false);
        }
        if header.flags & NEEDS_CHECKSUM != 0 {
            complete_checksum(packet, &header).ok_or_else(invalid)?;
        }
        if self.used == 0 {
            self.stride = datagram;
        }
        self.slab[self.used + self.headroom..self.used + datagram].copy_from_slice(packet);
        self.used += datagram;
        self.is_closed = datagram < self.stride || self.used >= BATCH_PACKETS * self.stride;
        Ok(true)
    }
}

/// Length of the headers before the payload to segment.
fn header_length(header: &VirtioNetHdr, packet: &[u8]) -> Option<u16> {
    let transport = header.csum_start;
    if header.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 {
        return transport.checked_add(8);
    }
    // The data offset of TCP, in 32-bit words (RFC 9293 §3.1).
    let words = packet.get(usize::from(transport) + 12)? >> 4;
    (words >= 5).then(|| transport.checked_add(u16::from(words) * 4))?
}

/// Completes a checksum that the kernel left incomplete.
fn complete_checksum(packet: &mut [u8], header: &VirtioNetHdr) -> Option<()> {
    let summed = packet.get_mut(usize::from(header.csum_start)..)?;
    let at = usize::from(header.csum_offset);
    let field = summed.get_mut(at..at + 2)?;
    let pseudo_header = u16::from_be_bytes([field[0], field[1]]);
    field.fill(0);
    let sum = !checksum(summed, u64::from(pseudo_header));
    // 0 means no checksum (RFC 8200 §8.1); its complement has the same value in one's complement arithmetic.
    let sum = if sum == 0 { u16::MAX } else { sum };
    summed[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Some(())
}
