//! The plan that leads from the observed to the desired state.
//!
//! In the order of steps, no packet is lost between two states. Interfaces come first, then routes, then the
//! rules that lead to them. Nothing old is removed before everything new is added, and rules go before routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use super::{
    Neighbour, Rule,
    desired::{Desired, OwnAddress, RouteKey, SetUp, Target},
    observed::{
        LocalTable, Observed, ObservedNeighbour, ObservedRoute, ObservedRule, ObservedTarget,
    },
};
use crate::{
    link::{Link, LinkLayer, Links},
    types::{IfIndex, IfName, Metric, Mtu, Prefix, TableId},
};

/// An ordered set of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The changes, in this order.
    pub steps: Vec<Step>,
    /// Obstacles that this program must not change, by table.
    pub problems: Vec<Problem>,
}

impl Desired {
    /// The desired rules beside the foreign rules of this host. They include `local` if the local table is
    /// not looked up before the first rule.
    #[must_use]
    pub fn rules_beside(&self, local_table: LocalTable) -> BTreeSet<Rule> {
        let first = self.rules.first().map(|rule| rule.priority);
        let is_late = first.is_some_and(|first| !local_table.is_before(first));
        let local = self.local.iter().filter(|_| is_late);
        self.rules.iter().chain(local).copied().collect()
    }
}

impl Plan {
    /// Whether the observed state is the desired one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.problems.is_empty()
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sets an interface's MTU and brings it up.
    SetUp(IfIndex, IfName, Mtu),
    /// Adds an address to an interface.
    AddAddress(IfIndex, IfName, OwnAddress),
    /// Restores the kernel's route to the peer of an address. The kernel adds it with the address, but not while
    /// the interface is down, and it does not catch up on that later (`__ipv6_ifa_notify`, Linux 6.18).
    AddPeerRoute(IfIndex, IfName, Ipv6Addr),
    /// Adds a route.
    AddRoute(Route),
    /// Replaces a route of sixxs that has another target.
    ReplaceRoute(Route),
    /// Makes the kernel keep a gateway resolved, on the interface with this index.
    KeepNeighbour(IfIndex, IfName, Neighbour),
    /// Adds a rule.
    AddRule(Rule),
    /// Removes a rule of sixxs.
    DeleteRule(ObservedRule),
    /// Removes a route of sixxs.
    DeleteRoute(ObservedRoute),
    /// Removes a neighbour of sixxs, from the interface of this name.
    DeleteNeighbour(ObservedNeighbour, IfName),
}

/// A route to add, with its interface resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its key.
    pub key: RouteKey,
    /// Its target.
    pub to: RouteTarget,
}

/// The target of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// Through an interface.
    Interface(RouteInterface),
    /// `unreachable`.
    Unreachable,
    /// `throw`.
    Throw,
}

/// The interface of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteInterface {
    /// Its index.
    pub index: IfIndex,
    /// Its name, for display.
    pub name: IfName,
    /// Next hop.
    pub gateway: Option<Ipv6Addr>,
    /// The route's MTU; `None`: the interface's.
    pub mtu: Option<Mtu>,
}

/// The reason why a table cannot be completed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// There is no such interface.
    #[error("interface {name} does not exist")]
    InterfaceMissing {
        /// Its name.
        name: IfName,
        /// The table that waits for it.
        table: TableId,
    },
    /// The interface is down, and the kernel accepts no routes for it.
    #[error("interface {name} is down")]
    InterfaceDown {
        /// Its name.
        name: IfName,
        /// The table that waits for it.
        table: TableId,
    },
    /// The interface's MTU is below the minimum of IPv6 (RFC 8200 section 5), so the kernel has disabled IPv6
    /// on it (`addrconf_notify`).
    #[error(
        "interface {name} has an MTU of {mtu} bytes, and the kernel has no IPv6 on an interface with less than \
         {min}; set it with `ip link set {name} mtu {min}`",
        min = Mtu::MINIMUM
    )]
    MtuTooSmall {
        /// Its name.
        name: IfName,
        /// The table that waits for it.
        table: TableId,
        /// Its MTU.
        mtu: Mtu,
    },
    /// A foreign default route has the same key as the one of sixxs, or comes before it.
    #[error(
        "table {table} has a default route with metric {metric} that other software made (protocol {protocol}) \
         and that comes before the one of sixxs; choose another `table` or remove that route"
    )]
    Occupied {
        /// The table.
        table: TableId,
        /// The metric.
        metric: Metric,
        /// The protocol number of its creator.
        protocol: u8,
    },
}

