//! Says when something changed, not what: whoever asks looks anew.

use std::io;

use anyhow::Context as _;
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket as _, AsyncSocketExt as _, Socket, SocketAddr, TokioSocket, protocols},
};
use sixxs_core::types::PROTOCOL;

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
        Self::to(&GROUPS)
    }

    fn to(groups: &[MulticastGroup]) -> anyhow::Result<Self> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(protocols::NETLINK_ROUTE)?;
            let inner: &mut Socket = socket.socket_mut();
            inner.bind(&SocketAddr::new(0, 0))?;
            for group in groups {
                inner.add_membership(*group as u32)?;
            }
            Ok(socket)
        };
        Ok(Self {
            socket: open().context("subscribe to netlink events")?,
            buffer: Vec::with_capacity(BUFFER_BYTES),
        })
    }

    /// Waits until something that matters may have changed. Cancelling it loses nothing: what was
    /// not read stays in the socket.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer).await {
                Ok(_) if matters(&self.buffer) => return Ok(()),
                Ok(_) => {}
                // The socket overran: something changed, and we look at everything anyway.
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// A subscription to what may change by which address a broker is reached.
pub struct OutsideWatcher(Watcher);

/// Interfaces and addresses; of the routes IPv4's, since a broker may be reached by any of them.
const OUTSIDE_GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

impl OutsideWatcher {
    /// Subscribes.
    pub fn subscribe() -> anyhow::Result<Self> {
        Ok(Self(Watcher::to(&OUTSIDE_GROUPS)?))
    }

    /// As [`Watcher::changed`].
    pub async fn changed(&mut self) -> io::Result<()> {
        self.0.changed().await
    }
}

/// Whether a message is about anything of ours. Routes come and go by the thousand on a router:
/// only default routes and our own matter.
///
/// A `nlmsghdr` (type at offset 4), then a `rtmsg` (destination length at 1, protocol at 5): both
/// unchanged since Linux 2.2. Notifications come one to a datagram.
fn matters(message: &[u8]) -> bool {
    const RTMSG: usize = 16;
    let (Some(kind), Some([_, destination_bits, _, _, _, protocol])) =
        (message.get(4..6), message.get(RTMSG..RTMSG + 6))
    else {
        return true;
    };
    let kind = u16::from_ne_bytes([kind[0], kind[1]]);
    let is_ipv6 = message.get(RTMSG) == Some(&AF_INET6);
    if !matches!(kind, RTM_NEWROUTE | RTM_DELROUTE) || !is_ipv6 {
        return true;
    }
    *destination_bits == 0 || *protocol == PROTOCOL
}

const AF_INET6: u8 = 10;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_peoples_routes_do_not_matter() {
        let message = |kind: u16, bits: u8, protocol: u8| {
            let mut message = vec![0; 28];
            message[4..6].copy_from_slice(&kind.to_ne_bytes());
            message[16] = AF_INET6;
            message[17] = bits;
            message[21] = protocol;
            message
        };
        for (name, message, expected) in [
            ("a default route", message(RTM_NEWROUTE, 0, 9), true),
            ("a route of ours", message(RTM_DELROUTE, 48, PROTOCOL), true),
            ("somebody's route", message(RTM_NEWROUTE, 48, 186), false),
            ("a rule", message(32, 48, 186), true),
            ("a link", message(16, 48, 186), true),
            ("something short", vec![0; 4], true),
        ] {
            assert_eq!(matters(&message), expected, "{name}");
        }
    }
}
