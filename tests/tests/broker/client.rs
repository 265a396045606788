//! A minimal client: a TUN device, a socket, a thread, and no protection against attacks.
//!
//! Tasks: one thread per [`Client`], which ends when it is dropped.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::ayiya::{self, Key};
use sixxs_tests::broker::clock::Clock;
use sixxs_tests::broker::{Kind, heartbeat, protocol41};
use sixxs_tests::lab::native::TUNNEL_PASSWORDS;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::{OUTSIDE, TunnelPlan};
use sixxs_tests::lab::tun;
use sixxs_tests::lab::{Lab, Tunnel};
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// One end of a tunnel, on the host.
pub(crate) struct Client {
    pub(crate) plan: &'static TunnelPlan,
    password: &'static str,
    host: Namespace,
    udp: UdpSocket,
    /// Number of all received datagrams.
    received: Arc<AtomicU64>,
    /// Number of valid received datagrams.
    pub(crate) right: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Makes the interface and routes of this tunnel, and carries packets. Sends no heartbeat.
    pub(crate) fn start(lab: &Lab, tunnel: &Tunnel, kind: Kind) -> Result<Self> {
        let plan = tunnel.plan;
        let [first, second] = TUNNEL_PASSWORDS;
        let (password, table) = if plan.interface == "sixxs0" {
            (first, 200)
        } else {
            (second, 201)
        };
        let device = tun::create(lab.host(), plan.interface)?;
        lab.host().ip(&plan.host_end(1280))?;
        lab.host().sh(&format!(
            "ip -6 route add default dev {} table {table}",
            plan.interface
        ))?;
        lab.host().sh(&format!(
            "ip -6 rule add from {} lookup {table}",
            plan.address
        ))?;
        let port = match kind {
            Kind::Ayiya => ayiya::PORT,
            Kind::SixInFour | Kind::Heartbeat => heartbeat::PORT,
        };
        let (udp, outer) = lab.host().run(|| {
            let udp = UdpSocket::bind("0.0.0.0:0").context("open a UDP socket")?;
            let protocol = Protocol::from(nix::libc::IPPROTO_IPV6);
            let outer = Socket::new(Domain::IPV4, Type::RAW, Some(protocol));
            Ok((udp, outer.context("open a raw socket")?))
        })?;
        let remote = SocketAddrV4::new(plan.remote4, port);
        udp.connect(remote).context("connect")?;
        outer.set_nonblocking(true).context("never wait")?;
        udp.set_nonblocking(true).context("never wait")?;
        let (received, right) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let carrier = Carrier {
            plan,
            key: Key::of(password),
            device,
            udp: udp.try_clone().context("share the socket")?,
            outer,
            received: Arc::clone(&received),
            right: Arc::clone(&right),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::spawn(move || match kind {
            Kind::Ayiya => carrier.ayiya(),
            Kind::SixInFour | Kind::Heartbeat => carrier.protocol41(),
        });
        Ok(Self {
            plan,
            password,
            host: lab.host().clone(),
            udp,
            received,
            right,
            stop,
            thread: Some(thread),
        })
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Sends a heartbeat of AYIYA.
    pub(crate) fn keepalive(&self) -> Result<()> {
        let (key, now) = (Key::of(self.password), Clock::new().seconds());
        let operation = (ayiya::NOOP, ayiya::NONE);
        let keepalive = ayiya::seal(&key, self.plan.address, now, operation, &[]);
        self.send(&keepalive)
    }

    /// Sends a heartbeat of the heartbeat protocol, with the placeholder `sender` or a literal address.
    pub(crate) fn heartbeat(&self, sender: Option<Ipv4Addr>) -> Result<()> {
        let sender = sender.map_or("sender".to_owned(), |address| address.to_string());
        let now = Clock::new().seconds();
        let datagram = heartbeat::write(self.plan.address, &sender, now, self.password);
        // Not through the connected socket, which keeps the first address of the host.
        let to = SocketAddrV4::new(self.plan.remote4, heartbeat::PORT);
        let socket = self
            .host
            .run(|| UdpSocket::bind("0.0.0.0:0").context("open a UDP socket"))?;
        socket
            .send_to(datagram.as_bytes(), to)
            .context("send a heartbeat")?;
        Ok(())
    }

    pub(crate) fn send(&self, datagram: &[u8]) -> Result<()> {
        let sent = self.udp.send(datagram);
        // The first error may be an ICMP error of an earlier datagram, from a time when the broker was down.
        let sent = sent.or_else(|_| self.udp.send(datagram));
        ensure!(sent.context("send")? == datagram.len());
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a client panicked");
        }
    }
}

struct Carrier {
    plan: &'static TunnelPlan,
    key: Key,
    device: File,
    udp: UdpSocket,
    outer: Socket,
    received: Arc<AtomicU64>,
    right: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Carrier {
    fn ayiya(&self) {
        let forward = (ayiya::FORWARD, ayiya::IPV6);
        self.carry(
            |buffer| self.udp.recv(buffer),
            |datagram| {
                let header = ayiya::header(datagram)?;
                let right = header.identity == self.plan.peer
                    && header.is_recent(Clock::new().seconds())
                    && self.key.signed(datagram);
                let payload = &datagram[ayiya::HEADER_BYTES..];
                protocol41::addresses(payload).filter(|_| right)?;
                Some(payload)
            },
            |packet| {
                let (now, from) = (Clock::new().seconds(), self.plan.address);
                let datagram = ayiya::seal(&self.key, from, now, forward, packet);
                self.udp.send(&datagram)
            },
        );
    }

    fn protocol41(&self) {
        let to = SocketAddrV4::new(self.plan.remote4, 0).into();
        self.carry(
            |buffer| (&mut &self.outer).read(buffer),
            |packet| {
                let (from, inner) = protocol41::unwrap(packet)?;
                protocol41::addresses(inner).filter(|_| from == self.plan.remote4)?;
                Some(inner)
            },
            |packet| self.outer.send_to(packet, &to),
        );
    }

    fn carry(
        &self,
        receive: impl Fn(&mut [u8]) -> std::io::Result<usize>,
        open: impl Fn(&[u8]) -> Option<&[u8]>,
        send: impl Fn(&[u8]) -> std::io::Result<usize>,
    ) {
        let mut buffer = vec![0; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let mut idle = true;
            if let Ok(length) = receive(&mut buffer) {
                idle = false;
                self.received.fetch_add(1, Ordering::Relaxed);
                if let Some(packet) = open(&buffer[..length]) {
                    self.right.fetch_add(1, Ordering::Relaxed);
                    (&self.device).write_all(packet).expect("write to the TUN");
                }
            }
            if let Ok(length) = (&self.device).read(&mut buffer) {
                idle = false;
                // Packets of the kernel to its neighbours are not carried.
                if let Some((from, _)) = protocol41::addresses(&buffer[..length])
                    && from == self.plan.address
                    && let Err(e) = send(&buffer[..length])
                {
                    eprintln!("client: {e}");
                }
            }
            if idle {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }
}

/// Expects that pings and TCP from outside are answered.
pub(crate) fn carries(lab: &Lab, client: &Client) -> Result<()> {
    let address = client.plan.address;
    let pings = sixxs_tests::probe::ping(lab.outside(), address, 10)?;
    ensure!(pings.all_answered(), "{pings:?}");
    sixxs_tests::probe::tcp_transfer(lab.outside(), address, 300_000, 300_000, LIMIT)?;
    let pings = sixxs_tests::probe::Ping::new(OUTSIDE, 5)
        .source(address)
        .run(lab.host())?;
    ensure!(pings.all_answered(), "{pings:?}");
    Ok(())
}
