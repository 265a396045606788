//! IPv6 packets in IPv4 (RFC 4213), by a raw socket: for kernels without their own tunnel devices.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd, RawFd},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

/// IPv6 in IPv4.
const PROTOCOL: i32 = 41;

/// Room for one that came in. The kernel may have put some of a flow together: up to 64 KiB.
pub const PACKET_BYTES: usize = 65_536;

/// Time to live of what we send (RFC 4213 §3.3).
const TTL: u32 = 64;

/// Asked of the kernel for each direction; it gives no more than its own limits.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// How long to wait for room in the socket before packets are lost.
const PATIENCE_MS: u8 = 5;

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
        socket.connect(&SocketAddr::new(remote.into(), 0).into())?;
        // SAFETY: the socket owns its descriptor, closes it only when it is dropped, and always names
        // the same one; nothing takes it out of the `AsyncFd` again.
        let socket = unsafe { AsyncFd::register_with_interest(Raw(socket), Interest::READABLE) };
        Ok(Self { socket: socket? })
    }

    /// Waits until there is something to receive.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket
            .readable()
            .await
            .map(|mut guard| guard.retain_ready())
    }

    /// Sends a packet. One that the socket does not take is lost.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let socket = &self.socket.get_ref().0;
        match socket.send(packet) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // The interface is slower than we are. To wait a little is what tells the senders.
                let mut room = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                poll(&mut room, PollTimeout::from(PATIENCE_MS))?;
                match socket.send(packet) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                    _ => Ok(()),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Receives the next packet; `None`: there is none. What is no IPv6 packet comes out empty.
    pub fn receive<'a>(&self, buffer: &'a mut [u8; PACKET_BYTES]) -> io::Result<Option<&'a [u8]>> {
        let received = self
            .socket
            .try_io(Interest::READABLE, |socket| (&socket.0).read(buffer));
        match received {
            Ok(length) => Ok(Some(inner(&buffer[..length]).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
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
