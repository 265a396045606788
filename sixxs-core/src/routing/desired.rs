//! The desired rules and routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use super::{
    DEFAULT_METRIC, DIRECTS_TABLE, LOCAL_TABLE, MAIN_TABLE, Neighbour, Rule, UNREACHABLE_METRIC,
    connected::MAX_PAIRS,
};
use crate::{
    config::{Config, Kind, RuleMode, SUBTREES_TABLE, Tunnel},
    types::{IfName, InterfaceAddress, Metric, Mtu, Prefix, RulePriority, TableId},
};

/// The desired state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Rules.
    pub rules: BTreeSet<Rule>,
    /// Rules that are needed only if no foreign rule looks up the local table before the rules of sixxs: otherwise
    /// packets to an address of this host take the tunnel.
    pub local: BTreeSet<Rule>,
    /// Routes.
    pub routes: BTreeMap<RouteKey, Target>,
    /// Gateways whose neighbour entry the kernel keeps resolved.
    pub neighbours: BTreeSet<Neighbour>,
    /// Interfaces of native tunnels.
    pub interfaces: BTreeMap<IfName, SetUp>,
}

/// The desired state of a native tunnel's interface, which is also to be up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetUp {
    /// Its MTU.
    pub mtu: Mtu,
    /// The required addresses; it may have others.
    pub addresses: Vec<OwnAddress>,
}

/// An address of a native tunnel's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The address.
    pub address: InterfaceAddress,
    /// The only other address on the link, if it is known. Without it, the kernel routes the whole prefix to
    /// the interface.
    pub peer: Option<Ipv6Addr>,
}

/// The key of a route: the kernel has at most one route of sixxs for each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Its table.
    pub table: TableId,
    /// Its metric.
    pub metric: Metric,
    /// Its destination.
    pub destination: Prefix,
    /// The source prefix; all sources, unless the route is source-specific.
    pub source: Prefix,
}

/// The target of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Through a tunnel.
    Interface {
        /// Its interface.
        name: IfName,
        /// Next hop, on an interface with a link layer.
        gateway: Option<Ipv6Addr>,
        /// The configured MTU.
        mtu: Option<Mtu>,
    },
    /// None: the sender gets an error.
    Unreachable,
    /// Back to the rules, which continue after the one that led here.
    Throw,
}

impl Desired {
    /// The rules and routes of all tunnels that `wanted` accepts, and of groups with such a tunnel.
    #[must_use]
    pub fn new(config: &Config, wanted: impl Fn(&Tunnel) -> bool) -> Self {
        let mut desired = Self::default();
        let behind = behind(config);
        for tunnel in config.tunnels.iter().filter(|tunnel| wanted(tunnel)) {
            let local = local_destinations(tunnel, &behind);
            match config.rule_mode {
                RuleMode::Rules => desired.add(config, tunnel, &local),
                RuleMode::Subtrees => desired.add_subtrees(config, tunnel, &local),
            }
        }
        for (group, tunnel) in config.groups_as_tunnels() {
            if !config.has_link(group, &wanted) {
                continue;
            }
            let is_active = config.active_link(group).is_some_and(&wanted);
            let local = local_destinations(&tunnel, &behind);
            desired.add_group(config, &tunnel, &local, is_active);
        }
        desired
    }

    /// Adds a group as a tunnel of its active link; `is_active`: the link is started. Another link takes over by a change
    /// of one route, with subtrees of one for each prefix.
    fn add_group(
        &mut self,
        config: &Config,
        group: &Tunnel,
        local: &BTreeSet<Prefix>,
        is_active: bool,
    ) {
        let mut of_group = Self::default();
        match config.rule_mode {
            RuleMode::Rules => of_group.add(config, group, local),
            RuleMode::Subtrees => of_group.add_subtrees(config, group, local),
        }
        if !is_active {
            of_group
                .routes
                .retain(|_, target| !matches!(target, Target::Interface { .. }));
            of_group.neighbours.clear();
        }
        self.rules.append(&mut of_group.rules);
        self.local.append(&mut of_group.local);
        self.routes.append(&mut of_group.routes);
        self.neighbours.append(&mut of_group.neighbours);
    }

