//! Sends the heartbeats by which a broker learns the IPv4 address of this host.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use sixxs_core::{
    broker::{
        heartbeat::{self, BURST},
        heartbeat_schedule::HeartbeatSchedule,
    },
    config::Heartbeat,
    types::IfName,
};

use super::{
    broker_path::BrokerPath,
    resolve::is_socket_error,
    session_store::{SavedSession, SessionStore},
};
use crate::{host::clock::Clock, wire::Datagrams};

/// The shortest time between two announcements to a broker that reports that it does not know this host. Anybody could
/// forge that answer.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(60);

/// Pause after the connect limit has refused an announcement: each attempt reads a file.
const SLOT_RETRY: Duration = Duration::from_secs(5);

/// Sends heartbeats to one broker.
pub(super) struct HeartbeatSender {
    clock: Clock,
    heartbeat: Heartbeat,
    address: Ipv6Addr,
    path: BrokerPath,
    schedule: HeartbeatSchedule,
    /// When the last announcement began.
    announced: Duration,
    /// When an announcement was last refused by the connect limit.
    refused: Option<Duration>,
    socket: Datagrams,
    to: SocketAddr,
}

impl HeartbeatSender {
    /// For the tunnel whose address at the local end is `address`. The first heartbeat is due at once, unless a
    /// session is resumed.
    pub(super) fn open(
        heartbeat: &Heartbeat,
        address: Ipv6Addr,
        path: BrokerPath,
        clock: Clock,
        resumed: Option<&SavedSession>,
    ) -> io::Result<Self> {
        let elapsed = clock.now().elapsed;
        let mut sender = Self {
            clock,
            heartbeat: heartbeat.clone(),
            address,
            path,
            schedule: HeartbeatSchedule::new(BURST, heartbeat.interval, elapsed),
            announced: elapsed,
            refused: None,
            // The broker takes the heartbeat's source for the local end of the tunnel.
            socket: Datagrams::open(Some(path.source), 0, path.remote)?,
            to: SocketAddr::new(path.remote, heartbeat::PORT),
        };
        if let Some(saved) = resumed {
            sender.announced = saved.known;
            sender.schedule.resume(saved.due);
        }
        Ok(sender)
    }

    fn session(&self) -> SavedSession {
        let due = self.schedule.due();
        let beat = due.saturating_sub(self.schedule.interval());
        SavedSession {
            path: self.path,
            port: 0,
            remote: self.path.remote.to_string(),
            address: self.address,
            known: self.announced,
            // One heartbeat may be missed.
            until: beat.saturating_add(self.schedule.interval().saturating_mul(2)),
            due,
        }
    }

    /// Whether the broker may be sent another announcement before the next heartbeat is due.
    pub(super) fn may_announce(&self, elapsed: Duration) -> bool {
        let is_refused = |refused: Duration| elapsed < refused.saturating_add(SLOT_RETRY);
        elapsed >= self.announced.saturating_add(ANNOUNCE_INTERVAL)
            && !self.refused.is_some_and(is_refused)
    }

    /// The connect limit allows no announcement now.
    pub(super) const fn refuse(&mut self, elapsed: Duration) {
        self.refused = Some(elapsed);
    }

    /// Announces this tunnel again, as at a start.
    pub(super) fn announce(&mut self, elapsed: Duration) {
        self.announced = elapsed;
        self.schedule.restart(elapsed);
    }

    /// Sends a heartbeat if one is due, and saves the session. Returns the time until the next.
    pub(super) fn send_due(
        &mut self,
        sessions: &SessionStore,
        name: &IfName,
    ) -> io::Result<Duration> {
        let time = self.clock.now();
        if self.schedule.take(time.elapsed) {
            sessions.save(name, &self.session());
            let password = &self.heartbeat.password;
            let text = heartbeat::datagram(self.address, time.unix_seconds, password);
            match self.socket.send(self.to, text.as_bytes(), text.len()) {
                Err(error) if is_socket_error(&error) => return Err(error),
                // A heartbeat that cannot be sent now is lost, as on the path.
                _ => {}
            }
        }
        Ok(self.schedule.due().saturating_sub(time.elapsed))
    }
}
