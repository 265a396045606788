//! Carriers of the packets of a native tunnel: AYIYA, 6in4 over a raw socket, and the kernel's `sit`.
//!
//! A carrier opens sockets for a path to the broker and moves packets. It does not know how the path is
//! found, nor what happens when it is lost: that is `run.rs`.

mod ayiya;
mod sit;
mod six_in_four;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use sixxs_common::{packet::UDP, six_in_four::PROTOCOL};
use sixxs_core::{
    broker::link::Interruption,
    config::{Remote, SixInFour},
    endpoint::Endpoint,
    tunnel::CarrierKind,
};

pub(super) use ayiya::AyiyaCarrier;
pub(super) use sit::SitCarrier;
pub(super) use six_in_four::SixInFourCarrier;

use super::{
    Context, broker_path::BrokerPath, heartbeat_sender::HeartbeatSender,
    session_store::SavedSession,
};

/// Limit of batches in one direction, before the other direction and other tunnels get their turn.
const MAX_BATCHES: usize = 4;

/// The result of moving packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// Packets were moved.
    Some,
    /// The interface is gone.
    InterfaceLost,
}

/// Both ends of a link to a broker.
#[derive(Clone, Debug)]
pub(super) struct LinkEnds {
    /// The broker.
    pub(super) broker: Remote,
    /// The broker's port, where the encapsulation has ports.
    pub(super) port: Option<u16>,
    /// This host's outer address, if the configuration has one.
    pub(super) local4: Option<Ipv4Addr>,
    /// This host's address in the tunnel.
    pub(super) address: Ipv6Addr,
    /// Whether opening the link counts as a connect to the broker.
    pub(super) counts_as_connect: bool,
}

impl LinkEnds {
    /// The ends of 6in4. `address` is this host's address in the tunnel. Without heartbeats, opening the link
    /// sends nothing to the broker.
    fn of_six_in_four(outer: &SixInFour, address: Ipv6Addr) -> Self {
        Self {
            broker: Remote::Address(outer.remote4.into()),
            port: None,
            local4: outer.local4,
            address,
            counts_as_connect: outer.heartbeat.is_some(),
        }
    }

    /// The broker's endpoint. `local_port`: this host's port, where the encapsulation has ports.
    pub(super) fn endpoint(&self, path: BrokerPath, local_port: Option<u16>) -> Endpoint {
        Endpoint {
            remote: path.remote,
            protocol: Some(match self.port {
                Some(_) => UDP,
                None => PROTOCOL,
            }),
            remote_port: self.port,
            local_port,
        }
    }
}

/// Opens the heartbeats of 6in4, if the broker wants them.
fn heartbeats(
    context: &Context,
    (outer, address): (&SixInFour, Ipv6Addr),
    path: BrokerPath,
    resumed: Option<&SavedSession>,
) -> io::Result<Option<HeartbeatSender>> {
    let open = |heartbeat| {
        let clock = context.clock.clone();
        HeartbeatSender::open(heartbeat, address, path, clock, resumed)
    };
    outer.heartbeat.as_ref().map(open).transpose()
}

/// Carries packets between an interface and a broker.
pub(super) trait Carrier {
    /// Its kind.
    const KIND: CarrierKind;

    /// Open sockets, and the state that ends with them.
    type Open;

    /// Both ends of the link.
    fn ends(&self) -> &LinkEnds;

    /// An error of [`Carrier::open`] in words.
    fn explain_open(error: &io::Error) -> String;

    /// Opens sockets for a path, and resumes a session if there is one.
    fn open(
        &mut self,
        context: &Context,
        path: BrokerPath,
        resumed: Option<&SavedSession>,
    ) -> io::Result<Self::Open>;

    /// Sends what is due, and reports the state. Returns the time until it has to be called again, or why
    /// the link is interrupted.
    async fn poll(
        &mut self,
        context: &Context,
        open: &mut Self::Open,
        path: BrokerPath,
    ) -> io::Result<Result<Duration, Interruption>>;

    /// Waits for packets, and moves them. May be dropped while it waits.
    async fn carry(&mut self, context: &Context, open: &mut Self::Open) -> io::Result<Carried>;

    /// This host's port, where the encapsulation has ports.
    fn local_port(_open: &Self::Open) -> Option<u16> {
        None
    }

    /// Addresses or routes have changed, but the path is still valid.
    fn route_changed(&mut self, _context: &Context, _open: &mut Self::Open) {}

    /// The sockets are closed: no packets are carried until the next [`Carrier::open`].
    fn closed(&mut self, _context: &Context) {}
}