    /// Adds the desired state of a native tunnel's interface. It stays down until its addresses are known.
    pub fn set_up(&mut self, tunnel: &Tunnel) {
        if tunnel.addresses_by_others || tunnel.addresses.is_empty() {
            return;
        }
        let first = tunnel.addresses.first();
        let own = |address: &InterfaceAddress| OwnAddress {
            address: *address,
            // There are no other hosts in the tunnel: other addresses of the prefix may be anywhere.
            peer: tunnel.peer.filter(|_| Some(address) == first),
        };
        let mut addresses: Vec<_> = tunnel.addresses.iter().map(own).collect();
        if let Kind::Ayiya(_) = &tunnel.kind {
            addresses.extend(first.map(|first| OwnAddress {
                address: link_local(first.address),
                peer: None,
            }));
        }
        let set_up = SetUp {
            mtu: tunnel.mtu.unwrap_or(Mtu::MINIMUM),
            addresses,
        };
        self.interfaces.insert(tunnel.name.clone(), set_up);
    }

    /// Like [`Desired::add`], but with one rule for all tunnels: instead of the rules, the routes select the
    /// source. A packet whose source belongs to no tunnel matches no route, and continues to the main table.
    ///
    /// ```text
    /// PRIORITY      from all lookup TABLE      default from A dev NAME
    ///                                          unreachable default from A      (last)
    ///                                          throw INSIDE from A             back to the rules:
    /// PRIORITY + 1  from all lookup main suppress_prefixlength 0               the LANs
    /// PRIORITY + 2  from all lookup DIRECTS    unreachable INSIDE from A       else nowhere
    /// ```
    fn add_subtrees(&mut self, config: &Config, tunnel: &Tunnel, local: &BTreeSet<Prefix>) {
        let key = |table, metric, destination, source| RouteKey {
            table,
            metric,
            destination,
            source,
        };
        self.rules.insert(leading_rule(config, tunnel, Prefix::ALL));
        self.local.insert(local_rule(config, Prefix::ALL));
        let mut rule = |offset, table, no_default| {
            self.rules.insert(Rule {
                priority: RulePriority(config.rule_priority.0 + offset),
                from: Prefix::ALL,
                to: None,
                table,
                no_default,
            })
        };
        if !local.is_empty() {
            rule(1, MAIN_TABLE, true);
            rule(2, DIRECTS_TABLE, false);
        }
        self.neighbours.extend(neighbour(tunnel));
        let default = |metric, from| key(SUBTREES_TABLE, metric, Prefix::ALL, from);
        for from in tunnel.sources() {
            self.routes
                .insert(default(DEFAULT_METRIC, from), tunnel_target(tunnel));
        }
        for from in present_and_former(tunnel) {
            self.routes
                .insert(default(UNREACHABLE_METRIC, from), Target::Unreachable);
            for to in local {
                self.routes.insert(
                    key(SUBTREES_TABLE, DEFAULT_METRIC, *to, from),
                    Target::Throw,
                );
                self.routes.insert(
                    key(DIRECTS_TABLE, UNREACHABLE_METRIC, *to, from),
                    Target::Unreachable,
                );
            }
        }
    }

    fn add(&mut self, config: &Config, tunnel: &Tunnel, local: &BTreeSet<Prefix>) {
        let target = tunnel_target(tunnel);
        let key = |metric, destination| RouteKey {
            table: tunnel.table,
            metric,
            destination,
            source: Prefix::ALL,
        };
        self.routes.insert(key(DEFAULT_METRIC, Prefix::ALL), target);
        // Also for destinations that are reached without the tunnel but have no route: through the tunnel the
        // packets would come back.
        for destination in local.iter().copied().chain([Prefix::ALL]) {
            self.routes
                .insert(key(UNREACHABLE_METRIC, destination), Target::Unreachable);
        }
        self.neighbours.extend(neighbour(tunnel));
        // A route for each lost source takes precedence over the tunnel's default route.
        for from in tunnel.former.iter().copied() {
            let default = RouteKey {
                source: from,
                ..key(UNREACHABLE_METRIC, Prefix::ALL)
            };
            self.routes.insert(default, Target::Unreachable);
        }
        for from in present_and_former(tunnel) {
            self.rules.insert(leading_rule(config, tunnel, from));
            self.local.insert(local_rule(config, from));
            // One priority earlier: destinations that are reached without the tunnel, such as the LANs behind
            // this host. They do not use the main table's default route, which leads to the uplink.
            for to in local {
                self.rules.insert(Rule {
                    priority: RulePriority(config.rule_priority.0 - 1),
                    from,
                    to: Some(*to),
                    table: MAIN_TABLE,
                    no_default: true,
                });
            }
        }
    }
}

