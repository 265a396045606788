//! The address of a broker, and the source address that packets to it get.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use sixxs_core::config::Remote;
use tokio::{net::lookup_host, time::timeout};

/// Limit for a name server to answer.
const LOOKUP: Duration = Duration::from_secs(10);

/// Why a broker's name has no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unresolved {
    /// The name exists, without an address.
    #[error("{0} has no address")]
    NoAddress(String),
    /// The lookup failed.
    #[error("look up {name}: {error}")]
    Failed {
        /// The name.
        name: String,
        /// The resolver's error.
        error: io::Error,
    },
    /// No name server answered in time.
    #[error("look up {0}: no answer for {limit} s", limit = LOOKUP.as_secs())]
    TimedOut(String),
}

/// Resolves the broker's address.
pub(super) async fn resolve(remote: &Remote) -> Result<IpAddr, Unresolved> {
    match remote {
        Remote::Address(address) => Ok(*address),
        Remote::Name(name) => {
            let addresses = resolve_name(name).await?;
            let first = addresses.first().copied();
            first.ok_or_else(|| Unresolved::NoAddress(name.clone()))
        }
    }
}

/// The addresses of a name, in the resolver's order of preference; at least one.
pub(super) async fn resolve_name(name: &str) -> Result<Vec<IpAddr>, Unresolved> {
    let found = timeout(LOOKUP, lookup_host((name, 0))).await;
    let name = name.to_owned();
    match found {
        Ok(Ok(addresses)) => {
            let addresses: Vec<_> = addresses.map(|address| address.ip()).collect();
            match addresses.is_empty() {
                false => Ok(addresses),
                true => Err(Unresolved::NoAddress(name)),
            }
        }
        Ok(Err(error)) => Err(Unresolved::Failed { name, error }),
        Err(_) => Err(Unresolved::TimedOut(name)),
    }
}

/// The source address that the kernel chooses for packets to `remote` now. A connected socket shows it
/// without sending anything.
pub(super) fn source_for(remote: IpAddr, local4: Option<Ipv4Addr>) -> io::Result<IpAddr> {
    let any = match (remote, local4) {
        (IpAddr::V4(_), Some(local4)) => IpAddr::V4(local4),
        (IpAddr::V4(_), None) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (IpAddr::V6(_), _) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    // Any port but 0 will do.
    socket.connect(SocketAddr::new(remote, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// Whether an error is about the socket itself: a new socket does not have it. All others are about packets in
/// transit. A removed source address (EINVAL) does not count as a socket error: the netlink event comes before
/// another try would.
pub(super) fn is_socket_error(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADF | libc::ENOTCONN | libc::ENOTSOCK)
    )
}
