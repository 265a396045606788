//! Pings from a given source address. The socket is bound to the address, never to an interface, so that the
//! packet takes the same route as all others with that source.

use std::{
    io,
    mem::MaybeUninit,
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use sixxs_common::packet::{ECHO_REPLY, ECHO_REQUEST};
use sixxs_core::types::Mtu;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Number of attempts before a target counts as silent.
const ATTEMPTS: u16 = 3;

/// Time limit for a reply.
const WAIT: Duration = Duration::from_secs(1);

/// Pings `target` from `source`; returns the time of the first reply, or `None`. Blocks for at most one second
/// per attempt.
pub fn ping(source: Ipv6Addr, target: Ipv6Addr) -> anyhow::Result<Option<Duration>> {
    let pinger = Pinger::new(source, target)?;
    for sequence in 1..=ATTEMPTS {
        let answered = pinger.ping(sequence, HEADERS_BYTES, WAIT);
        let answered = answered.with_context(|| format!("ping {target} from {source}"))?;
        if answered.is_some() {
            return Ok(answered);
        }
    }
    Ok(None)
}

/// Size of an IPv6 header and an echo request's header.
const HEADERS_BYTES: u32 = 48;

/// Minimum time to wait for the reply to a large packet, which may take longer than a small one.
const LARGE_WAIT: Duration = Duration::from_millis(300);

/// The largest packet, up to `mtu` bytes, that `target` answers without fragmentation; `None` if it does not
/// answer a small one. If no packet is lost, this takes as long as two pings.
pub fn largest(source: Ipv6Addr, target: Ipv6Addr, mtu: u32) -> anyhow::Result<Option<u32>> {
    let pinger = Pinger::new(source, target)?;
    forbid_fragments(&pinger.socket, libc::IPV6_PMTUDISC_PROBE)?;
    let mut sequences = 1..;
    // Try twice, since a packet may be lost.
    let mut answers = |bytes, wait| {
        for sequence in sequences.by_ref().take(2) {
            // A packet that the kernel refuses is too large.
            if let Ok(Some(time)) = pinger.ping(sequence, bytes, wait) {
                return Some(time);
            }
        }
        None
    };
    let Some(time) = answers(HEADERS_BYTES, WAIT) else {
        return Ok(None);
    };
    let wait = (time * 4).clamp(LARGE_WAIT, WAIT);
    if answers(mtu, wait).is_some() {
        return Ok(Some(mtu));
    }
    let (mut fits, mut too_big) = (HEADERS_BYTES, mtu);
    if mtu > Mtu::MINIMUM.0 && answers(Mtu::MINIMUM.0, wait).is_some() {
        fits = Mtu::MINIMUM.0;
    }
    while too_big - fits > PRECISION {
        let middle = fits + (too_big - fits) / 2;
        match answers(middle, wait) {
            Some(_) => fits = middle,
            None => too_big = middle,
        }
    }
    Ok(Some(fits))
}

/// Precision of the largest size in bytes: every failed attempt takes time.
const PRECISION: u32 = 4;

/// A raw socket for pings, bound to an address.
struct Pinger {
    socket: Socket,
    identifier: [u8; 2],
}

impl Pinger {
    fn new(source: Ipv6Addr, target: Ipv6Addr) -> anyhow::Result<Self> {
        let (socket, identifier) = connected(source, target)?;
        Ok(Self { socket, identifier })
    }

    /// Sends a packet of `bytes` bytes (48 or more), and waits for its reply.
    fn ping(&self, sequence: u16, bytes: u32, wait: Duration) -> io::Result<Option<Duration>> {
        let mut message = request(self.identifier, sequence).to_vec();
        message.resize(usize::try_from(bytes - 40).map_err(io::Error::other)?, 0);
        let sent = Instant::now();
        self.socket.send(&message)?;
        let answered = answered(&self.socket, &message, sent, wait)?;
        Ok(answered.then(|| sent.elapsed()))
    }
}

/// A raw socket from `source` to `target`, and an identifier for the messages by it.
pub(super) fn connected(source: Ipv6Addr, target: Ipv6Addr) -> anyhow::Result<(Socket, [u8; 2])> {
    // For raw ICMPv6 sockets the kernel computes the checksum (RFC 3542 §3.1).
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))
        .context("open a raw socket; run as root")?;
    let address = |ip| SockAddr::from(SocketAddrV6::new(ip, 0, 0, 0));
    socket
        .bind(&address(source))
        .with_context(|| format!("bind to {source}"))?;
    socket
        .connect(&address(target))
        .with_context(|| format!("reach {target} from {source}"))?;
    // Several pings may run at the same time, here and in other processes: each has its own identifier.
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let [_, _, own_high, own_low] = std::process::id().to_be_bytes();
    Ok((socket, [high ^ own_high, low ^ own_low]))
}

/// An echo request without data. The kernel adds the checksum.
pub(super) fn request(identifier: [u8; 2], sequence: u16) -> [u8; 8] {
    let [i0, i1] = identifier;
    let [s0, s1] = sequence.to_be_bytes();
    [ECHO_REQUEST, 0, 0, 0, i0, i1, s0, s1]
}

/// Distinguishes pings of this process.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// Disables fragmentation. With `IPV6_PMTUDISC_PROBE` the known path MTU is ignored, with `IPV6_PMTUDISC_DO` it is not.
pub(crate) fn forbid_fragments(socket: &Socket, discovery: libc::c_int) -> anyhow::Result<()> {
    let options = [
        (libc::IPV6_MTU_DISCOVER, discovery),
        (libc::IPV6_DONTFRAG, 1),
    ];
    for (option, value) in options {
        set_option(socket, option, value).context("forbid fragments")?;
    }
    Ok(())
}

fn set_option(socket: &Socket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the socket is open; `value` is an int, as these options require, `length` is its size, and it
    // outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Waits for the reply to `message`. The socket receives all other ICMPv6 packets too.
fn answered(socket: &Socket, message: &[u8], sent: Instant, wait: Duration) -> io::Result<bool> {
    loop {
        let Some(left) = wait
            .checked_sub(sent.elapsed())
            .filter(|left| !left.is_zero())
        else {
            return Ok(false);
        };
        socket.set_read_timeout(Some(left))?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 256];
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let mut answer = [0; 8];
                if length < answer.len() {
                    continue;
                }
                for (to, from) in answer.iter_mut().zip(&buffer) {
                    // SAFETY: `recv` has written `length` bytes, and `length` is at least 8.
                    *to = unsafe { from.assume_init() };
                }
                if answer[0] == ECHO_REPLY && answer[4..] == message[4..8] {
                    return Ok(true);
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) => {}
            // An ICMPv6 error about this ping, so no reply will arrive.
            Err(_) => return Ok(false),
        }
    }
}
