//! Says when something changed, not what: whoever asks looks anew.

use std::io;

use anyhow::Context as _;
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket as _, AsyncSocketExt as _, Socket, SocketAddr, TokioSocket, protocols},
};

/// A subscription to changes of interfaces, IPv6 addresses, routes and rules.
pub struct Watcher {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// Rule events come only by this group: there is no legacy constant for it.
const GROUPS: [MulticastGroup; 4] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
];

/// Messages read at a time: their content does not matter, so each may be cut off.
const BUFFER_BYTES: usize = 8192;

impl Watcher {
    /// Subscribes. Look around only afterwards, so that nothing falls between.
    pub fn subscribe() -> anyhow::Result<Self> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(protocols::NETLINK_ROUTE)?;
            let inner: &mut Socket = socket.socket_mut();
            inner.bind(&SocketAddr::new(0, 0))?;
            for group in GROUPS {
                inner.add_membership(group as u32)?;
            }
            Ok(socket)
        };
        Ok(Self {
            socket: open().context("subscribe to netlink events")?,
            buffer: Vec::with_capacity(BUFFER_BYTES),
        })
    }

    /// Waits until something may have changed. Cancelling it loses nothing: what was not read
    /// stays in the socket.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.buffer.clear();
        match self.socket.recv_from(&mut self.buffer).await {
            Ok(_) => Ok(()),
            // The socket overran: something changed, and we look at everything anyway.
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
