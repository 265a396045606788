//! The only place that uses rtnetlink: observes the kernel, applies plans, and reports events.
//!
//! Requests, changes and events have separate sockets, and every request has a timeout.
//!
//! Tasks: one per [`Netlink`], which drives the request socket; it ends when the value is dropped.

mod addresses;
mod apply;
mod batch;
mod far_end;
mod features;
mod filter_trace;
mod filter_watch;
mod foreign_routes;
mod generic;
mod lifetimes;
mod link_facts;
mod link_kinds;
mod link_type;
mod observe;
pub mod owned_links;
mod prefix_routes;
mod refusal;
mod route_query;
mod rules;
pub mod sit;
pub mod tc;
mod watch;
pub(crate) mod wireguard;
mod xdp;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use rtnetlink::{
    Handle, new_connection_with_strict_check,
    packet_core::{ErrorMessage, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{RouteNetlinkMessage, rule::RuleMessage},
    sys::{AsyncSocket as _, SocketAddr, TokioSocket, protocols},
};
use sixxs_core::{
    config::{Config, RuleMode, SUBTREES_TABLE},
    explain::rules::PolicyRule,
    routing::{DIRECTS_TABLE, observed::ObservedRule},
    types::{IfIndex, IfName, TableId},
};

use batch::Batch;
use foreign_routes::ForeignRoutes;
use refusal::Refusal;
use wireguard::WireGuard;

pub use addresses::SeenAddress;
pub use apply::{Failure, Outcome};
pub use features::features;
pub use filter_trace::{FilterDrop, FilterTrace};
pub use filter_watch::FilterWatcher;
pub use observe::GLOBAL;
pub use route_query::{FoundRoute, RouteQuery, RouteResult, route_error};
pub use rules::NoPolicyRules;
pub use watch::{Change, ForeignRouteChange, PathWatcher, Removal, Removed, Watcher};
pub use xdp::replace_xdp;

/// Timeout of a request. The kernel answers at once, but only one process at a time may change or list interfaces: the
/// removal of a network namespace with hundreds of interfaces, each with programs, keeps the others waiting for ten
/// seconds and more.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection for requests, and one for changes.
pub struct Netlink {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
    batch: Batch,
    /// The rules of sixxs, with their messages from the last dump: a delete request repeats the message.
    rules: Vec<(ObservedRule, RuleMessage)>,
    /// Foreign rules from the last observation.
    foreign_rules: Vec<PolicyRule>,
    foreign_routes: ForeignRoutes,
    wireguard: WireGuard,
    /// Exits. `Some`: the time since when it is no longer an exit; it stays guarded for a grace period.
    exits: BTreeMap<IfIndex, Option<Instant>>,
    /// Interfaces of the last observation, each with the time since when it is new or was down, if that is
    /// recent. `None` before the first observation.
    seen: Option<BTreeMap<IfIndex, Option<Instant>>>,
}

/// Flags of a request that lists all objects of a kind.
const DUMP: u16 = NLM_F_REQUEST | NLM_F_DUMP;

/// What to observe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Tables to read completely, with foreign routes.
    pub tables: BTreeSet<TableId>,
    /// Whether to find out which interfaces are exits.
    pub exits: bool,
    /// Whether to read connected networks.
    pub connected: bool,
    /// Whether to read the next hops of default routes.
    pub routers: bool,
    /// Whether to read the routes of delegated prefixes.
    pub delegations: bool,
    /// Tunnels of the kernel whose far ends to find out.
    pub kernel_tunnels: BTreeSet<IfName>,
    /// The names of interfaces in the configuration, if it has a pattern.
    pub patterns: Option<BTreeSet<IfName>>,
}

