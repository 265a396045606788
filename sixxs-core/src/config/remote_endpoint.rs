//! The far end of a tunnel that other software makes.

use std::net::IpAddr;

use sixxs_common::packet::{TCP, UDP};

use crate::endpoint::Endpoint;

/// The far end of a foreign tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port; `None`: all packets between both hosts belong to the tunnel.
    pub port: Option<u16>,
}

impl RemoteEndpoint {
    /// The endpoints of outer packets: with a port, those of UDP and TCP.
    #[must_use]
    pub fn endpoints(self) -> Vec<Endpoint> {
        let protocols: &[_] = match self.port {
            Some(_) => &[Some(UDP), Some(TCP)],
            None => &[None],
        };
        let endpoint = |protocol: &Option<u8>| Endpoint {
            remote: self.address,
            protocol: *protocol,
            remote_port: self.port,
            local_port: None,
        };
        protocols.iter().map(endpoint).collect()
    }
}