/// The changes from the observed to the desired state. Foreign objects are never replaced or removed.
#[must_use]
pub fn diff(desired: &Desired, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    for (name, wanted) in &desired.interfaces {
        // A missing interface is reported as its tunnel's state.
        if let Some(link) = observed.links.by_name(name) {
            plan.steps.extend(set_up(link, wanted));
            let peers = missing_peers(link, wanted, observed);
            plan.steps
                .extend(peers.map(|peer| Step::AddPeerRoute(link.index, name.clone(), peer)));
        }
    }
    let mut routes = Routes::of(observed);
    for (key, target) in &desired.routes {
        match resolve(*key, target, &observed.links) {
            Ok(route) => routes.plan_route(route, &mut plan),
            // Many routes may wait for one interface.
            Err(problem) if plan.problems.contains(&problem) => {}
            Err(problem) => plan.problems.push(problem),
        }
    }
    let mut old_neighbours: Vec<_> = observed.neighbours.iter().filter(|n| n.is_ours).collect();
    for neighbour in &desired.neighbours {
        keep_neighbour(neighbour, observed, &mut old_neighbours, &mut plan);
    }
    let mut missing = desired.rules_beside(observed.local_table);
    let mut deletions = Vec::new();
    for rule in &observed.rules {
        match rule {
            ObservedRule::Plain(plain) if missing.remove(plain) => {}
            other => deletions.push(Step::DeleteRule(other.clone())),
        }
    }
    plan.steps.extend(missing.into_iter().map(Step::AddRule));
    plan.steps.extend(deletions);
    plan.steps
        .extend(routes.surplus().cloned().map(Step::DeleteRoute));
    plan.steps
        .extend(old_neighbours.into_iter().filter_map(|neighbour| {
            // The neighbours of a removed interface are gone too.
            let link = observed.links.by_index(neighbour.index)?;
            Some(Step::DeleteNeighbour(
                neighbour.clone(),
                link.kernel_name().clone(),
            ))
        }));
    plan
}

/// The missing properties of a native tunnel's interface.
fn set_up(link: &Link, wanted: &SetUp) -> impl Iterator<Item = Step> {
    let (index, name) = (link.index, &link.name);
    let is_set_up = link.up && link.mtu == wanted.mtu;
    let set_up = (!is_set_up).then(|| Step::SetUp(index, name.clone(), wanted.mtu));
    let addresses = wanted.addresses.iter();
    let missing = addresses.filter(|wanted| !link.addresses.contains(&wanted.address.address));
    set_up
        .into_iter()
        .chain(missing.map(move |address| Step::AddAddress(index, name.clone(), *address)))
}

/// The peers of a native tunnel's addresses to which the kernel has no route, though it has the address.
fn missing_peers(
    link: &Link,
    wanted: &SetUp,
    observed: &Observed,
) -> impl Iterator<Item = Ipv6Addr> {
    let is_known = link.up && observed.connected_is_complete;
    let present = wanted
        .addresses
        .iter()
        .filter(move |own| is_known && link.addresses.contains(&own.address.address));
    let peers = present.filter_map(|own| own.peer);
    peers.filter(|peer| !observed.has_peer_route((link.index, *peer)))
}

/// Handles one gateway, and removes a matching neighbour from `old`. Without an interface that is up there is
/// nothing to resolve, and the missing route already reports that. An interface without link layer has no
/// neighbours.
fn keep_neighbour(
    wanted: &Neighbour,
    observed: &Observed,
    old: &mut Vec<&ObservedNeighbour>,
    plan: &mut Plan,
) {
    let Some(link) = observed.links.by_name(&wanted.interface) else {
        return;
    };
    if !link.up || !matches!(link.layer, LinkLayer::Ethernet(_)) {
        return;
    }
    let is_it = |n: &ObservedNeighbour| n.index == link.index && n.address == wanted.address;
    old.retain(|n| !is_it(n));
    if !observed
        .neighbours
        .iter()
        .any(|n| is_it(n) && n.stays_resolved)
    {
        let name = link.kernel_name().clone();
        plan.steps
            .push(Step::KeepNeighbour(link.index, name, wanted.clone()));
    }
}

