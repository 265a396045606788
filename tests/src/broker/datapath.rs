//! The data path of a PoP. Its thread takes batches of datagrams from the sockets and of packets from the TUN
//! device, and [`State`] decides about each one. It has to be faster than the client, or a benchmark would
//! measure the PoP. It uses the program's own batch I/O ([`sixxs_user::wire`]), but not the program's code
//! for the contents.
//!
//! While a test impairs the path or captures datagrams, each datagram is copied and forwarded alone.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use sixxs_user::wire::{Arrivals, Batches, Inbox, Messages, Outbox, Tun as _, send_each};
use socket2::Socket;

use super::clock::Clock;
use super::protocol41;
use super::session::{Datagram, HEADROOM, Protocol};
use super::state::State;
use crate::lab::tun::Offloading;

/// Batches from one descriptor before the next one gets its turn.
const TURN: usize = 4;
/// Larger than the device's queue.
const MOST_QUEUED: usize = 10_000;
/// Larger than any packet of the device.
const BUFFER_BYTES: usize = 1 << 17;
/// Longest time until a setting that a test changes takes effect.
const LOOK: Duration = Duration::from_millis(100);

/// The sockets of a PoP; its tunnels determine which exist.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// AYIYA, over IPv4 and over IPv6.
    pub(crate) ayiya: Vec<Udp>,
    pub(crate) heartbeat: Option<Udp>,
    /// Receives whole IPv4 packets, and sends their payload.
    pub(crate) protocol41: Option<Socket>,
}

#[derive(Debug)]
pub(crate) struct Udp {
    pub(crate) socket: UdpSocket,
    pub(crate) batches: Batches,
}

impl Sockets {
    fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let udp = self.ayiya.iter().chain(&self.heartbeat);
        let raw = self.protocol41.iter();
        udp.map(|udp| udp.socket.as_fd())
            .chain(raw.map(|socket| socket.as_fd()))
    }

    /// Sends a batch of one protocol to one endpoint. Each datagram but the last has `stride` bytes; with
    /// protocol 41 each one is preceded by [`HEADROOM`]. A datagram that cannot be sent is lost, as on any
    /// path.
    fn send(&self, protocol: Protocol, endpoint: SocketAddr, batch: &[u8], stride: usize) {
        match (protocol, endpoint) {
            (Protocol::Protocol41, SocketAddr::V4(endpoint)) => {
                if let Some(socket) = &self.protocol41 {
                    lost(send_each(socket, Some(endpoint), batch, stride, HEADROOM));
                }
            }
            (Protocol::Ayiya | Protocol::Heartbeat | Protocol::Protocol41, _) => {
                let same_family = |udp: &&Udp| {
                    let local = udp.socket.local_addr();
                    local.is_ok_and(|local| local.is_ipv4() == endpoint.is_ipv4())
                };
                if let Some(Udp { socket, batches }) = self.ayiya.iter().find(same_family) {
                    lost(batches.send(socket, endpoint, batch, stride));
                }
            }
        }
    }
}

/// Ignores errors: a full queue (EAGAIN), a packet larger than the path's MTU (EMSGSIZE), no route.
fn lost(_sent: std::io::Result<()>) {}

/// Sockets, device and buffers of the thread.
struct Path<'a> {
    sockets: &'a Sockets,
    device: &'a Offloading,
    arrivals: Arrivals,
    messages: Messages,
    inbox: Inbox,
    outbox: Outbox,
    /// Encapsulation and endpoint for each datagram of the outbox.
    ways: Vec<Option<(Protocol, SocketAddr)>>,
    /// Datagrams that an impaired path lets through.
    passed: Vec<Datagram>,
}

/// Runs until `stop` is written to.
pub(crate) fn run(
    sockets: &Sockets,
    device: &Offloading,
    state: &Mutex<State>,
    clock: &Clock,
    stop: &EventFd,
) {
    let mut path = Path {
        sockets,
        device,
        arrivals: Arrivals::default(),
        messages: Messages::default(),
        inbox: Inbox::default(),
        outbox: Outbox::new(HEADROOM),
        ways: Vec::new(),
        passed: Vec::new(),
    };
    drain(device);
    loop {
        let deadline = state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .deadline();
        let idle = deadline.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()));
        let mut ready: Vec<PollFd> = [stop.as_fd(), device.as_fd()]
            .into_iter()
            .chain(sockets.descriptors())
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
            .collect();
        // Round up, or the loop would spin in the last millisecond.
        let idle = idle.min(LOOK).as_millis() + 1;
        match poll(
            &mut ready,
            PollTimeout::try_from(idle).unwrap_or(PollTimeout::MAX),
        ) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => {
                eprintln!("a PoP stops: {e}");
                return;
            }
        }
        if ready[0].any() == Some(true) {
            return;
        }
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, unix_seconds) = (Instant::now(), clock.seconds());
        path.up(&mut state, unix_seconds, now);
        path.down(&mut state, unix_seconds, now);
        let mut pings = Vec::new();
        state.tick(unix_seconds, now, &mut pings);
        for ping in pings {
            path.pass_down(&mut state, ping, now);
        }
        path.release(&mut state, unix_seconds, now);
    }
}

