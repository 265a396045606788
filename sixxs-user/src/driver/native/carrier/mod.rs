//! What carries the packets of a native tunnel: AYIYA, 6in4 over a raw socket, or the kernel's `sit`.
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

use sixxs_core::{broker::link::Interruption, config::Remote};

pub(super) use ayiya::AyiyaCarrier;
pub(super) use sit::SitCarrier;
pub(super) use six_in_four::SixInFourCarrier;

use super::{Context, broker_path::BrokerPath, session_store::SavedSession};

/// Limit of batches in one direction, before the other direction and other tunnels get their turn.
const TURN: usize = 4;

/// The name in the status, where this process carries the packets.
const TUN: &str = "tun";

/// The result of moving packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// Packets were moved.
    Some,
    /// The interface is gone.
    InterfaceLost,
}

/// Carries packets between an interface and a broker.
pub(super) trait Carrier {
    /// Its name in the status.
    const NAME: &'static str;

    /// Sockets, and all that ends with them.
    type Open;

    /// The broker.
    fn broker(&self) -> Remote;

    /// Our outer address, if the configuration has one.
    fn local4(&self) -> Option<Ipv4Addr>;

    /// Our address in the tunnel.
    fn address(&self) -> Ipv6Addr;

    /// Whether opening it counts as a connect to the broker.
    fn counts_as_connect(&self) -> bool;

    /// The broker's endpoint, as the status shows it.
    fn endpoint(&self, path: BrokerPath) -> String;

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

    /// Addresses or routes have changed, but the path is still valid.
    fn route_changed(&mut self, _context: &Context, _open: &mut Self::Open) {}
}
