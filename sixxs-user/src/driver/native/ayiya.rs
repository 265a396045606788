//! An AYIYA tunnel: the protocol's state machine between a TUN device and a UDP socket.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use sixxs_core::{
    broker::ayiya::{Action, Identity, Now, Received, SILENCE, Session, wire::PORT},
    config::{Ayiya, Remote, Tunnel},
    tunnel::Driver as State,
};
use tokio::time::sleep;
use tracing::debug;

use super::{
    AGAIN, End, LONGEST_SLEEP, Pause, TUN, TURN, Work,
    engine::Buffers,
    kept::Kept,
    outside::{is_of_the_socket, source_for},
    way::Way,
};
use crate::{
    driver::Report,
    wire::{Datagrams, Device},
};

/// That the broker is heard of is noted this often.
const NOTE: Duration = Duration::from_secs(30);

impl Work {
    /// Carries packets until the device is lost.
    pub(super) async fn ayiya(&mut self, device: &Device, tunnel: &Tunnel, ayiya: &Ayiya) -> End {
        let (Some(address), Some(peer)) = (tunnel.addresses.first(), tunnel.peer) else {
            self.report
                .say(State::Failed("its addresses are not known".to_owned()));
            return std::future::pending().await;
        };
        let identity = Identity {
            address: address.address,
            peer,
            password: ayiya.heartbeat.password.clone(),
            interval: ayiya.heartbeat.interval,
        };
        let mut session = Session::new(&identity, self.clock.now().elapsed);
        let mut last = None;
        let mut kept = self.kept(&ayiya.remote, ayiya.local4, address.address);
        loop {
            let before = kept.take();
            let way = match &before {
                Some(kept) => kept.way,
                None => self.find_way(&ayiya.remote, ayiya.local4, last, true).await,
            };
            last = Some(way);
            let local = ayiya.local4.map(IpAddr::V4);
            let port = before.as_ref().map_or(0, |kept| kept.port);
            let opened = self.fd_store.socket(
                &self.name,
                |held| Datagrams::adopt(held, local, port, way.remote),
                || Datagrams::open(local, port, way.remote),
            );
            let socket = match opened {
                Ok(socket) => socket,
                // Somebody else has the port now.
                Err(_) if before.is_some() => continue,
                Err(error) => {
                    let reason = format!("open a UDP socket: {error}");
                    self.report.say(State::Retrying(reason));
                    sleep(AGAIN).await;
                    continue;
                }
            };
            self.report.endpoint(SocketAddr::new(way.remote, PORT), TUN);
            match &before {
                Some(kept) => session.go_on(kept.known, kept.due),
                None => session.begin_again(self.clock.now().elapsed),
            }
            match self.carry(device, &socket, way, ayiya, &mut session).await {
                Ok(Pause::WayLost) => {}
                Ok(Pause::DeviceLost) => return End::DeviceLost,
                Ok(Pause::Stale) => return End::Stale,
                Err(error) => {
                    // The socket's: with a new one it goes on.
                    debug!("{}: {error}", self.name);
                    sleep(AGAIN).await;
                }
            }
        }
    }

    async fn carry(
        &mut self,
        device: &Device,
        socket: &Datagrams,
        way: Way,
        ayiya: &Ayiya,
        session: &mut Session,
    ) -> io::Result<Pause> {
        let to = SocketAddr::new(way.remote, PORT);
        let mut seen = self.seen.clone();
        let lost = Self::lost(&mut seen, device.index());
        tokio::pin!(lost);
        let mut noted = None;
        loop {
            let time = self.clock.now();
            while let Some(action) = session.poll(time) {
                match action {
                    Action::Send(datagram) => send(socket, to, &datagram, datagram.len())?,
                    Action::Doubt => return Ok(self.doubt(session, time.elapsed)),
                }
            }
            self.tell(session, time.elapsed, way);
            self.note(
                session,
                time.elapsed,
                way,
                socket,
                &ayiya.remote,
                &mut noted,
            );
            let pause = session.due(time.elapsed).saturating_sub(time.elapsed);
            let is_alive = tokio::select! {
                () = &mut lost => return Ok(Pause::DeviceLost),
                ready = device.readable() => {
                    ready?;
                    up(&mut self.buffers.borrow_mut(), device, socket, to, session, self.clock.unix_seconds())?
                }
                ready = socket.readable() => {
                    ready?;
                    down(&mut self.buffers.borrow_mut(), device, socket, way, session, self.clock.now(), &self.report)?
                }
                () = sleep(pause.min(LONGEST_SLEEP)) => true,
                changed = self.outside.changed() => {
                    if changed.is_ok()
                        && source_for(way.remote, ayiya.local4).ok() != Some(way.source)
                    {
                        return Ok(Pause::WayLost);
                    }
                    true
                }
            };
            if !is_alive {
                return Ok(Pause::DeviceLost);
            }
        }
    }