/// The maximum number of pairs of a source and a prefix behind this host that get rules and routes. A packet
/// is compared with all rules one by one; routes with subtrees cost only memory.
const fn most_pairs(mode: RuleMode) -> usize {
    match mode {
        RuleMode::Rules => MAX_PAIRS,
        RuleMode::Subtrees => 65_536,
    }
}

/// The prefixes behind this host by the prefixes of any tunnel or group, including stopped ones: a broker may still
/// send packets for them here. Empty if there are too many pairs; then only the programs handle them.
fn behind(config: &Config) -> BTreeSet<Prefix> {
    let tunnels = || config.tunnels.iter();
    let of_groups = || config.group_prefixes().map(|(prefix, _)| prefix);
    let behind = tunnels().flat_map(Tunnel::routed_prefixes);
    let behind: BTreeSet<_> = behind.chain(of_groups()).collect();
    let sources: usize = tunnels().map(|tunnel| tunnel.sources().count()).sum();
    let sources = sources + of_groups().count();
    if sources.saturating_mul(behind.len()) > most_pairs(config.rule_mode) {
        return BTreeSet::new();
    }
    behind
}

/// Destinations that a tunnel's sources reach without any tunnel. Packets to prefixes behind this host would
/// come back through a tunnel.
fn local_destinations(tunnel: &Tunnel, behind: &BTreeSet<Prefix>) -> BTreeSet<Prefix> {
    let direct = tunnel.direct.iter().copied();
    direct
        .chain(tunnel.routed_prefixes())
        .chain(behind.iter().copied())
        .collect()
}

/// The sources of a tunnel, and those that it has lost lately: local networks are reached from both.
fn present_and_former(tunnel: &Tunnel) -> impl Iterator<Item = Prefix> {
    tunnel.sources().chain(tunnel.former.iter().copied())
}

/// The rule that leads packets from a tunnel's source to the table with its route.
#[must_use]
pub fn leading_rule(config: &Config, tunnel: &Tunnel, source: Prefix) -> Rule {
    let (from, table) = match config.rule_mode {
        RuleMode::Rules => (source, tunnel.table),
        RuleMode::Subtrees => (Prefix::ALL, SUBTREES_TABLE),
    };
    Rule {
        priority: config.rule_priority,
        from,
        to: None,
        table,
        no_default: false,
    }
}

/// The rule that looks up addresses of this host before all other rules of sixxs. In the mode `rules` it applies
/// only to that source: the host's administrator had a reason to move the local table's rule for other
/// packets.
fn local_rule(config: &Config, source: Prefix) -> Rule {
    Rule {
        priority: RulePriority(config.rule_priority.0.saturating_sub(2).max(1)),
        from: source,
        to: None,
        table: LOCAL_TABLE,
        no_default: false,
    }
}

fn tunnel_target(tunnel: &Tunnel) -> Target {
    Target::Interface {
        name: tunnel.name.clone(),
        gateway: tunnel.gateway,
        mtu: tunnel.mtu,
    }
}

fn neighbour(tunnel: &Tunnel) -> Option<Neighbour> {
    tunnel.gateway.map(|address| Neighbour {
        interface: tunnel.name.clone(),
        address,
    })
}

/// The link-local address for an AYIYA tunnel's address, in AICCU's form: its bytes 2 to 7, the first of them
/// masked, and its last two bytes.
fn link_local(address: Ipv6Addr) -> InterfaceAddress {
    let octets = address.octets();
    let mut made = [0; 16];
    made[..2].copy_from_slice(&[0xfe, 0x80]);
    made[8..14].copy_from_slice(&octets[2..8]);
    made[8] &= 0xfc;
    made[14..].copy_from_slice(&octets[14..]);
    InterfaceAddress {
        address: made.into(),
        bits: 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_is_that_of_aiccu() {
        let made = link_local("2001:db8:2ff:1::2".parse().unwrap());
        assert_eq!(made.address.to_string(), "fe80::cb8:2ff:1:2");
    }
}
