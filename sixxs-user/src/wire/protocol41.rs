//! IPv6 packets in IPv4 (RFC 4213), by a raw socket: for kernels without their own tunnel devices.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use nix::sys::socket::{getsockopt, sockopt::IpMtu};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::{Messages, send_each};

/// IPv6 in IPv4.
const PROTOCOL: i32 = 41;

/// Time to live of what we send (RFC 4213 §3.3).
const TTL: u32 = 64;

/// Asked of the kernel for each direction; it gives no more than its own limits.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// A raw socket to one broker: the kernel gives it only what comes from there.
pub struct Protocol41 {
    socket: AsyncFd<Raw>,
}

struct Raw(Socket);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The IPv6 packet in an IPv4 packet, which a raw socket gives with its header.
fn inner(packet: &[u8]) -> Option<&[u8]> {
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let inner = packet.get(header_bytes..)?;
    let header = inner.first_chunk::<40>()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    // Whatever an IPv4 link padded is none of it.
    (header[0] >> 4 == 6).then(|| inner.get(..40 + length))?
}

/// An IPv4 address, whatever port the kernel tells with it.
fn address(address: &SockAddr) -> Option<Ipv4Addr> {
    address.as_socket_ipv4().map(|address| *address.ip())
}

impl AsFd for Protocol41 {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().0.as_fd()
    }
}

impl Protocol41 {
    /// Opens a socket to `remote`, from `local`.
    pub fn open(local: Ipv4Addr, remote: Ipv4Addr) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::IPV4,
            Type::RAW.cloexec().nonblocking(),
            Some(Protocol::from(PROTOCOL)),
        )?;
        socket.set_ttl_v4(TTL)?;
        // As large as the kernel allows, which may be less.
        socket.set_send_buffer_size(BUFFER_BYTES)?;
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        socket.bind(&SocketAddr::new(local.into(), 0).into())?;
        // Without a port, which means nothing here, the kernel would not tell who the peer is.
        socket.connect(&SocketAddr::new(remote.into(), 1).into())?;
        Self::watch(socket)
    }

    /// Goes on with a socket that [`Protocol41::open`] opened in an earlier run, between the same.
    pub fn adopt(held: OwnedFd, local: Ipv4Addr, remote: Ipv4Addr) -> io::Result<Self> {
        let socket = Socket::from(held);
        let is_such = socket.r#type()? == Type::RAW
            && socket.protocol()? == Some(Protocol::from(PROTOCOL))
            && address(&socket.local_addr()?) == Some(local)
            && address(&socket.peer_addr()?) == Some(remote);
        if !is_such {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        socket.set_nonblocking(true)?;
        Self::watch(socket)
    }

    fn watch(socket: Socket) -> io::Result<Self> {
        // SAFETY: the socket owns its descriptor, closes it only when it is dropped, and always names
        // the same one; nothing takes it out of the `AsyncFd` again.
        let socket = unsafe { AsyncFd::register_with_interest(Raw(socket), Interest::READABLE) };
        Ok(Self { socket: socket? })
    }

    /// Waits until there is something to receive, a packet or an error.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket
            .ready(Interest::READABLE | Interest::ERROR)
            .await
            .map(|mut guard| guard.retain_ready())
    }

    /// The most bytes of an IPv4 packet that the path to the broker is known to take, as of the last packet that was too
    /// long for it (`IP_MTU`).
    pub fn path_mtu(&self) -> io::Result<u32> {
        let mtu = getsockopt(&self.socket.get_ref().0, IpMtu)?;
        Ok(u32::try_from(mtu).unwrap_or(0))
    }

    /// Forgets the route, and asks for it anew: it may be another one now, with another MTU.
    pub fn refresh(&self) -> io::Result<()> {
        let socket = &self.socket.get_ref().0;
        socket.connect(&socket.peer_addr()?)
    }

    /// Sends a batch of packets of `stride` bytes each, but for the last, which may be shorter.
    /// Packets that the socket does not take are lost.
    pub fn send(&self, batch: &[u8], stride: usize) -> io::Result<()> {
        send_each(&self.socket.get_ref().0, None, batch, stride, 0)
    }

    /// Receives what is there; false: nothing. What ICMP says of earlier packets is an error here,
    /// and only here: to send does not show it.
    pub fn receive(&self, into: &mut Messages) -> io::Result<bool> {
        // An error does not make a raw socket readable; and `try_io` takes no two interests at once.
        Ok(self.receive_if(Interest::READABLE, into)? || self.receive_if(Interest::ERROR, into)?)
    }

    fn receive_if(&self, interest: Interest, into: &mut Messages) -> io::Result<bool> {
        let received = self.socket.try_io(interest, |socket| {
            match into.receive(&socket.0) {
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

    /// The packets in what was received. What is no IPv6 packet comes out empty.
    pub fn packets(messages: &Messages) -> impl Iterator<Item = &[u8]> {
        messages
            .iter()
            .map(|message| inner(message).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_ipv6_packets_are_taken_out() {
        let mut packet = vec![0; 20 + 48];
        packet[0] = 0x45;
        packet[20] = 0x60;
        packet[25] = 8;
        assert_eq!(inner(&packet).map(<[u8]>::len), Some(48));
        // Padding behind, options before.
        packet.extend([0; 6]);
        assert_eq!(inner(&packet).map(<[u8]>::len), Some(48));
        let mut options = packet.clone();
        options[0] = 0x46;
        options.splice(20..20, [0; 4]);
        assert_eq!(inner(&options).map(<[u8]>::len), Some(48));
        // Cut off anywhere.
        for length in 0..68 {
            assert_eq!(inner(&packet[..length]), None, "{length}");
        }
        packet[20] = 0x45;
        assert_eq!(inner(&packet), None);
    }
}