    /// Nothing is heard: the broker may be elsewhere, or not know this tunnel any more.
    fn doubt(&self, session: &Session, elapsed: Duration) -> Pause {
        match self.stale_after {
            Some(after) if elapsed >= session.silent_since().saturating_add(after) => Pause::Stale,
            _ => Pause::WayLost,
        }
    }

    /// Keeps what another run of ours needs to go on as the same: after each beat, and now and then
    /// while the broker is heard of.
    fn note(
        &self,
        session: &Session,
        elapsed: Duration,
        way: Way,
        socket: &Datagrams,
        remote: &Remote,
        noted: &mut Option<(Duration, Duration)>,
    ) {
        let (known, due) = (session.silent_since(), session.beat_due());
        let is_old =
            noted.is_none_or(|(then, next)| next != due || known >= then.saturating_add(NOTE));
        if is_old && session.answers(elapsed) {
            *noted = Some((known, due));
            let kept = Kept {
                way,
                port: socket.port(),
                remote: remote.to_string(),
                address: session.address(),
                known,
                until: known + SILENCE,
                due,
            };
            self.ways.save(&self.name, &kept);
        }
    }

    fn tell(&self, session: &Session, elapsed: Duration, way: Way) {
        let state = if session.answers(elapsed) {
            State::Done
        } else {
            let broker = way.remote;
            State::Working(Some(if session.was_heard() {
                let silence = elapsed.saturating_sub(session.silent_since());
                // To the minute: whoever watches is not told of every second.
                format!(
                    "{broker} has not answered for {} min",
                    silence.as_secs() / 60
                )
            } else {
                format!("{broker} has not answered yet")
            }))
        };
        self.report.say(state);
    }
}

/// Packets of this host to the broker; false: the device is gone.
fn up(
    buffers: &mut Buffers,
    device: &Device,
    socket: &Datagrams,
    to: SocketAddr,
    session: &Session,
    unix_seconds: u64,
) -> io::Result<bool> {
    let outbox = &mut buffers.sealed;
    let sealer = session.sealer();
    let mut turn = 0;
    loop {
        let Ok(more) = outbox.fill((turn < TURN).then_some(device)) else {
            return Ok(false);
        };
        for datagram in outbox.datagrams() {
            sealer.forward(datagram, unix_seconds);
        }
        let (batch, stride) = outbox.batch();
        send(socket, to, batch, stride)?;
        if !more {
            return Ok(true);
        }
        turn += 1;
    }
}

/// Packets of the broker to this host; false: the device is gone.
fn down(
    buffers: &mut Buffers,
    device: &Device,
    socket: &Datagrams,
    way: Way,
    session: &mut Session,
    time: Now,
    report: &Report,
) -> io::Result<bool> {
    let Buffers {
        arrivals, inbox, ..
    } = buffers;
    for _ in 0..TURN {
        if !socket.receive(arrivals)? {
            break;
        }
        for (from, datagram) in arrivals.iter() {
            // Everybody else's are not worth a look.
            if from.ip() != way.remote {
                continue;
            }
            match session.receive(datagram, time) {
                Ok(Received::Packet(packet)) => {
                    if inbox.add(device, packet) && inbox.write(device).is_err() {
                        return Ok(false);
                    }
                }
                Ok(Received::Alive) => {}
                Err(fault) => report.refused(fault),
            }
        }
        // While it is in the processor's cache.
        if inbox.write(device).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sends; what is in the way now may be gone with the next packet.
fn send(socket: &Datagrams, to: SocketAddr, batch: &[u8], stride: usize) -> io::Result<()> {
    match socket.send(to, batch, stride) {
        Err(error) if is_of_the_socket(&error) => Err(error),
        _ => Ok(()),
    }
}
