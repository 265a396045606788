//! The rules and routes that should be there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use super::{
    DEFAULT_METRIC, DIRECTS_TABLE, LOCAL_TABLE, MAIN_TABLE, Neighbour, Rule, UNREACHABLE_METRIC,
    connected::MOST_PAIRS,
};
use crate::{
    config::{Config, Kind, RuleMode, SUBTREES_TABLE, Tunnel},
    types::{IfName, InterfaceAddress, Metric, Mtu, Prefix, RulePriority, TableId},
};

/// What should be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Rules.
    pub rules: BTreeSet<Rule>,
    /// Rules that only belong there while nobody else's rule asks the local table before ours: without one,
    /// packets to an address of this host take the tunnel.
    pub local: BTreeSet<Rule>,
    /// Routes.
    pub routes: BTreeMap<Place, Target>,
    /// Gateways to be kept resolved.
    pub neighbours: BTreeSet<Neighbour>,
    /// Interfaces of our own making.
    pub interfaces: BTreeMap<IfName, SetUp>,
}

/// What an interface of our own making should be like, besides up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetUp {
    /// Its MTU.
    pub mtu: Mtu,
    /// Its addresses; it may have others.
    pub addresses: Vec<OwnAddress>,
}

/// An address of an interface of our own making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The address.
    pub address: InterfaceAddress,
    /// The only other address that is on the link, where that is known. Without it the kernel leads the whole
    /// prefix there.
    pub peer: Option<Ipv6Addr>,
}

/// What tells a route from others: the kernel has at most one of ours for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its table.
    pub table: TableId,
    /// Its metric.
    pub metric: Metric,
    /// Its destination.
    pub destination: Prefix,
    /// The sources that it is for; all, unless it is source-specific.
    pub source: Prefix,
}

/// Where a route leads.
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
    /// Nowhere: the sender gets an error.
    Unreachable,
    /// Back to the rules, to go on behind the one that led here.
    Throw,
}

impl Desired {
    /// The rules and routes of all tunnels that `wanted` accepts.
    #[must_use]
    pub fn new(config: &Config, wanted: impl Fn(&Tunnel) -> bool) -> Self {
        let mut desired = Self::default();
        let behind = behind(config);
        for tunnel in config.tunnels.iter().filter(|tunnel| wanted(tunnel)) {
            let inside = inside(tunnel, &behind);
            match config.rule_mode {
                RuleMode::Rules => desired.add(config, tunnel, &inside),
                RuleMode::Subtrees => desired.add_subtrees(config, tunnel, &inside),
            }
        }
        desired
    }

