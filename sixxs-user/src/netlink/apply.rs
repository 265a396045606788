//! Applies plans, step by step, and returns the result of each step.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
};

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
        link::{LinkAttribute, LinkFlags, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage},
        route::{
            RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
            RouteType,
        },
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use sixxs_core::{
    routing::{
        KERNEL_METRIC, MAIN_TABLE, Rule, Step,
        desired::OwnAddress,
        observed::{ObservedRoute, ObservedRule, ObservedTarget},
        plan::{Plan, Route, RouteTarget},
    },
    types::{IfIndex, Mtu, PROTOCOL, Prefix},
};

use super::{Netlink, RequestError, batch::BATCH_SIZE};

/// The result of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Steps that succeeded.
    pub done: Vec<Step>,
    /// Steps that failed.
    pub failed: Vec<Failure>,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct Failure {
    /// The step.
    pub step: Step,
    /// The error, and what to do if that is known.
    pub reason: String,
}

const CHANGE: u16 = NLM_F_REQUEST;

impl Netlink {
    /// Applies every step; if one fails, the others still run.
    pub async fn apply(&mut self, plan: &Plan) -> Outcome {
        let mut outcome = Outcome::default();
        for steps in plan.steps.chunks(BATCH_SIZE) {
            // A rule that is already gone needs no message.
            let (steps, changes): (Vec<_>, Vec<_>) = steps
                .iter()
                .filter_map(|step| Some((step, self.change(step)?)))
                .unzip();
            let results = self.batch.carry_out(changes).await;
            for (step, result) in steps.into_iter().zip(results) {
                match result {
                    Ok(()) => outcome.done.push(step.clone()),
                    Err(error) if is_tolerated(step, &error) => {}
                    Err(error) => outcome.failed.push(Failure {
                        step: step.clone(),
                        reason: error.to_string(),
                    }),
                }
            }
        }
        outcome
    }

    /// The message of a step, with its flags; `None` if there is nothing to do.
    fn change(&self, step: &Step) -> Option<(RouteNetlinkMessage, u16)> {
        Some(match step {
            Step::SetUp(index, _, mtu) => {
                let mut message = LinkMessage::default();
                message.header.index = index.0;
                message.header.flags = LinkFlags::Up;
                message.header.change_mask = LinkFlags::Up;
                message.attributes = vec![LinkAttribute::Mtu(mtu.0)];
                (RouteNetlinkMessage::SetLink(message), CHANGE)
            }
            Step::AddAddress(index, _, address) => (
                RouteNetlinkMessage::NewAddress(address_message(*index, *address)),
                CHANGE | NLM_F_CREATE | NLM_F_EXCL,
            ),
            Step::AddPeerRoute(index, _, peer) => (
                RouteNetlinkMessage::NewRoute(peer_route_message(*index, *peer)),
                CHANGE | NLM_F_CREATE | NLM_F_EXCL,
            ),
            Step::AddRoute(route) => (
                RouteNetlinkMessage::NewRoute(route_message(route)),
                CHANGE | NLM_F_CREATE | NLM_F_EXCL,
            ),
            Step::ReplaceRoute(route) => (
                RouteNetlinkMessage::NewRoute(route_message(route)),
                CHANGE | NLM_F_CREATE | NLM_F_REPLACE,
            ),
            // No NLM_F_EXCL: this rule is needed even beside a foreign rule with the same content, which its owner
            // may remove at any time.
            Step::AddRule(rule) => (
                RouteNetlinkMessage::NewRule(rule_message(rule)),
                CHANGE | NLM_F_CREATE,
            ),
            Step::DeleteRule(rule) => (RouteNetlinkMessage::DelRule(self.dumped(rule)?), CHANGE),
            Step::DeleteRoute(route) => {
                (RouteNetlinkMessage::DelRoute(delete_message(route)), CHANGE)
            }
            Step::KeepNeighbour(index, _, neighbour) => {
                let mut message = neighbour_message(*index, neighbour.address);
                message.attributes.extend([
                    NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
                    NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
                ]);
                (
                    RouteNetlinkMessage::NewNeighbour(message),
                    CHANGE | NLM_F_CREATE | NLM_F_REPLACE,
                )
            }
            Step::DeleteNeighbour(neighbour, _) => (
                RouteNetlinkMessage::DelNeighbour(neighbour_message(
                    neighbour.index,
                    neighbour.address,
                )),
                CHANGE,
            ),
        })
    }

    /// The message from the last dump for a rule.
    fn dumped(&self, rule: &ObservedRule) -> Option<RuleMessage> {
        let (_, message) = self.rules.iter().find(|(known, _)| known == rule)?;
        Some(message.clone())
    }
}

/// Errors that mean that a step is not needed any more, by operation.
fn is_tolerated(step: &Step, error: &RequestError) -> bool {
    let RequestError::Kernel(error) = error else {
        return false;
    };
    match step {
        // The object or its interface is already gone.
        Step::DeleteRule(_) | Step::DeleteRoute(_) | Step::DeleteNeighbour(..) => {
            matches!(error.raw_os_error(), Some(ENOENT | ESRCH | ENODEV))
                || error.kind() == io::ErrorKind::NotFound
        }
        // The kernel added it meanwhile.
        Step::AddAddress(..) | Step::AddPeerRoute(..) => {
            error.kind() == io::ErrorKind::AlreadyExists
        }
        Step::SetUp(..)
        | Step::AddRoute(_)
        | Step::ReplaceRoute(_)
        | Step::AddRule(_)
        | Step::KeepNeighbour(..) => false,
    }
}

