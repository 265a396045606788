//! What packets are carried by, in batches: a TUN device on one side, datagrams on the other.
//!
//! A TUN device with offloads gives out up to 64 KiB of a flow at a time. They are cut into packets
//! here, each behind room for a tunnel's header, so that a whole batch leaves by one call (UDP GSO).
//! The other way a batch comes in by one call (recvmmsg, UDP GRO), and packets of a flow are put
//! together again before they are written.
//!
//! Buffers belong to a thread, not to a tunnel: they are empty whenever a tunnel has had its turn.

mod datagrams;
mod device;
mod inbox;
mod outbox;
mod protocol41;

pub use datagrams::{Arrivals, Datagrams};
pub use device::Device;
pub use inbox::Inbox;
pub use outbox::Outbox;
pub use protocol41::{PACKET_BYTES, Protocol41};
