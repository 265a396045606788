//! Answers two questions about a step of a plan: which tunnel it serves, and whether it restores a missing object.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use super::{
    Observed, Plan, Problem, Rule, Step,
    desired::{Desired, RouteKey, Target},
    plan::Route,
};
use crate::{
    config::{Config, RuleMode, Tunnel},
    types::{IfIndex, IfName, Mtu, Prefix, TableId},
};

/// The desired objects that were in place after a round. If one of them is missing later, other software removed
/// it. Objects that the intent added since are not among them.
#[derive(Clone, Debug, Default)]
pub struct InPlace {
    rules: BTreeSet<Rule>,
    routes: BTreeMap<RouteKey, Target>,
    /// Interfaces that were up with their intended MTU.
    set_up: BTreeSet<(IfIndex, Mtu)>,
    addresses: BTreeSet<(IfIndex, Ipv6Addr)>,
    /// Peers with a route.
    peers: BTreeSet<(IfIndex, Ipv6Addr)>,
}

impl InPlace {
    /// The part of `desired` for which `plan` has nothing left to do.
    #[must_use]
    pub fn of(desired: &Desired, observed: &Observed, plan: &Plan) -> Self {
        let mut in_place = Self::default();
        let rules = desired.rules_beside(observed.local_table).into_iter();
        let present = rules.filter(|rule| !plan.steps.contains(&Step::AddRule(*rule)));
        in_place.rules.extend(present);
        let routes = desired.routes.iter();
        let present = routes.filter(|(key, target)| !is_missing(**key, target, plan));
        let present = present.map(|(key, target)| (*key, target.clone()));
        in_place.routes.extend(present);
        for (name, wanted) in &desired.interfaces {
            let Some(link) = observed.links.by_name(name) else {
                continue;
            };
            if link.up && link.mtu == wanted.mtu {
                in_place.set_up.insert((link.index, link.mtu));
            }
            let addresses = wanted.addresses.iter().map(|own| own.address.address);
            let present = addresses.filter(|address| link.addresses.contains(address));
            let present = present.map(|address| (link.index, address));
            in_place.addresses.extend(present);
            let peers = wanted.addresses.iter().filter_map(|own| own.peer);
            let routes = peers.map(|peer| (link.index, peer));
            let present = routes.filter(|route| observed.has_peer_route(*route));
            in_place.peers.extend(present);
        }
        in_place
    }

    /// Keeps the objects of the previous round that a failed step could not restore, so that a later success
    /// still counts as a correction.
    pub fn keep_failed<'a>(&mut self, before: &Self, failed: impl Iterator<Item = &'a Step>) {
        for step in failed {
            match step {
                Step::AddRoute(Route { key, .. }) | Step::ReplaceRoute(Route { key, .. }) => {
                    let target = before.routes.get(key).cloned();
                    self.routes.extend(target.map(|target| (*key, target)));
                }
                Step::AddRule(rule) => self.rules.extend(before.rules.get(rule).copied()),
                Step::SetUp(..)
                | Step::AddAddress(..)
                | Step::AddPeerRoute(..)
                | Step::KeepNeighbour(..)
                | Step::DeleteRule(_)
                | Step::DeleteRoute(_)
                | Step::DeleteNeighbour(..) => {}
            }
        }
    }

    /// Whether a step restores an object that was in place.
    #[must_use]
    pub fn is_restored_by(&self, step: &Step, desired: &Desired) -> bool {
        match step {
            Step::SetUp(index, _, mtu) => self.set_up.contains(&(*index, *mtu)),
            Step::AddAddress(index, _, own) => {
                self.addresses.contains(&(*index, own.address.address))
            }
            Step::AddPeerRoute(index, _, peer) => self.peers.contains(&(*index, *peer)),
            Step::AddRule(rule) => self.rules.contains(rule),
            Step::AddRoute(Route { key, .. }) | Step::ReplaceRoute(Route { key, .. }) => {
                let target = desired.routes.get(key);
                target.is_some() && self.routes.get(key) == target
            }
            // The kernel removes a neighbour together with its interface, so a missing one shows no removal.
            Step::KeepNeighbour(..)
            | Step::DeleteRule(_)
            | Step::DeleteRoute(_)
            | Step::DeleteNeighbour(..) => false,
        }
    }
}

/// Whether a route is missing: the plan adds it, or a problem keeps the plan from adding it.
fn is_missing(key: RouteKey, target: &Target, plan: &Plan) -> bool {
    let is_added = plan.steps.iter().any(|step| match step {
        Step::AddRoute(route) | Step::ReplaceRoute(route) => route.key == key,
        Step::SetUp(..)
        | Step::AddAddress(..)
        | Step::AddPeerRoute(..)
        | Step::AddRule(_)
        | Step::KeepNeighbour(..)
        | Step::DeleteRule(_)
        | Step::DeleteRoute(_)
        | Step::DeleteNeighbour(..) => false,
    });
    let waits = || match target {
        Target::Interface { name: wanted, .. } => {
            plan.problems.iter().any(|problem| match problem {
                Problem::InterfaceMissing { name, .. }
                | Problem::InterfaceDown { name, .. }
                | Problem::MtuTooSmall { name, .. } => name == wanted,
                Problem::Occupied { table, .. } => *table == key.table,
            })
        }
        _ => false,
    };
    is_added || waits()
}

