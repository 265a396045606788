//! Owns the traffic of the outside host: pings, UDP, TCP, towards an address in the lab.
//!
//! Tasks: [`PingStream`] has a thread, which ends when the stream is stopped or dropped.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Namespace;
use crate::service::{TCP_PORT, UDP_PORT, read_pattern, write_pattern};

/// How long an answer may take. The lab's round trip is well below a millisecond; this is for a
/// machine that is busy with other things.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How long to wait for an answer that is not expected to come.
const SILENCE_LIMIT: Duration = Duration::from_millis(100);

/// How many pings were sent and answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pings {
    /// Echo requests sent.
    pub sent: u64,
    /// Those that were answered.
    pub answered: u64,
}

impl Pings {
    /// None is missing.
    pub fn all_answered(&self) -> bool {
        self.sent == self.answered
    }
}

/// Pings with the system's `ping`, ten milliseconds apart, and waits a second for the last.
pub fn ping(from: &Namespace, to: Ipv6Addr, count: u64) -> Result<Pings> {
    ping_with(from, to, count, &[])
}

/// As [`ping`], with more arguments for `ping`.
pub fn ping_with(from: &Namespace, to: Ipv6Addr, count: u64, arguments: &[&str]) -> Result<Pings> {
    let mut ping = from.command("ping");
    ping.args([
        "-6",
        "-n",
        "-q",
        "-i",
        "0.01",
        "-W",
        "1",
        "-c",
        &count.to_string(),
    ]);
    ping.args(arguments).arg(to.to_string());
    // Exit status 1: not all were answered, which is for the caller to judge.
    let output = ping.output().context("run ping")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    parse_ping(&printed).with_context(|| {
        format!(
            "ping {to}: {printed}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// Reads `20 packets transmitted, 19 received, 5% packet loss, time 190ms`.
fn parse_ping(printed: &str) -> Result<Pings> {
    let number_before = |what: &str| {
        let (before, _) = printed.split_once(what)?;
        before.split([' ', '\n']).next_back()?.parse().ok()
    };
    Ok(Pings {
        sent: number_before(" packets transmitted").context("no count of packets sent")?,
        answered: number_before(" received").context("no count of packets received")?,
    })
}

/// Datagrams of `size` bytes that came back from the host's echo service, of `count` sent one
/// after the other. With `expected` false each is given up soon.
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
        // An ICMPv6 error for an earlier datagram surfaces here: no answer, all the same.
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

/// Whether a TCP connection to the host's service comes about within `limit`.
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

/// Sends `up_bytes` to the host's TCP service and fetches `down_bytes` from it, checking every
/// byte; takes at most about `limit` for each step. Returns how long it all took.
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

/// What a [`PingStream`] has seen so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamState {
    /// Sent and answered up to now; the last ones may still be on their way.
    pub pings: Pings,
    /// The last answer's round trip.
    pub last_rtt: Option<Duration>,
}

/// Pings an address at a fixed interval until stopped, on a socket of its own, so that an answer
/// under way when it stops is waited for.
#[derive(Debug)]
pub struct PingStream {
    stop: Arc<AtomicBool>,
    state: Arc<Mutex<StreamState>>,
    thread: Option<JoinHandle<Result<Pings>>>,
}

impl PingStream {
    /// Starts pinging.
    pub fn start(from: &Namespace, to: Ipv6Addr, interval: Duration) -> Result<Self> {
        let socket = from.run(|| {
            Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))
                .context("open an ICMPv6 socket")
        })?;
        socket
            .connect(&SocketAddrV6::new(to, 0, 0, 0).into())
            .context("connect the ICMPv6 socket")?;
        let stop = Arc::new(AtomicBool::new(false));
        let state = Arc::new(Mutex::new(StreamState::default()));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&state));
        let thread = std::thread::Builder::new()
            .name("ping-stream".to_owned())
            .spawn(move || stream(&socket, interval, &stopped, &shared))
            .context("start a ping stream")?;
        Ok(Self {
            stop,
            state,
            thread: Some(thread),
        })
    }

    /// Up to now.
    pub fn state(&self) -> StreamState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends no more, waits for the answers that are still missing, and returns the count.
    pub fn stop(mut self) -> Result<Pings> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("stopped once")?;
        match thread.join() {
            Ok(pings) => pings,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for PingStream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// ICMPv6 echo request and reply, RFC 4443 §4.1 and §4.2.
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

fn stream(
    socket: &Socket,
    interval: Duration,
    stop: &AtomicBool,
    state: &Mutex<StreamState>,
) -> Result<Pings> {
    static NEXT_ID: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(1);
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // When each number was sent; taken out by its answer.
    let mut waiting: std::collections::BTreeMap<u64, Instant> = std::collections::BTreeMap::new();
    let mut pings = Pings::default();
    let mut next = Instant::now();
    let mut give_up = None;
    loop {
        let now = Instant::now();
        if stop.load(Ordering::Relaxed) {
            let deadline = *give_up.get_or_insert(now + ANSWER_LIMIT);
            if waiting.is_empty() || now >= deadline {
                return Ok(pings);
            }
        } else if now >= next {
            // The sequence number as 64 bits of payload, and their end where it belongs.
            let mut packet = [0; 64];
            packet[0] = ECHO_REQUEST;
            packet[4..6].copy_from_slice(&id);
            let number = pings.sent.to_be_bytes();
            packet[6..8].copy_from_slice(&number[6..]);
            packet[8..16].copy_from_slice(&number);
            // Not sent for want of a route or buffer: counted, and so missed at the end.
            let sent = socket.send(&packet);
            if !sent.is_ok_and(|length| length == packet.len()) {
                eprintln!("a ping could not be sent");
            }
            waiting.insert(pings.sent, now);
            pings.sent += 1;
            next += interval;
        }
        let idle = next
            .saturating_duration_since(Instant::now())
            .min(Duration::from_millis(50));
        // A zero time-out would mean none at all.
        let idle = idle.max(Duration::from_micros(100));
        socket
            .set_read_timeout(Some(idle))
            .context("set a time limit")?;
        let mut buffer = [0; 256];
        if let Ok(length) = (&mut &*socket).read(&mut buffer)
            && let Some(number) = reply_number(&buffer[..length], id)
            && let Some(sent_at) = waiting.remove(&number)
        {
            pings.answered += 1;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.last_rtt = Some(sent_at.elapsed());
        }
        state.lock().unwrap_or_else(PoisonError::into_inner).pings = pings;
    }
}

fn reply_number(packet: &[u8], id: [u8; 2]) -> Option<u64> {
    let number = packet.get(8..16)?.try_into().ok()?;
    (packet[0] == ECHO_REPLY && packet[4..6] == id).then_some(u64::from_be_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summary_of_ping() {
        let printed = "PING 2001:db8::1(2001:db8::1) 56 data bytes\n\n\
            --- 2001:db8::1 ping statistics ---\n\
            20 packets transmitted, 19 received, 5% packet loss, time 190ms\n";
        let pings = parse_ping(printed).unwrap();
        assert_eq!(
            pings,
            Pings {
                sent: 20,
                answered: 19
            }
        );
        assert!(parse_ping("ping: unknown host").is_err());
    }
}
