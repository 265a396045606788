//! Sets socket options that no library has a function for.

use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context as _, Result, ensure};
use nix::libc;

/// Sets an option of a socket. `T` is plain data in the option's format.
pub fn set<T: Copy>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: T,
) -> Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).context("a length fits")?;
    // SAFETY: the descriptor is open, and the pointer and length describe `value`.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    ensure!(
        status == 0,
        "set socket option {level}/{name}: {}",
        io::Error::last_os_error()
    );
    Ok(())
}
