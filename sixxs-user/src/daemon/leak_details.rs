//! Describes a leak for people: names for numbers, and why the packet left by the wrong interface.
//!
//! Pure, except that it looks the names of interfaces up in the kernel.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use sixxs_common::{
    flow::Flow,
    layout::NO_UID,
    packet::{ICMPV6, TCP, UDP},
    treatment::Treatment,
};
use sixxs_core::{
    config::{Config, Tunnel},
    explain::{
        Cause, Endpoint, LeakFacts, Packet, cause,
        rules::{self, PolicyRule},
    },
    leak_lines::LeakLine,
    link::Links,
    routing::{
        Plan, Rule, Step,
        desired::{RouteKey, leading_rule},
    },
    types::{IfIndex, IfName, Prefix},
};

use crate::{control::api, netlink::index_to_name};

/// The facts about the host that explain a leak.
pub(super) struct Evidence<'a> {
    /// The configuration in force.
    pub(super) config: &'a Config,
    /// The tunnels that are started.
    pub(super) started: &'a BTreeSet<IfName>,
    /// Slots by interface.
    pub(super) slots: &'a BTreeMap<IfName, u32>,
    /// The steps and problems that the last round left.
    pub(super) plan: &'a Plan,
    /// Foreign policy rules.
    pub(super) foreign_rules: &'a [PolicyRule],
    /// Interfaces.
    pub(super) links: &'a Links,
}