/// The observed routes, by key. There may be tens of thousands.
struct Routes<'a> {
    /// The routes of sixxs that match no desired one yet, in the kernel's order.
    ours: BTreeMap<RouteKey, Vec<(usize, &'a ObservedRoute)>>,
    /// Foreign routes.
    foreign: BTreeMap<(TableId, Prefix, Prefix), Vec<&'a ObservedRoute>>,
}

impl<'a> Routes<'a> {
    fn of(observed: &'a Observed) -> Self {
        let mut routes = Self {
            ours: BTreeMap::new(),
            foreign: BTreeMap::new(),
        };
        for (order, route) in observed.routes.iter().enumerate() {
            if route.is_ours() {
                let same = routes.ours.entry(route.key()).or_default();
                same.push((order, route));
            } else {
                let key = (route.table, route.destination, route.source);
                routes.foreign.entry(key).or_default().push(route);
            }
        }
        routes
    }

    /// Adds the step for one desired route, or its problem.
    fn plan_route(&mut self, route: Route, plan: &mut Plan) {
        let RouteKey {
            table,
            metric,
            destination,
            source,
        } = route.key;
        let others = self.foreign.get(&(table, destination, source));
        let others = others.map(Vec::as_slice).unwrap_or_default();
        let is_here = |other: &&&ObservedRoute| other.metric == metric;
        // An `unreachable` route tolerates foreign routes before it.
        let comes_first = |other: &&&ObservedRoute| {
            is_here(other)
                || (other.metric <= metric && matches!(route.to, RouteTarget::Interface(_)))
        };
        if let Some(other) = others.iter().find(comes_first) {
            plan.problems.push(Problem::Occupied {
                table,
                metric: other.metric,
                protocol: other.protocol,
            });
        }
        let same = self.ours.entry(route.key).or_default();
        if let Some(at) = same.iter().position(|(_, ours)| route.is(&ours.target)) {
            same.remove(at);
        } else if others.iter().any(|other| is_here(&other)) {
            // The route is foreign: a route of sixxs would become an additional next hop of it.
        } else if same.is_empty() {
            plan.steps.push(Step::AddRoute(route));
        } else {
            same.remove(0);
            plan.steps.push(Step::ReplaceRoute(route));
        }
    }

    /// The surplus routes of sixxs.
    fn surplus(&self) -> impl Iterator<Item = &'a ObservedRoute> {
        let mut left: Vec<_> = self.ours.values().flatten().copied().collect();
        left.sort_by_key(|(order, _)| *order);
        left.into_iter().map(|(_, route)| route)
    }
}

fn resolve(key: RouteKey, target: &Target, links: &Links) -> Result<Route, Problem> {
    let to = match target {
        Target::Unreachable => RouteTarget::Unreachable,
        Target::Throw => RouteTarget::Throw,
        Target::Interface { name, gateway, mtu } => {
            let name = name.clone();
            let table = key.table;
            let Some(link) = links.by_name(&name) else {
                return Err(Problem::InterfaceMissing { name, table });
            };
            if !link.up {
                return Err(Problem::InterfaceDown { name, table });
            }
            if link.mtu < Mtu::MINIMUM {
                let mtu = link.mtu;
                return Err(Problem::MtuTooSmall { name, table, mtu });
            }
            RouteTarget::Interface(RouteInterface {
                index: link.index,
                name: link.kernel_name().clone(),
                gateway: *gateway,
                // The kernel does not check a route's MTU against that of the interface.
                mtu: mtu.map(|mtu| mtu.min(link.mtu)),
            })
        }
    };
    Ok(Route { key, to })
}

impl Route {
    /// Whether an observed target is the target of this route.
    fn is(&self, target: &ObservedTarget) -> bool {
        match (&self.to, target) {
            (RouteTarget::Unreachable, ObservedTarget::Unreachable)
            | (RouteTarget::Throw, ObservedTarget::Throw) => true,
            (
                RouteTarget::Interface(via),
                ObservedTarget::Interface {
                    index,
                    gateway,
                    mtu,
                    advertised_mss,
                },
            ) => {
                via.index == *index
                    && via.gateway == *gateway
                    && via.mtu.map_or(0, |mtu| mtu.0) == *mtu
                    && via.mtu.map_or(0, Mtu::advertised_mss) == *advertised_mss
            }
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "plan_group_tests.rs"]
mod group_tests;

#[cfg(test)]
#[path = "plan_property_tests.rs"]
mod property_tests;
