//! The path to a broker: its address and this host's.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use serde::{Deserialize, Serialize};
use sixxs_core::config::Remote;

use super::resolve::{Unresolved, resolve};
use crate::host::source_address::source_for;

/// A path to a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BrokerPath {
    /// The broker's address.
    pub(super) remote: IpAddr,
    /// This host's source address.
    pub(super) source: IpAddr,
}

impl BrokerPath {
    /// Finds the path to a broker. A broker whose name cannot be resolved is taken to be where it was
    /// `last`.
    pub(super) async fn find(
        remote: &Remote,
        local4: Option<Ipv4Addr>,
        last: Option<Self>,
    ) -> Result<Self, NoPath> {
        let address = match (resolve(remote).await, last) {
            (Ok(address), _) => address,
            (Err(_), Some(last)) => last.remote,
            (Err(reason), None) => return Err(reason.into()),
        };
        let source =
            source_for(address, local4).map_err(|error| NoPath::of(error, address, local4))?;
        Ok(Self {
            remote: address,
            source,
        })
    }

    /// Whether packets to the broker still get this source address.
    pub(super) fn is_valid(&self, local4: Option<Ipv4Addr>) -> bool {
        source_for(self.remote, local4).is_ok_and(|source| source == self.source)
    }
}

/// Why there is no path to a broker.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoPath {
    /// Its name has no address.
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    /// The configured outer address is not on this host.
    #[error("this host does not have the address {0}")]
    NotOurAddress(Ipv4Addr),
    /// No route leads there.
    #[error("there is no route to the broker, {0}")]
    NoRoute(IpAddr),
    /// Any other error.
    #[error("reach the broker, {remote}: {error}")]
    Other {
        /// The broker.
        remote: IpAddr,
        /// The kernel's error.
        error: io::Error,
    },
}

impl NoPath {
    fn of(error: io::Error, remote: IpAddr, local4: Option<Ipv4Addr>) -> Self {
        match (error.kind(), local4) {
            (io::ErrorKind::AddrNotAvailable, Some(local4)) => Self::NotOurAddress(local4),
            (io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable, _) => {
                Self::NoRoute(remote)
            }
            _ => Self::Other { remote, error },
        }
    }
}
