//! An AYIYA tunnel: the protocol's state machine between a TUN device and a UDP socket.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use sixxs_core::{
    broker::{
        ayiya::{Action, Identity, Now, Received, SILENCE, Session, wire::PORT},
        link::Interruption,
    },
    config::{Ayiya, Tunnel},
    tunnel::{CarrierKind, DriverState},
};

use super::{Carried, Carrier, LinkEnds, MAX_BATCHES};
use crate::{
    driver::{
        StatusSender,
        native::{
            Context, broker_path::BrokerPath, io_thread::Buffers, resolve::is_socket_error,
            session_store::SavedSession,
        },
    },
    wire::{Datagrams, Device},
};

/// The session is saved at this interval while the broker answers.
const SAVE_INTERVAL: Duration = Duration::from_secs(30);

/// Carries AYIYA. The session outlives its sockets.
pub(in crate::driver::native) struct AyiyaCarrier<'a> {
    device: &'a Device,
    ends: LinkEnds,
    session: Session,
    stale_after: Option<Duration>,
}

/// A UDP socket.
pub(in crate::driver::native) struct Open {
    socket: Datagrams,
    path: BrokerPath,
    to: SocketAddr,
    /// The times in the last saved session: of the broker's last answer, and of the next heartbeat.
    saved: Option<(Duration, Duration)>,
}

impl<'a> AyiyaCarrier<'a> {
    /// Nothing is sent yet. `None`: the tunnel lacks an address.
    pub(in crate::driver::native) fn new(
        device: &'a Device,
        tunnel: &Tunnel,
        config: &Ayiya,
        stale_after: Option<Duration>,
        elapsed: Duration,
    ) -> Option<Self> {
        let identity = Identity {
            address: tunnel.addresses.first()?.address,
            peer: tunnel.peer?,
            password: config.heartbeat.password.clone(),
            interval: config.heartbeat.interval,
        };
        Some(Self {
            device,
            ends: LinkEnds {
                broker: config.remote.clone(),
                port: Some(PORT),
                local4: config.local4,
                address: identity.address,
                counts_as_connect: true,
            },
            session: Session::new(&identity, elapsed),
            stale_after,
        })
    }

    /// The interruption of a link whose broker is silent: the broker may have another address, or no longer know
    /// this tunnel.
    fn interruption(&self, elapsed: Duration) -> Interruption {
        let silent_since = self.session.silent_since();
        match self.stale_after {
            Some(after) if elapsed >= silent_since.saturating_add(after) => Interruption::Stale,
            _ => Interruption::PathLost,
        }
    }

    /// Saves the session for the next run: after each heartbeat, and at an interval while the broker
    /// answers.
    fn save(&self, context: &Context, open: &mut Open, elapsed: Duration) {
        let session = &self.session;
        let (known, due) = (session.silent_since(), session.keepalive_due());
        let is_due = open
            .saved
            .is_none_or(|(then, next)| next != due || known >= then.saturating_add(SAVE_INTERVAL));
        if is_due && session.is_answering(elapsed) {
            open.saved = Some((known, due));
            let saved = SavedSession {
                path: open.path,
                port: open.socket.port(),
                remote: self.ends.broker.to_string(),
                address: session.address(),
                known,
                until: known + SILENCE,
                due,
            };
            context.sessions.save(&context.name, &saved);
        }
    }

    fn state(&self, broker: IpAddr, elapsed: Duration) -> DriverState {
        let session = &self.session;
        if session.is_answering(elapsed) {
            return DriverState::Done;
        }
        DriverState::Working(Some(if session.has_received() {
            let silence = elapsed.saturating_sub(session.silent_since());
            // In minutes, so that the state does not change every second.
            let minutes = silence.as_secs() / 60;
            format!("{broker} has not answered for {minutes} min")
        } else {
            format!("{broker} has not answered yet")
        }))
    }
}

