//! The address of a broker.

use std::{io, net::IpAddr, time::Duration};

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

/// Whether an error is about the socket itself: a new socket does not have it. All others are about packets in
/// transit. A removed source address (EINVAL) does not count as a socket error: the netlink event comes before
/// another try would.
pub(super) fn is_socket_error(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADF | libc::ENOTCONN | libc::ENOTSOCK)
    )
}
