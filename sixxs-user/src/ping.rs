//! Pings from a given address: bound to the address, never to an interface, so that the packet goes
//! the way that everybody's packets with that source go.

use std::{
    io,
    mem::MaybeUninit,
    net::{Ipv6Addr, SocketAddrV6},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use sixxs_common::packet::{ECHO_REPLY, ECHO_REQUEST};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Attempts before a target counts as silent.
const ATTEMPTS: u16 = 3;

/// How long an answer is waited for.
const WAIT: Duration = Duration::from_secs(1);

/// Pings `target` from `source`: the time of the first answer, or `None`. Blocks for as many
/// seconds as there are attempts.
pub fn ping(source: Ipv6Addr, target: Ipv6Addr) -> anyhow::Result<Option<Duration>> {
    // The kernel puts the checksum into raw ICMPv6 (RFC 3542 §3.1).
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))
        .context("open a raw socket; run as root")?;
    let address = |ip| SockAddr::from(SocketAddrV6::new(ip, 0, 0, 0));
    socket
        .bind(&address(source))
        .with_context(|| format!("bind to {source}"))?;
    socket
        .connect(&address(target))
        .with_context(|| format!("reach {target} from {source}"))?;
    let identifier = std::process::id().to_be_bytes();
    for sequence in 1..=ATTEMPTS {
        let mut message = [ECHO_REQUEST, 0, 0, 0, identifier[2], identifier[3], 0, 0];
        message[6..].copy_from_slice(&sequence.to_be_bytes());
        let sent = Instant::now();
        match socket.send(&message) {
            Ok(_) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("ping {target} from {source}"));
            }
        }
        if wait(&socket, &message, sent)? {
            return Ok(Some(sent.elapsed()));
        }
    }
    Ok(None)
}

/// Waits for the answer to `message`; everybody's ICMPv6 comes by, too.
fn wait(socket: &Socket, message: &[u8; 8], sent: Instant) -> anyhow::Result<bool> {
    loop {
        let Some(left) = WAIT
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
                if answer[0] == ECHO_REPLY && answer[4..] == message[4..] {
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
            // An ICMPv6 error about our ping: no answer will come to this one.
            Err(_) => return Ok(false),
        }
    }
}
