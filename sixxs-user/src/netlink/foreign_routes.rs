//! Foreign routes that matter: those with short destinations in any table, which may make an interface an
//! exit, those in the main table to connected networks, and those that reject packets to a delegated prefix.
//!
//! A router has hundreds of thousands of routes, and the kernel cannot filter a dump by prefix length. So
//! dumps are parsed message by message, and of most messages only the headers. If there are many routes, the
//! result is cached until an event reports a change.

use std::{
    io,
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rtnetlink::{
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{
            RouteAddress, RouteAttribute, RouteMessage, RouteNextHop, RoutePreference, RouteType,
        },
    },
    sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket},
};
use sixxs_core::{
    routing::{
        connected::{ConnectedRoute, MAX_PAIRS},
        delegations::DELEGATED_BITS,
        exits::{LOOPBACK, PIECE_BITS, WideRoute},
        observed::{RejectRoute, SourceRoute},
        routers::{Preference, Router},
    },
    types::{IfIndex, Metric, PROTOCOL, Prefix, TableId},
};
use tokio::time::timeout;

use super::{
    DUMP, RequestError, TIMEOUT,
    observe::destination,
    refusal::{Refusal, request_error_messages},
    to_kernel,
};

/// Maximum size of a datagram in a dump (`netlink_recvmsg`).
const ANSWER_BYTES: usize = 32 * 1024;

/// With more routes than this, the result is cached: to dump this many takes about 1 ms of CPU time.
const CACHE_THRESHOLD: usize = 1000;

/// A cached result expires after this time even without an event. Shorter than the daemon's interval between
/// rounds without events.
const CACHE_LIFETIME: Duration = Duration::from_secs(25);

/// Maximum number of dumps if the table changes during each of them.
const ATTEMPTS: usize = 3;

/// A socket for dumps, and the last result.
pub(super) struct ForeignRoutes {
    socket: TokioSocket,
    number: u32,
    buffer: Vec<u8>,
    last: Option<Last>,
    /// Whether routes that reject packets matter.
    with_rejects: bool,
}

struct Last {
    at: Instant,
    /// Whether it is valid until an event reports a change.
    is_current: bool,
    answer: Answer,
}

/// The foreign routes that matter.
#[derive(Default)]
pub(super) struct Answer {
    /// Sorted by table, destination and interface.
    pub(super) routes: Vec<WideRoute>,
    /// Sorted by destination and interface.
    pub(super) connected: Vec<ConnectedRoute>,
    /// The next hops of default routes.
    pub(super) routers: Vec<Router>,
    /// Default routes for packets from one prefix.
    pub(super) source_routes: Vec<SourceRoute>,
    /// Routes that reject packets to a prefix.
    pub(super) rejects: Vec<RejectRoute>,
    /// Whether there are routes through next hop objects whose interface the kernel does not report
    /// (`net.ipv4.nexthop_compat_mode` is 0).
    pub(super) has_hidden: bool,
}

/// A dump.
#[derive(Default)]
struct Dump {
    answer: Answer,
    /// Total number of messages.
    count: usize,
    /// The table changed during the dump, so routes may be missing (`NLM_F_DUMP_INTR`).
    is_torn: bool,
}

