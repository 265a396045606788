//! Moves packets in batches between a TUN device and sockets.
//!
//! A TUN device with offloads returns up to 64 KiB of a flow at a time. The outbox segments them into packets,
//! each with room for a tunnel's header, so that one system call sends a whole batch (UDP GSO). In the other
//! direction one system call receives a batch (recvmmsg, UDP GRO), and packets of a flow are coalesced before
//! they are written.
//!
//! Buffers belong to a thread, not to a tunnel: they are empty after each turn of a tunnel.

use std::io;

mod coalesce;
mod datagrams;
mod device;
mod inbox;
mod messages;
mod outbox;
mod protocol41;

pub use datagrams::{Arrivals, Batches, Datagrams};
pub use device::Device;
pub use inbox::Inbox;
pub use messages::{Messages, send_each};
pub use outbox::Outbox;
pub use protocol41::Protocol41;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` of linux/virtio_net.h: the checksum field has the sum of the pseudo-header
/// only.
const NEEDS_CHECKSUM: u8 = 1;

/// A non-blocking TUN device. Its packets have virtio headers, and may contain up to 64 KiB of a flow.
pub trait Tun {
    /// Reads a packet with its header; `None` if there is none.
    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>>;

    /// Writes a packet with its header.
    fn write(&self, packet: &[u8]) -> io::Result<usize>;

    /// Whether it accepts coalesced UDP datagrams (Linux 6.2).
    fn has_uso(&self) -> bool;
}
