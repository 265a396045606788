//! The system call `bpf(2)`, for commands that aya does not offer.

use std::{io, os::fd::RawFd};

/// # Safety
///
/// `attributes` must have the layout of the kernel's `union bpf_attr` for this command. Everything that it
/// points to must be valid and long enough until the call returns.
pub(super) unsafe fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<()> {
    // SAFETY: as the caller promises.
    unsafe { make(command, attributes) }.map(|_| ())
}

/// Like [`call`], for a command that returns a descriptor.
///
/// # Safety
///
/// As for [`call`].
pub(super) unsafe fn make<T>(command: libc::c_long, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: as the caller promises; the length is the size of `attributes`.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}