impl Carrier for AyiyaCarrier<'_> {
    const KIND: CarrierKind = CarrierKind::Tun;

    type Open = Open;

    fn ends(&self) -> &LinkEnds {
        &self.ends
    }

    fn explain_open(error: &io::Error) -> String {
        format!("open a UDP socket: {error}")
    }

    fn open(
        &mut self,
        context: &Context,
        path: BrokerPath,
        resumed: Option<&SavedSession>,
    ) -> io::Result<Open> {
        let local = self.ends.local4.map(IpAddr::V4);
        let port = resumed.map_or(0, |saved| saved.port);
        let socket = context.fd_store.socket(
            &context.name,
            |held| Datagrams::adopt(held, local, port, path.remote),
            || Datagrams::open(local, port, path.remote),
        )?;
        match resumed {
            Some(saved) => self.session.resume(saved.known, saved.due),
            None => self.session.restart(context.clock.now().elapsed),
        }
        Ok(Open {
            socket,
            path,
            to: SocketAddr::new(path.remote, PORT),
            saved: None,
        })
    }

    fn local_port(open: &Open) -> Option<u16> {
        Some(open.socket.port()).filter(|port| *port != 0)
    }

    async fn poll(
        &mut self,
        context: &Context,
        open: &mut Open,
        path: BrokerPath,
    ) -> io::Result<Result<Duration, Interruption>> {
        let time = context.clock.now();
        while let Some(action) = self.session.poll(time) {
            match action {
                Action::Send(datagram) => send(&open.socket, open.to, &datagram, datagram.len())?,
                Action::LocateAgain => return Ok(Err(self.interruption(time.elapsed))),
            }
        }
        context.status.set(self.state(path.remote, time.elapsed));
        self.save(context, open, time.elapsed);
        let due = self.session.due(time.elapsed);
        Ok(Ok(due.saturating_sub(time.elapsed)))
    }

    async fn carry(&mut self, context: &Context, open: &mut Open) -> io::Result<Carried> {
        tokio::select! {
            ready = self.device.readable() => {
                ready?;
                let time = context.clock.unix_seconds();
                let buffers = &mut context.buffers.borrow_mut();
                send_packets(buffers, self.device, open, &self.session, time)
            }
            ready = open.socket.readable() => {
                ready?;
                let time = context.clock.now();
                let buffers = &mut context.buffers.borrow_mut();
                receive_packets(buffers, self.device, open, &mut self.session, time, &context.status)
            }
        }
    }
}

/// Moves packets from this host to the broker.
fn send_packets(
    buffers: &mut Buffers,
    device: &Device,
    open: &Open,
    session: &Session,
    unix_seconds: u64,
) -> io::Result<Carried> {
    let outbox = &mut buffers.sealed;
    let sealer = session.sealer();
    let mut turn = 0;
    loop {
        let Ok(more) = outbox.fill((turn < MAX_BATCHES).then_some(device)) else {
            return Ok(Carried::InterfaceLost);
        };
        for datagram in outbox.datagrams() {
            sealer.forward(datagram, unix_seconds);
        }
        let (batch, stride) = outbox.batch();
        send(&open.socket, open.to, batch, stride)?;
        if !more {
            return Ok(Carried::Some);
        }
        turn += 1;
    }
}

/// Moves packets from the broker to this host.
fn receive_packets(
    buffers: &mut Buffers,
    device: &Device,
    open: &Open,
    session: &mut Session,
    time: Now,
    status: &StatusSender,
) -> io::Result<Carried> {
    let Buffers {
        arrivals, inbox, ..
    } = buffers;
    for _ in 0..MAX_BATCHES {
        if !open.socket.receive(arrivals)? {
            break;
        }
        for (from, datagram) in arrivals.iter() {
            // Cheaper than to verify datagrams of other senders.
            if from.ip() != open.path.remote {
                continue;
            }
            match session.receive(datagram, time) {
                Ok(Received::Packet(packet)) => {
                    if inbox.add(device, packet) && inbox.write(device).is_err() {
                        return Ok(Carried::InterfaceLost);
                    }
                }
                Ok(Received::Alive) => {}
                Err(reason) => status.count_refused(reason),
            }
        }
        // Written now, while the packets are in the processor's cache.
        if inbox.write(device).is_err() {
            return Ok(Carried::InterfaceLost);
        }
    }
    Ok(Carried::Some)
}

/// Sends a batch. Errors about packets in transit are ignored: the next packet may get through.
fn send(socket: &Datagrams, to: SocketAddr, batch: &[u8], stride: usize) -> io::Result<()> {
    match socket.send(to, batch, stride) {
        Err(error) if is_socket_error(&error) => Err(error),
        _ => Ok(()),
    }
}