impl ForeignRoutes {
    pub(super) fn open() -> anyhow::Result<Self> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = to_kernel()?;
            request_error_messages(socket.socket_mut())?;
            match socket.socket_mut().set_netlink_get_strict_chk(true) {
                // Kernels before 4.20 do not filter; this code filters too.
                Err(error) if error.raw_os_error() != Some(libc::ENOPROTOOPT) => Err(error),
                _ => Ok(socket),
            }
        };
        Ok(Self {
            socket: open().context("open a netlink socket")?,
            number: 0,
            buffer: Vec::with_capacity(ANSWER_BYTES),
            last: None,
            with_rejects: false,
        })
    }

    /// Sets whether routes that reject packets matter.
    pub(super) fn want_rejects(&mut self, wanted: bool) {
        if self.with_rejects != wanted {
            self.with_rejects = wanted;
            self.changed();
        }
    }

    /// Invalidates the cached result, after an event for a route that matters.
    pub(super) fn changed(&mut self) {
        if let Some(last) = &mut self.last {
            last.is_current = false;
        }
    }

    /// The current routes.
    pub(super) async fn current(&mut self) -> anyhow::Result<&Answer> {
        let last = match self.last.take() {
            Some(last) if last.is_current && last.at.elapsed() < CACHE_LIFETIME => last,
            before => {
                let at = Instant::now();
                let dump = self.dump_whole(before).await;
                let dump = dump.context("list foreign routes")?;
                Last {
                    at,
                    is_current: dump.count > CACHE_THRESHOLD,
                    answer: dump.answer,
                }
            }
        };
        Ok(&self.last.insert(last).answer)
    }

    /// A complete dump; if no attempt gives one, the last dump together with the previous result.
    async fn dump_whole(&mut self, before: Option<Last>) -> Result<Dump, RequestError> {
        let mut dump = self.dump().await?;
        for _ in 1..ATTEMPTS {
            if !dump.is_torn {
                break;
            }
            dump = self.dump().await?;
        }
        let answer = &mut dump.answer;
        if dump.is_torn
            && let Some(before) = before
        {
            answer.routes.extend(before.answer.routes);
            answer.connected.extend(before.answer.connected);
            answer.routers.extend(before.answer.routers);
            answer.source_routes.extend(before.answer.source_routes);
            answer.rejects.extend(before.answer.rejects);
        }
        answer.routes.sort_unstable();
        answer.routes.dedup();
        answer.connected.sort_unstable();
        answer.connected.dedup();
        answer.routers.sort_unstable();
        answer.routers.dedup();
        answer.source_routes.sort_unstable();
        answer.source_routes.dedup();
        answer.rejects.sort_unstable();
        answer.rejects.dedup();
        Ok(dump)
    }

    async fn dump(&mut self) -> Result<Dump, RequestError> {
        let mut dump = Dump::default();
        self.dump_kind(RouteType::Unicast, &mut dump).await?;
        if self.with_rejects {
            for kind in REJECTS {
                self.dump_kind(kind, &mut dump).await?;
            }
        }
        Ok(dump)
    }

    async fn dump_kind(&mut self, kind: RouteType, dump: &mut Dump) -> Result<(), RequestError> {
        let broken = |error: &dyn std::fmt::Display| RequestError::Broken(error.to_string());
        self.number = self.number.wrapping_add(1);
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet6;
        request.header.kind = kind;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(request));
        request.header.flags = DUMP;
        request.header.sequence_number = self.number;
        request.finalize();
        let mut datagram = vec![0; request.buffer_len()];
        request.serialize(&mut datagram);
        let sent = timeout(TIMEOUT, self.socket.send(&datagram)).await;
        sent.map_err(|_| RequestError::TimedOut)?
            .map_err(|error| broken(&error))?;
        loop {
            self.buffer.clear();
            let received = timeout(TIMEOUT, self.socket.recv(&mut self.buffer)).await;
            received
                .map_err(|_| RequestError::TimedOut)?
                .map_err(|error| broken(&error))?;
            if dump.take(&self.buffer, self.number)? {
                return Ok(());
            }
        }
    }
}

const NLMSGHDR: usize = 16;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const RTN_UNICAST: u8 = 1;
const RTPROT_DHCP: u8 = 16;

/// The kinds of routes that reject packets, for requests.
const REJECTS: [RouteType; 3] = [
    RouteType::BlackHole,
    RouteType::Unreachable,
    RouteType::Prohibit,
];

/// The maximum number of routes that reject packets: of DHCP clients, and all other ones.
const MAX_REJECTS: usize = 1024;

