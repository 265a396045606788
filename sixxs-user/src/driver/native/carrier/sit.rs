//! 6in4 by the kernel's `sit`: the kernel moves the packets, and only heartbeats leave from here.

use std::{io, time::Duration};

use sixxs_core::{
    broker::link::Interruption,
    config::{SixInFour, Tunnel},
    tunnel::{CarrierKind, DriverState},
};

use super::{Carried, Carrier, LinkEnds, heartbeats};
use crate::driver::native::{
    Context, broker_path::BrokerPath, heartbeat_sender::HeartbeatSender,
    session_store::SavedSession,
};

/// A tunnel that the kernel carries.
pub(in crate::driver::native) struct SitCarrier<'a> {
    outer: &'a SixInFour,
    ends: LinkEnds,
}

impl<'a> SitCarrier<'a> {
    /// `None`: the tunnel lacks an address.
    pub(in crate::driver::native) fn new(tunnel: &Tunnel, outer: &'a SixInFour) -> Option<Self> {
        let address = tunnel.addresses.first()?.address;
        let ends = LinkEnds::of_six_in_four(outer, address);
        Some(Self { outer, ends })
    }
}

impl Carrier for SitCarrier<'_> {
    const KIND: CarrierKind = CarrierKind::Sit;

    type Open = Option<HeartbeatSender>;

    fn ends(&self) -> &LinkEnds {
        &self.ends
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
        heartbeats(context, (self.outer, self.ends.address), path, resumed)
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
