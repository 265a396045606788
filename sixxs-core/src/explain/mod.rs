//! Explains the path of a packet out of this host, and faults on it.
//!
//! * [`rules`] – all policy rules, and those that a packet matches
//! * [`cause`] – the reason why a packet leaves by the wrong interface, and the cure
//! * [`verdict`] – the decision of the kernel programs
//! * [`path`] – the whole path, step by step
//! * [`live`] – what the kernel did with a real packet, beside that

pub mod cause;
pub mod live;
pub mod path;
pub mod rules;
pub mod verdict;

use std::net::Ipv6Addr;

pub use cause::{Cause, Endpoint, LeakFacts, cause};

/// The properties of a packet that the kernel's routing uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source.
    pub source: Ipv6Addr,
    /// Destination.
    pub destination: Ipv6Addr,
    /// User ID of the sending socket; `None`: there is no socket.
    pub uid: Option<u32>,
    /// Its mark; `None`: unknown.
    pub mark: Option<u32>,
    /// The interface by which it arrived; `None`: the host itself sends it.
    pub iif: Option<String>,
    /// The interface that the socket is bound to.
    pub oif: Option<String>,
}