/// The tunnel or group of each table and each source. A configuration has a few hundred tunnels at most, but it may have
/// more than a hundred thousand sources.
#[derive(Clone, Debug)]
pub struct Owners {
    tables: BTreeMap<TableId, IfName>,
    sources: BTreeMap<Prefix, IfName>,
}

impl Owners {
    /// The owners in a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let tunnels = || config.tunnels.iter();
        let groups = || config.groups.iter();
        let tables = match config.rule_mode {
            RuleMode::Rules => tunnels()
                .map(|tunnel| (tunnel.table, tunnel.name.clone()))
                .chain(groups().map(|group| (group.table, group.name.clone())))
                .collect(),
            // All tunnels share one table: the source decides.
            RuleMode::Subtrees => BTreeMap::new(),
        };
        let sources = tunnels().flat_map(|t| t.sources().map(|source| (source, t.name.clone())));
        let of_groups = config.group_prefixes();
        let of_groups = of_groups.map(|(prefix, name)| (prefix, name.clone()));
        Self {
            tables,
            sources: sources.chain(of_groups).collect(),
        }
    }

    fn tunnel(&self, table: TableId, source: Prefix) -> Option<&IfName> {
        match source {
            Prefix::ALL => self.tables.get(&table),
            source => self.sources.get(&source),
        }
    }
}

impl Step {
    /// The tunnel that this step serves; `None`: it serves all tunnels, or removes an object.
    #[must_use]
    pub fn tunnel<'a>(&'a self, owners: &'a Owners) -> Option<&'a IfName> {
        match self {
            Self::SetUp(_, name, _)
            | Self::AddAddress(_, name, _)
            | Self::AddPeerRoute(_, name, _) => Some(name),
            Self::AddRule(rule) => owners.tunnel(rule.table, rule.from),
            Self::AddRoute(route) | Self::ReplaceRoute(route) => {
                owners.tunnel(route.key.table, route.key.source)
            }
            Self::KeepNeighbour(_, _, neighbour) => Some(&neighbour.interface),
            Self::DeleteRule(_) | Self::DeleteRoute(_) | Self::DeleteNeighbour(..) => None,
        }
    }
}

