//! Network namespaces: which one this is.

use std::{io, os::fd::AsRawFd as _};

use anyhow::Context as _;
use socket2::{Domain, Socket, Type};

/// The kernel's number of the network namespace of this process. No other namespace gets it until the
/// next boot.
pub(crate) fn cookie() -> anyhow::Result<u64> {
    let socket =
        Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None).context("open a socket")?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>())?;
    // SAFETY: the kernel (5.14 and newer) writes at most `length` bytes to `cookie`, which has as many;
    // both outlive the call.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if asked < 0 {
        return Err(io::Error::last_os_error()).context("ask for the network namespace's number");
    }
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_number() {
        let own = cookie().unwrap();
        assert!(own > 0);
        assert_eq!(cookie().unwrap(), own);
    }
}
