//! The intended state: the configuration file, tunnels added at run time, and the parameters from brokers.
//!
//! Owns all three and the configuration that they add up to. Must not know drivers, the kernel or the loop.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use sixxs_core::{
    active_link::{LinkState, Switch},
    config::{Account, Config, Conflict, Followed, HostPrefixes, Kind, Learned, Tunnel},
    routing::{Desired, Observed, connected::local_networks},
    types::{IfName, Prefix},
};

use super::groups::Groups;
use crate::control::ActionError;

/// The reports of a driver about its tunnel.
#[derive(Clone, Debug)]
pub(super) struct DriverReport {
    /// Whether it has made the interface.
    pub(super) has_made_interface: bool,
    /// The parameters from its broker.
    pub(super) learned: Option<Learned>,
}

/// The intended state.
#[derive(Debug)]
pub(super) struct Intent {
    /// The file, and the tunnels added at run time.
    wanted: Config,
    /// `wanted`, completed with the parameters from brokers.
    effective: Config,
    /// Tunnels of `wanted` that are not in the file. They are dropped when they are stopped.
    runtime: BTreeSet<IfName>,
    learned: BTreeMap<IfName, Learned>,
    /// Tunnels whose drivers have made the interface. A driver reports this together with what it learned:
    /// an interface is only set up with the addresses that belong to it.
    made: BTreeSet<IfName>,
    conflicts: Vec<Conflict>,
    /// Addresses of the host, which no broker can assign; as of the last scan.
    host_prefixes: HostPrefixes,
    /// Addresses and gateways that tunnels take from the host; as of the last scan.
    followed: Followed,
    /// Which links carry the prefixes of groups.
    groups: Groups,
    /// Local networks as of the last scan; `None` before the first.
    local_networks: Option<BTreeSet<Prefix>>,
    /// Whether a request has started a tunnel in this run.
    had_tunnels: bool,
}

impl Intent {
    /// The intent of a configuration file.
    pub(super) fn new(config: Config) -> Self {
        Self {
            effective: config.clone(),
            wanted: config,
            runtime: BTreeSet::new(),
            learned: BTreeMap::new(),
            made: BTreeSet::new(),
            conflicts: Vec::new(),
            host_prefixes: HostPrefixes::new(),
            followed: Followed::default(),
            groups: Groups::default(),
            local_networks: None,
            had_tunnels: false,
        }
    }

    /// The file, and the tunnels added at run time.
    pub(super) const fn wanted(&self) -> &Config {
        &self.wanted
    }

    /// The configuration in force: completed with the parameters from brokers.
    pub(super) const fn effective(&self) -> &Config {
        &self.effective
    }

    /// The file alone.
    pub(super) fn file(&self) -> Config {
        let mut config = self.wanted.clone();
        config
            .tunnels
            .retain(|tunnel| !self.runtime.contains(&tunnel.name));
        config
    }

    /// The parameters from brokers.
    pub(super) const fn learned(&self) -> &BTreeMap<IfName, Learned> {
        &self.learned
    }

    /// Tunnels whose parameters from the broker cannot be used.
    pub(super) fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// The desired rules, routes and interfaces of the tunnels that are `started`.
    pub(super) fn desired(&self, started: &BTreeSet<IfName>) -> Desired {
        let mut desired = Desired::new(&self.effective, |tunnel| started.contains(&tunnel.name));
        let tunnels = self.effective.tunnels.iter();
        for tunnel in tunnels.filter(|tunnel| self.made.contains(&tunnel.name)) {
            desired.set_up(tunnel);
        }
        desired
    }

    /// Takes what brokers had assigned in an earlier run.
    pub(super) fn resume(&mut self, learned: BTreeMap<IfName, Learned>) {
        self.learned = learned;
        self.overlay();
    }

    /// Takes the present reports of all drivers. The parameters from the broker
    /// of a tunnel that is stopped now stay valid. Returns problems: tunnels whose addresses have changed.
    pub(super) fn learn(
        &mut self,
        reports: impl Iterator<Item = (IfName, DriverReport)>,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        let mut learned = self.learned.clone();
        self.made.clear();
        for (name, report) in reports {
            if let Some(new) = report.learned {
                problems.extend(
                    learned
                        .get(&name)
                        .and_then(|old| address_change(&name, old, &new)),
                );
                learned.insert(name.clone(), new);
            }
            if report.has_made_interface {
                self.made.insert(name);
            }
        }
        if learned != self.learned {
            self.learned = learned;
            self.overlay();
        }
        problems
    }

