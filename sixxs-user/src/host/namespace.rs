//! Network namespaces: identify the present one, and find out how to enter another.

use std::{
    fs, io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use socket2::{Domain, Socket, Type};

/// The cookie of this process's network namespace. The kernel does not reuse it until the next boot.
pub fn cookie() -> anyhow::Result<u64> {
    let socket =
        Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None).context("open a socket")?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>())?;
    // SAFETY: the kernel (5.14 and newer) writes at most `length` bytes to `cookie`, which has that size;
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
        return Err(io::Error::last_os_error()).context("query the network namespace's number");
    }
    Ok(cookie)
}

/// The file to enter the network namespace of a process: its named file, if it has one.
pub(crate) fn file_of(process: u32) -> PathBuf {
    /// The directory where `ip netns` puts named namespaces.
    const NAMED: &str = "/run/netns";
    let file = PathBuf::from(format!("/proc/{process}/ns/net"));
    let identity = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    let Some(wanted) = identity(&file) else {
        return file;
    };
    let named = fs::read_dir(NAMED).into_iter().flatten().flatten();
    let mut named = named.map(|entry| entry.path());
    named
        .find(|path| identity(path) == Some(wanted))
        .unwrap_or(file)
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
