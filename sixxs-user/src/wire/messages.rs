//! Sends and receives many messages in one system call (sendmmsg, recvmmsg), for sockets without GSO and GRO,
//! such as those for protocol 41.

use std::{
    io, mem,
    net::SocketAddrV4,
    os::fd::{AsFd, AsRawFd as _},
    ptr,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Maximum number of messages per system call.
const MAX_MESSAGES: usize = 64;

/// Size of a receive buffer. The kernel may coalesce packets of a flow, up to 64 KiB.
const MESSAGE_BYTES: usize = 65_536;

/// Distance between buffers. Not a power of two: otherwise all buffers would share the same few lines of the
/// CPU cache.
const SPACING: usize = MESSAGE_BYTES + 2112;

/// How long to wait for room in the socket buffer before messages are dropped.
const MAX_WAIT_MS: u8 = 5;

/// The messages from one system call.
pub struct Messages {
    /// Memory that is never written to costs nothing.
    buffers: Box<[u8]>,
    lengths: [usize; MAX_MESSAGES],
    count: usize,
}

impl Default for Messages {
    fn default() -> Self {
        Self {
            buffers: vec![0; MAX_MESSAGES * SPACING].into(),
            lengths: [0; MAX_MESSAGES],
            count: 0,
        }
    }
}

impl Messages {
    /// Receives the waiting messages; false if there are none. Does not wait.
    pub fn receive(&mut self, socket: &impl AsFd) -> io::Result<bool> {
        self.count = 0;
        let mut chunks = self.buffers.chunks_exact_mut(SPACING);
        let mut pieces: [libc::iovec; MAX_MESSAGES] = std::array::from_fn(|_| {
            let buffer = chunks.next().unwrap_or_default();
            libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len().min(MESSAGE_BYTES),
            }
        });
        let mut headers = headers(&mut pieces, None);
        // SAFETY: every header points to one piece, and every piece to its own part of `buffers`; all of
        // them outlive the call, and the count is the number of headers.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                u32::try_from(MAX_MESSAGES).unwrap_or(0),
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(false),
                _ => Err(error),
            };
        };
        for (length, header) in self.lengths.iter_mut().zip(&headers[..count]) {
            *length = (header.msg_len as usize).min(MESSAGE_BYTES);
        }
        self.count = count;
        Ok(count > 0)
    }

    /// The messages.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let buffers = self.buffers.chunks_exact(SPACING);
        let messages = buffers.zip(&self.lengths[..self.count]);
        messages.map(|(buffer, length)| &buffer[..*length])
    }
}

/// Sends a batch of messages of `stride` bytes each; the last one may be shorter. Leaves out the first `skip`
/// bytes of each message. Messages that do not fit into the socket buffer are dropped.
pub fn send_each(
    socket: &impl AsFd,
    to: Option<SocketAddrV4>,
    batch: &[u8],
    stride: usize,
    skip: usize,
) -> io::Result<()> {
    let mut address = to.map(|to| libc::sockaddr_in {
        // AF_INET is 2 on all Linux platforms.
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default(),
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(to.ip().octets()),
        },
        sin_zero: [0; 8],
    });
    let mut messages = batch
        .chunks(stride.max(1))
        .filter_map(|message| message.get(skip..))
        .peekable();
    while messages.peek().is_some() {
        let mut count = 0;
        let mut pieces: [libc::iovec; MAX_MESSAGES] = std::array::from_fn(|_| {
            let message = messages.next();
            count += usize::from(message.is_some());
            let message = message.unwrap_or_default();
            libc::iovec {
                iov_base: message.as_ptr().cast_mut().cast(),
                iov_len: message.len(),
            }
        });
        let mut headers = headers(&mut pieces, address.as_mut());
        send_headers(socket, &mut headers[..count])?;
    }
    Ok(())
}

fn send_headers(socket: &impl AsFd, headers: &mut [libc::mmsghdr]) -> io::Result<()> {
    let mut rest = headers;
    let mut waited = false;
    while !rest.is_empty() {
        // SAFETY: `headers` made them from pieces and an address that the caller still holds; the pieces point
        // to a batch that the caller lent. The kernel only reads them.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_fd().as_raw_fd(),
                rest.as_mut_ptr(),
                u32::try_from(rest.len()).unwrap_or(0),
                libc::MSG_DONTWAIT,
            )
        };
        match usize::try_from(sent) {
            Ok(sent) => rest = rest.split_at_mut(sent.max(1)).1,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock && !waited => {
                    // The interface is the bottleneck. A short wait puts backpressure on the senders.
                    let mut room = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut room, PollTimeout::from(MAX_WAIT_MS))?;
                    waited = true;
                }
                error if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// One header for each piece. They point to the arguments.
fn headers(
    pieces: &mut [libc::iovec; MAX_MESSAGES],
    address: Option<&mut libc::sockaddr_in>,
) -> [libc::mmsghdr; MAX_MESSAGES] {
    let (name, length) = match address {
        Some(address) => (ptr::from_mut(address), size_of::<libc::sockaddr_in>()),
        None => (ptr::null_mut(), 0),
    };
    let mut pieces = pieces.iter_mut();
    std::array::from_fn(|_| {
        // SAFETY: plain data, and all zeroes are a valid value; it has padding that no literal could fill.
        let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
        header.msg_hdr.msg_name = name.cast();
        header.msg_hdr.msg_namelen = u32::try_from(length).unwrap_or(0);
        if let Some(piece) = pieces.next() {
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
        }
        header
    })
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use super::*;

    #[test]
    fn a_batch_is_sent_and_received_as_messages() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(to) = receiver.local_addr().unwrap() else {
            panic!("an IPv4 address")
        };
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut came = Messages::default();
        assert!(!came.receive(&receiver).unwrap());
        // More than one system call can send; the last one is shorter.
        let count = MAX_MESSAGES + 3;
        let number = |n| u8::try_from(n).unwrap();
        let mut batch: Vec<u8> = (0..count).flat_map(|n| [number(n); 100]).collect();
        batch.truncate(batch.len() - 30);
        send_each(&sender, Some(to), &batch, 100, 10).unwrap();
        let mut seen = Vec::new();
        while came.receive(&receiver).unwrap() {
            seen.extend(came.iter().map(|message| (message[0], message.len())));
        }
        let expected = (0..count).map(|n| (number(n), if n + 1 < count { 90 } else { 60 }));
        assert!(seen.into_iter().eq(expected));
        // A datagram that is too large for a packet.
        assert!(send_each(&sender, Some(to), &vec![0; 1 << 17], 1 << 17, 0).is_err());
    }
}