impl Evidence<'_> {
    fn tunnel_in(&self, slot: u32) -> Option<&IfName> {
        let mut slots = self.slots.iter();
        slots
            .find(|(_, known)| **known == slot)
            .map(|(name, _)| name)
    }

    /// A line about leaks, without a cause.
    pub(super) fn leak(&self, line: &LeakLine) -> api::Leak {
        let tunnel = self
            .tunnel_in(line.tunnel)
            .map_or_else(|| format!("slot {}", line.tunnel), ToString::to_string);
        let flow = line.flow.as_ref().map(|(flow, _)| flow);
        let record = line.flow.as_ref().map(|(_, record)| record);
        api::Leak {
            tunnel,
            interface: record.and_then(|record| interface_name(record.ifindex)),
            source: flow.map(|flow| Ipv6Addr::from(flow.local.octets())),
            destination: flow.map(|flow| Ipv6Addr::from(flow.remote.octets())),
            protocol: flow.map(|flow| protocol(flow.protocol)),
            ports: flow
                .filter(|flow| flow.local_port != 0 || flow.remote_port != 0)
                .map(|flow| [flow.local_port, flow.remote_port]),
            packets: line.packets,
            treatment: record.map(|record| treatment(record.treatment)),
            uid: record.map(|record| record.uid).filter(|uid| *uid != NO_UID),
            cgroup: record
                .map(|record| record.cgroup)
                .filter(|cgroup| *cgroup != 0),
            cgroup_path: None,
            unit: None,
            container: None,
            mark: record.map(|record| record.mark).filter(|mark| *mark != 0),
            bound_to: record.and_then(|record| interface_name(record.bound_ifindex)),
            forwarded_from: record.and_then(|record| interface_name(record.from_ifindex)),
            cause: None,
            why: None,
            cure: None,
        }
    }

    /// Why a flow leaks; `None`: the line is about several flows, or its tunnel is not configured any more.
    /// `recent`: whether the tunnel's rule or route was restored shortly before, and the process that had removed it.
    pub(super) fn cause(
        &self,
        line: &LeakLine,
        recent: impl Fn(&IfName) -> Option<Option<String>>,
    ) -> Option<Cause> {
        let (flow, record) = line.flow.as_ref()?;
        let name = self.tunnel_in(line.tunnel)?;
        let tunnel = self.owner(name)?;
        if record.treatment == Treatment::Recursion.raw() {
            return Some(recursion(name, flow));
        }
        let packet = Packet {
            source: Ipv6Addr::from(flow.local.octets()),
            destination: Ipv6Addr::from(flow.remote.octets()),
            uid: (record.uid != NO_UID).then_some(record.uid),
            mark: Some(record.mark),
            iif: interface_name(record.from_ifindex),
            oif: interface_name(record.bound_ifindex),
        };
        let leak_facts = self.leak_facts(&tunnel, &packet, IfIndex(record.ifindex))?;
        match cause(&leak_facts) {
            // A rule or route that was missing then may have been restored since.
            Cause::NotAsked => {
                Some(recent(name).map_or(Cause::NotAsked, |by| Cause::PutBack { by }))
            }
            found => Some(found),
        }
    }

    /// The tunnel of this name, or the group as a tunnel of its active link.
    fn owner(&self, name: &IfName) -> Option<Cow<'_, Tunnel>> {
        let mut tunnels = self.config.tunnels.iter();
        let tunnel = tunnels.find(|tunnel| tunnel.name == *name);
        let of_group = || {
            let mut groups = self.config.groups_as_tunnels();
            groups.find(|(group, _)| group.name == *name)
        };
        match tunnel {
            Some(tunnel) => Some(Cow::Borrowed(tunnel)),
            None => of_group().map(|(_, tunnel)| Cow::Owned(tunnel)),
        }
    }

    fn leak_facts(
        &self,
        tunnel: &Tunnel,
        packet: &Packet,
        leaves_by: IfIndex,
    ) -> Option<LeakFacts> {
        let source = packet.source;
        let own = tunnel.sources().filter(|own| own.contains(source));
        let longest = own.max_by_key(|own| own.bits())?;
        let rule = leading_rule(self.config, tunnel, longest);
        let before = rules::foreign_match(self.foreign_rules, packet, rule.priority);
        let mut links = self.links.iter();
        let leaves_by = self.links.by_index(leaves_by);
        Some(LeakFacts {
            tunnel: tunnel.name.clone(),
            bound_to: packet.oif.clone(),
            forwarded_from: packet.iif.clone(),
            wanted: self.started.contains(&tunnel.name),
            daemon: Some(true),
            rule,
            rule_in_place: !self.plan.steps.contains(&Step::AddRule(rule)),
            route_in_place: !self.lacks_default_route(&rule),
            is_own_address: links.any(|link| link.addresses.contains(&source)),
            without_address: leaves_by
                .filter(|link| link.global_addresses().next().is_none())
                .map(|link| link.name.to_string()),
            before: before.map(|(rule, how)| (rule.clone(), how)),
        })
    }

    fn lacks_default_route(&self, rule: &Rule) -> bool {
        self.plan.steps.iter().any(|step| match step {
            Step::AddRoute(route) | Step::ReplaceRoute(route) => {
                let RouteKey {
                    table, destination, ..
                } = route.key;
                table == rule.table && destination == Prefix::ALL
            }
            _ => false,
        })
    }
}

/// The cause of recursive packets: outer packets of a tunnel that are routed into it.
pub(super) fn recursion(tunnel: &IfName, flow: &Flow) -> Cause {
    Cause::Recursion {
        tunnel: tunnel.clone(),
        endpoint: Endpoint {
            address: Ipv6Addr::from(flow.remote.octets()),
            port: flow.remote_port,
        },
    }
}

/// The name of an interface; its number, if it is gone. 0 means no interface.
fn interface_name(index: u32) -> Option<String> {
    let named = || index_to_name(IfIndex(index)).map(|name| name.to_string());
    (index != 0).then(|| named().unwrap_or_else(|| format!("#{index}")))
}

fn protocol(number: u32) -> String {
    match u8::try_from(number) {
        Ok(TCP) => "tcp".to_owned(),
        Ok(UDP) => "udp".to_owned(),
        Ok(ICMPV6) => "icmpv6".to_owned(),
        _ => number.to_string(),
    }
}

fn treatment(number: u32) -> api::Treatment {
    Treatment::try_from(number).map_or(api::Treatment::Unknown, api::Treatment::from)
}
