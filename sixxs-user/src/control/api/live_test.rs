//! Live tests: what becomes of a packet that this host sends.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use sixxs_common::inside_test::Way;

/// The packet to expect.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LiveRequest {
    /// Its source, an address of this host.
    pub source: Ipv6Addr,
    /// Its destination.
    pub destination: Ipv6Addr,
}

/// A line of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveEvent {
    /// The programs expect an echo request. The client sends it now.
    Expected {
        /// Its identifier.
        identifier: u16,
        /// Its sequence number.
        sequence: u16,
    },
    /// The end: the programs have received the packet, or it is late.
    Recorded {
        /// Index of the interface that it was routed to; `null`: it did not pass the routing.
        interface: Option<u32>,
        /// What the program there would have done with it; `null`: it did not get there.
        way: Option<LiveWay>,
    },
}

/// What the program at an interface would have done with a packet: [`Way`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", remote = "Way")]
enum WayName {
    Own,
    Exempt,
    Leak,
    Loop,
    Unknown,
    Held,
}

/// A [`Way`] by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LiveWay(#[serde(with = "WayName")] pub Way);