    /// Takes the addresses, routers and connected networks of the host. Returns problems.
    pub(super) fn observe(&mut self, observed: &Observed, now: Duration) -> Vec<String> {
        let followed = Followed::of(&self.wanted, observed, &self.followed, now);
        let whole = self.wanted.clone().with_followed(&followed);
        let networks = local_networks(&whole, &observed.links, &observed.connected);
        let (networks, problem) = match networks {
            Ok(networks) => (networks, None),
            Err(too_many) => (BTreeSet::new(), Some(too_many.to_string())),
        };
        let host_prefixes = match self.wanted.has_accounts() {
            true => self.wanted.host_prefixes(observed),
            false => HostPrefixes::new(),
        };
        let has_other_links = self.groups.follow(&self.wanted, observed, now);
        if self.local_networks.as_ref() != Some(&networks)
            || host_prefixes != self.host_prefixes
            || followed != self.followed
            || has_other_links
        {
            self.local_networks = Some(networks);
            self.followed = followed;
            self.host_prefixes = host_prefixes;
            self.overlay();
        }
        let conflicts = self.conflicts.iter();
        conflicts
            .map(|conflict| format!("{}: {conflict}", conflict.tunnel))
            .chain(
                self.followed
                    .problems()
                    .iter()
                    .map(|problem| problem.to_string()),
            )
            .chain(self.groups.problems())
            .chain(problem)
            .collect()
    }

    /// The groups.
    pub(super) const fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Takes the present state of the links. Returns the groups whose prefixes another link carries now.
    pub(super) fn choose_links(
        &mut self,
        links: &BTreeMap<IfName, LinkState>,
        now: Duration,
    ) -> Vec<Switch> {
        let switches = self.groups.decide(&self.effective, links, now);
        if !switches.is_empty() {
            self.overlay();
        }
        switches
    }

    /// Completes the wanted configuration with the parameters from brokers.
    fn overlay(&mut self) {
        let wanted = &self.wanted;
        let (config, conflicts) =
            wanted.with_learned(&self.learned, &self.host_prefixes, &self.effective);
        let none = BTreeSet::new();
        self.effective = config
            .with_followed(&self.followed)
            .with_direct(self.local_networks.as_ref().unwrap_or(&none))
            .with_active(&self.groups.active());
        self.conflicts = conflicts;
    }

    /// The tunnels with these names; without names, all.
    pub(super) fn select_tunnels(&self, names: &[String]) -> Result<Vec<Tunnel>, ActionError> {
        if names.is_empty() {
            return Ok(self.wanted.tunnels.clone());
        }
        let find = |name: &String| {
            let known = self.wanted.tunnels.iter().find(|t| t.name.as_str() == name);
            known.cloned().ok_or_else(|| {
                let all = self.wanted.tunnels.iter().map(|t| t.name.as_str());
                let sorted: BTreeSet<_> = all.collect();
                let known: Vec<_> = sorted.into_iter().collect();
                ActionError::NoSuchTunnel {
                    name: name.clone(),
                    known: known.join(", "),
                }
            })
        };
        let unique: BTreeSet<_> = names.iter().collect();
        unique.into_iter().map(find).collect()
    }

    /// The tunnel of the account in this file.
    pub(super) fn tunnel_of(&self, file: &str) -> Result<Tunnel, ActionError> {
        let file = canonical(file);
        let is_its = |tunnel: &&Tunnel| account_file(tunnel).as_ref() == Some(&file);
        let found = self.wanted.tunnels.iter().find(is_its);
        found.cloned().ok_or(ActionError::NotRunning(file))
    }

    /// The account file of a tunnel, by its canonical path.
    pub(super) fn account_file(&self, name: &IfName) -> Option<String> {
        let mut tunnels = self.wanted.tunnels.iter();
        account_file(tunnels.find(|tunnel| tunnel.name == *name)?)
    }

    /// Adds the tunnel of an account.
    pub(super) fn add(&mut self, account: Account) -> Result<Tunnel, ActionError> {
        let tunnel = self.wanted.add(account)?;
        self.runtime.insert(tunnel.name.clone());
        self.overlay();
        Ok(tunnel)
    }

    /// Drops a tunnel that was added at run time. Tunnels of the file stay.
    pub(super) fn drop_runtime(&mut self, name: &IfName) {
        if self.runtime.remove(name) {
            self.learned.remove(name);
            self.wanted.tunnels.retain(|tunnel| tunnel.name != *name);
            self.overlay();
        }
    }

    /// Adds the tunnels that were added at run time to a new configuration.
    pub(super) fn add_runtime_tunnels(&self, config: &mut Config) -> Result<(), ActionError> {
        let tunnels = self.wanted.tunnels.iter();
        for tunnel in tunnels.filter(|tunnel| self.runtime.contains(&tunnel.name)) {
            config
                .add_existing(tunnel.clone())
                .map_err(ActionError::Conflict)?;
        }
        Ok(())
    }

    /// Replaces the wanted configuration. The parameters from the brokers of
    /// tunnels that are stopped for it are dropped.
    pub(super) fn replace(&mut self, config: Config, stopped: &[IfName]) {
        self.learned.retain(|name, _| !stopped.contains(name));
        self.wanted = config;
        self.overlay();
    }

    /// Tunnels are started now.
    pub(super) const fn record_start(&mut self) {
        self.had_tunnels = true;
    }

    /// Whether there is nothing to do: no tunnel is left, or none has come within the grace period.
    pub(super) const fn is_idle(&self, is_grace_over: bool) -> bool {
        self.wanted.tunnels.is_empty() && (self.had_tunnels || is_grace_over)
    }
}

