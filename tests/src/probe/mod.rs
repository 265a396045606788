//! Traffic from the outside host to an address in the lab: pings, UDP, TCP.

pub mod frame;
pub mod leak;
pub mod packets;
mod ping;
pub mod service;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

pub use self::ping::{Ping, PingStream, Pings, StreamState, ping};

use crate::lab::netns::Namespace;
use crate::probe::service::{TCP_PORT, UDP_PORT, read_pattern, write_pattern};

/// Limit for a reply. The lab's round trip is well below a millisecond, but the machine may be busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Limit for a reply that is not expected.
const SILENCE_LIMIT: Duration = Duration::from_millis(100);

/// Sends `count` datagrams of `size` bytes to the host's echo service, one after the other, and returns the
/// number of replies. If `expected` is false, the wait for each is short.
pub fn udp_echo(
    from: &Namespace,
    to: Ipv6Addr,
    count: u64,
    size: usize,
    expected: bool,
) -> Result<u64> {
    let socket = from.run(|| UdpSocket::bind("[::]:0").context("open a UDP socket"))?;
    let limit = if expected {
        ANSWER_LIMIT
    } else {
        SILENCE_LIMIT
    };
    socket
        .set_read_timeout(Some(limit))
        .context("set a time limit")?;
    socket
        .connect(SocketAddrV6::new(to, UDP_PORT, 0, 0))
        .context("connect the UDP socket")?;
    let mut answered = 0;
    let mut received = vec![0; size];
    for number in 0..count {
        let mut datagram = vec![0; size];
        let bytes = number.to_be_bytes();
        ensure!(size >= bytes.len(), "a datagram must hold its number");
        datagram[..bytes.len()].copy_from_slice(&bytes);
        // The call may return an ICMPv6 error for an earlier datagram; that is no reply either.
        if socket.send(&datagram).is_err() {
            continue;
        }
        if socket
            .recv(&mut received)
            .is_ok_and(|length| received[..length] == datagram)
        {
            answered += 1;
        }
    }
    Ok(answered)
}

/// Whether a TCP connection to the host's service succeeds within `limit`.
pub fn tcp_connects(from: &Namespace, to: Ipv6Addr, limit: Duration) -> Result<bool> {
    let address = SocketAddr::V6(SocketAddrV6::new(to, TCP_PORT, 0, 0));
    match from.run(|| Ok(TcpStream::connect_timeout(&address, limit)))? {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::ConnectionRefused) => {
            Ok(false)
        }
        Err(e) => Err(e).with_context(|| format!("connect to {address}")),
    }
}

/// Sends `up_bytes` to the host's TCP service and receives `down_bytes`, and checks every byte; each step
/// takes at most about `limit`. Returns the total time.
pub fn tcp_transfer(
    from: &Namespace,
    to: Ipv6Addr,
    up_bytes: u64,
    down_bytes: u64,
    limit: Duration,
) -> Result<Duration> {
    let started = Instant::now();
    let address = SocketAddr::V6(SocketAddrV6::new(to, TCP_PORT, 0, 0));
    let mut stream = from
        .run(|| TcpStream::connect_timeout(&address, limit).map_err(Into::into))
        .with_context(|| format!("connect to {address}"))?;
    stream
        .set_read_timeout(Some(limit))
        .context("set a time limit")?;
    stream
        .set_write_timeout(Some(limit))
        .context("set a time limit")?;
    stream
        .write_all(&up_bytes.to_be_bytes())
        .context("send the request")?;
    stream
        .write_all(&down_bytes.to_be_bytes())
        .context("send the request")?;
    write_pattern(&mut stream, up_bytes).context("upload")?;
    read_pattern(&mut stream, down_bytes).context("download")?;
    let rest = stream.read(&mut [0]).context("read the end")?;
    ensure!(rest == 0, "more came than was asked for");
    Ok(started.elapsed())
}
