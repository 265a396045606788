//! What packets are carried by, in batches: a TUN device on one side, datagrams on the other.
//!
//! A TUN device with offloads gives out up to 64 KiB of a flow at a time. They are cut into packets
//! here, each behind room for a tunnel's header, so that a whole batch leaves by one call (UDP GSO).
//! The other way a batch comes in by one call (recvmmsg, UDP GRO), and packets of a flow are put
//! together again before they are written.
//!
//! Buffers belong to a thread, not to a tunnel: they are empty whenever a tunnel has had its turn.

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

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` of linux/virtio_net.h: the checksum field has the sum of the
/// pseudo-header only.
const NEEDS_CHECKSUM: u8 = 1;

/// A TUN device that gives and takes packets behind virtio headers, up to 64 KiB of a flow at a
/// time. Never waits.
pub trait Tun {
    /// Reads a packet with its header; `None`: there is none.
    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>>;

    /// Writes a packet with its header.
    fn write(&self, packet: &[u8]) -> io::Result<usize>;

    /// Whether it takes several UDP datagrams in one (Linux 6.2).
    fn cuts_udp(&self) -> bool;
}
