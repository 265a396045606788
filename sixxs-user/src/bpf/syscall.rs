//! The system call `bpf(2)`, for commands that aya does not offer.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

/// A value of the kernel's `enum bpf_cmd`. Linux 5.7.
const BPF_LINK_CREATE: libc::c_long = 28;

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

/// Attaches a program by a new link. `target` is an interface's index, or the descriptor of a control group. The program is
/// detached when the last descriptor of the link is closed, unless it is pinned.
pub(super) fn create_link(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut create = Create {
        program: descriptor_number(program)?,
        target,
        attach_type,
        flags,
    };
    // SAFETY: the structure is a prefix of the kernel's union for this command, without pointers.
    let descriptor = unsafe { make(BPF_LINK_CREATE, &mut create) }?;
    // SAFETY: the kernel just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The number of a descriptor, for the kernel's structures.
pub(super) fn descriptor_number(descriptor: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(descriptor.as_raw_fd()).map_err(io::Error::other)
}
