//! The results that the report prints.

use std::time::Duration;

use sixxs_tests::broker::Kind;

use super::traffic::Carried;

/// The result for one path.
pub(super) struct Row {
    /// `None` without a tunnel.
    pub(super) kind: Option<Kind>,
    pub(super) mtu: u32,
    /// From the host to the outside.
    pub(super) up: Pair,
    /// From the outside to the host.
    pub(super) down: Pair,
    /// Median round trip.
    pub(super) ping: Duration,
}

pub(super) struct Pair {
    pub(super) tcp: Carried,
    pub(super) udp: Carried,
}

/// SHA-1 alone, on datagrams as long as a tunnel's.
pub(super) struct Hashing {
    pub(super) datagram_bytes: usize,
    pub(super) seconds_per_gigabyte: f64,
}
