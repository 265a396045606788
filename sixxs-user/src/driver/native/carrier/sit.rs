//! 6in4 by the kernel's `sit`: the kernel moves the packets, and only heartbeats leave from here.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use sixxs_core::{
    broker::link::Interruption,
    config::{Remote, SixInFour, Tunnel},
    tunnel::DriverState,
};

use super::{Carried, Carrier};
use crate::driver::native::{
    Context, broker_path::BrokerPath, heartbeat_sender::HeartbeatSender,
    session_store::SavedSession,
};

/// A tunnel that the kernel carries.
pub(in crate::driver::native) struct SitCarrier<'a> {
    outer: &'a SixInFour,
    address: Ipv6Addr,
}

impl<'a> SitCarrier<'a> {
    /// `None`: the tunnel lacks an address.
    pub(in crate::driver::native) fn new(tunnel: &Tunnel, outer: &'a SixInFour) -> Option<Self> {
        let address = tunnel.addresses.first()?.address;
        Some(Self { outer, address })
    }
}

impl Carrier for SitCarrier<'_> {
    const NAME: &'static str = "sit";

    type Open = Option<HeartbeatSender>;

    fn broker(&self) -> Remote {
        Remote::Address(IpAddr::V4(self.outer.remote4))
    }

    fn local4(&self) -> Option<Ipv4Addr> {
        self.outer.local4
    }

    fn address(&self) -> Ipv6Addr {
        self.address
    }

    fn counts_as_connect(&self) -> bool {
        self.outer.heartbeat.is_some()
    }

    fn endpoint(&self, path: BrokerPath) -> String {
        path.remote.to_string()
    }

    fn explain_open(error: &io::Error) -> String {
        error.to_string()
    }

    fn open(
        &mut self,
        context: &Context,
        path: BrokerPath,
        resumed: Option<&SavedSession>,
    ) -> io::Result<Self::Open> {
        let heartbeat = self.outer.heartbeat.as_ref();
        let open = heartbeat.map(|heartbeat| {
            let clock = context.clock.clone();
            HeartbeatSender::open(heartbeat, self.address, path, clock, resumed)
        });
        open.transpose()
    }

    async fn poll(
        &mut self,
        context: &Context,
        open: &mut Self::Open,
        _path: BrokerPath,
    ) -> io::Result<Result<Duration, Interruption>> {
        let pause = match open {
            Some(sender) => sender.send_due(&context.sessions, &context.name)?,
            None => Duration::MAX,
        };
        context.status.set(DriverState::Done);
        Ok(Ok(pause))
    }

    async fn carry(&mut self, _context: &Context, _open: &mut Self::Open) -> io::Result<Carried> {
        std::future::pending().await
    }
}