const ENOENT: i32 = nix::errno::Errno::ENOENT as i32;
const ESRCH: i32 = nix::errno::Errno::ESRCH as i32;
const ENODEV: i32 = nix::errno::Errno::ENODEV as i32;

/// Sets `nodad`: no other host can have the address, so duplicate address detection would only delay it. The
/// kernel always adds a route to a peer; `noprefixroute` suppresses the route for the whole prefix.
fn address_message(index: IfIndex, own: OwnAddress) -> AddressMessage {
    let address = own.address;
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = address.bits;
    message.header.index = index.0;
    message.header.scope = if address.address.is_unicast_link_local() {
        AddressScope::Link
    } else {
        AddressScope::Universe
    };
    let far = own.peer.unwrap_or(address.address);
    let flags = match own.peer {
        Some(_) => AddressFlags::Nodad | AddressFlags::Noprefixroute,
        None => AddressFlags::Nodad,
    };
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V6(address.address)),
        AddressAttribute::Address(IpAddr::V6(far)),
        AddressAttribute::Flags(flags),
    ];
    message
}

/// Like the kernel's own: it removes the route together with the address.
fn peer_route_message(index: IfIndex, peer: Ipv6Addr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.protocol = RouteProtocol::Kernel;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.header.destination_prefix_length = 128;
    message.attributes = vec![
        RouteAttribute::Table(MAIN_TABLE.0),
        RouteAttribute::Priority(KERNEL_METRIC.0),
        RouteAttribute::Destination(RouteAddress::Inet6(peer)),
        RouteAttribute::Oif(index.0),
    ];
    message
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.source_prefix_length = route.key.source.bits();
    message.header.destination_prefix_length = route.key.destination.bits();
    message.attributes = vec![
        RouteAttribute::Table(route.key.table.0),
        RouteAttribute::Priority(route.key.metric.0),
    ];
    message
        .attributes
        .extend(destination_attribute(route.key.destination));
    if route.key.source != Prefix::ALL {
        let source = RouteAddress::Inet6(route.key.source.address());
        message.attributes.push(RouteAttribute::Source(source));
    }
    message.header.kind = match &route.to {
        RouteTarget::Interface(_) => RouteType::Unicast,
        RouteTarget::Unreachable => RouteType::Unreachable,
        RouteTarget::Throw => RouteType::Throw,
    };
    if let RouteTarget::Interface(via) = &route.to {
        message.attributes.push(RouteAttribute::Oif(via.index.0));
        if let Some(gateway) = via.gateway {
            let gateway = RouteAddress::Inet6(gateway);
            message.attributes.push(RouteAttribute::Gateway(gateway));
        }
        if let Some(mtu) = via.mtu {
            message.attributes.push(RouteAttribute::Metrics(vec![
                RouteMetric::Mtu(mtu.0),
                RouteMetric::Advmss(Mtu::advertised_mss(mtu)),
            ]));
        }
    }
    message
}

/// The destination attribute, unless it is the default route.
fn destination_attribute(destination: Prefix) -> Option<RouteAttribute> {
    (destination != Prefix::ALL)
        .then(|| RouteAttribute::Destination(RouteAddress::Inet6(destination.address())))
}

fn delete_message(route: &ObservedRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    // The kernel compares the protocol, so a foreign route to the same destination stays.
    message.header.protocol = RouteProtocol::from(route.protocol);
    message.header.destination_prefix_length = route.destination.bits();
    message.header.source_prefix_length = route.source.bits();
    message.header.scope = RouteScope::Universe;
    message.header.kind = match &route.target {
        ObservedTarget::Unreachable => RouteType::Unreachable,
        ObservedTarget::Throw => RouteType::Throw,
        ObservedTarget::Interface { .. } => RouteType::Unicast,
        ObservedTarget::Other => RouteType::Unspec,
    };
    message.attributes = vec![
        RouteAttribute::Table(route.table.0),
        RouteAttribute::Priority(route.metric.0),
    ];
    message
        .attributes
        .extend(destination_attribute(route.destination));
    if route.source.bits() != 0 {
        let source = RouteAddress::Inet6(route.source.address());
        message.attributes.push(RouteAttribute::Source(source));
    }
    if let ObservedTarget::Interface { index, .. } = &route.target {
        message.attributes.push(RouteAttribute::Oif(index.0));
    }
    message
}

fn neighbour_message(index: IfIndex, address: Ipv6Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.ifindex = index.0;
    message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet6(
        address,
    ))];
    message
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.action = RuleAction::ToTable;
    message.header.src_len = rule.from.bits();
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority.0),
        RuleAttribute::Table(rule.table.0),
        RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    if rule.no_default {
        message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
    }
    if rule.from.bits() != 0 {
        let from = IpAddr::V6(rule.from.address());
        message.attributes.push(RuleAttribute::Source(from));
    }
    if let Some(to) = rule.to {
        message.header.dst_len = to.bits();
        let to = IpAddr::V6(to.address());
        message.attributes.push(RuleAttribute::Destination(to));
    }
    message
}
