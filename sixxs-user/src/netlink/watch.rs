//! Signals that something changed; the caller re-reads the kernel. For deletions it also returns the kind of
//! the removed object, and the port ID of the process that removed it.

use std::io;

use anyhow::Context as _;
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket as _, AsyncSocketExt as _, Socket, SocketAddr, TokioSocket, protocols},
};
use sixxs_core::{routing::exits::PIECE_BITS, types::PROTOCOL};

use super::foreign_routes::{is_delegated_route, is_host_route};

/// A subscription to changes of interfaces, IPv6 addresses, routes and rules.
pub struct Watcher {
    socket: TokioSocket,
}

/// Rule events have a group of their own, without a legacy `RTMGRP_` constant. `Tc` reports qdiscs and
/// filters, but not TCX.
const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Tc,
    MulticastGroup::Link,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
];

/// The contents of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The object that was removed, if any.
    pub removal: Option<Removal>,
    /// An interface was created, or moved here from another namespace.
    pub is_new_link: bool,
    /// How foreign routes changed.
    pub foreign_routes: ForeignRouteChange,
}

/// Effect of an event on the foreign routes that matter: for exits, and for local networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForeignRouteChange {
    /// None.
    #[default]
    Same,
    /// An exit may be gone, or local networks may have changed, or the change is unknown.
    Changed,
    /// There may be a new exit.
    More,
}

/// A removed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Its kind.
    pub what: Removed,
    /// Netlink port ID of the socket that removed it: the process ID, if it is the first netlink socket of a
    /// process. `None`: the kernel removed it, or does not report it (never for addresses; for interfaces
    /// only since 6.2).
    pub process: Option<u32>,
}

/// Kind of a removed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Removed {
    /// An interface.
    Link,
    /// An address.
    Address,
    /// A route.
    Route,
    /// A rule.
    Rule,
    /// A qdisc or a filter on it.
    Program,
    /// Names of routing tables, which are in files; the kernel does not have them.
    Names,
    /// Contents of pinned maps and links, for which the kernel sends no events.
    Pinned,
    /// The configuration of a WireGuard interface, for which the kernel sends no events either.
    WireGuard,
}

/// Number of bytes to read of each message: enough for the headers. The rest is truncated.
const HEAD_BYTES: usize = 64;

impl Watcher {
    /// Subscribes. Observe the kernel only afterwards, so that no change is missed.
    pub fn subscribe() -> anyhow::Result<Self> {
        Watcher::subscribe_to(&GROUPS)
    }

    fn subscribe_to(groups: &[MulticastGroup]) -> anyhow::Result<Self> {
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
        })
    }

    /// Waits for an event that may matter. It is cancel safe: unread events stay in the socket.
    pub async fn changed(&self) -> io::Result<Change> {
        loop {
            let mut head = [0; HEAD_BYTES];
            let mut room = head.as_mut_slice();
            let read = self.socket.recv_from(&mut room).await;
            let free = room.len();
            if let Some(change) = change(read, &head[..HEAD_BYTES - free])? {
                return Ok(change);
            }
        }
    }

    /// Returns the next event in the socket without waiting. The kernel sends an event together with the
    /// change, so after a change is visible, its event is here.
    pub fn try_next(&self) -> Option<Change> {
        loop {
            let mut head = [0; HEAD_BYTES];
            let mut room = head.as_mut_slice();
            let read = self
                .socket
                .socket_ref()
                .recv_from(&mut room, libc::MSG_DONTWAIT)
                .map(|(_, from)| from);
            let free = room.len();
            match change(read, &head[..HEAD_BYTES - free]) {
                Ok(None) => {}
                Ok(change) => return change,
                // The socket is empty; `changed` will report any other error.
                Err(_) => return None,
            }
        }
    }
}

/// Parses the part of a message that was read; `None` if it does not matter.
fn change(read: io::Result<SocketAddr>, message: &[u8]) -> io::Result<Option<Change>> {
    match read {
        Ok(_) => Ok(matters(message).then(|| Change {
            removal: removal(message),
            is_new_link: is_new_link(message),
            foreign_routes: foreign_route_change(message),
        })),
        // The socket buffer overran: assume a change. The next round reads everything anyway.
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Some(Change {
            foreign_routes: ForeignRouteChange::Changed,
            ..Change::default()
        })),
        Err(error) => Err(error),
    }
}

