//! A minimal foreign tunnel program: sends packets from its TUN device to an endpoint, by UDP over IPv6, from
//! a source address that the kernel selects.
//!
//! Tasks: one thread per [`Carrier`], which ends when the carrier is dropped or the device is deleted.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddrV6, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::lab::netns::Namespace;
use crate::lab::topology::{TUNNEL_MTU, TunnelPlan};
use crate::lab::tun;

/// UDP port of its endpoint.
pub const PORT: u16 = 5072;

/// Format of its outer packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// The inner packet, unchanged.
    Plain,
    /// The inner packet in unreadable form, as after encryption, and 16 bytes before it.
    Scrambled,
}

/// A running tunnel program.
#[derive(Debug)]
pub struct Carrier {
    carried: Arc<AtomicU64>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Carrier {
    /// Makes the tunnel's interface on the host and carries its egress packets to the broker's address. The
    /// broker need not listen. `connects`: use a connected socket.
    pub fn start(
        host: &Namespace,
        plan: &TunnelPlan,
        style: Style,
        connects: bool,
    ) -> Result<Self> {
        let device = tun::create(host, plan.interface)?;
        host.ip(&plan.host_end(TUNNEL_MTU))?;
        let to = SocketAddrV6::new(plan.remote6, PORT, 0, 0);
        let socket = host.run(|| {
            let socket = UdpSocket::bind("[::]:0").context("open a socket")?;
            if connects {
                socket.connect(to).context("connect to the endpoint")?;
            }
            Ok(socket)
        })?;
        let stop =
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("make an event descriptor")?;
        let (stop, carried) = (Arc::new(stop), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&carried));
        let endpoint = (!connects).then_some(to);
        let thread = std::thread::Builder::new()
            .name("carrier".to_owned())
            .spawn(move || carry(&device, &socket, endpoint, style, &counted, &stopped))
            .context("start a carrier")?;
        Ok(Self {
            carried,
            stop,
            thread: Some(thread),
        })
    }

    /// Number of packets that left by the tunnel.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        let woken = self.stop.write(1);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take())
            && thread.join().is_err()
        {
            eprintln!("a carrier panicked");
        }
    }
}

fn carry(
    mut device: &File,
    socket: &UdpSocket,
    endpoint: Option<SocketAddrV6>,
    style: Style,
    carried: &AtomicU64,
    stop: &EventFd,
) {
    let mut buffer = [0; 2048];
    loop {
        let mut ready = [
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(device.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
        if ready[0].any() == Some(true) || ready[1].revents().is_some_and(is_gone) {
            return;
        }
        while let Ok(length) = device.read(&mut buffer) {
            carried.fetch_add(1, Ordering::Relaxed);
            let packet = &buffer[..length];
            let datagram = match style {
                Style::Plain => packet.to_vec(),
                Style::Scrambled => [0x5a; 16]
                    .into_iter()
                    .chain(packet.iter().map(|byte| byte ^ 0x5a))
                    .collect(),
            };
            let send = || match endpoint {
                Some(to) => socket.send_to(&datagram, to),
                None => socket.send(&datagram),
            };
            // A send may report the port unreachable error of an earlier packet instead of sending; then
            // repeat it. A packet that is too large or has no route is lost, as in any tunnel.
            if send().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
                let _lost = send();
            }
        }
    }
}

fn is_gone(found: PollFlags) -> bool {
    found.contains(PollFlags::POLLERR)
}
