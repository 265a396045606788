//! Heartbeats on their way.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use sixxs_core::{
    broker::{
        beats::Beats,
        heartbeat::{self, BURST},
    },
    config::Heartbeat,
};

use super::{LONGEST_SLEEP, outside::now, way::Way};
use crate::wire::Datagrams;

/// What tells the broker where we are.
pub(super) struct Beating<'a> {
    heartbeat: &'a Heartbeat,
    address: Ipv6Addr,
    beats: Beats,
    socket: Datagrams,
    to: SocketAddr,
}

impl<'a> Beating<'a> {
    /// For the tunnel whose address at our end is `address`. The first beat is due at once.
    pub(super) fn open(heartbeat: &'a Heartbeat, address: Ipv6Addr, way: Way) -> io::Result<Self> {
        Ok(Self {
            heartbeat,
            address,
            beats: Beats::new(BURST, heartbeat.interval, now().elapsed),
            // From the very address that packets are to come to.
            socket: Datagrams::open(Some(way.source), way.remote)?,
            to: SocketAddr::new(way.remote, heartbeat::PORT),
        })
    }

    /// Sends a beat if one is due. Says how long until the next.
    pub(super) fn beat(&mut self) -> io::Result<Duration> {
        let time = now();
        if self.beats.take(time.elapsed) {
            let password = &self.heartbeat.password;
            let text = heartbeat::beat(self.address, time.unix_seconds, password);
            self.socket.send(self.to, text.as_bytes(), text.len())?;
        }
        Ok(self
            .beats
            .due()
            .saturating_sub(time.elapsed)
            .min(LONGEST_SLEEP))
    }
}
