//! UDP sockets with batched reads and writes.

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

/// Maximum size of a batch in one system call: the length field has 16 bits, headers included.
const MAX_BYTES: usize = 65_000;

/// How long to wait for room in the socket buffer before packets are dropped.
const MAX_WAIT_MS: u8 = 5;

/// Requested size of each socket buffer; the kernel limits it.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Number of receive buffers; each takes a batch that the kernel coalesced.
const BUFFERS: usize = 4;

/// The UDP socket of a tunnel's task.
pub struct Datagrams {
    socket: UdpSocket,
    batches: Batches,
}

/// Batched reads and writes for any UDP socket.
#[derive(Debug)]
pub struct Batches {
    state: UdpSocketState,
}

/// The datagrams from one system call.
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
    /// Opens a socket that can reach `remote`. `local` is the source address; if `None`, the route decides.
    /// `port` is the source port; if 0, the kernel chooses one.
    pub fn open(local: Option<IpAddr>, port: u16, remote: IpAddr) -> io::Result<Self> {
        let (domain, address) = local_address(local, port, remote);
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

    /// Takes over a socket that [`Datagrams::open`] opened in an earlier run with the same arguments.
    pub fn adopt(
        held: OwnedFd,
        local: Option<IpAddr>,
        port: u16,
        remote: IpAddr,
    ) -> io::Result<Self> {
        let socket = Socket::from(held);
        let (_, address) = local_address(local, port, remote);
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
        // The kernel may allow less.
        socket.set_send_buffer_size(BUFFER_BYTES)?;
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        let batches = Batches::new(&socket)?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { socket, batches })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        // The socket is bound, so there is always an address.
        self.socket.local_addr().map_or(0, |address| address.port())
    }

    /// Waits until the socket is readable.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Sends a batch of datagrams of `stride` bytes each; the last one may be shorter. Datagrams that do not
    /// fit into the socket buffer are dropped.
    pub fn send(&self, to: SocketAddr, batch: &[u8], stride: usize) -> io::Result<()> {
        self.batches.send(&self.socket, to, batch, stride)
    }

    /// Receives the waiting datagrams; false if there are none.
    pub fn receive(&self, into: &mut Arrivals) -> io::Result<bool> {
        let received = self.socket.try_io(Interest::READABLE, || {
            match self.batches.receive(&self.socket, into) {
                // tokio clears its readiness on this error.
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

/// The address to bind a socket for `remote` to.
fn local_address(local: Option<IpAddr>, port: u16, remote: IpAddr) -> (Domain, SocketAddr) {
    let (domain, any) = match remote {
        IpAddr::V4(_) => (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    (domain, SocketAddr::new(local.unwrap_or(any), port))
}

impl Batches {
    /// Prepares a socket, and makes it non-blocking.
    pub fn new(socket: &impl AsFd) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(socket))?;
        // quinn-udp has just set PMTUDISC_PROBE, which sets DF and ignores the known path MTU, since QUIC
        // discovers it by itself. The tunnel's MTU determines the length of these datagrams; the kernel must fragment
        // those that exceed the path MTU.
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

    /// Like [`Datagrams::send`].
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
                .min(MAX_BYTES / stride.max(1))
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
                // The device does not support GSO; quinn-udp has disabled it.
                Err(_) if segments > 1 && self.state.max_gso_segments() == 1 => continue,
                // Segments of this length exceed the path MTU; the kernel fragments only single datagrams.
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
                // The interface is the bottleneck. A short wait puts backpressure on the senders.
                let mut room = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                poll(&mut room, PollTimeout::from(MAX_WAIT_MS))?;
                self.state.try_send(UdpSockRef::from(socket), transmit)
            }
            other => other,
        }
    }

    /// Like [`Datagrams::receive`].
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
            // An ICMP error for an earlier datagram; the next call receives again.
            Err(error) if is_path_error(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn set_option(socket: &impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open; the kernel reads an `int` of the given length, which outlives the call.
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

/// Errors of the path, not of the socket.
fn is_path_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::Interrupted
    )
}
