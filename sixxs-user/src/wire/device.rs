//! TUN devices.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use anyhow::Context as _;
use sixxs_core::types::{IfIndex, IfName};
use tokio::io::{Interest, unix::AsyncFd};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::Tun;

/// Packets that may wait in the device until we read them. A burst of a fast sender is more than
/// the kernel's 500.
const QUEUE: u32 = 1000;

/// A TUN device of our own making. It goes when this is dropped, unless it was told to stay.
pub struct Device {
    tun: AsyncFd<Raw>,
    index: IfIndex,
}

struct Raw(SyncDevice);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Device {
    /// Makes the device, down and without addresses, in the network namespace of this thread; or
    /// takes over, as it is, one of this name that nobody holds.
    pub fn create(name: &IfName) -> anyhow::Result<Self> {
        let create = || -> io::Result<(SyncDevice, u32)> {
            let device = DeviceBuilder::new()
                .name(name.as_str())
                .inherit_enable_state()
                .offload(true)
                .build_sync()?;
            device.set_nonblocking(true)?;
            device.set_tx_queue_len(QUEUE)?;
            let index = device.if_index()?;
            Ok((device, index))
        };
        let (tun, index) = create().map_err(|error| explain(&error, name))?;
        // SAFETY: the device owns its descriptor, closes it only when it is dropped, and always names
        // the same one; nothing takes the device out of the `AsyncFd` again.
        let tun = unsafe { AsyncFd::register_with_interest(Raw(tun), Interest::READABLE) };
        let tun = tun
            .map_err(io::Error::from)
            .with_context(|| format!("watch the TUN device {name}"))?;
        Ok(Self {
            tun,
            index: IfIndex(index),
        })
    }

    /// Lets it outlive us: the next one who makes a device of this name gets this one.
    pub fn keep(&self) -> anyhow::Result<()> {
        let kept = self.tun.get_ref().0.persist();
        kept.context("keep the TUN device")
    }

    /// Its index.
    #[must_use]
    pub const fn index(&self) -> IfIndex {
        self.index
    }

    /// Waits until there is something to read.
    pub async fn readable(&self) -> io::Result<()> {
        // What is there is read until there is no more, and that is told by `drained`.
        self.tun
            .readable()
            .await
            .map(|mut guard| guard.retain_ready())
    }
}

impl Tun for Device {
    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let read = self
            .tun
            .try_io(Interest::READABLE, |tun| tun.0.recv(buffer));
        match read {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, packet: &[u8]) -> io::Result<usize> {
        self.tun.get_ref().0.send(packet)
    }

    fn cuts_udp(&self) -> bool {
        self.tun.get_ref().0.udp_gso()
    }
}

/// What is wrong, in the words of somebody who wants a tunnel.
fn explain(error: &io::Error, name: &IfName) -> anyhow::Error {
    let what = format!("make the TUN device {name}");
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            anyhow::anyhow!("{what}: {error}; run as root or grant CAP_NET_ADMIN")
        }
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            anyhow::anyhow!("{what}: {error}; is there a /dev/net/tun, and the module tun?")
        }
        Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) => {
            anyhow::anyhow!("{what}: {error}; somebody else has an interface of that name")
        }
        _ => anyhow::anyhow!("{what}: {error}"),
    }
}