/// A subscription to changes that may affect the path to a broker.
pub struct PathWatcher(Watcher);

/// Interfaces, addresses and routes of both families, since a broker may be reached by any of them.
const PATH_GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

impl PathWatcher {
    /// Subscribes.
    pub fn subscribe() -> anyhow::Result<Self> {
        Ok(Self(Watcher::subscribe_to(&PATH_GROUPS)?))
    }

    /// Like [`Watcher::changed`].
    pub async fn changed(&self) -> io::Result<()> {
        self.0.changed().await.map(|_| ())
    }
}

/// Whether a message matters. A router adds and removes thousands of routes. Only these matter: those of sixxs, those
/// with short destinations, which may make an interface an exit, those to local networks, and those for delegated prefixes.
///
/// Layout: `nlmsghdr` (type at offset 4), then `rtmsg` (destination length at 1, table at 4, protocol at 5, type at 7),
/// unchanged since Linux 2.2. Each datagram contains one notification.
fn matters(message: &[u8]) -> bool {
    match route_event(message) {
        Some(event) => {
            event.protocol == PROTOCOL
                || event.destination_bits <= PIECE_BITS
                || event.may_be_of_host()
        }
        None => true,
    }
}

/// Effect of an IPv6 route event on exits and local networks. Each round reads rules and interfaces anyway.
fn foreign_route_change(message: &[u8]) -> ForeignRouteChange {
    match route_event(message) {
        Some(event) if event.protocol == PROTOCOL => ForeignRouteChange::Same,
        // A local network, or a delegated prefix.
        Some(event) if event.destination_bits > PIECE_BITS && event.may_be_of_host() => {
            ForeignRouteChange::Changed
        }
        Some(event) if event.destination_bits > PIECE_BITS => ForeignRouteChange::Same,
        Some(event) if event.is_new => ForeignRouteChange::More,
        Some(_) => ForeignRouteChange::Changed,
        None => ForeignRouteChange::Same,
    }
}

struct RouteEvent {
    is_new: bool,
    destination_bits: u8,
    table: u8,
    protocol: u8,
    kind: u8,
}

impl RouteEvent {
    /// Whether the route may be to a local network, or for a delegated prefix.
    const fn may_be_of_host(&self) -> bool {
        is_host_route(self.table, self.protocol)
            || is_delegated_route(self.table, self.protocol, self.kind)
    }
}

/// Parses an IPv6 route event; `None` for other events and for short messages.
fn route_event(message: &[u8]) -> Option<RouteEvent> {
    const RTMSG: usize = 16;
    let kind = u16::from_ne_bytes(*message.get(4..6)?.first_chunk()?);
    let [
        family,
        destination_bits,
        _,
        _,
        table,
        protocol,
        _,
        route_kind,
    ] = message.get(RTMSG..RTMSG + 8)?
    else {
        return None;
    };
    let is_route = matches!(kind, RTM_NEWROUTE | RTM_DELROUTE) && *family == AF_INET6;
    is_route.then_some(RouteEvent {
        is_new: kind == RTM_NEWROUTE,
        destination_bits: *destination_bits,
        table: *table,
        protocol: *protocol,
        kind: *route_kind,
    })
}

/// Whether a message is about a new interface: then all bits of its change mask are set. An `ifinfomsg` has
/// its flags at offset 8, and the change mask at 12.
fn is_new_link(message: &[u8]) -> bool {
    const CHANGED: usize = 16 + 12;
    message.get(4..6) == Some(&RTM_NEWLINK.to_ne_bytes())
        && message.get(CHANGED..CHANGED + 4) == Some(&[0xff; 4])
}