impl Dump {
    /// Parses a datagram of responses to the request with this sequence number. Returns whether it was the
    /// last.
    ///
    /// `nlmsghdr` has the length at offset 0, the type at 4, flags at 6, the sequence number at 8.
    fn take(&mut self, mut datagram: &[u8], number: u32) -> Result<bool, RequestError> {
        while let Some((head, _)) = datagram.split_at_checked(NLMSGHDR) {
            let at = |from: usize| u16::from_ne_bytes([head[from], head[from + 1]]);
            let word = |from: usize| {
                u32::from_ne_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]])
            };
            let (length, seen) = (word(0) as usize, word(8));
            let Some(message) = datagram.get(..length).filter(|_| length >= NLMSGHDR) else {
                return Err(RequestError::Broken("a message is truncated".to_owned()));
            };
            let next = length.next_multiple_of(4).min(datagram.len());
            datagram = &datagram[next..];
            // Other sequence numbers belong to an abandoned dump.
            if seen != number {
                continue;
            }
            self.is_torn |= at(6) & NLM_F_DUMP_INTR != 0;
            match at(4) {
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR => {
                    let payload = message.get(NLMSGHDR..).unwrap_or_default();
                    let refusal = Refusal::from_payload(payload);
                    let unknown = || io::Error::from(io::ErrorKind::InvalidData).into();
                    return Err(RequestError::Kernel(refusal.unwrap_or_else(unknown)));
                }
                RTM_NEWROUTE => {
                    self.count += 1;
                    if is_wide(message) {
                        self.add(message)?;
                    } else if may_be_connected(message) && self.answer.connected.len() <= MAX_PAIRS
                    {
                        self.add_connected(message)?;
                    } else if may_be_delegated(message) {
                        self.add_reject(message)?;
                    }
                }
                _ => {}
            }
        }
        Ok(false)
    }

    /// Adds a route of the main table, unless it has a next hop.
    fn add_connected(&mut self, message: &[u8]) -> Result<(), RequestError> {
        let Some(message) = parsed(message)? else {
            return Ok(());
        };
        let mut index = None;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(oif) => index = Some(IfIndex(*oif)),
                RouteAttribute::Gateway(_)
                | RouteAttribute::Via(_)
                | RouteAttribute::MultiPath(_)
                | RouteAttribute::NhId(_) => return Ok(()),
                _ => {}
            }
        }
        let destination = destination(&message);
        let index = index.filter(|index| *index != LOOPBACK);
        let connected = index.map(|index| ConnectedRoute { destination, index });
        self.answer.connected.extend(connected);
        Ok(())
    }

    fn add_reject(&mut self, message: &[u8]) -> Result<(), RequestError> {
        let Some(message) = parsed(message)? else {
            return Ok(());
        };
        let is_by_dhcp = u8::from(message.header.protocol) == RTPROT_DHCP;
        // Somebody who blocks networks by routes has many, but a DHCP client has few.
        let same = self.answer.rejects.iter();
        let same = same.filter(|route| route.is_by_dhcp == is_by_dhcp);
        if same.count() < MAX_REJECTS {
            self.answer.rejects.push(RejectRoute {
                destination: destination(&message),
                is_by_dhcp,
            });
        }
        Ok(())
    }

    fn add(&mut self, message: &[u8]) -> Result<(), RequestError> {
        let Some(message) = parsed(message)? else {
            return Ok(());
        };
        let mut table = u32::from(message.header.table);
        let source = source(&message);
        let (mut indices, mut is_by_object) = (Vec::new(), false);
        let (mut gateways, mut metric, mut preference) = (Vec::new(), 0, Preference::Medium);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(value) => table = *value,
                RouteAttribute::Oif(index) => indices.push(*index),
                RouteAttribute::Gateway(RouteAddress::Inet6(address)) => {
                    gateways.push((None, *address))
                }
                RouteAttribute::MultiPath(hops) => {
                    indices.extend(hops.iter().map(|hop| hop.interface_index));
                    gateways.extend(hops.iter().filter_map(hop_gateway));
                }
                RouteAttribute::Priority(value) => metric = *value,
                RouteAttribute::Preference(RoutePreference::High) => preference = Preference::High,
                RouteAttribute::Preference(RoutePreference::Low) => preference = Preference::Low,
                RouteAttribute::NhId(_) => is_by_object = true,
                _ => {}
            }
        }
        self.answer.has_hidden |= is_by_object && indices.is_empty();
        let destination = destination(&message);
        if destination.bits() == 0 && !has_expired(&message) {
            let routers = gateways.into_iter().filter_map(|(index, address)| {
                Some(Router {
                    index: IfIndex(index.or(indices.first().copied())?),
                    address,
                    table: TableId(table),
                    metric: Metric(metric),
                    preference,
                })
            });
            self.answer.routers.extend(routers);
        }
        if destination.bits() == 0
            && let Some(source) = source
        {
            let routes = indices.iter().map(|index| SourceRoute {
                source,
                index: IfIndex(*index),
            });
            self.answer.source_routes.extend(routes);
        }
        let routes = indices.into_iter().map(|index| WideRoute {
            table: TableId(table),
            destination,
            index: IfIndex(index),
        });
        self.answer.routes.extend(routes);
        Ok(())
    }
}

