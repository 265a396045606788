//! A UDP socket that is read and written in batches.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname},
};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

/// The most that one call may send: a datagram's length has 16 bits, headers included.
const MOST_BYTES: usize = 65_000;

/// How long to wait for room in the socket before packets are lost.
const PATIENCE_MS: u8 = 5;

/// Asked of the kernel for each direction; it gives no more than its own limits.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Receive buffers: each for a batch that the kernel put together.
const BUFFERS: usize = 4;

/// A UDP socket of a tunnel's task.
pub struct Datagrams {
    socket: UdpSocket,
    batches: Batches,
}

/// How a UDP socket, whoever has it, is read and written in batches.
#[derive(Debug)]
pub struct Batches {
    state: UdpSocketState,
}

/// What came in, at one call.
pub struct Arrivals {
    buffers: Box<[u8]>,
    metas: [RecvMeta; BUFFERS],
    count: usize,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            buffers: vec![0; BUFFERS * 65_536].into(),
            metas: [RecvMeta::default(); BUFFERS],
            count: 0,
        }
    }
}

impl Arrivals {
    /// The datagrams and their senders.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let batches = self.buffers.chunks(65_536).zip(&self.metas[..self.count]);
        batches.flat_map(|(buffer, meta)| {
            let bytes = &buffer[..meta.len];
            let datagrams = bytes.chunks(meta.stride.max(1));
            datagrams.map(|datagram| (meta.addr, datagram))
        })
    }
}

impl Datagrams {
    /// Opens a socket that can reach `remote`, from `local` if given and else from whatever address
    /// the route asks for; from any `port` if that is 0.
    pub fn open(local: Option<IpAddr>, port: u16, remote: IpAddr) -> io::Result<Self> {
        let (domain, address) = near_end(local, port, remote);
        let socket = Socket::new(
            domain,
            Type::DGRAM.cloexec().nonblocking(),
            Some(Protocol::UDP),
        )?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        Self::prepare(socket)
    }

    /// Goes on with a socket that [`Datagrams::open`] opened in an earlier run, for the same.
    pub fn adopt(
        held: OwnedFd,
        local: Option<IpAddr>,
        port: u16,
        remote: IpAddr,
    ) -> io::Result<Self> {
        let socket = Socket::from(held);
        let (_, address) = near_end(local, port, remote);
        let is_such = socket.r#type()? == Type::DGRAM
            && socket.protocol()? == Some(Protocol::UDP)
            && socket.local_addr()?.as_socket() == Some(address);
        if !is_such {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        socket.set_nonblocking(true)?;
        Self::prepare(socket)
    }

    fn prepare(socket: Socket) -> io::Result<Self> {
        // As large as the kernel allows, which may be less.
        socket.set_send_buffer_size(BUFFER_BYTES)?;
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        let batches = Batches::new(&socket)?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { socket, batches })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        // It was bound when it was made.
        self.socket.local_addr().map_or(0, |address| address.port())
    }

    /// Waits until there is something to receive.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Sends a batch of datagrams of `stride` bytes each, but for the last, which may be shorter.
    /// Datagrams that the socket does not take are lost.
    pub fn send(&self, to: SocketAddr, batch: &[u8], stride: usize) -> io::Result<()> {
        self.batches.send(&self.socket, to, batch, stride)
    }

    /// Receives what is there; false: nothing.
    pub fn receive(&self, into: &mut Arrivals) -> io::Result<bool> {
        let received = self.socket.try_io(Interest::READABLE, || {
            match self.batches.receive(&self.socket, into) {
                // As tokio wants to hear it.
                Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
                other => other,
            }
        });
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            other => other,
        }
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What our end of a socket to `remote` is bound to.
fn near_end(local: Option<IpAddr>, port: u16, remote: IpAddr) -> (Domain, SocketAddr) {
    let (domain, any) = match remote {
        IpAddr::V4(_) => (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    (domain, SocketAddr::new(local.unwrap_or(any), port))
}

impl Batches {
    /// Prepares a socket for it, which from now on never waits.
    pub fn new(socket: &impl AsFd) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(socket))?;
        // It has just forbidden fragments, and has the kernel not mind what it knows of the path: QUIC looks for what
        // fits by itself. Our packets have the length that the tunnel's MTU gives them, and must arrive.
        let family = getsockname::<SockaddrStorage>(socket.as_fd().as_raw_fd())?.family();
        let (level, option, value) = match family {
            Some(AddressFamily::Inet6) => (
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_WANT,
            ),
            _ => (
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_WANT,
            ),
        };
        set_option(socket, level, option, value)?;
        Ok(Self { state })
    }

    /// As [`Datagrams::send`].
    pub fn send(
        &self,
        socket: &impl AsFd,
        to: SocketAddr,
        batch: &[u8],
        stride: usize,
    ) -> io::Result<()> {
        let mut rest = batch;
        while !rest.is_empty() {
            let segments = self
                .state
                .max_gso_segments()
                .min(MOST_BYTES / stride.max(1))
                .max(1);
            let (piece, after) = rest.split_at(rest.len().min(segments * stride));
            let transmit = Transmit {
                destination: to,
                ecn: None,
                contents: piece,
                segment_size: (piece.len() > stride).then_some(stride),
                src_ip: None,
            };
            match self.try_send(socket, &transmit) {
                // The device cannot: from now on one at a time.
                Err(_) if segments > 1 && self.state.max_gso_segments() == 1 => continue,
                // The path takes none of this length whole; the kernel cuts only what it is given singly.
                Err(error)
                    if piece.len() > stride && error.raw_os_error() == Some(libc::EMSGSIZE) =>
                {
                    for datagram in piece.chunks(stride.max(1)) {
                        self.send(socket, to, datagram, datagram.len())?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => other?,
            }
            rest = after;
        }
        Ok(())
    }

    fn try_send(&self, socket: &impl AsFd, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.state.try_send(UdpSockRef::from(socket), transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // The interface is slower than we are. To wait a little is what tells the senders.
                let mut room = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                poll(&mut room, PollTimeout::from(PATIENCE_MS))?;
                self.state.try_send(UdpSockRef::from(socket), transmit)
            }
            other => other,
        }
    }

    /// As [`Datagrams::receive`].
    pub fn receive(&self, socket: &impl AsFd, into: &mut Arrivals) -> io::Result<bool> {
        into.count = 0;
        let Arrivals { buffers, metas, .. } = into;
        let mut chunks = buffers.chunks_mut(65_536);
        let mut slices: [IoSliceMut<'_>; BUFFERS] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        match self
            .state
            .recv(UdpSockRef::from(socket), &mut slices, metas)
        {
            Ok(count) => {
                into.count = count;
                Ok(count > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            // What an earlier datagram met with (ICMP) is told here; the next call goes on.
            Err(error) if is_passing(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn set_option(socket: &impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads an `int` of the given length, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            libc::socklen_t::try_from(size_of::<i32>()).unwrap_or_default(),
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Errors of the way there, not of the socket.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::Interrupted
    )
}
