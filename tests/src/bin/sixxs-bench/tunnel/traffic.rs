//! One flow at a time between two hosts of the lab, at the highest rate.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::lab::Lab;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::OUTSIDE;
use sixxs_tests::program::Daemon;
use sixxs_user::wire::{Arrivals, Batches};
use socket2::{Domain, Socket, Type};

use super::cpu::Times;

/// Bytes per system call.
const CHUNK_BYTES: usize = 1 << 18;
/// Limit for a connection without progress.
const STALLED: Duration = Duration::from_secs(10);
/// UDP datagrams sent by one call.
const BURST: u32 = 16;
/// Highest tolerated loss of UDP datagrams.
const MOST_LOST: f64 = 0.01;
/// Rates to try for UDP: the lowest one in bits per second, the factor between two rates, and their number.
const SLOWEST: f64 = 1e8;
const FACTOR: f64 = 1.12;
const STEPS: u32 = 44;

/// Sender and receiver of a flow.
pub(crate) struct Route<'a> {
    pub(crate) from: &'a Namespace,
    pub(crate) source: Ipv6Addr,
    pub(crate) to: &'a Namespace,
    pub(crate) destination: Ipv6Addr,
}

/// Durations of the measurements.
#[derive(Clone, Copy)]
pub(crate) struct Lengths {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    /// For each tried rate of UDP.
    pub(crate) trial: Duration,
}

/// Results of a flow.
#[derive(Clone, Copy)]
pub(crate) struct Carried {
    /// Payload bytes.
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
    pub(crate) times: Times,
    /// Share of lost UDP datagrams.
    pub(crate) lost: f64,
}

impl Carried {
    pub(crate) fn bits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.time.as_secs_f64()
    }

    /// Processor seconds per 10^9 bytes.
    pub(crate) fn per_gigabyte(&self, time: Duration) -> f64 {
        time.as_secs_f64() / (self.bytes as f64 / 1e9)
    }

    /// Share of one processor.
    pub(crate) fn share(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.time.as_secs_f64()
    }
}

impl<'a> Route<'a> {
    /// From an address of the host to the outside, and back.
    pub(crate) fn both(lab: &'a Lab, address: Ipv6Addr) -> [Self; 2] {
        let (host, outside) = ((lab.host(), address), (lab.outside(), OUTSIDE));
        [(host, outside), (outside, host)].map(|((from, source), (to, destination))| Self {
            from,
            source,
            to,
            destination,
        })
    }