/// The source prefix of a route; `None`: all sources.
fn source(message: &RouteMessage) -> Option<Prefix> {
    let bits = message.header.source_prefix_length;
    let mut attributes = message.attributes.iter();
    attributes.find_map(|attribute| match attribute {
        RouteAttribute::Source(RouteAddress::Inet6(address)) if bits > 0 => {
            Some(Prefix::containing(*address, bits))
        }
        _ => None,
    })
}

/// The interface and the gateway of a next hop.
fn hop_gateway(hop: &RouteNextHop) -> Option<(Option<u32>, Ipv6Addr)> {
    hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) => {
            Some((Some(hop.interface_index), *address))
        }
        _ => None,
    })
}

/// Whether the lifetime of a route is over: the kernel removes it a moment later.
fn has_expired(message: &RouteMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        // Signed in the kernel (`rta_expires`); zero for a route without lifetime.
        RouteAttribute::CacheInfo(info) => info.expires.cast_signed() < 0,
        _ => false,
    })
}

fn parsed(message: &[u8]) -> Result<Option<RouteMessage>, RequestError> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)
        .map_err(|error| RequestError::Broken(error.to_string()))?;
    Ok(match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(message)) => Some(message),
        _ => None,
    })
}

/// Whether a message is about a route that may lead to a local network, by its header (the table is at 4).
/// Only routes by the kernel, an administrator, a router advertisement or a DHCP client count: routing daemons may have a
/// million, to remote networks.
fn may_be_connected(message: &[u8]) -> bool {
    let Some([_, bits, _, _, table, protocol, _, kind]) = message.get(NLMSGHDR..NLMSGHDR + 8)
    else {
        return false;
    };
    *bits > PIECE_BITS && *kind == RTN_UNICAST && is_host_route(*table, *protocol)
}

/// Whether a message is about a route that may be for a delegated prefix, by its header.
fn may_be_delegated(message: &[u8]) -> bool {
    let Some([_, bits, _, _, table, protocol, _, kind]) = message.get(NLMSGHDR..NLMSGHDR + 8)
    else {
        return false;
    };
    DELEGATED_BITS.contains(bits) && is_delegated_route(*table, *protocol, *kind)
}

/// Whether a route rejects packets, and a DHCP client or its script may have made it (`RTN_BLACKHOLE` to `RTN_PROHIBIT`
/// of the kernel's uapi/linux/rtnetlink.h). Routing daemons may have many such routes.
pub(super) const fn is_delegated_route(table: u8, protocol: u8, kind: u8) -> bool {
    const LOCAL: u8 = 255;
    table != LOCAL && matches!(kind, 6..=8) && matches!(protocol, 3 | 4 | 9 | RTPROT_DHCP)
}

/// Whether a route is in the main table and not made by a routing daemon (`RTPROT_KERNEL`, `RTPROT_BOOT`,
/// `RTPROT_STATIC`, `RTPROT_RA`, `RTPROT_DHCP` of the kernel's uapi/linux/rtnetlink.h).
pub(super) const fn is_host_route(table: u8, protocol: u8) -> bool {
    const MAIN: u8 = 254;
    table == MAIN && matches!(protocol, 2 | 3 | 4 | 9 | RTPROT_DHCP)
}

/// Whether a message is about a foreign route that may make an interface an exit, by its header: `nlmsghdr`,
/// then `rtmsg` (destination length at 1, protocol at 5, type at 7).
fn is_wide(message: &[u8]) -> bool {
    let Some([_, bits, _, _, _, protocol, _, kind]) = message.get(NLMSGHDR..NLMSGHDR + 8) else {
        return false;
    };
    *bits <= PIECE_BITS && *protocol != PROTOCOL && *kind == RTN_UNICAST
}