impl Scope {
    /// The scope that a configuration needs.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            tables: match config.rule_mode {
                RuleMode::Rules => {
                    let tunnels = config.tunnels.iter().map(|tunnel| tunnel.table);
                    let groups = config.groups.iter().map(|group| group.table);
                    tunnels.chain(groups).collect()
                }
                RuleMode::Subtrees => [SUBTREES_TABLE, DIRECTS_TABLE].into(),
            },
            exits: config.uplinks.is_none(),
            // With accounts: a broker must not assign a prefix that is on the link of an uplink.
            // With peers: the kernel may lose its route to one.
            connected: config.direct_connected || config.has_accounts() || config.has_peers(),
            routers: config.tunnels.iter().any(|tunnel| tunnel.follows.gateway),
            delegations: {
                let mut tunnels = config.tunnels.iter();
                tunnels.any(|tunnel| tunnel.follows.prefixes.is_host())
            },
            kernel_tunnels: {
                let tunnels = config.tunnels.iter();
                let in_kernel =
                    tunnels.filter(|t| t.kind.has_endpoints_in_kernel() && t.remote.is_none());
                in_kernel.map(|tunnel| tunnel.name.clone()).collect()
            },
            patterns: {
                let has_pattern = config.names().any(|name| name.pattern().is_some());
                has_pattern.then(|| config.names().cloned().collect())
            },
        }
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Opens a connection in the network namespace of this thread.
    pub fn open() -> anyhow::Result<Self> {
        let (mut connection, handle, _unsolicited) =
            new_connection_with_strict_check().context("open a netlink socket")?;
        refusal::request_error_messages(connection.socket_mut().socket_mut())
            .context("set a netlink socket up")?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
            batch: Batch::open()?,
            rules: Vec::new(),
            foreign_rules: Vec::new(),
            foreign_routes: ForeignRoutes::open()?,
            wireguard: WireGuard::open()?,
            exits: BTreeMap::new(),
            seen: None,
        })
    }

    /// Sends a request and collects the responses.
    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, RequestError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut handle = self.handle.clone();
        let mut responses = handle
            .request(request)
            .map_err(|error| RequestError::Broken(error.to_string()))?;
        let mut answers = Vec::new();
        loop {
            let next = tokio::time::timeout(TIMEOUT, responses.next()).await;
            let Some(response) = next.map_err(|_| RequestError::TimedOut)? else {
                return Ok(answers);
            };
            match response.payload {
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                NetlinkPayload::Error(ErrorMessage { code: None, .. }) => return Ok(answers),
                NetlinkPayload::Error(error) => {
                    return Err(RequestError::Kernel(Refusal::new(&error)));
                }
                NetlinkPayload::Overrun(_) => return Err(RequestError::Broken("overrun".into())),
                _ => {}
            }
        }
    }
}

/// A socket for requests, which receives messages from the kernel only.
fn to_kernel() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocols::NETLINK_ROUTE)?;
    let inner = socket.socket_mut();
    inner.bind(&SocketAddr::new(0, 0))?;
    inner.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error(transparent)]
    Kernel(Refusal),
    #[error("the kernel did not answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
    #[error("netlink: {0}")]
    Broken(String),
}

/// The index of an interface by name, for programs that attach by name.
pub(crate) fn name_to_index(name: &str) -> anyhow::Result<u32> {
    match nix::net::if_::if_nametoindex(name) {
        Ok(index) => Ok(index),
        Err(nix::errno::Errno::ENODEV) => bail!("no interface {name}"),
        Err(error) => Err(error).with_context(|| format!("look up interface {name}")),
    }
}

/// The indexes of all interfaces.
pub(crate) fn indexes() -> anyhow::Result<Vec<IfIndex>> {
    let interfaces = nix::net::if_::if_nameindex().context("list interfaces")?;
    Ok(interfaces.iter().map(|i| IfIndex(i.index())).collect())
}

/// The name of an interface by index; `None` if there is no such interface.
pub(crate) fn index_to_name(index: IfIndex) -> Option<IfName> {
    let name = nix::net::if_::if_indextoname(index.0).ok()?;
    name.to_str().ok()?.parse().ok()
}
