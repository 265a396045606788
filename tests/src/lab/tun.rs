//! TUN devices, and a wire between two of them: packets from one are written to the other unchanged.
//!
//! Tasks: one thread per [`Wire`], which ends when the wire is dropped (an event descriptor wakes it) or when
//! either device is deleted. The devices have no offloads, so the kernel segments every packet and computes
//! its checksums before it arrives here.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use sixxs_user::wire;

use crate::lab::netns::Namespace;

/// Larger than any packet of a device with an MTU of at most 64 KiB.
const PACKET_BYTES: usize = 65_536;
/// Packets from one device before the other one gets its turn.
const BURST: usize = 64;

nix::ioctl_write_ptr_bad!(
    /// `TUNSETIFF`: names the device of an open /dev/net/tun.
    tun_set_iff,
    0x4004_54ca,
    libc::ifreq
);

nix::ioctl_write_int_bad!(
    /// `TUNSETOFFLOAD`: work that the kernel may leave to the reader of a packet.
    tun_set_offload,
    0x4004_54d0
);

nix::ioctl_write_int_bad!(
    /// `TUNSETLINK`: the type of the link layer.
    tun_set_link,
    0x4004_54cd
);

/// From linux/if_tun.h: checksums, and TCP segmentation over IPv4 and IPv6.
const TCP_OFFLOADS: libc::c_int = 0x01 | 0x02 | 0x04;
/// UDP segmentation, since Linux 6.2.
const UDP_OFFLOADS: libc::c_int = 0x20 | 0x40;

/// A TUN device with segmentation offloads, which passes flows in large packets.
#[derive(Debug)]
pub struct Offloading {
    file: File,
    has_uso: bool,
}

impl Offloading {
    /// Makes one, like [`create`].
    pub fn create(namespace: &Namespace, name: &str) -> Result<Self> {
        let file = create_with(namespace, name, libc::IFF_VNET_HDR)?;
        let set = |offloads| {
            // SAFETY: the descriptor is open, and the argument is a number.
            unsafe { tun_set_offload(file.as_raw_fd(), offloads) }
        };
        set(TCP_OFFLOADS).context("TUNSETOFFLOAD")?;
        let has_uso = set(TCP_OFFLOADS | UDP_OFFLOADS).is_ok();
        Ok(Self { file, has_uso })
    }
}

impl AsFd for Offloading {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl wire::Tun for Offloading {
    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.file).read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn write(&self, packet: &[u8]) -> io::Result<usize> {
        (&self.file).write(packet)
    }

    fn has_uso(&self) -> bool {
        self.has_uso
    }
}

/// Sets the link-layer type (`ARPHRD_…`, or an undefined number) of a device that is down.
pub fn set_link_type(device: &File, number: libc::c_int) -> Result<()> {
    // SAFETY: the descriptor is open, and the argument is a number.
    unsafe { tun_set_link(device.as_raw_fd(), number) }.context("TUNSETLINK")?;
    Ok(())
}

/// Makes a TUN device with this name inside `namespace`. It exists until the file is closed.
pub fn create(namespace: &Namespace, name: &str) -> Result<File> {
    create_with(namespace, name, 0)
}

fn create_with(namespace: &Namespace, name: &str, flags: libc::c_int) -> Result<File> {
    ensure!(
        name.len() < libc::IFNAMSIZ,
        "interface name {name} is too long"
    );
    namespace
        .run(|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")
                .context("open /dev/net/tun")?;
            // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = libc::c_char::from_ne_bytes([from]);
            }
            // The flags fit: the structure defines them with 16 bits.
            request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI | flags)?;
            // SAFETY: the descriptor is open, and the request outlives the call.
            unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) }.context("TUNSETIFF")?;
            Ok(file)
        })
        .with_context(|| format!("make TUN {name} in {}", namespace.name()))
}

/// Carries packets between two TUN devices, until dropped.
#[derive(Debug)]
pub struct Wire {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Takes ownership of the near end, so that device is deleted with the wire; the far end stays.
    pub fn new(near: File, far: Arc<File>) -> Result<Self> {
        let stop =
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("make an event descriptor")?;
        let stop = Arc::new(stop);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("tun-wire".to_owned())
            .spawn(move || carry(&near, &far, &stopped))
            .context("start a wire")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let woken = self.stop.write(1);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take())
            && thread.join().is_err()
        {
            eprintln!("a TUN wire panicked");
        }
    }
}

fn carry(near: &File, far: &File, stop: &EventFd) {
    let mut buffer = vec![0; PACKET_BYTES];
    loop {
        let mut ready = [
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(near.as_fd(), PollFlags::POLLIN),
            PollFd::new(far.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
        if ready[0].any() == Some(true) {
            return;
        }
        // A read or write on a deleted device fails: then end the wire.
        if !drain(near, far, &mut buffer) || !drain(far, near, &mut buffer) {
            return;
        }
    }
}

/// Moves packets in one direction; false if one of the devices was deleted.
fn drain(mut from: &File, mut to: &File, buffer: &mut [u8]) -> bool {
    for _ in 0..BURST {
        let length = match from.read(buffer) {
            Ok(length) => length,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
            Err(e) => return !gone(&e),
        };
        // A device that is down (EIO) or full loses the packet, like any wire.
        if let Err(e) = to.write(&buffer[..length])
            && gone(&e)
        {
            return false;
        }
    }
    true
}

fn gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADFD)
}