    /// Measures one TCP connection.
    pub(crate) fn tcp(&self, lengths: Lengths, daemon: Option<&Daemon>) -> Result<Carried> {
        let at = SocketAddrV6::new(self.destination, 0, 0, 0);
        let listener = self
            .to
            .run(|| TcpListener::bind(at).context("listen for TCP"))?;
        let at = listener.local_addr().context("ask for the port")?;
        let mut sender = self.from.run(|| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None).context("open a socket")?;
            let source = SocketAddrV6::new(self.source, 0, 0, 0);
            socket.bind(&source.into()).context("bind a socket")?;
            socket
                .connect_timeout(&at.into(), STALLED)
                .with_context(|| format!("connect from {source} to {at}"))?;
            Ok(TcpStream::from(socket))
        })?;
        let (mut receiver, _) = listener.accept().context("accept a connection")?;
        sender
            .set_write_timeout(Some(STALLED))
            .context("set a limit")?;
        receiver
            .set_read_timeout(Some(STALLED))
            .context("set a limit")?;
        let (received, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let send = scope.spawn(|| -> Result<()> {
                let chunk = vec![0x5a; CHUNK_BYTES];
                while !stop.load(Ordering::Relaxed) {
                    sender.write_all(&chunk).context("send")?;
                }
                sender.shutdown(std::net::Shutdown::Write).context("end")
            });
            let receive = scope.spawn(|| -> Result<()> {
                let mut chunk = vec![0; CHUNK_BYTES];
                loop {
                    match receiver.read(&mut chunk).context("receive")? {
                        0 => return Ok(()),
                        count => received.fetch_add(count as u64, Ordering::Relaxed),
                    };
                }
            });
            let carried = watch(&received, lengths.warm_up, lengths.measured, daemon);
            stop.store(true, Ordering::Relaxed);
            for thread in [send, receive] {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            }
            let carried = carried?;
            ensure!(carried.bytes > 0, "nothing came through");
            Ok(carried)
        })
    }

    /// Measures UDP datagrams of this size, at the highest rate that loses no more than [`MOST_LOST`] of
    /// them.
    pub(crate) fn udp(
        &self,
        payload_bytes: usize,
        lengths: Lengths,
        daemon: Option<&Daemon>,
    ) -> Result<Carried> {
        let rate = |step: u32| SLOWEST * FACTOR.powi(i32::try_from(step).unwrap_or(i32::MAX));
        let (mut low, mut high) = (0, STEPS);
        while low + 1 < high {
            let middle = u32::midpoint(low, high);
            let carried =
                self.udp_at(payload_bytes, rate(middle), lengths.trial, lengths, daemon)?;
            // A short pause of the machine may cause the loss, so try again.
            let again = carried.lost > MOST_LOST && carried.lost < 5.0 * MOST_LOST;
            let carried = if again {
                self.udp_at(payload_bytes, rate(middle), lengths.trial, lengths, daemon)?
            } else {
                carried
            };
            if carried.lost <= MOST_LOST {
                low = middle;
            } else {
                high = middle;
            }
        }
        loop {
            let time = lengths.measured;
            let carried = self.udp_at(payload_bytes, rate(low), time, lengths, daemon)?;
            // A rate without loss in the short trial may lose datagrams in a longer one.
            if carried.lost <= MOST_LOST || low == 0 {
                return Ok(carried);
            }
            low -= 1;
        }
    }

    fn udp_at(
        &self,
        payload_bytes: usize,
        bits_per_second: f64,
        time: Duration,
        lengths: Lengths,
        daemon: Option<&Daemon>,
    ) -> Result<Carried> {
        let open = |at: &Namespace, address| {
            at.run(|| {
                let at = SocketAddrV6::new(address, 0, 0, 0);
                let socket = UdpSocket::bind(at).with_context(|| format!("bind UDP to {at}"))?;
                let size = socket2::SockRef::from(&socket);
                size.set_recv_buffer_size(4 << 20).context("ask for room")?;
                let batches = Batches::new(&socket).context("prepare for batches")?;
                Ok((socket, batches))
            })
        };
        let (sender, out) = open(self.from, self.source)?;
        let (receiver, inwards) = open(self.to, self.destination)?;
        let to = receiver.local_addr().context("ask for the port")?;
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        let (stop, done) = (AtomicBool::new(false), AtomicBool::new(false));
        let (carried, was_sent, was_received) = thread::scope(|scope| {
            let send = scope.spawn(|| {
                blast(
                    &sender,
                    &out,
                    to,
                    payload_bytes,
                    bits_per_second,
                    &sent,
                    &stop,
                )
            });
            let receive = scope.spawn(|| collect(&receiver, &inwards, &received, &done));
            let carried = watch(&received, lengths.trial / 4, time, daemon);
            stop.store(true, Ordering::Relaxed);
            let sending = send.join();
            // Wait for datagrams that are still in transit.
            let mut last = u64::MAX;
            while last != received.load(Ordering::Relaxed) {
                last = received.load(Ordering::Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
            done.store(true, Ordering::Relaxed);
            for thread in [sending, receive.join()] {
                thread.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            }
            let both = [&sent, &received].map(|count| count.load(Ordering::Relaxed) as f64);
            carried.map(|carried| (carried, both[0], both[1]))
        })?;
        ensure!(was_sent > 0.0, "nothing was sent");
        Ok(Carried {
            lost: (1.0 - was_received / was_sent).max(0.0),
            ..carried
        })
    }
}

/// Waits, and returns the number of bytes received meanwhile.
fn watch(
    received: &AtomicU64,
    warm_up: Duration,
    time: Duration,
    daemon: Option<&Daemon>,
) -> Result<Carried> {
    thread::sleep(warm_up);
    let (then, before) = (Times::now(daemon)?, received.load(Ordering::Relaxed));
    thread::sleep(time);
    let bytes = received.load(Ordering::Relaxed) - before;
    let (times, time) = Times::since(daemon, &then)?;
    Ok(Carried {
        bytes,
        time,
        times,
        lost: 0.0,
    })
}

/// Sends at this rate.
fn blast(
    socket: &UdpSocket,
    batches: &Batches,
    to: SocketAddr,
    payload_bytes: usize,
    bits_per_second: f64,
    sent: &AtomicU64,
    stop: &AtomicBool,
) -> Result<()> {
    let mut burst = vec![0x5a; payload_bytes * BURST as usize];
    let pause = Duration::from_secs_f64(burst.len() as f64 * 8.0 / bits_per_second);
    let mut due = Instant::now();
    let mut numbers = 0_u64..;
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now < due {
            thread::sleep(due - now);
            continue;
        }
        // If the machine was busy for longer than 5 ms, do not catch up.
        due = due.max(now.checked_sub(Duration::from_millis(5)).unwrap_or(now)) + pause;
        // Each datagram is different, since tunnels drop duplicates.
        for (datagram, number) in burst.chunks_exact_mut(payload_bytes).zip(&mut numbers) {
            datagram[..8].copy_from_slice(&number.to_be_bytes());
        }
        batches
            .send(socket, to, &burst, payload_bytes)
            .context("send datagrams")?;
        sent.fetch_add(burst.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn collect(
    socket: &UdpSocket,
    batches: &Batches,
    received: &AtomicU64,
    done: &AtomicBool,
) -> Result<()> {
    use std::os::fd::AsFd as _;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    let mut arrivals = Arrivals::default();
    while !done.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::from(20_u8)).context("wait for datagrams")?;
        match batches.receive(socket, &mut arrivals) {
            Ok(true) => {
                let bytes: usize = arrivals.iter().map(|(_, datagram)| datagram.len()).sum();
                received.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Ok(false) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context("receive datagrams"),
        }
    }
    Ok(())
}
