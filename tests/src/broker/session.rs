//! Owns one tunnel as its PoP sees it, and how a packet is wrapped for the client.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::Kind;
use super::ayiya::{self, Key};
use super::counts::Counts;

/// Room before a packet for the longest header of any way.
pub(crate) const HEADROOM: usize = ayiya::HEADER_BYTES;

/// One tunnel that a PoP serves.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What carries it.
    pub kind: Kind,
    /// The client's address in the tunnel; also its identity.
    pub address: Ipv6Addr,
    /// The PoP's.
    pub peer: Ipv6Addr,
    /// What is behind the client, as address and prefix length; the tunnel's own /64 among it.
    pub prefixes: Vec<(Ipv6Addr, u8)>,
    /// Of AYIYA and of heartbeats.
    pub password: String,
    /// The client's registered address, for [`Kind::SixInFour`].
    pub registered: Option<Ipv4Addr>,
}

/// A tunnel as its PoP sees it.
#[derive(Clone, Debug)]
pub struct Session {
    /// What it is.
    pub setup: Setup,
    /// Where the client is; `None` until it was heard.
    pub endpoint: Option<SocketAddr>,
    /// Heard within the limit; always, for a fixed endpoint.
    pub up: bool,
    /// What was counted of it.
    pub counts: Counts,
    pub(super) key: Key,
    pub(super) heard: Option<Instant>,
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
            heard: None,
            next_ping: None,
            pings: 0,
            setup,
        };
        session.forget();
        session
    }

    /// To what is known before anything was heard.
    pub(super) fn forget(&mut self) {
        let registered = match self.setup.kind {
            Kind::SixInFour => self.setup.registered,
            Kind::Ayiya | Kind::Heartbeat => None,
        };
        self.endpoint = registered.map(|address| SocketAddr::new(address.into(), 0));
        self.up = registered.is_some();
        self.heard = None;
        self.next_ping = None;
    }

    /// Changes what it is.
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
        self.heard = Some(now);
        self.up = true;
    }

    /// The datagram to carry a packet to the client; `None` while nobody knows where it is. The
    /// packet lies behind [`HEADROOM`].
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

/// What came in or goes out, with the client's endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram<Bytes = Vec<u8>> {
    pub(crate) protocol: Protocol,
    pub(crate) endpoint: SocketAddr,
    pub(crate) bytes: Bytes,
}

impl Datagram {
    /// Without its own bytes.
    pub(crate) fn lent(&self) -> Datagram<&[u8]> {
        Datagram {
            protocol: self.protocol,
            endpoint: self.endpoint,
            bytes: &self.bytes,
        }
    }
}

impl Datagram<&[u8]> {
    /// With bytes of its own.
    pub(crate) fn kept(&self) -> Datagram {
        Datagram {
            protocol: self.protocol,
            endpoint: self.endpoint,
            bytes: self.bytes.to_vec(),
        }
    }
}
