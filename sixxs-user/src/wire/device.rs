//! TUN devices.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use anyhow::Context as _;
use libc::{TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    net::if_::if_nametoindex,
};
use sixxs_core::types::{IfIndex, IfName};
use tokio::io::{Interest, unix::AsyncFd};
use tun_rs::DeviceBuilder;

use super::Tun;

/// Number of packets that can wait in the device. A burst of a fast sender exceeds the kernel's default of 500.
const QUEUE: u32 = 1000;

/// A TUN device that this program made. Dropping it removes the device, unless `make_persistent` was called.
pub struct Device {
    tun: AsyncFd<File>,
    index: IfIndex,
    has_uso: bool,
}

nix::ioctl_write_int!(
    /// `TUNSETPERSIST` of linux/if_tun.h.
    tun_set_persist,
    b'T',
    203
);
nix::ioctl_write_int!(
    /// `TUNSETOFFLOAD` of linux/if_tun.h.
    tun_set_offload,
    b'T',
    208
);

impl Device {
    /// Makes the device, down and without addresses, in the network namespace of this thread. Or takes over an
    /// existing device of this name, unchanged: one that no process holds, or the one behind `held`.
    pub fn create(name: &IfName, held: Option<OwnedFd>) -> anyhow::Result<Self> {
        let made = match (create(name), held) {
            (Err(error), Some(held)) if is_busy(&error) && is_device(&held, name) => {
                adopt(held, name)
            }
            (made, _) => made,
        };
        let Made {
            file,
            index,
            has_uso,
        } = made.map_err(|error| explain(&error, name))?;
        // SAFETY: the file owns its descriptor, closes it only on drop, and always returns the same one;
        // nothing takes the file out of the `AsyncFd` again.
        let tun = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) };
        let tun = tun
            .map_err(io::Error::from)
            .with_context(|| format!("watch the TUN device {name}"))?;
        Ok(Self {
            tun,
            index,
            has_uso,
        })
    }

    /// Makes the device persistent: the next `create` with this name takes it over.
    pub fn make_persistent(&self) -> anyhow::Result<()> {
        // SAFETY: the descriptor is open; the argument is a number, which the kernel compares with 0.
        let made_persistent = unsafe { tun_set_persist(self.tun.as_raw_fd(), 1) };
        made_persistent
            .map(drop)
            .context("make the TUN device persistent")
    }

    /// Its index.
    #[must_use]
    pub const fn index(&self) -> IfIndex {
        self.index
    }

    /// Waits until the device is readable.
    pub async fn readable(&self) -> io::Result<()> {
        // The caller reads until the device is empty; then `drained` clears the readiness.
        self.tun
            .readable()
            .await
            .map(|mut guard| guard.retain_ready())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tun.get_ref().as_fd()
    }
}

impl Tun for Device {
    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let read = self
            .tun
            .try_io(Interest::READABLE, |mut tun| tun.read(buffer));
        match read {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, packet: &[u8]) -> io::Result<usize> {
        self.tun.get_ref().write(packet)
    }

    fn has_uso(&self) -> bool {
        self.has_uso
    }
}

struct Made {
    file: File,
    index: IfIndex,
    has_uso: bool,
}

fn create(name: &IfName) -> io::Result<Made> {
    let device = DeviceBuilder::new()
        .name(name.as_str())
        .inherit_enable_state()
        .offload(true)
        .build_sync()?;
    device.set_nonblocking(true)?;
    device.set_tx_queue_len(QUEUE)?;
    Ok(Made {
        index: IfIndex(device.if_index()?),
        has_uso: device.udp_gso(),
        file: File::from(device.as_fd().try_clone_to_owned()?),
    })
}

/// Takes over the descriptor of a device that [`create`] made in an earlier run.
fn adopt(held: OwnedFd, name: &IfName) -> io::Result<Made> {
    fcntl(&held, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    let offload = |flags: u32| {
        // SAFETY: the descriptor is open; the argument is a number, and the kernel refuses unknown bits.
        unsafe { tun_set_offload(held.as_raw_fd(), flags.into()) }
    };
    let has_uso = offload(tcp | TUN_F_USO4 | TUN_F_USO6).is_ok();
    if !has_uso {
        offload(tcp)?;
    }
    Ok(Made {
        index: IfIndex(if_nametoindex(name.as_str())?),
        has_uso,
        file: File::from(held),
    })
}

/// Whether a descriptor belongs to a TUN device of this name, by its fdinfo (`tun_chr_show_fdinfo`, Linux
/// 3.19).
fn is_device(descriptor: &OwnedFd, name: &IfName) -> bool {
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
    let Ok(text) = fs::read_to_string(path) else {
        return false;
    };
    let mut lines = text.lines();
    lines.any(|line| line.strip_prefix("iff:\t") == Some(name.as_str()))
}

/// Whether another process holds the device.
fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

/// Adds what to do to an error.
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
            anyhow::anyhow!("{what}: {error}; another interface has that name")
        }
        _ => anyhow::anyhow!("{what}: {error}"),
    }
}
