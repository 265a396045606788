//! A whole PoP: the sockets in its namespace, the thread that serves them, and the interface for tests.
//!
//! Tasks: one thread (`datapath`), from [`Pop::start`] to [`Pop::stop`] or drop. The TUN device remains while
//! the PoP is stopped; packets that leave by it then are lost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};
use sixxs_user::wire::Batches;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::lab::netns::Namespace;
use crate::lab::tun::Offloading;
use crate::socket_option;

use super::clock::Clock;
use super::counts::Counts;
use super::datapath::{self, Sockets, Udp};
use super::forge::Forger;
use super::impairment::{Impaired, Impairment};
use super::session::{Session, Setup};
use super::state::{Recorded, State};
use super::{Kind, ayiya, heartbeat};

/// Large enough for a burst that comes while the thread waits for a CPU.
const RECEIVE_BUFFER_BYTES: libc::c_int = 8 << 20;
const UDP_HEADER_BYTES: usize = 8;
/// Datagrams that [`Pop::inject`] sends without a pause; then the receiver gets time to read them.
const INJECTED_IN_A_ROW: usize = 32;
const INJECTION_PAUSE: Duration = Duration::from_millis(1);

/// The lab's part for a PoP: namespace, addresses and device.
#[derive(Clone, Debug)]
pub struct Location {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its outer address, at which its protocols listen.
    pub address4: Ipv4Addr,
    /// Another address for AYIYA.
    pub address6: Option<Ipv6Addr>,
    /// TUN device at its end of the tunnels.
    pub device: Arc<Offloading>,
}

/// The router of a broker.
#[derive(Debug)]
pub struct Pop {
    location: Location,
    clock: Clock,
    state: Arc<Mutex<State>>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let woken = self.stop.write(1);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take())
            && thread.join().is_err()
        {
            eprintln!("a PoP panicked");
        }
    }
}

/// The source of the packets of [`Pop::inject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The PoP's own address and port.
    Own,
    /// Any other address, whether it exists or not. Protocol 41 ignores the port.
    Other(SocketAddrV4),
}

/// Sets the registered address of a tunnel.
#[derive(Clone, Debug)]
pub struct Registrar {
    state: Arc<Mutex<State>>,
    address: Ipv6Addr,
}

impl Registrar {
    /// Packets for the tunnel go to this address from now on.
    pub fn register(&self, endpoint: Ipv4Addr) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = state.session_mut(self.address) {
            session.change(|setup| setup.registered = Some(endpoint));
        }
    }
}

impl Pop {
    /// Starts a PoP that serves these tunnels.
    pub fn new(location: Location, setups: Vec<Setup>) -> Result<Self> {
        let pop = Self {
            location,
            clock: Clock::new(),
            state: Arc::new(Mutex::new(State::new(setups))),
            running: Mutex::new(None),
        };
        pop.start()?;
        Ok(pop)
    }

    /// Starts it again, at the same address; it knows no client's endpoint. Does nothing if it is running.
    pub fn start(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_some() {
            return Ok(());
        }
        self.state().forget();
        let sockets = self.open()?;
        let stop =
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("make an event descriptor")?;
        let stop = Arc::new(stop);
        let (stopped, device) = (Arc::clone(&stop), Arc::clone(&self.location.device));
        let (state, clock) = (Arc::clone(&self.state), self.clock.clone());
        let thread = std::thread::Builder::new()
            .name("pop".to_owned())
            .spawn(move || datapath::run(&sockets, &device, &state, &clock, &stopped))
            .context("start a PoP")?;
        *running = Some(Running {
            stop,
            thread: Some(thread),
        });
        Ok(())
    }