/// The removed object of a message, and the port ID, which is at offset 12 of `nlmsghdr`.
fn removal(message: &[u8]) -> Option<Removal> {
    let kind = message.get(4..6)?.first_chunk()?;
    let what = match u16::from_ne_bytes(*kind) {
        RTM_DELLINK => Removed::Link,
        RTM_DELADDR => Removed::Address,
        RTM_DELROUTE => Removed::Route,
        RTM_DELRULE => Removed::Rule,
        RTM_DELQDISC | RTM_DELTFILTER => Removed::Program,
        _ => return None,
    };
    let process = u32::from_ne_bytes(*message.get(12..16)?.first_chunk()?);
    Some(Removal {
        what,
        process: (process != 0).then_some(process),
    })
}

const AF_INET6: u8 = 10;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_DELRULE: u16 = 33;
const RTM_DELQDISC: u16 = 37;
const RTM_DELTFILTER: u16 = 45;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_routing_daemons_do_not_matter() {
        let message = |kind: u16, bits: u8, protocol: u8| {
            let mut message = vec![0; 28];
            message[4..6].copy_from_slice(&kind.to_ne_bytes());
            message[16] = AF_INET6;
            message[17] = bits;
            message[21] = protocol;
            message
        };
        let reject = |kind: u16, protocol: u8, route: u8| {
            let mut message = message(kind, 56, protocol);
            message[23] = route;
            message
        };
        for (name, message, expected) in [
            ("a delegated prefix", reject(RTM_NEWROUTE, 16, 7), true),
            ("one that goes", reject(RTM_DELROUTE, 4, 6), true),
            (
                "a network of a DHCP client",
                reject(RTM_NEWROUTE, 16, 1),
                false,
            ),
            ("a routing daemon's", reject(RTM_NEWROUTE, 12, 7), false),
            ("a default route", message(RTM_NEWROUTE, 0, 9), true),
            ("half the world", message(RTM_DELROUTE, 1, 9), true),
            ("a piece of it", message(RTM_NEWROUTE, 16, 9), true),
            ("a longer one", message(RTM_NEWROUTE, 17, 9), false),
            ("a route of ours", message(RTM_DELROUTE, 48, PROTOCOL), true),
            ("somebody's route", message(RTM_NEWROUTE, 48, 186), false),
            ("a rule", message(32, 48, 186), true),
            ("a link", message(16, 48, 186), true),
            ("something short", vec![0; 4], true),
        ] {
            assert_eq!(matters(&message), expected, "{name}");
        }
        for (name, message, expected) in [
            (
                "a delegated prefix",
                reject(RTM_NEWROUTE, 16, 7),
                ForeignRouteChange::Changed,
            ),
            (
                "a default route",
                message(RTM_NEWROUTE, 0, 9),
                ForeignRouteChange::More,
            ),
            (
                "one less",
                message(RTM_DELROUTE, 4, 9),
                ForeignRouteChange::Changed,
            ),
            (
                "ours",
                message(RTM_NEWROUTE, 0, PROTOCOL),
                ForeignRouteChange::Same,
            ),
            ("a rule", message(32, 0, 9), ForeignRouteChange::Same),
            ("something short", vec![0; 17], ForeignRouteChange::Same),
        ] {
            assert_eq!(foreign_route_change(&message), expected, "{name}");
        }
    }

    #[test]
    fn the_process_of_a_removal_is_parsed() {
        let message = |kind: u16, process: u32| {
            let mut message = vec![0; 28];
            message[4..6].copy_from_slice(&kind.to_ne_bytes());
            message[12..16].copy_from_slice(&process.to_ne_bytes());
            message
        };
        let removal = |kind, process| removal(&message(kind, process));
        let expected = |what, process| Some(Removal { what, process });
        assert_eq!(removal(33, 4711), expected(Removed::Rule, Some(4711)));
        assert_eq!(removal(RTM_DELROUTE, 0), expected(Removed::Route, None));
        assert_eq!(removal(RTM_NEWROUTE, 4711), None);
        assert_eq!(super::removal(&[0; 5]), None);
        let mut link = message(RTM_NEWLINK, 0);
        link.resize(32, 0);
        assert!(!is_new_link(&link));
        link[28..].fill(0xff);
        assert!(is_new_link(&link) && !is_new_link(&link[..30]));
        assert_eq!(super::removal(&message(33, 1)[..14]), None);
    }
}