impl Path<'_> {
    /// Handles datagrams from the clients.
    fn up(&mut self, state: &mut State, unix_seconds: u64, now: Instant) {
        let Self {
            sockets,
            device,
            arrivals,
            messages,
            inbox,
            passed,
            ..
        } = self;
        let mut take = |datagram: Datagram<&[u8]>, inbox: &mut Inbox| {
            if state.is_straight() {
                deliver(state, datagram, (unix_seconds, now), inbox, device);
            } else {
                let datagram = datagram.kept();
                state.note(&datagram, true, now);
                state.up.pass(datagram, now, passed);
                for datagram in passed.drain(..) {
                    deliver(state, datagram.lent(), (unix_seconds, now), inbox, device);
                }
            }
        };
        let ayiya = sockets.ayiya.iter().map(|udp| (udp, Protocol::Ayiya));
        let heartbeat = sockets.heartbeat.iter();
        let heartbeat = heartbeat.map(|udp| (udp, Protocol::Heartbeat));
        for (udp, protocol) in ayiya.chain(heartbeat) {
            for _ in 0..TURN {
                // The queue is empty, or the network reports an error, which a PoP ignores.
                let Ok(true) = udp.batches.receive(&udp.socket, arrivals) else {
                    break;
                };
                for (endpoint, bytes) in arrivals.iter() {
                    let datagram = Datagram {
                        protocol,
                        endpoint,
                        bytes,
                    };
                    take(datagram, inbox);
                }
                write(inbox, device);
            }
        }
        if let Some(socket) = &sockets.protocol41 {
            for _ in 0..TURN {
                let Ok(true) = messages.receive(socket) else {
                    break;
                };
                for (source, inner) in messages.iter().filter_map(protocol41::unwrap) {
                    let datagram = Datagram {
                        protocol: Protocol::Protocol41,
                        endpoint: SocketAddr::new(source.into(), 0),
                        bytes: inner,
                    };
                    take(datagram, inbox);
                }
                write(inbox, device);
            }
        }
    }

    /// Handles packets to the clients.
    fn down(&mut self, state: &mut State, unix_seconds: u64, now: Instant) {
        for turn in 0..=TURN {
            let device = (turn < TURN).then_some(self.device);
            // An error: the device is down.
            let more = self.outbox.fill(device).unwrap_or(false);
            self.ways.clear();
            let ways = self.outbox.datagrams().map(|packet| {
                let datagram = state.leaving(packet, unix_seconds)?;
                Some((datagram.protocol, datagram.endpoint))
            });
            self.ways.extend(ways);
            if state.is_straight() {
                self.send_runs();
            } else {
                self.pass_each(state, now);
            }
            if !more {
                return;
            }
        }
    }

    /// Sends what is in the outbox, neighbours of one protocol and endpoint together.
    fn send_runs(&self) {
        let (batch, stride) = self.outbox.batch();
        let mut rest = batch;
        for run in self.ways.chunk_by(|a, b| a == b) {
            let (piece, after) = rest.split_at((run.len() * stride).min(rest.len()));
            rest = after;
            if let Some(Some((protocol, endpoint))) = run.first() {
                self.sockets.send(*protocol, *endpoint, piece, stride);
            }
        }
    }

    fn pass_each(&mut self, state: &mut State, now: Instant) {
        let (batch, stride) = self.outbox.batch();
        let leaving = batch.chunks(stride.max(1)).zip(&self.ways);
        let leaving = leaving.filter_map(|(bytes, protocol)| {
            let (protocol, endpoint) = (*protocol)?;
            let bytes = match protocol {
                Protocol::Protocol41 => &bytes[HEADROOM..],
                Protocol::Ayiya | Protocol::Heartbeat => bytes,
            };
            Some(
                Datagram {
                    protocol,
                    endpoint,
                    bytes,
                }
                .kept(),
            )
        });
        let leaving: Vec<Datagram> = leaving.collect();
        for datagram in leaving {
            self.pass_down(state, datagram, now);
        }
    }

    fn pass_down(&mut self, state: &mut State, datagram: Datagram, now: Instant) {
        state.note(&datagram, false, now);
        state.down.pass(datagram, now, &mut self.passed);
        self.send_passed();
    }

    /// Forwards the datagrams whose delay on an impaired path is over.
    fn release(&mut self, state: &mut State, unix_seconds: u64, now: Instant) {
        state.up.release(now, &mut self.passed);
        let Self {
            device,
            inbox,
            passed,
            ..
        } = self;
        for datagram in passed.drain(..) {
            deliver(state, datagram.lent(), (unix_seconds, now), inbox, device);
        }
        write(inbox, device);
        state.down.release(now, &mut self.passed);
        self.send_passed();
    }

    fn send_passed(&mut self) {
        for datagram in self.passed.drain(..) {
            let Datagram {
                protocol,
                endpoint,
                mut bytes,
            } = datagram;
            if protocol == Protocol::Protocol41 {
                bytes.splice(..0, [0; HEADROOM]);
            }
            self.sockets.send(protocol, endpoint, &bytes, bytes.len());
        }
    }
}

fn deliver(
    state: &mut State,
    datagram: Datagram<&[u8]>,
    (unix_seconds, now): (u64, Instant),
    inbox: &mut Inbox,
    device: &Offloading,
) {
    if let Some(packet) = state.arrived(datagram, unix_seconds, now)
        && inbox.add(device, packet)
    {
        write(inbox, device);
    }
}

fn write(inbox: &mut Inbox, device: &Offloading) {
    if let Err(e) = inbox.write(device) {
        eprintln!("a PoP lost its device: {e}");
    }
}

/// Drops the packets that the device queued before the thread started.
fn drain(device: &Offloading) {
    let mut buffer = vec![0; BUFFER_BYTES];
    for _ in 0..MOST_QUEUED {
        if !matches!(device.read(&mut buffer), Ok(Some(_))) {
            return;
        }
    }
}