/// A problem, if a broker has assigned other addresses than before.
fn address_change(name: &IfName, old: &Learned, new: &Learned) -> Option<String> {
    let is_same = (old.address, old.peer) == (new.address, new.peer);
    (!is_same).then(|| {
        format!(
            "{name}: the broker now assigns {} with the peer {}; before it was {} with {}",
            new.address.address, new.peer, old.address.address, old.peer
        )
    })
}

fn account_file(tunnel: &Tunnel) -> Option<String> {
    match &tunnel.kind {
        Kind::Account(account) => Some(canonical(&account.file)),
        _ => None,
    }
}

/// The canonical path of a file; the path as it is, if the file does not exist.
fn canonical(file: &str) -> String {
    fs::canonicalize(file).map_or_else(|_| file.to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use sixxs_core::types::{InterfaceAddress, Mtu};

    use super::*;
    use crate::daemon::fixture::{config, host, link};

    fn names<'a>(tunnels: impl IntoIterator<Item = &'a Tunnel>) -> Vec<&'a str> {
        let names = tunnels.into_iter().map(|tunnel| tunnel.name.as_str());
        names.collect()
    }

    #[test]
    fn tunnels_are_chosen_by_name() {
        let intent = Intent::new(config(&["b", "a"]));
        assert_eq!(names(&intent.select_tunnels(&[]).unwrap()), ["b", "a"]);
        let chosen = intent
            .select_tunnels(&["a".to_owned(), "a".to_owned()])
            .unwrap();
        assert_eq!(names(&chosen), ["a"]);
        let error = intent.select_tunnels(&["c".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "no tunnel \"c\"; there are a, b");
        let error = intent.tunnel_of("/nowhere/aiccu.conf").unwrap_err();
        assert!(matches!(error, ActionError::NotRunning(file) if file == "/nowhere/aiccu.conf"));
    }

    #[test]
    fn a_daemon_on_demand_is_idle_after_its_last_tunnel_or_its_grace_period() {
        let mut empty = Intent::new(Config::default());
        assert!(!empty.is_idle(false) && empty.is_idle(true));
        empty.record_start();
        assert!(empty.is_idle(false));
        assert!(!Intent::new(config(&["a"])).is_idle(true));
    }

    #[test]
    fn only_interfaces_that_a_driver_has_made_are_set_up() {
        let mut intent = Intent::new(config(&["a", "b"]));
        let started = ["a", "b"].map(|name| name.parse().unwrap()).into();
        assert!(intent.desired(&started).interfaces.is_empty());
        let report = DriverReport {
            has_made_interface: true,
            learned: None,
        };
        let reports = [("b".parse().unwrap(), report)].into_iter();
        assert_eq!(intent.learn(reports), Vec::<String>::new());
        let interfaces = intent.desired(&started).interfaces;
        let made = interfaces.keys().map(IfName::as_str).collect::<Vec<_>>();
        assert_eq!(made, ["b"]);
        // Only tunnels that are started have rules and routes.
        assert!(intent.desired(&BTreeSet::new()).rules.is_empty());
    }

    #[test]
    fn a_connected_network_is_local_from_the_first_scan_on() {
        let mut intent = Intent::new(config(&["a"]));
        let before = intent.effective().clone();
        let mut observed = host(&["a", "net0"]);
        let mut lan = link(9, "lan0");
        lan.addresses.push("2001:db8:77::1".parse().unwrap());
        observed.links = observed.links.iter().cloned().chain([lan]).collect();
        assert_eq!(
            intent.observe(&observed, Duration::ZERO),
            Vec::<String>::new()
        );
        assert_eq!(intent.effective().tunnels.len(), before.tunnels.len());
        assert!(intent.local_networks.is_some());
    }

    #[test]
    fn a_changed_assignment_is_a_problem() {
        let mut intent = Intent::new(config(&["a"]));
        let learned = |address: &str| {
            let address: InterfaceAddress = address.parse().unwrap();
            Learned {
                kind: Kind::Interface,
                address,
                peer: "2001:db8:f::1".parse().unwrap(),
                mtu: Mtu(1280),
            }
        };
        let report = |address: &str| {
            let report = DriverReport {
                has_made_interface: false,
                learned: Some(learned(address)),
            };
            [("a".parse().unwrap(), report)].into_iter()
        };
        assert!(intent.learn(report("2001:db8:f::2/64")).is_empty());
        assert!(intent.learn(report("2001:db8:f::2/64")).is_empty());
        let address = intent.effective().tunnels[0].addresses[0].address;
        assert_eq!(address.to_string(), "2001:db8:f::2");
        let problems = intent.learn(report("2001:db8:f::3/64"));
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("2001:db8:f::3"), "{problems:?}");
        // A reload that stops the tunnel drops its parameters from the broker.
        let name = "a".parse().unwrap();
        intent.replace(config(&["a"]), &[name]);
        assert!(intent.learned().is_empty());
    }
}
