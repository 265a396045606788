//! WireGuard, by generic netlink (`uapi/linux/wireguard.h`).
//!
//! Messages contain keys. So they are encoded and decoded here, in memory that is wiped: the types of a general
//! crate would leave copies behind.
//!
//! * [`endpoints`] – reads the endpoints of peers, of any interface
//! * [`device`] – reads and changes the configuration of an interface of sixxs
//! * [`link`] – makes such an interface

pub(crate) mod device;
mod endpoints;
pub(crate) mod link;

pub(super) use endpoints::WireGuard;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `WG_CMD_GET_DEVICE`, and the version of the family.
const GET_DEVICE: [u8; 2] = [0, 1];
/// `WG_CMD_SET_DEVICE`, and the version of the family.
const SET_DEVICE: [u8; 2] = [1, 1];

/// `WGDEVICE_A_…`.
mod interface {
    pub(super) const IFINDEX: u16 = 1;
    pub(super) const PRIVATE_KEY: u16 = 3;
    pub(super) const PUBLIC_KEY: u16 = 4;
    pub(super) const LISTEN_PORT: u16 = 6;
    pub(super) const FWMARK: u16 = 7;
    pub(super) const PEERS: u16 = 8;
}

/// `WGPEER_A_…`, and the bits of `WGPEER_F_…`.
mod peer {
    pub(super) const PUBLIC_KEY: u16 = 1;
    pub(super) const PRESHARED_KEY: u16 = 2;
    pub(super) const FLAGS: u16 = 3;
    /// A `sockaddr_in` or `sockaddr_in6`.
    pub(super) const ENDPOINT: u16 = 4;
    pub(super) const KEEPALIVE: u16 = 5;
    /// A `__kernel_timespec`.
    pub(super) const LAST_HANDSHAKE: u16 = 6;
    pub(super) const ALLOWED_IPS: u16 = 9;

    pub(super) const REMOVE_ME: u32 = 1;
    pub(super) const REPLACE_ALLOWED_IPS: u32 = 2;
    pub(super) const UPDATE_ONLY: u32 = 4;
}

/// `WGALLOWEDIP_A_…`.
mod allowed_ip {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const ADDRESS: u16 = 2;
    pub(super) const BITS: u16 = 3;
}

/// The address and the port in a `sockaddr_in` or `sockaddr_in6`.
fn socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    let address = match family {
        libc::AF_INET => IpAddr::from(Ipv4Addr::from(*bytes.get(4..)?.first_chunk::<4>()?)),
        libc::AF_INET6 => IpAddr::from(Ipv6Addr::from(*bytes.get(8..)?.first_chunk::<16>()?)),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// `AF_INET` or `AF_INET6`, for an address.
fn family(address: IpAddr) -> u16 {
    let family = match address {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    u16::try_from(family).unwrap_or_default()
}

/// A `sockaddr_in` or `sockaddr_in6`.
fn encode_socket_address(address: SocketAddr) -> Vec<u8> {
    let mut bytes = family(address.ip()).to_ne_bytes().to_vec();
    bytes.extend(address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}
