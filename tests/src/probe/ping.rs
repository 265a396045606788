//! Pings: echo requests and replies on a separate socket.
//!
//! The system's `ping` waits for its last reply only for two round-trip times, which is too short on a busy
//! machine.
//!
//! Tasks: [`PingStream`] has a thread, which ends when the stream is stopped or dropped.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::ANSWER_LIMIT;
use crate::lab::netns::Namespace;
use crate::socket_option;

/// Numbers of pings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pings {
    /// Echo requests sent.
    pub sent: u64,
    /// Echo requests with a reply.
    pub answered: u64,
}

impl Pings {
    /// Whether no reply is missing.
    pub fn all_answered(&self) -> bool {
        self.sent == self.answered
    }
}

/// Echo requests to send, and how long to wait for replies.
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    to: Ipv6Addr,
    count: u64,
    source: Option<Ipv6Addr>,
    bytes: usize,
    interval: Duration,
    limit: Duration,
}

impl Ping {
    /// This many requests, ten milliseconds apart.
    pub const fn new(to: Ipv6Addr, count: u64) -> Self {
        Self {
            to,
            count,
            source: None,
            bytes: 56,
            interval: Duration::from_millis(10),
            limit: ANSWER_LIMIT,
        }
    }

    /// Sends from an address of the host, instead of one that the kernel selects.
    #[must_use]
    pub const fn source(self, source: Ipv6Addr) -> Self {
        Self {
            source: Some(source),
            ..self
        }
    }

    /// Sends one request per interval.
    #[must_use]
    pub const fn interval(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    /// Sets the size of the payload.
    #[must_use]
    pub const fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// Sets the limit for the last reply.
    #[must_use]
    pub const fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Sends them; returns when all have a reply, or the limit for the last reply is over.
    pub fn run(self, from: &Namespace) -> Result<Pings> {
        let socket = open(from)?;
        if let Some(source) = self.source {
            socket
                .bind(&SocketAddrV6::new(source, 0, 0, 0).into())
                .with_context(|| format!("bind to {source}"))?;
        }
        exchange(&socket, &self, &AtomicBool::new(false), &Mutex::default())
    }
}

/// Pings an address this many times.
pub fn ping(from: &Namespace, to: Ipv6Addr, count: u64) -> Result<Pings> {
    Ping::new(to, count).run(from)
}

/// The present counters of a [`PingStream`].
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamState {
    /// Sent and answered until now; the last ones may still be in transit.
    pub pings: Pings,
    /// Round-trip time of the last reply.
    pub last_rtt: Option<Duration>,
}

/// Pings an address at a fixed interval until stopped, on a separate socket; then it waits for the missing
/// replies.
#[derive(Debug)]
pub struct PingStream {
    stop: Arc<AtomicBool>,
    state: Arc<Mutex<StreamState>>,
    thread: Option<JoinHandle<Result<Pings>>>,
}

impl PingStream {
    /// Starts pinging.
    pub fn start(from: &Namespace, to: Ipv6Addr, interval: Duration) -> Result<Self> {
        let socket = open(from)?;
        socket
            .connect(&SocketAddrV6::new(to, 0, 0, 0).into())
            .context("connect the ICMPv6 socket")?;
        let requests = Ping {
            interval,
            ..Ping::new(to, u64::MAX)
        };
        let stop = Arc::new(AtomicBool::new(false));
        let state = Arc::new(Mutex::new(StreamState::default()));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&state));
        let thread = std::thread::Builder::new()
            .name("ping-stream".to_owned())
            .spawn(move || exchange(&socket, &requests, &stopped, &shared))
            .context("start a ping stream")?;
        Ok(Self {
            stop,
            state,
            thread: Some(thread),
        })
    }

    /// The present state.
    pub fn state(&self) -> StreamState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops sending, waits for missing replies, and returns the counters.
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
const HEADER_BYTES: usize = 8;

fn open(from: &Namespace) -> Result<Socket> {
    let socket = from.run(|| {
        Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))
            .context("open an ICMPv6 socket")
    })?;
    only_replies(&socket)?;
    Ok(socket)
}

/// `ICMPV6_FILTER` of `linux/icmpv6.h`; its value has a bit for each type that the socket does not receive
/// (RFC 3542 §3.2).
const FILTER: nix::libc::c_int = 1;

/// Makes the socket receive echo replies only. A raw socket gets a copy of every ICMPv6 packet of its
/// namespace, and a burst of those would overflow its queue.
fn only_replies(socket: &Socket) -> Result<()> {
    let mut blocked = [u32::MAX; 8];
    blocked[usize::from(ECHO_REPLY) / 32] &= !(1 << (ECHO_REPLY % 32));
    socket_option::set(socket, nix::libc::IPPROTO_ICMPV6, FILTER, blocked)
        .context("receive echo replies only")
}

/// Sends requests until `count` is reached or `stop` is set, and waits for replies.
fn exchange(
    socket: &Socket,
    requests: &Ping,
    stop: &AtomicBool,
    state: &Mutex<StreamState>,
) -> Result<Pings> {
    static NEXT_ID: AtomicU16 = AtomicU16::new(1);
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // Time of sending of each request without a reply.
    let mut waiting: BTreeMap<u64, Instant> = BTreeMap::new();
    let mut pings = Pings::default();
    let mut next = Instant::now();
    let mut give_up = None;
    loop {
        let now = Instant::now();
        if pings.sent >= requests.count || stop.load(Ordering::Relaxed) {
            let deadline = *give_up.get_or_insert(now + requests.limit);
            if waiting.is_empty() || now >= deadline {
                return Ok(pings);
            }
            next = deadline;
        } else if now >= next {
            // A send that fails for lack of a route or buffer counts as sent, and so as unanswered.
            let packet = request(id, pings.sent, requests.bytes);
            let to = SocketAddrV6::new(requests.to, 0, 0, 0).into();
            let sent = match socket.peer_addr() {
                Ok(_) => socket.send(&packet),
                Err(_) => socket.send_to(&packet, &to),
            };
            if !sent.is_ok_and(|length| length == packet.len()) {
                eprintln!("a ping could not be sent");
            }
            waiting.insert(pings.sent, now);
            pings.sent += 1;
            next += requests.interval;
        }
        let idle = next
            .saturating_duration_since(Instant::now())
            .min(Duration::from_millis(50));
        // A timeout of zero would disable the timeout.
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

/// An echo request; the kernel fills in its checksum. The payload starts with the number in 64 bits; the
/// sequence number has its last 16 bits.
fn request(id: [u8; 2], number: u64, bytes: usize) -> Vec<u8> {
    let mut packet = vec![0; HEADER_BYTES + bytes.max(size_of::<u64>())];
    packet[0] = ECHO_REQUEST;
    packet[4..6].copy_from_slice(&id);
    let number = number.to_be_bytes();
    packet[6..8].copy_from_slice(&number[6..]);
    packet[8..16].copy_from_slice(&number);
    packet
}

fn reply_number(packet: &[u8], id: [u8; 2]) -> Option<u64> {
    let number = packet.get(8..16)?.try_into().ok()?;
    (packet[0] == ECHO_REPLY && packet[4..6] == id).then_some(u64::from_be_bytes(number))
}
