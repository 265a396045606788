//! Continuous traffic: pings, UDP and TCP from outside to each tunnel's address; and senders on the host that
//! leak, despite the rules.
//!
//! Tasks: one thread per stream; they end when the [`Traffic`] is dropped.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::lab::Lab;
use crate::lab::netns::Namespace;
use crate::lab::topology::{OUTSIDE, TUNNELS, UPLINK};
use crate::probe::leak::{self, Cause};
use crate::probe::{self, PingStream};
use crate::wait;

/// Interval of pings, datagrams, transfers and leaks; multiplied by [`wait::patience`].
const INTERVAL: Duration = Duration::from_millis(10);
/// Bytes of a transfer, in each direction.
const TRANSFER_BYTES: u64 = 20_000;
/// Limit for a transfer without progress; then a new one starts. TCP's own retransmission timeout would grow
/// too long.
const STANDSTILL: Duration = Duration::from_millis(500);
/// Leaks per socket: a new socket binds to the present uplink, even if that was made again.
const LEAKS: usize = 10;
/// Limit until every stream gets replies again.
const SOON: Duration = Duration::from_secs(5);

/// Marks of senders; foreign rules send them by the first tunnel, and by the second.
pub const MARKS: [u32; 2] = [1, 2];

fn interval() -> Duration {
    INTERVAL * wait::patience()
}

/// A stream and its counter.
#[derive(Debug)]
struct Stream {
    name: String,
    /// Replies, or packets sent.
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// All streams.
#[derive(Debug)]
pub struct Traffic {
    pings: Vec<PingStream>,
    asking: Vec<Stream>,
    leaking: Vec<Stream>,
    stop: Arc<AtomicBool>,
}

impl Traffic {
    /// Starts everything.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mut traffic = Self {
            pings: Vec::new(),
            asking: Vec::new(),
            leaking: Vec::new(),
            stop: Arc::default(),
        };
        for (number, plan) in TUNNELS.iter().enumerate() {
            let address = plan.address;
            let ping = PingStream::start(lab.outside(), address, interval())?;
            traffic.pings.push(ping);
            for (name, ask) in [("udp", udp as Ask), ("tcp", tcp as Ask)] {
                let outside = lab.outside().clone();
                let work = move || ask(&outside, address);
                let stream = traffic.stream(format!("{name} with {address}"), work)?;
                traffic.asking.push(stream);
            }
            for cause in [Cause::Device(UPLINK), Cause::Mark(MARKS[1 - number])] {
                let host = lab.host().clone();
                let work = move || leak(&host, address, cause);
                let stream = traffic.stream(format!("{cause:?} from {address}"), work)?;
                traffic.leaking.push(stream);
            }
        }
        Ok(traffic)
    }

    fn stream(
        &self,
        name: String,
        mut work: impl FnMut() -> u64 + Send + 'static,
    ) -> Result<Stream> {
        let count = Arc::new(AtomicU64::new(0));
        let (stop, counted) = (Arc::clone(&self.stop), Arc::clone(&count));
        let run = move || {
            while !stop.load(Ordering::Relaxed) {
                counted.fetch_add(work(), Ordering::Relaxed);
                sleep(interval());
            }
        };
        let thread = std::thread::Builder::new()
            .name("chaos-traffic".to_owned())
            .spawn(run)
            .context("start traffic")?;
        Ok(Stream {
            name,
            count,
            thread: Some(thread),
        })
    }

    /// Waits until each stream from outside has got a new reply.
    pub fn is_answered(&self) -> Result<()> {
        let before = self.answers();
        let unanswered = || {
            let now = self.answers();
            let same = before.iter().zip(now).filter(|(old, new)| old.1 == new.1);
            Ok(same.map(|(old, _)| old.0.clone()).collect::<Vec<_>>())
        };
        wait::until("the outside is answered", SOON, unanswered, Vec::is_empty)?;
        Ok(())
    }

    /// Number of packets that were sent to the wrong interface.
    pub fn leaked(&self) -> u64 {
        let counts = self.leaking.iter().map(|s| s.count.load(Ordering::Relaxed));
        counts.sum()
    }

    /// Replies to each stream from outside.
    fn answers(&self) -> Vec<(String, u64)> {
        let pings = self.pings.iter().zip(&TUNNELS);
        let pings = pings.map(|(stream, plan)| {
            let answered = stream.state().pings.answered;
            (format!("ping {}", plan.address), answered)
        });
        let others = self.asking.iter();
        let others = others.map(|s| (s.name.clone(), s.count.load(Ordering::Relaxed)));
        pings.chain(others).collect()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for stream in self.asking.iter_mut().chain(&mut self.leaking) {
            if let Some(thread) = stream.thread.take()
                && thread.join().is_err()
            {
                eprintln!("{} panicked", stream.name);
            }
        }
    }
}

type Ask = fn(&Namespace, Ipv6Addr) -> u64;

// Errors count as no reply, since faults may break the path; `is_answered` detects missing replies.

fn udp(outside: &Namespace, address: Ipv6Addr) -> u64 {
    probe::udp_echo(outside, address, 1, 100, false).unwrap_or_default()
}

fn tcp(outside: &Namespace, address: Ipv6Addr) -> u64 {
    let limit = STANDSTILL * wait::patience();
    let done = probe::tcp_transfer(outside, address, TRANSFER_BYTES, TRANSFER_BYTES, limit);
    u64::from(done.is_ok())
}

/// Sends some packets; returns the number of successful sends.
fn leak(host: &Namespace, source: Ipv6Addr, cause: Cause<'_>) -> u64 {
    let Ok(socket) = leak::udp_socket(host, source, cause) else {
        return 0;
    };
    let mut sent = 0;
    for _ in 0..LEAKS {
        sent += u64::from(leak::send(&socket, OUTSIDE, 1, 100).is_ok());
        sleep(interval());
    }
    sent
}
