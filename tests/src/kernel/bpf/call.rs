//! Owns the system call bpf(2).

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use nix::libc;

/// From the kernel's `enum bpf_cmd`.
#[derive(Clone, Copy)]
#[repr(i64)]
pub(super) enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgramLoad = 5,
    Pin = 6,
    GetPinned = 7,
    ProgramTestRun = 10,
    ProgramByNumber = 13,
    Information = 15,
    ProgramQuery = 16,
    LinkCreate = 28,
    LinkByNumber = 30,
    LinkDetach = 34,
}

/// # Safety
///
/// `attributes` begins like `union bpf_attr` for the command, and its pointers are valid.
pub(super) unsafe fn call<T>(command: Command, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: as the caller promises; the length is the size of `attributes`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            &raw mut *attributes,
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// # Safety
///
/// As for [`call`], and the command returns a new descriptor.
pub(super) unsafe fn descriptor<T>(command: Command, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises.
    let made = unsafe { call(command, attributes) }?;
    // SAFETY: the kernel just made this descriptor, and no other code owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}
