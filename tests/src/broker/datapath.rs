//! Owns the data path of a PoP: its thread takes datagrams from the sockets and packets from the
//! TUN device and does with them what [`State`] says, one at a time.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use socket2::Socket;

use super::clock::Clock;
use super::protocol41;
use super::session::{Datagram, Way};
use super::state::State;

/// More than any packet or datagram.
const BUFFER_BYTES: usize = 65_536;
/// Taken from one place before the next one gets its turn.
const BURST: usize = 64;
/// More than the device's queue holds.
const MOST_QUEUED: usize = 10_000;
/// Settings that a test changes are seen after this at the latest.
const LOOK: Duration = Duration::from_millis(100);

/// The sockets of a PoP; which there are depends on the tunnels that it serves.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// AYIYA, over IPv4 and over IPv6.
    pub(crate) ayiya: Vec<UdpSocket>,
    pub(crate) heartbeat: Option<UdpSocket>,
    /// Gives whole IPv4 packets, takes what is to be inside.
    pub(crate) protocol41: Option<Socket>,
}

impl Sockets {
    fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let udp = self.ayiya.iter().chain(&self.heartbeat);
        let raw = self.protocol41.iter();
        udp.map(|socket| socket.as_fd())
            .chain(raw.map(|socket| socket.as_fd()))
    }

    fn receive(&self, buffer: &mut [u8], take: &mut impl FnMut(Datagram)) {
        let ayiya = self.ayiya.iter().map(|socket| (socket, Way::Ayiya));
        let heartbeat = self.heartbeat.iter().map(|socket| (socket, Way::Heartbeat));
        for (socket, way) in ayiya.chain(heartbeat) {
            for _ in 0..BURST {
                // Nothing is there, or an error of the network, which is no business of a PoP.
                let Ok((length, endpoint)) = socket.recv_from(buffer) else {
                    break;
                };
                take(Datagram {
                    way,
                    endpoint,
                    bytes: buffer[..length].to_vec(),
                });
            }
        }
        if let Some(mut socket) = self.protocol41.as_ref() {
            for _ in 0..BURST {
                let Ok(length) = socket.read(buffer) else {
                    break;
                };
                if let Some((source, inner)) = protocol41::unwrap(&buffer[..length]) {
                    take(Datagram {
                        way: Way::Protocol41,
                        endpoint: SocketAddr::new(source.into(), 0),
                        bytes: inner.to_vec(),
                    });
                }
            }
        }
    }

    /// What cannot be sent is lost, as on any path.
    fn send(&self, datagram: &Datagram) {
        let endpoint = datagram.endpoint;
        match datagram.way {
            Way::Protocol41 => {
                if let Some(socket) = &self.protocol41 {
                    lost(socket.send_to(&datagram.bytes, &endpoint.into()));
                }
            }
            Way::Ayiya | Way::Heartbeat => {
                let same_family = |socket: &&UdpSocket| {
                    socket
                        .local_addr()
                        .is_ok_and(|local| local.is_ipv4() == endpoint.is_ipv4())
                };
                if let Some(socket) = self.ayiya.iter().find(same_family) {
                    lost(socket.send_to(&datagram.bytes, endpoint));
                }
            }
        }
    }
}

/// A full queue (EAGAIN), a packet longer than the path takes (EMSGSIZE), no route.
fn lost(_sent: std::io::Result<usize>) {}

/// Works until `stop` is written to.
pub(crate) fn run(
    sockets: &Sockets,
    device: &File,
    state: &Mutex<State>,
    clock: &Clock,
    stop: &EventFd,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut arrived, mut leaving) = (Vec::new(), Vec::new());
    drain(device, &mut buffer);
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
        // Rounded up, or the last millisecond would be spent turning round.
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
        sockets.receive(&mut buffer, &mut |datagram| {
            state.note(&datagram, true, now);
            state.up.pass(datagram, now, &mut arrived);
        });
        state.up.release(now, &mut arrived);
        for datagram in arrived.drain(..) {
            if let Some(packet) = state.arrived(&datagram, unix_seconds, now) {
                // A device that is down (EIO) or full loses the packet.
                lost((&mut &*device).write(packet));
            }
        }
        for _ in 0..BURST {
            // Nothing more, or the device is down.
            let Ok(length) = (&mut &*device).read(&mut buffer) else {
                break;
            };
            leaving.extend(state.leaving(&buffer[..length], unix_seconds));
        }
        state.tick(unix_seconds, now, &mut leaving);
        let mut out = Vec::new();
        for datagram in leaving.drain(..) {
            state.note(&datagram, false, now);
            state.down.pass(datagram, now, &mut out);
        }
        state.down.release(now, &mut out);
        for datagram in out {
            sockets.send(&datagram);
        }
    }
}

/// What piled up in the device while no one served it is old news.
fn drain(mut device: &File, buffer: &mut [u8]) {
    for _ in 0..MOST_QUEUED {
        if device.read(buffer).is_err() {
            return;
        }
    }
}