impl Plan {
    /// Whether everything of a tunnel is in place: no step adds an object for it, and no problem prevents one.
    /// Objects that are still to be removed do not count. A tunnel whose addresses are not known yet is not complete.
    #[must_use]
    pub fn is_complete_for(&self, tunnel: &Tunnel) -> bool {
        let sources: Vec<_> = tunnel.sources().collect();
        let is_its = |key: RouteKey| match key.source {
            Prefix::ALL => key.table == tunnel.table,
            source => sources.contains(&source),
        };
        let is_about = |step: &Step| match step {
            Step::AddRoute(route) | Step::ReplaceRoute(route) => is_its(route.key),
            // All tunnels need a rule for every source.
            Step::AddRule(rule) => rule.from == Prefix::ALL || sources.contains(&rule.from),
            Step::KeepNeighbour(_, _, neighbour) => neighbour.interface == tunnel.name,
            Step::SetUp(_, name, _)
            | Step::AddAddress(_, name, _)
            | Step::AddPeerRoute(_, name, _) => *name == tunnel.name,
            Step::DeleteRule(_) | Step::DeleteRoute(_) | Step::DeleteNeighbour(..) => false,
        };
        let holds_up = |problem: &Problem| match problem {
            Problem::InterfaceMissing { name, .. }
            | Problem::InterfaceDown { name, .. }
            | Problem::MtuTooSmall { name, .. } => *name == tunnel.name,
            Problem::Occupied { table, .. } => *table == tunnel.table,
        };
        !sources.is_empty()
            && !self.steps.iter().any(is_about)
            && !self.problems.iter().any(holds_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, link::Link, routing::diff};

    fn config() -> Config {
        let text = "[[tunnel]]\nname = \"sixxs0\"\nkind = \"interface\"\naddress = \"2001:db8:a::2/64\"\n\
                    [[tunnel]]\nname = \"sixxs1\"\nkind = \"interface\"\naddress = \"2001:db8:b::2/64\"\n";
        config::parse("test", text).unwrap()
    }

    fn observed(names: &[&str]) -> Observed {
        let link = |(index, name): (u32, &&str)| {
            Link::up(IfIndex(index), name.parse().unwrap(), Mtu(1500))
        };
        Observed {
            links: (3..).zip(names).map(link).collect(),
            ..Observed::default()
        }
    }

    /// A host on which the plan was carried out but for the steps that `lacks` names.
    fn in_place(desired: &Desired, steps: &[Step], lacks: impl Fn(&Step) -> bool) -> InPlace {
        let plan = Plan {
            steps: steps.iter().filter(|step| lacks(step)).cloned().collect(),
            problems: vec![],
        };
        InPlace::of(desired, &observed(&["sixxs0", "sixxs1"]), &plan)
    }

    #[test]
    fn a_step_restores_only_what_was_in_place() {
        let config = config();
        let desired = Desired::new(&config, |_| true);
        let plan = diff(&desired, &observed(&["sixxs0", "sixxs1"]));
        assert!(plan.steps.len() >= 6, "{plan:?}");
        let nothing = in_place(&desired, &plan.steps, |_| true);
        let all = in_place(&desired, &plan.steps, |_| false);
        for step in &plan.steps {
            assert!(!nothing.is_restored_by(step, &desired), "{step}");
            assert!(all.is_restored_by(step, &desired), "{step}");
            // A route that is not intended any more is not restored.
            let dropped = Desired::default();
            let is_rule = matches!(step, Step::AddRule(_));
            assert_eq!(all.is_restored_by(step, &dropped), is_rule, "{step}");
        }
    }

    #[test]
    fn an_object_that_a_failed_step_lacks_can_still_be_restored() {
        let config = config();
        let desired = Desired::new(&config, |_| true);
        let plan = diff(&desired, &observed(&["sixxs0", "sixxs1"]));
        let before = in_place(&desired, &plan.steps, |_| false);
        for step in &plan.steps {
            let mut after = in_place(&desired, &plan.steps, |lacking| lacking == step);
            assert!(!after.is_restored_by(step, &desired), "{step}");
            after.keep_failed(&before, [step].into_iter());
            assert!(after.is_restored_by(step, &desired), "{step}");
        }
    }

    #[test]
    fn a_step_serves_one_tunnel() {
        for mode in ["rules", "subtrees"] {
            let mut config = config();
            if mode == "subtrees" {
                config.rule_mode = RuleMode::Subtrees;
            }
            let owners = Owners::of(&config);
            let desired = Desired::new(&config, |tunnel| tunnel.name.as_str() == "sixxs1");
            let plan = diff(&desired, &observed(&["sixxs0", "sixxs1"]));
            let served: BTreeSet<_> = plan.steps.iter().map(|step| step.tunnel(&owners)).collect();
            let named: BTreeSet<_> = served.into_iter().flatten().map(IfName::as_str).collect();
            assert_eq!(named, BTreeSet::from(["sixxs1"]), "{mode}");
            let [other, wanted] = &config.tunnels[..] else {
                panic!("two tunnels");
            };
            assert!(!plan.is_complete_for(wanted), "{mode}");
            if mode == "rules" {
                assert!(plan.is_complete_for(other), "{mode}");
            }
        }
    }

    /// Its account is not answered yet.
    #[test]
    fn a_tunnel_without_addresses_is_neither_set_up_nor_complete() {
        let mut tunnel = config().tunnels[0].clone();
        tunnel.addresses.clear();
        assert!(!Plan::default().is_complete_for(&tunnel));
        let mut desired = Desired::default();
        desired.set_up(&tunnel);
        assert!(desired.interfaces.is_empty());
    }

    #[test]
    fn a_tunnel_without_its_interface_lacks_something() {
        let config = config();
        let desired = Desired::new(&config, |_| true);
        let mut plan = diff(&desired, &observed(&["sixxs1"]));
        plan.steps.clear();
        let complete = config.tunnels.iter().map(|t| plan.is_complete_for(t));
        assert_eq!(complete.collect::<Vec<_>>(), [false, true]);
        let in_place = InPlace::of(&desired, &observed(&["sixxs1"]), &plan);
        let routes = in_place.routes.values();
        let by_interface = routes.filter(|target| matches!(target, Target::Interface { .. }));
        assert_eq!(by_interface.count(), 1);
    }

    /// An interface of our own, which the plan brings up with its MTU and its addresses.
    #[test]
    fn an_interface_of_our_own_is_restored_piece_by_piece() {
        let text = "[[tunnel]]\nname = \"sixxs0\"\nkind = \"ayiya\"\nremote4 = \"192.0.2.1\"\npassword = \"p\"\n\
                    address = \"2001:db8:a::2/64\"\npeer = \"2001:db8:a::1\"\nmtu = 1400\n";
        let config = config::parse("test", text).unwrap();
        let mut desired = Desired::new(&config, |_| true);
        desired.set_up(&config.tunnels[0]);
        let own = &desired.interfaces[&config.tunnels[0].name].addresses;
        let own: Vec<_> = own.iter().map(|own| own.address.address).collect();
        assert_eq!(own.len(), 2);
        let with = |up, mtu, addresses: &[Ipv6Addr]| {
            let link = Link {
                up,
                addresses: addresses.to_vec(),
                ..Link::up(IfIndex(3), "sixxs0".parse().unwrap(), Mtu(mtu))
            };
            Observed {
                links: [link].into_iter().collect(),
                ..Observed::default()
            }
        };
        let missing = diff(&desired, &with(false, 1280, &[]));
        let steps: Vec<_> = missing.steps[..3].iter().collect();
        let owners = Owners::of(&config);
        for step in &steps {
            assert_eq!(
                step.tunnel(&owners),
                Some(&config.tunnels[0].name),
                "{step}"
            );
            let plan = Plan {
                steps: vec![(*step).clone()],
                problems: vec![],
            };
            assert!(!plan.is_complete_for(&config.tunnels[0]), "{step}");
        }
        for (name, before, expected) in [
            ("nothing", with(false, 1280, &[]), [false, false, false]),
            ("down", with(false, 1400, &[]), [false, false, false]),
            ("another MTU", with(true, 1280, &[]), [false, false, false]),
            ("no addresses", with(true, 1400, &[]), [true, false, false]),
            (
                "the first",
                with(true, 1400, &own[..1]),
                [true, true, false],
            ),
            (
                "the second",
                with(true, 1400, &own[1..]),
                [true, false, true],
            ),
            ("all", with(true, 1400, &own), [true, true, true]),
            ("no interface", Observed::default(), [false, false, false]),
        ] {
            let in_place = InPlace::of(&desired, &before, &Plan::default());
            let restored = steps
                .iter()
                .map(|step| in_place.is_restored_by(step, &desired));
            assert!(restored.eq(expected), "{name}");
        }
    }

    #[test]
    fn what_is_removed_serves_no_tunnel_and_keeps_none_waiting() {
        let config = config();
        let desired = Desired::new(&config, |_| true);
        let done = diff(&desired, &observed(&["sixxs0", "sixxs1"]));
        let rule = *desired.rules.first().unwrap();
        let step = Step::DeleteRule(crate::routing::observed::ObservedRule::Plain(rule));
        assert_eq!(step.tunnel(&Owners::of(&config)), None);
        let in_place = InPlace::of(&desired, &observed(&["sixxs0", "sixxs1"]), &Plan::default());
        assert!(!in_place.is_restored_by(&step, &desired));
        let plan = Plan {
            steps: vec![step],
            problems: vec![],
        };
        for tunnel in &config.tunnels {
            assert!(plan.is_complete_for(tunnel));
            assert!(!done.is_complete_for(tunnel));
        }
    }

    /// A gateway comes and goes with its interface, so its return is no correction.
    #[test]
    fn a_gateway_belongs_to_its_tunnel() {
        let config = config();
        let [first, second] = &config.tunnels[..] else {
            panic!("two tunnels");
        };
        let neighbour = crate::routing::Neighbour {
            interface: first.name.clone(),
            address: "fe80::1".parse().unwrap(),
        };
        let step = Step::KeepNeighbour(IfIndex(3), first.name.clone(), neighbour);
        assert_eq!(step.tunnel(&Owners::of(&config)), Some(&first.name));
        let plan = Plan {
            steps: vec![step.clone()],
            problems: vec![],
        };
        assert!(!plan.is_complete_for(first));
        assert!(plan.is_complete_for(second));
        let in_place = InPlace::of(&Desired::default(), &Observed::default(), &Plan::default());
        assert!(!in_place.is_restored_by(&step, &Desired::default()));
    }

    #[test]
    fn a_problem_holds_up_the_tunnels_that_it_concerns() {
        let config = config();
        let [first, second] = &config.tunnels[..] else {
            panic!("two tunnels");
        };
        let desired = Desired::new(&config, |_| true);
        let name = || first.name.clone();
        let small = Link {
            mtu: Mtu(1000),
            ..Link::up(IfIndex(3), name(), Mtu(1500))
        };
        let down = Link {
            up: false,
            ..Link::up(IfIndex(3), name(), Mtu(1500))
        };
        let other = Link::up(IfIndex(4), second.name.clone(), Mtu(1500));
        for links in [
            vec![other.clone()],
            vec![small, other.clone()],
            vec![down, other],
        ] {
            let observed = Observed {
                links: links.into_iter().collect(),
                ..Observed::default()
            };
            let problems = diff(&desired, &observed).problems;
            assert_eq!(problems.len(), 1);
            let plan = Plan {
                steps: vec![],
                problems,
            };
            assert!(!plan.is_complete_for(first));
            assert!(plan.is_complete_for(second));
        }
    }
}
