//! Makes leaks on purpose: sockets on the host that send with a tunnel's address through the uplink, despite
//! the rules for that address.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::lab::netns::Namespace;
use crate::probe::service::{DISCARD_PORT, TCP_PORT, write_pattern};
use crate::socket_option::set as set_option;

/// How a socket's packets bypass the tunnel's rules.
#[derive(Clone, Copy, Debug)]
pub enum Cause<'a> {
    /// No bypass: they follow the rules, and leak only if rules are missing.
    Rules,
    /// SO_BINDTODEVICE. Only for sending: the kernel delivers to a socket that is bound to one interface no
    /// packet that arrives through another.
    Device(&'a str),
    /// SO_MARK, for hosts with a foreign rule that routes packets with this mark by the main table, as VPN
    /// software does.
    Mark(u32),
}

/// A UDP socket with this source that never fragments: a datagram larger than the known MTU is an error.
pub fn udp_socket(host: &Namespace, source: Ipv6Addr, cause: Cause<'_>) -> Result<Socket> {
    let socket = open(host, Type::DGRAM, Protocol::UDP, source, cause)?;
    set_option(
        &socket,
        libc::IPPROTO_IPV6,
        libc::IPV6_MTU_DISCOVER,
        libc::IPV6_PMTUDISC_DO,
    )?;
    Ok(socket)
}

/// A UDP socket that sends from an address that its host does not have.
pub fn forging_socket(outside: &Namespace, source: Ipv6Addr) -> Result<Socket> {
    /// From linux/in6.h, since 4.15.
    const IPV6_FREEBIND: libc::c_int = 78;
    let socket = outside.run(|| {
        Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).context("open a socket")
    })?;
    set_option(&socket, libc::IPPROTO_IPV6, IPV6_FREEBIND, 1)?;
    socket
        .bind(&SockAddr::from(SocketAddrV6::new(source, 0, 0, 0)))
        .with_context(|| format!("forge {source}"))?;
    Ok(socket)
}

/// Makes the next call on the socket return the ICMPv6 error for an earlier packet.
pub fn report_errors(socket: &Socket) -> Result<()> {
    set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)
}

/// Sends `count` datagrams of `size` bytes, one after the other, to a port that discards them.
pub fn send(socket: &Socket, to: Ipv6Addr, count: u64, size: usize) -> io::Result<()> {
    let datagram = vec![0; size];
    let to = SockAddr::from(SocketAddrV6::new(to, DISCARD_PORT, 0, 0));
    for _ in 0..count {
        socket.send_to(&datagram, &to)?;
    }
    Ok(())
}

/// Makes the kernel split each send into datagrams of `size` bytes (UDP_SEGMENT).
pub fn segment_sends(socket: &Socket, size: libc::c_int) -> Result<()> {
    /// From linux/udp.h, since 4.18.
    const UDP_SEGMENT: libc::c_int = 103;
    set_option(socket, libc::SOL_UDP, UDP_SEGMENT, size)
}

/// Makes the kernel insert a destination options header (RFC 8200 §4.6), which has only padding, before each
/// payload.
pub fn add_destination_options(socket: &Socket) -> Result<()> {
    // Next header, which the kernel fills in; no further 8 bytes; PadN with 4 bytes of padding.
    let header: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, header)
}

/// Makes the kernel fragment packets larger than the interface's MTU or the path MTU.
pub fn allow_fragments(socket: &Socket) -> Result<()> {
    let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER);
    set_option(socket, level, name, libc::IPV6_PMTUDISC_WANT)
}

/// Uploads this many bytes from `source` to the TCP service at `to`, within `limit`. Returns the time until
/// the service has received all of them.
pub fn tcp_upload(
    host: &Namespace,
    source: Ipv6Addr,
    cause: Cause<'_>,
    to: Ipv6Addr,
    bytes: u64,
    limit: Duration,
) -> Result<Duration> {
    let started = Instant::now();
    let mut socket = tcp_connect(host, source, cause, to, limit)?;
    socket
        .set_read_timeout(Some(limit))
        .context("set a time limit")?;
    socket
        .set_write_timeout(Some(limit))
        .context("set a time limit")?;
    for size in [bytes, 0] {
        io::Write::write_all(&mut socket, &size.to_be_bytes()).context("send the request")?;
    }
    write_pattern(&mut socket, bytes).context("upload")?;
    let rest = io::Read::read(&mut socket, &mut [0]).context("wait for the end")?;
    ensure!(rest == 0, "the service sent something unasked");
    Ok(started.elapsed())
}

/// Connects from `source` to the TCP service at `to`.
pub fn tcp_connect(
    host: &Namespace,
    source: Ipv6Addr,
    cause: Cause<'_>,
    to: Ipv6Addr,
    limit: Duration,
) -> Result<Socket> {
    let socket = open(host, Type::STREAM, Protocol::TCP, source, cause)?;
    let address = SockAddr::from(SocketAddrV6::new(to, TCP_PORT, 0, 0));
    socket
        .connect_timeout(&address, limit)
        .with_context(|| format!("connect from {source} to {to}"))?;
    Ok(socket)
}

fn open(
    host: &Namespace,
    kind: Type,
    protocol: Protocol,
    source: Ipv6Addr,
    cause: Cause<'_>,
) -> Result<Socket> {
    let socket =
        host.run(|| Socket::new(Domain::IPV6, kind, Some(protocol)).context("open a socket"))?;
    match cause {
        Cause::Rules => {}
        Cause::Device(name) => {
            let bound = socket.bind_device(Some(name.as_bytes()));
            bound.with_context(|| format!("bind a socket to device {name}"))?;
        }
        Cause::Mark(mark) => socket.set_mark(mark).context("mark a socket")?,
    }
    socket
        .bind(&SockAddr::from(SocketAddrV6::new(source, 0, 0, 0)))
        .with_context(|| format!("bind a socket to {source}"))?;
    Ok(socket)
}