    /// Adds what the interface of a tunnel should be like, which we made ourselves.
    pub fn set_up(&mut self, tunnel: &Tunnel) {
        if tunnel.addresses_by_others {
            return;
        }
        let first = tunnel.addresses.first();
        let own = |address: &InterfaceAddress| OwnAddress {
            address: *address,
            // There is nobody else in the tunnel: other addresses of the prefix may be anywhere.
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

    /// As [`Desired::add`] has it, with one rule for all: what the rules ask there, the routes ask
    /// here. A packet whose source is nobody's finds nothing and goes on to the main table.
    ///
    /// ```text
    /// PRIORITY      from all lookup TABLE      default from A dev NAME
    ///                                          unreachable default from A      (last)
    ///                                          throw INSIDE from A             back to the rules:
    /// PRIORITY + 1  from all lookup main suppress_prefixlength 0               the LANs
    /// PRIORITY + 2  from all lookup DIRECTS    unreachable INSIDE from A       else nowhere
    /// ```
    fn add_subtrees(&mut self, config: &Config, tunnel: &Tunnel, inside: &BTreeSet<Prefix>) {
        let place = |table, metric, destination, source| Place {
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
        if !inside.is_empty() {
            rule(1, MAIN_TABLE, true);
            rule(2, DIRECTS_TABLE, false);
        }
        self.neighbours.extend(neighbour(tunnel));
        for from in tunnel.sources() {
            let default = |metric| place(SUBTREES_TABLE, metric, Prefix::ALL, from);
            self.routes.insert(default(DEFAULT_METRIC), through(tunnel));
            self.routes
                .insert(default(UNREACHABLE_METRIC), Target::Unreachable);
            for to in inside {
                self.routes.insert(
                    place(SUBTREES_TABLE, DEFAULT_METRIC, *to, from),
                    Target::Throw,
                );
                self.routes.insert(
                    place(DIRECTS_TABLE, UNREACHABLE_METRIC, *to, from),
                    Target::Unreachable,
                );
            }
        }
    }

    fn add(&mut self, config: &Config, tunnel: &Tunnel, inside: &BTreeSet<Prefix>) {
        let through = through(tunnel);
        let place = |metric, destination| Place {
            table: tunnel.table,
            metric,
            destination,
            source: Prefix::ALL,
        };
        self.routes
            .insert(place(DEFAULT_METRIC, Prefix::ALL), through);
        // Also for what is reached without the tunnel and has no route there: through the tunnel it
        // would only come back.
        for destination in inside.iter().copied().chain([Prefix::ALL]) {
            self.routes
                .insert(place(UNREACHABLE_METRIC, destination), Target::Unreachable);
        }
        self.neighbours.extend(neighbour(tunnel));
        for from in tunnel.sources() {
            self.rules.insert(leading_rule(config, tunnel, from));
            self.local.insert(local_rule(config, from));
            // Right before: what is reached without the tunnel, such as the LANs behind this host.
            // Not by the main table's default route: that leads to the uplink.
            for to in inside {
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

/// Pairs of a source and a prefix behind this host, at most, for which there are rules and routes. A
/// packet passes all rules one by one; routes of subtrees take only room.
const fn most_pairs(mode: RuleMode) -> usize {
    match mode {
        RuleMode::Rules => MOST_PAIRS,
        RuleMode::Subtrees => 65_536,
    }
}

/// What lies behind this host by any tunnel's prefixes, that of a stopped one as well: its broker may
/// still bring it here. Nothing where there are too many pairs: there only the programs see to it.
fn behind(config: &Config) -> BTreeSet<Prefix> {
    let tunnels = || config.tunnels.iter();
    let behind: BTreeSet<_> = tunnels().flat_map(Tunnel::routed_prefixes).collect();
    let sources: usize = tunnels().map(|tunnel| tunnel.sources().count()).sum();
    if sources.saturating_mul(behind.len()) > most_pairs(config.rule_mode) {
        return BTreeSet::new();
    }
    behind
}

/// What a tunnel's sources reach without any tunnel. By a tunnel, what is behind this host would only come
/// back.
fn inside(tunnel: &Tunnel, behind: &BTreeSet<Prefix>) -> BTreeSet<Prefix> {
    let direct = tunnel.direct.iter().copied();
    direct
        .chain(tunnel.routed_prefixes())
        .chain(behind.iter().copied())
        .collect()
}

/// The rule that leads packets with a source of a tunnel's into the table with its route.
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

/// The rule that has packets of a source look for an address of this host, before all other rules of ours. It is for
/// that source alone where rules are: whoever moved the local table back had a reason for other packets.
fn local_rule(config: &Config, source: Prefix) -> Rule {
    Rule {
        priority: RulePriority(config.rule_priority.0.saturating_sub(2).max(1)),
        from: source,
        to: None,
        table: LOCAL_TABLE,
        no_default: false,
    }
}

fn through(tunnel: &Tunnel) -> Target {
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

/// The link-local address that goes with an AYIYA tunnel's address, as AICCU makes it: its bytes 2
/// to 7, the first of them masked, and its last two.
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
    fn the_link_local_address_is_aiccus() {
        let made = link_local("2001:db8:2ff:1::2".parse().unwrap());
        assert_eq!(made.address.to_string(), "fe80::cb8:2ff:1:2");
    }
}
