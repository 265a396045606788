//! The counters of a PoP.

use std::ops::AddAssign;

/// A PoP's counters; datagrams are those from clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Valid heartbeats, of AYIYA (noop) and of the heartbeat protocol.
    pub heartbeats: u64,
    /// Valid datagrams with an IPv6 packet.
    pub forwards: u64,
    /// Valid AYIYA datagrams with any other operation.
    pub other_operations: u64,
    /// Malformed datagrams.
    pub bad_form: u64,
    /// Datagrams whose identity belongs to no tunnel of this PoP.
    pub bad_identity: u64,
    /// Datagrams whose time is too old, or in the future.
    pub bad_time: u64,
    /// Datagrams that were signed with another key.
    pub bad_signature: u64,
    /// Signed datagrams whose payload is not as declared.
    pub bad_payload: u64,
    /// Protocol 41 or a heartbeat whose IPv4 source is not the tunnel's address or the address it claims.
    pub bad_source: u64,
    /// Times that a valid datagram came from a new endpoint.
    pub endpoint_changes: u64,
    /// Times that a tunnel was declared down.
    pub went_down: u64,
    /// IPv6 packets written to the PoP's own device, and their bytes.
    pub delivered: u64,
    /// See [`Counts::delivered`].
    pub delivered_bytes: u64,
    /// IPv6 packets sent to clients, and their bytes.
    pub sent: u64,
    /// See [`Counts::sent`].
    pub sent_bytes: u64,
    /// IPv6 packets for a client that is down, or never sent anything.
    pub unsent: u64,
    /// Echo requests of the PoP to the client.
    pub pings_sent: u64,
    /// Replies to them.
    pub pings_answered: u64,
}

impl Counts {
    /// All datagrams that were dropped for an error.
    pub fn bad(&self) -> u64 {
        self.bad_form
            + self.bad_identity
            + self.bad_time
            + self.bad_signature
            + self.bad_payload
            + self.bad_source
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        // All fields by name, so that the compiler reports a missing one.
        let Self {
            heartbeats,
            forwards,
            other_operations,
            bad_form,
            bad_identity,
            bad_time,
            bad_signature,
            bad_payload,
            bad_source,
            endpoint_changes,
            went_down,
            delivered,
            delivered_bytes,
            sent,
            sent_bytes,
            unsent,
            pings_sent,
            pings_answered,
        } = other;
        self.heartbeats += heartbeats;
        self.forwards += forwards;
        self.other_operations += other_operations;
        self.bad_form += bad_form;
        self.bad_identity += bad_identity;
        self.bad_time += bad_time;
        self.bad_signature += bad_signature;
        self.bad_payload += bad_payload;
        self.bad_source += bad_source;
        self.endpoint_changes += endpoint_changes;
        self.went_down += went_down;
        self.delivered += delivered;
        self.delivered_bytes += delivered_bytes;
        self.sent += sent;
        self.sent_bytes += sent_bytes;
        self.unsent += unsent;
        self.pings_sent += pings_sent;
        self.pings_answered += pings_answered;
    }
}
