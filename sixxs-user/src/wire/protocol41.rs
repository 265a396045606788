//! IPv6 packets in IPv4 (RFC 4213), by a raw socket, for kernels without `sit`.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use nix::sys::socket::{getsockopt, sockopt::IpMtu};
use sixxs_common::six_in_four::{PROTOCOL, TTL};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::{Messages, send_each};

/// Requested size of each socket buffer; the kernel limits it.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// A raw socket that is connected to one broker, so that it receives only the broker's packets.
pub struct Protocol41 {
    socket: AsyncFd<Raw>,
}

struct Raw(Socket);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The inner packet of an IPv4 packet, which a raw socket returns with its header.
fn inner(packet: &[u8]) -> Option<&[u8]> {
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let inner = packet.get(header_bytes..)?;
    let header = inner.first_chunk::<40>()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    // Padding by an IPv4 link is not part of it.
    (header[0] >> 4 == 6).then(|| inner.get(..40 + length))?
}

/// The IPv4 address without the port.
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
            Some(Protocol::from(i32::from(PROTOCOL))),
        )?;
        socket.set_ttl_v4(TTL.into())?;
        // The kernel may allow less.
        socket.set_send_buffer_size(BUFFER_BYTES)?;
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        socket.bind(&SocketAddr::new(local.into(), 0).into())?;
        // The port has no meaning here, but without one getpeername(2) fails.
        socket.connect(&SocketAddr::new(remote.into(), 1).into())?;
        Self::watch(socket)
    }

    /// Takes over a socket that [`Protocol41::open`] opened in an earlier run with the same arguments.
    pub fn adopt(held: OwnedFd, local: Ipv4Addr, remote: Ipv4Addr) -> io::Result<Self> {
        let socket = Socket::from(held);
        let is_such = socket.r#type()? == Type::RAW
            && socket.protocol()? == Some(Protocol::from(i32::from(PROTOCOL)))
            && address(&socket.local_addr()?) == Some(local)
            && address(&socket.peer_addr()?) == Some(remote);
        if !is_such {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        socket.set_nonblocking(true)?;
        Self::watch(socket)
    }

    fn watch(socket: Socket) -> io::Result<Self> {
        // SAFETY: the socket owns its descriptor, closes it only on drop, and always returns the same one;
        // nothing takes it out of the `AsyncFd` again.
        let socket = unsafe { AsyncFd::register_with_interest(Raw(socket), Interest::READABLE) };
        Ok(Self { socket: socket? })
    }

    /// Waits until there is a packet or an error.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket
            .ready(Interest::READABLE | Interest::ERROR)
            .await
            .map(|mut guard| guard.retain_ready())
    }

    /// Maximum size of an IPv4 packet on the path to the broker, in bytes, as far as known from the last packet
    /// that was too long (`IP_MTU`).
    pub fn path_mtu(&self) -> io::Result<u32> {
        let mtu = getsockopt(&self.socket.get_ref().0, IpMtu)?;
        Ok(u32::try_from(mtu).unwrap_or(0))
    }

    /// Makes the kernel look the route up again: it may have changed, and may have another MTU.
    pub fn refresh(&self) -> io::Result<()> {
        let socket = &self.socket.get_ref().0;
        socket.connect(&socket.peer_addr()?)
    }

    /// Sends a batch of packets of `stride` bytes each; the last one may be shorter. Packets that do not fit
    /// into the socket buffer are dropped.
    pub fn send(&self, batch: &[u8], stride: usize) -> io::Result<()> {
        send_each(&self.socket.get_ref().0, None, batch, stride, 0)
    }

    /// Receives the waiting packets; false if there are none. ICMP errors for earlier packets are errors here,
    /// and only here: `send` does not return them.
    pub fn receive(&self, into: &mut Messages) -> io::Result<bool> {
        // An error does not make a raw socket readable, and `try_io` does not accept two interests at once.
        Ok(self.receive_if(Interest::READABLE, into)? || self.receive_if(Interest::ERROR, into)?)
    }

    fn receive_if(&self, interest: Interest, into: &mut Messages) -> io::Result<bool> {
        let received = self.socket.try_io(interest, |socket| {
            match into.receive(&socket.0) {
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

    /// The inner packets of messages; empty for a message that is not an IPv6 packet.
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
    fn only_complete_ipv6_packets_are_returned() {
        let mut packet = vec![0; 20 + 48];
        packet[0] = 0x45;
        packet[20] = 0x60;
        packet[25] = 8;
        assert_eq!(inner(&packet).map(<[u8]>::len), Some(48));
        // Padding at the end; IPv4 options.
        packet.extend([0; 6]);
        assert_eq!(inner(&packet).map(<[u8]>::len), Some(48));
        let mut options = packet.clone();
        options[0] = 0x46;
        options.splice(20..20, [0; 4]);
        assert_eq!(inner(&options).map(<[u8]>::len), Some(48));
        // Truncated at any length.
        for length in 0..68 {
            assert_eq!(inner(&packet[..length]), None, "{length}");
        }
        packet[20] = 0x45;
        assert_eq!(inner(&packet), None);
    }
}
