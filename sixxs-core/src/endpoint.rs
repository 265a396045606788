//! The far ends of tunnels.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use sixxs_common::{address::Address, endpoint, six_in_four::PROTOCOL};

/// The far end of a tunnel's outer packets. `Display` gives its address, and its port if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address of the other host.
    pub remote: IpAddr,
    /// The IP protocol; `None`: every protocol.
    pub protocol: Option<u8>,
    /// The other host's port, if the protocol has ports.
    pub remote_port: Option<u16>,
    /// This host's port, if it is known.
    pub local_port: Option<u16>,
}

impl Endpoint {
    /// The broker of a 6in4 tunnel.
    #[must_use]
    pub const fn six_in_four(remote: IpAddr) -> Self {
        Self {
            remote,
            protocol: Some(PROTOCOL),
            remote_port: None,
            local_port: None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remote_port {
            Some(port) => SocketAddr::new(self.remote, port).fmt(f),
            None => self.remote.fmt(f),
        }
    }
}

/// The key in the programs' map.
impl From<Endpoint> for endpoint::Endpoint {
    fn from(endpoint: Endpoint) -> Self {
        let port = |port: Option<u16>| port.unwrap_or(0).to_be_bytes();
        Self {
            remote: match endpoint.remote {
                IpAddr::V4(address) => Address::from_ipv4(address.octets()),
                IpAddr::V6(address) => Address::from_octets(address.octets()),
            },
            remote_port: port(endpoint.remote_port),
            local_port: port(endpoint.local_port),
            protocol: endpoint.protocol.unwrap_or(0).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_shown_with_its_port_and_becomes_a_key() {
        let endpoint = Endpoint {
            remote: "198.51.100.1".parse().unwrap(),
            protocol: Some(17),
            remote_port: Some(5072),
            local_port: None,
        };
        assert_eq!(endpoint.to_string(), "198.51.100.1:5072");
        let key = endpoint::Endpoint::from(endpoint);
        assert_eq!(key.remote, Address::from_ipv4([198, 51, 100, 1]));
        assert_eq!((key.remote_port, key.local_port), ([0x13, 0xd0], [0; 2]));
        assert_eq!(key.protocol, 17);
        let any = Endpoint {
            remote: "2001:db8::1".parse().unwrap(),
            protocol: None,
            remote_port: None,
            ..endpoint
        };
        assert_eq!(any.to_string(), "2001:db8::1");
        assert_eq!(endpoint::Endpoint::from(any).protocol, 0);
    }
}
