//! Changes offloads of an interface.

use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::libc;

use crate::lab::netns::Namespace;

nix::ioctl_readwrite_bad!(
    /// `SIOCETHTOOL` (linux/sockios.h).
    ethtool,
    0x8946,
    libc::ifreq
);

/// `ETHTOOL_STXCSUM` and `ETHTOOL_SGRO` (linux/ethtool.h).
const SET_TX_CHECKSUM: u32 = 0x17;
const SET_GRO: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Makes an interface compute checksums before it sends. A veth never computes them, so a raw socket would
/// receive encapsulated packets without checksums.
pub fn sum_before_sending(namespace: &Namespace, interface: &str) -> Result<()> {
    set(namespace, interface, SET_TX_CHECKSUM, 0)
}

/// Makes one end of a veth merge packets that arrive (GRO). Only so, or with an XDP program, it receives frames of XDP
/// programs at the other end.
pub fn merge(namespace: &Namespace, interface: &str) -> Result<()> {
    set(namespace, interface, SET_GRO, 1)
}

fn set(namespace: &Namespace, interface: &str, command: u32, data: u32) -> Result<()> {
    ensure!(interface.len() < libc::IFNAMSIZ, "{interface} is too long");
    namespace.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
        let mut value = EthtoolValue { cmd: command, data };
        // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the descriptor is open; the request and the value that it points to outlive the call, and
        // the value has the type that this command requires.
        unsafe { ethtool(socket.as_raw_fd(), &raw mut request) }
            .with_context(|| format!("change an offload of {interface}"))?;
        Ok(())
    })
}
