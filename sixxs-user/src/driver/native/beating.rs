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
    types::IfName,
};

use super::{
    LONGEST_SLEEP,
    kept::{Kept, Ways},
    outside::is_of_the_socket,
    way::Way,
};
use crate::{clock::Clock, wire::Datagrams};

/// A broker that says it does not know us is told of us again, but not more often than this: anybody
/// might say so in its name.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What tells the broker where we are.
pub(super) struct Beating<'a> {
    clock: Clock,
    heartbeat: &'a Heartbeat,
    address: Ipv6Addr,
    way: Way,
    beats: Beats,
    /// When it was told of us, at a start or again.
    told: Duration,
    socket: Datagrams,
    to: SocketAddr,
}

impl<'a> Beating<'a> {
    /// For the tunnel whose address at our end is `address`. The first beat is due at once.
    pub(super) fn open(
        heartbeat: &'a Heartbeat,
        address: Ipv6Addr,
        way: Way,
        clock: Clock,
    ) -> io::Result<Self> {
        let elapsed = clock.now().elapsed;
        Ok(Self {
            clock,
            heartbeat,
            address,
            way,
            beats: Beats::new(BURST, heartbeat.interval, elapsed),
            told: elapsed,
            // From the very address that packets are to come to.
            socket: Datagrams::open(Some(way.source), 0, way.remote)?,
            to: SocketAddr::new(way.remote, heartbeat::PORT),
        })
    }

    /// As if there had been no break.
    pub(super) const fn go_on(&mut self, kept: &Kept) {
        self.told = kept.known;
        self.beats.go_on(kept.due);
    }

    /// What another run of ours needs to go on as the same.
    fn keep(&self) -> Kept {
        let due = self.beats.due();
        let beat = due.saturating_sub(self.beats.interval());
        Kept {
            way: self.way,
            port: 0,
            remote: self.way.remote.to_string(),
            address: self.address,
            known: self.told,
            // One beat may be missed.
            until: beat.saturating_add(self.beats.interval().saturating_mul(2)),
            due,
        }
    }

    /// Whether the broker may be told of us again, out of turn.
    pub(super) fn may_tell_again(&self, elapsed: Duration) -> bool {
        elapsed >= self.told.saturating_add(TELL_AGAIN)
    }

    /// As at a start.
    pub(super) fn begin_again(&mut self, elapsed: Duration) {
        self.told = elapsed;
        self.beats.begin_again(elapsed);
    }

    /// Sends a beat if one is due. Says how long until the next.
    pub(super) fn beat(&mut self, ways: &Ways, name: &IfName) -> io::Result<Duration> {
        let time = self.clock.now();
        if self.beats.take(time.elapsed) {
            ways.save(name, &self.keep());
            let password = &self.heartbeat.password;
            let text = heartbeat::beat(self.address, time.unix_seconds, password);
            match self.socket.send(self.to, text.as_bytes(), text.len()) {
                Err(error) if is_of_the_socket(&error) => return Err(error),
                // One that cannot be sent now is lost, like any other.
                _ => {}
            }
        }
        Ok(self
            .beats
            .due()
            .saturating_sub(time.elapsed)
            .min(LONGEST_SLEEP))
    }
}
