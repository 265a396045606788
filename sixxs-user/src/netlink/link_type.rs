//! The link-layer type of an interface, for types that rtnetlink's parser does not know and drops.

use std::os::fd::AsRawFd as _;

use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

nix::ioctl_read_bad!(
    /// `SIOCGIFHWADDR`: type and address of an interface's link layer.
    link_layer,
    libc::SIOCGIFHWADDR,
    libc::ifreq
);

/// The `ARPHRD_` number of an interface; `None` if it is gone.
pub(super) fn of(name: &str) -> Option<u16> {
    let (family, kind) = (AddressFamily::Unix, SockType::Datagram);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).ok()?;
    // SAFETY: ifreq is plain data, and all zeroes are a valid value for it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let (_end, room) = request.ifr_name.split_last_mut()?;
    for (to, from) in room.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the descriptor is open, the name ends with a zero, and the request outlives the call.
    unsafe { link_layer(socket.as_raw_fd(), &raw mut request) }.ok()?;
    // SAFETY: the call has filled in the hardware address; its `sa_family` contains the type.
    Some(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}