    /// Stops it. Its ports are closed: the kernel reports port unreachable to senders.
    pub fn stop(&self) {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Its clock, which a test may set wrong.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Its counters: the sum of all tunnels and of datagrams without one.
    pub fn counts(&self) -> Counts {
        self.state().counts()
    }

    /// Its tunnels with their counters.
    pub fn sessions(&self) -> Vec<Session> {
        self.state().sessions().to_vec()
    }

    /// The tunnel with this client address.
    pub fn session(&self, address: Ipv6Addr) -> Result<Session> {
        let mut state = self.state();
        let session = state.session_mut(address);
        session
            .cloned()
            .with_context(|| format!("this PoP has no tunnel {address}"))
    }

    /// The first tunnel; in most labs it is the only one.
    pub fn first(&self) -> Result<Session> {
        self.state()
            .sessions()
            .first()
            .cloned()
            .context("this PoP has no tunnel")
    }

    /// Changes a tunnel: its registered address or password, but not its inner addresses.
    pub fn change(&self, address: Ipv6Addr, change: impl FnOnce(&mut Setup)) -> Result<()> {
        let mut state = self.state();
        let session = state.session_mut(address);
        let session = session.with_context(|| format!("this PoP has no tunnel {address}"))?;
        session.change(change);
        Ok(())
    }

    /// Sets the registered address of a tunnel, from any thread.
    pub fn registrar(&self, address: Ipv6Addr) -> Registrar {
        Registrar {
            state: Arc::clone(&self.state),
            address,
        }
    }

    /// Sets the ping interval for every client; the first ping comes after one interval.
    pub fn ping_every(&self, interval: Duration) {
        let mut state = self.state();
        state.ping_interval = interval;
        state.replan_pings();
    }

    /// Sets the time without datagrams after which a client with a changing endpoint is down.
    pub fn set_silence_limit(&self, limit: Duration) {
        self.state().silence_limit = limit;
    }

    /// Sets the impairment of the path, in each direction.
    pub fn impair(&self, from_client: Impairment, to_client: Impairment) {
        let mut state = self.state();
        state.up.set(from_client);
        state.down.set(to_client);
    }

    /// The counters of the impairment: from clients, and to them.
    pub fn impaired(&self) -> [Impaired; 2] {
        let state = self.state();
        [state.up.done(), state.down.done()]
    }

    /// Captures the next `most` datagrams from and to clients; discards earlier captures.
    pub fn record(&self, most: usize) {
        self.state().record(most);
    }

    /// The captured datagrams since [`Pop::record`].
    pub fn recorded(&self) -> Vec<Recorded> {
        self.state().recorded()
    }

    /// A source of valid and invalid datagrams for the client of this tunnel.
    pub fn forger(&self, address: Ipv6Addr, seed: u64) -> Result<Forger> {
        let session = self.session(address)?;
        Ok(Forger::new(session.setup, self.clock.seconds(), seed))
    }

    /// Sends these datagrams unchanged to the client of the tunnel, whether the PoP runs or not, and slowly
    /// enough that the client's kernel drops none. They are UDP payloads, or IPv6 packets for protocol 41; if
    /// larger than the path's MTU they are sent in IPv4 fragments. Returns their number.
    pub fn inject(
        &self,
        address: Ipv6Addr,
        source: Source,
        datagrams: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<u64> {
        let session = self.session(address)?;
        let endpoint = session.endpoint.context("the client has not sent yet")?;
        let IpAddr::V4(to) = endpoint.ip() else {
            anyhow::bail!("the client is at {endpoint}, not at an IPv4 address");
        };
        let source = match source {
            Source::Own => SocketAddrV4::new(self.location.address4, ayiya::PORT),
            Source::Other(source) => source,
        };
        let udp = session.setup.kind == Kind::Ayiya;
        let socket = self.raw(source, udp)?;
        let mut count = 0;
        for (datagram, number) in datagrams.into_iter().zip(1..) {
            let bytes = if udp {
                with_udp_header(source.port(), endpoint.port(), &datagram)?
            } else {
                datagram
            };
            let sent = socket.send_to(&bytes, &SocketAddrV4::new(to, 0).into());
            sent.with_context(|| format!("send {} bytes to {to}", bytes.len()))?;
            count += 1;
            if number % INJECTED_IN_A_ROW == 0 {
                std::thread::sleep(INJECTION_PAUSE);
            }
        }
        Ok(count)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<Sockets> {
        let kinds: Vec<Kind> = self
            .state()
            .sessions()
            .iter()
            .map(|session| session.setup.kind)
            .collect();
        let Location {
            namespace,
            address4,
            address6,
            ..
        } = &self.location;
        let mut sockets = Sockets::default();
        namespace.run(|| {
            if kinds.contains(&Kind::Ayiya) {
                let socket = udp(SocketAddr::new((*address4).into(), ayiya::PORT))?;
                // Like the historical PoP, except for the UDP checksum: without it the kernel receives only
                // one datagram at a time.
                never_fragment(&socket.socket)?;
                sockets.ayiya.push(socket);
                if let Some(address6) = address6 {
                    let socket = udp(SocketAddr::new((*address6).into(), ayiya::PORT))?;
                    sockets.ayiya.push(socket);
                }
            }
            if kinds.contains(&Kind::Heartbeat) {
                let at = SocketAddr::new((*address4).into(), heartbeat::PORT);
                sockets.heartbeat = Some(udp(at)?);
            }
            if kinds.iter().any(|kind| *kind != Kind::Ayiya) {
                let protocol = Protocol::from(libc::IPPROTO_IPV6);
                let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol))
                    .context("open a socket for protocol 41")?;
                socket
                    .bind(&SocketAddrV4::new(*address4, 0).into())
                    .with_context(|| format!("bind protocol 41 to {address4}"))?;
                never_fragment(&socket)?;
                prepare(&socket)?;
                socket.set_nonblocking(true).context("never wait")?;
                sockets.protocol41 = Some(socket);
            }
            Ok(())
        })?;
        Ok(sockets)
    }

    /// A socket that sends from any source; the kernel adds the IPv4 header, and fragments.
    fn raw(&self, source: SocketAddrV4, udp: bool) -> Result<Socket> {
        let protocol = if udp {
            Protocol::UDP
        } else {
            Protocol::from(libc::IPPROTO_IPV6)
        };
        self.location.namespace.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol))
                .context("open a raw socket")?;
            socket
                .set_ip_transparent_v4(true)
                .context("allow any source")?;
            socket
                .bind(&SockAddr::from(SocketAddrV4::new(*source.ip(), 0)))
                .with_context(|| format!("bind a raw socket to {source}"))?;
            // It receives copies of the PoP's packets, which nothing reads.
            socket.set_recv_buffer_size(1).context("keep nothing")?;
            let name = libc::IP_MTU_DISCOVER;
            set(&socket, libc::IPPROTO_IP, name, libc::IP_PMTUDISC_DONT)?;
            Ok(socket)
        })
    }
}

fn udp(at: SocketAddr) -> Result<Udp> {
    let socket = UdpSocket::bind(at).with_context(|| format!("listen on UDP {at}"))?;
    prepare(&socket)?;
    let batches = Batches::new(&socket).context("send and receive in batches")?;
    Ok(Udp { socket, batches })
}

fn prepare(socket: &impl AsRawFd) -> Result<()> {
    set(
        socket,
        libc::SOL_SOCKET,
        libc::SO_RCVBUFFORCE,
        RECEIVE_BUFFER_BYTES,
    )
}

fn never_fragment(socket: &impl AsRawFd) -> Result<()> {
    let (level, name) = (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER);
    set(socket, level, name, libc::IP_PMTUDISC_DO)
}

fn set(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> Result<()> {
    socket_option::set(socket, level, name, value)
}

/// Adds a UDP header (RFC 768) without a checksum.
fn with_udp_header(from_port: u16, to_port: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(UDP_HEADER_BYTES + payload.len());
    let length = length.context("a UDP datagram has at most 65,535 bytes")?;
    let mut datagram = Vec::with_capacity(usize::from(length));
    for field in [from_port, to_port, length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    Ok(datagram)
}
