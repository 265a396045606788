//! The source address that packets to a destination get.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

/// The source address that the kernel chooses for packets to `remote` now. A connected socket shows it
/// without sending anything.
pub(crate) fn source_for(remote: IpAddr, local4: Option<Ipv4Addr>) -> io::Result<IpAddr> {
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
