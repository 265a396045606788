//! The state of one tunnel at its PoP, and the encapsulation of packets to the client.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::Kind;
use super::ayiya::{self, Key};
use super::counts::Counts;

/// Room before a packet for the longest header of any encapsulation.
pub(crate) const HEADROOM: usize = ayiya::HEADER_BYTES;

/// One tunnel that a PoP serves.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its encapsulation.
    pub kind: Kind,
    /// The client's address in the tunnel; also its identity.
    pub address: Ipv6Addr,
    /// The PoP's address in the tunnel.
    pub peer: Ipv6Addr,
    /// Prefixes routed to the client, as address and prefix length, with the tunnel's own /64.
    pub prefixes: Vec<(Ipv6Addr, u8)>,
    /// Password of AYIYA and of heartbeats.
    pub password: String,
    /// The client's registered address, for [`Kind::SixInFour`].
    pub registered: Option<Ipv4Addr>,
}

/// The state of a tunnel at its PoP.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its parameters.
    pub setup: Setup,
    /// The client's outer address and port; `None` before its first datagram.
    pub endpoint: Option<SocketAddr>,
    /// Whether a datagram came within the limit; always true for a fixed endpoint.
    pub up: bool,
    /// Its counters.
    pub counts: Counts,
    pub(super) key: Key,
    pub(super) last_received: Option<Instant>,
    pub(super) next_ping: Option<Instant>,
    pub(super) pings: u16,
}

impl Session {
    pub(super) fn new(setup: Setup) -> Self {
        let mut session = Self {
            key: Key::of(&setup.password),
            endpoint: None,
            up: false,
            counts: Counts::default(),
            last_received: None,
            next_ping: None,
            pings: 0,
            setup,
        };
        session.forget();
        session
    }

    /// Resets it to the state before the first datagram.
    pub(super) fn forget(&mut self) {
        let registered = match self.setup.kind {
            Kind::SixInFour => self.setup.registered,
            Kind::Ayiya | Kind::Heartbeat => None,
        };
        self.endpoint = registered.map(|address| SocketAddr::new(address.into(), 0));
        self.up = registered.is_some();
        self.last_received = None;
        self.next_ping = None;
    }

    /// Changes its parameters.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Setup)) {
        change(&mut self.setup);
        self.key = Key::of(&self.setup.password);
        if self.setup.kind == Kind::SixInFour {
            self.forget();
        }
    }

    pub(super) fn update_endpoint(&mut self, endpoint: SocketAddr, now: Instant) {
        if self.endpoint.is_some_and(|before| before != endpoint) {
            self.counts.endpoint_changes += 1;
        }
        self.endpoint = Some(endpoint);
        self.last_received = Some(now);
        self.up = true;
    }

    /// Encapsulates a packet for the client; `None` if the client's endpoint is unknown or the tunnel is
    /// down. `packet` starts with [`HEADROOM`] free bytes.
    pub(super) fn wrap<'a>(
        &self,
        packet: &'a mut [u8],
        unix_seconds: u64,
    ) -> Option<Datagram<&'a [u8]>> {
        let endpoint = self.endpoint.filter(|_| self.up)?;
        let (protocol, bytes) = match self.setup.kind {
            Kind::Ayiya => {
                let carry = (ayiya::FORWARD, ayiya::IPV6);
                let peer = self.setup.peer;
                ayiya::seal_in_place(&self.key, peer, unix_seconds, carry, packet);
                (Protocol::Ayiya, &*packet)
            }
            Kind::SixInFour | Kind::Heartbeat => (Protocol::Protocol41, &packet[HEADROOM..]),
        };
        Some(Datagram {
            protocol,
            endpoint,
            bytes,
        })
    }
}

/// Encapsulation of a datagram on the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Ayiya,
    Protocol41,
    Heartbeat,
}

/// A datagram from or to a client, with the client's endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram<Bytes = Vec<u8>> {
    pub(crate) protocol: Protocol,
    pub(crate) endpoint: SocketAddr,
    pub(crate) bytes: Bytes,
}

impl Datagram {
    /// Borrows the bytes.
    pub(crate) fn lent(&self) -> Datagram<&[u8]> {
        Datagram {
            protocol: self.protocol,
            endpoint: self.endpoint,
            bytes: &self.bytes,
        }
    }
}

impl Datagram<&[u8]> {
    /// Copies the bytes.
    pub(crate) fn kept(&self) -> Datagram {
        Datagram {
            protocol: self.protocol,
            endpoint: self.endpoint,
            bytes: self.bytes.to_vec(),
        }
    }
}
