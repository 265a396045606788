//! The way that a packet would take out of this host, and why it is not the right one.
//!
//! * [`rules`] – everybody's rules, and which of them a packet meets
//! * [`cause`] – why a packet leaves by the wrong interface, and what cures it
//! * [`verdict`] – what the programs say of it
//! * [`path`] – the whole way, step by step

pub mod cause;
pub mod path;
pub mod rules;
pub mod verdict;

use std::net::Ipv6Addr;

pub use cause::{Cause, Circumstances, Endpoint, cause};

/// What the kernel's routing asks of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source.
    pub source: Ipv6Addr,
    /// Destination.
    pub destination: Ipv6Addr,
    /// Owner of the sending socket; `None`: there is no socket.
    pub uid: Option<u32>,
    /// Its mark; `None`: not known.
    pub mark: Option<u32>,
    /// The interface by which it came in; `None`: it is the host's own.
    pub iif: Option<String>,
    /// The interface that the socket is bound to.
    pub oif: Option<String>,
}
