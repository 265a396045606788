//! Services in the lab: a UDP echo and a TCP service that receives and sends a known pattern of bytes, for
//! [`crate::probe`]; and a UDP port that counts and discards datagrams, for [`crate::probe::leak`].
//!
//! Tasks: one thread per UDP address, one that discards, one that accepts TCP connections and one per
//! connection. They end when the [`Services`] are dropped; a connection's thread ends with its connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{Shutdown, shutdown};
use socket2::{Domain, Socket, Type};
use std::os::fd::AsRawFd as _;

use crate::lab::netns::Namespace;

/// The echo port.
pub const UDP_PORT: u16 = 7;
/// The discard port.
pub const DISCARD_PORT: u16 = 9;
/// The port of the TCP service.
pub const TCP_PORT: u16 = 7007;
/// Limit for a connection without progress.
const STALLED: Duration = Duration::from_secs(60);
/// Interval at which a UDP thread checks whether to end.
const LOOK: Duration = Duration::from_millis(100);

/// The services of one host.
#[derive(Debug)]
pub struct Services {
    stop: Arc<AtomicBool>,
    discarded: Arc<AtomicU64>,
    listener: Arc<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

impl Services {
    /// Serves TCP on every address and UDP on `addresses`: a UDP reply has the source of its socket, so each
    /// address needs a socket.
    pub fn start(at: &Namespace, addresses: &[Ipv6Addr]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let listener = at.run(|| {
            TcpListener::bind(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, TCP_PORT, 0, 0))
                .context("listen for TCP")
        })?;
        let listener = Arc::new(listener);
        let mut services = Self {
            stop: Arc::clone(&stop),
            discarded: Arc::new(AtomicU64::new(0)),
            listener: Arc::clone(&listener),
            threads: Vec::new(),
        };
        let (socket, discarded) = (
            udp(at, Ipv6Addr::UNSPECIFIED, DISCARD_PORT)?,
            Arc::clone(&services.discarded),
        );
        let stopped = Arc::clone(&stop);
        services.thread("udp-discard", move || {
            discard(&socket, &discarded, &stopped)
        })?;
        for address in addresses {
            let socket = udp(at, *address, UDP_PORT)?;
            let stop = Arc::clone(&stop);
            services.thread("udp-echo", move || echo(&socket, &stop))?;
        }
        services.thread("tcp-accept", move || accept(&listener, &stop))?;
        Ok(services)
    }

    /// Number of datagrams at the discard port.
    pub fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::Relaxed)
    }

    fn thread(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work);
        self.threads.push(thread.context("start a service")?);
        Ok(())
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts connections.
        if let Err(e) = shutdown(self.listener.as_raw_fd(), Shutdown::Both) {
            eprintln!("stop the TCP service: {e}");
            return;
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a service panicked");
            }
        }
    }
}

fn udp(at: &Namespace, address: Ipv6Addr, port: u16) -> Result<UdpSocket> {
    let socket = at
        .run(|| {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), None)?;
            // The host may not have this address yet: the program under test adds it.
            socket.set_freebind_v6(true)?;
            socket.bind(&SocketAddrV6::new(address, port, 0, 0).into())?;
            Ok(socket)
        })
        .with_context(|| format!("serve UDP on {address} port {port}"))?;
    let socket = UdpSocket::from(socket);
    let limited = socket.set_read_timeout(Some(LOOK));
    limited.context("set a time limit")?;
    Ok(socket)
}

fn discard(socket: &UdpSocket, discarded: &AtomicU64, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if socket.recv(&mut buffer).is_ok() {
            discarded.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn echo(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        // Errors are timeouts and ICMPv6 errors for earlier replies; the client detects a missing reply.
        if let Ok((length, from)) = socket.recv_from(&mut buffer)
            && let Err(e) = socket.send_to(&buffer[..length], from)
            && !is_unreachable(&e)
        {
            eprintln!("udp echo to {from}: {e}");
        }
    }
}

/// Whether the host has no route for the reply at present, which some tests cause.
fn is_unreachable(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(
        kind,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
    )
}

fn accept(listener: &TcpListener, stop: &AtomicBool) {
    for stream in listener.incoming() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let serving = std::thread::Builder::new()
            .name("tcp-serve".to_owned())
            .spawn(move || {
                // The client detects and reports the early end of the connection.
                if let Err(e) = serve(stream) {
                    eprintln!("tcp service: {e:#}");
                }
            });
        if let Err(e) = serving {
            eprintln!("tcp service: {e}");
        }
    }
}

fn serve(mut stream: TcpStream) -> Result<()> {
    stream
        .set_read_timeout(Some(STALLED))
        .context("set a time limit")?;
    stream
        .set_write_timeout(Some(STALLED))
        .context("set a time limit")?;
    let mut sizes = [[0; 8]; 2];
    // A client that only tests the connection closes it without a request.
    if stream.read_exact(&mut sizes[0]).is_err() {
        return Ok(());
    }
    stream
        .read_exact(&mut sizes[1])
        .context("read the request")?;
    let [up_bytes, down_bytes] = sizes.map(u64::from_be_bytes);
    read_pattern(&mut stream, up_bytes).context("take")?;
    write_pattern(&mut stream, down_bytes).context("give")
}

/// The pattern repeats after a prime number of bytes, so that a lost or repeated packet is detected.
const PATTERN: [u8; 251] = {
    let mut pattern = [0; 251];
    let mut i = 0;
    while i < pattern.len() {
        #[expect(clippy::cast_possible_truncation, reason = "i < 251")]
        {
            pattern[i] = i as u8;
        }
        i += 1;
    }
    pattern
};
/// Bytes per read or write; a multiple of the pattern's length.
const CHUNK_BYTES: usize = PATTERN.len() * 261;

/// Writes this many bytes of the pattern.
pub fn write_pattern(to: &mut impl Write, bytes: u64) -> Result<()> {
    let chunk = PATTERN.repeat(CHUNK_BYTES / PATTERN.len());
    let mut left = bytes;
    while left > 0 {
        let length = CHUNK_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX));
        let written = to.write_all(&chunk[..length]);
        written.with_context(|| format!("write, {left} of {bytes} bytes left"))?;
        left -= length as u64;
    }
    Ok(())
}

/// Reads this many bytes and compares them with the pattern.
pub fn read_pattern(from: &mut impl Read, bytes: u64) -> Result<()> {
    let chunk = PATTERN.repeat(CHUNK_BYTES / PATTERN.len());
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = CHUNK_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = from.read_exact(&mut buffer[..length]);
        read.with_context(|| format!("read, about {left} of {bytes} bytes left"))?;
        ensure!(
            buffer[..length] == chunk[..length],
            "the bytes differ from those sent"
        );
        left -= length as u64;
    }
    Ok(())
}
