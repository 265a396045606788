//! Reconciles the host with a goal: programs in the kernel, rules and routes, the names of routing tables.
//!
//! Owns the connections to netlink and to the programs, and the last scan. Must not know drivers, alerts
//! or the loop: it returns corrections and problems.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use sixxs_common::{screening::LEAP_SECONDS, six_in_four::PROTOCOL};
use sixxs_core::{
    config::{Config, Tunnel},
    doctor::routing::Shadow,
    endpoint::Endpoint,
    enforce::{
        Enforcement,
        endpoints::endpoints,
        outer_paths,
        screening::{self, Screening, XdpPlace},
    },
    explain::rules::PolicyRule,
    failure_tracker::FailureTracker,
    link::Links,
    routing::{Desired, Observed, Owners, Plan},
    tunnel::OuterReport,
    types::IfName,
};
use tokio::time::Instant;

use super::{
    routes::{Routes, RoutingGoal},
    tamper_log::Correction,
};
use crate::{
    bpf::{Hook, Kernel, Synced},
    host::clock::{after, tai_offset},
    host::kernel_support,
    host::paths::Paths,
    host::raw_sockets,
    host::table_names_file,
    netlink::{Netlink, Removed, Scope},
    rule_shadowing,
};

/// The state that a round brings about.
pub(super) struct Goal<'a> {
    /// The configuration in force.
    pub(super) config: &'a Config,
    /// Rules, routes and interfaces.
    pub(super) desired: Desired,
    /// The scope of a scan.
    pub(super) scope: Scope,
    /// All tunnels, started or not.
    pub(super) names: BTreeSet<IfName>,
    /// The tunnels that are started.
    pub(super) started: BTreeSet<IfName>,
    /// The outer paths of tunnels.
    pub(super) outer: BTreeMap<IfName, OuterReport>,
    /// The brokers of native tunnels, as their drivers report.
    pub(super) endpoints: BTreeMap<IfName, Endpoint>,
    /// The same with this host's outer addresses.
    pub(super) outer_ends: BTreeMap<IfName, (Endpoint, IpAddr)>,
}

impl Goal<'_> {
    fn is_started(&self, tunnel: &Tunnel) -> bool {
        self.started.contains(&tunnel.name)
    }
}

/// What a round, or a part of it, has restored and found.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// The restored objects.
    pub(super) corrections: Vec<Correction>,
    /// Problems, as messages.
    pub(super) problems: Vec<String>,
}

impl Round {
    fn add_error(&mut self, outcome: anyhow::Result<()>) {
        if let Err(error) = outcome {
            self.problems.push(format!("{error:#}"));
        }
    }

    fn add_correction(&mut self, tunnel: Option<IfName>, step: String, removed: Removed) {
        self.corrections.push(Correction {
            tunnel,
            step,
            removed,
        });
    }
}

/// The host, and the results of the last scan.
pub(super) struct Reconciler {
    netlink: Netlink,
    /// The programs in the kernel, with their maps.
    programs: Kernel,
    routes: Routes,
    enforcement: Enforcement,
    /// Foreign policy rules before the rules of sixxs, as of the last scan.
    shadows: Vec<Shadow>,
    /// Pins or maps that could not be restored, as of the last time they were read back.
    unrestored: Vec<String>,
    /// Failures to attach programs or to fill their maps. A failure is a problem only if it lasts: other software may
    /// change the same objects for a moment.
    failures: FailureTracker,
    /// Whether this run has written the names of the routing tables.
    has_written_names: bool,
    /// Whether the daemon's clock is the machine's.
    is_clock_real: bool,
}

impl Reconciler {
    /// Nothing is scanned yet. `is_clock_real`: the daemon's clock is the machine's.
    pub(super) fn new(netlink: Netlink, programs: Kernel, is_clock_real: bool) -> Self {
        Self {
            netlink,
            programs,
            routes: Routes::default(),
            enforcement: Enforcement::default(),
            shadows: Vec::new(),
            unrestored: Vec::new(),
            failures: FailureTracker::default(),
            has_written_names: false,
            is_clock_real,
        }
    }

    /// The programs and their maps.
    pub(super) const fn programs(&self) -> &Kernel {
        &self.programs
    }

    /// The connection to netlink.
    pub(super) const fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    /// The connection to netlink, and interfaces as of the last scan.
    pub(super) const fn netlink_and_links(&self) -> (&Netlink, &Links) {
        (&self.netlink, &self.routes.observed().links)
    }

    /// Foreign policy rules, as of the last scan.
    pub(super) fn foreign_rules(&self) -> &[PolicyRule] {
        self.netlink.foreign_rules()
    }

    /// The host, as the last scan found it.
    pub(super) const fn observed(&self) -> &Observed {
        self.routes.observed()
    }

    /// Interfaces, as of the last scan.
    pub(super) const fn links(&self) -> &Links {
        &self.routes.observed().links
    }

    /// The steps and problems that the last round left.
    pub(super) const fn plan(&self) -> &Plan {
        self.routes.plan()
    }

    /// Foreign policy rules before the rules of sixxs, as of the last scan.
    pub(super) fn shadows(&self) -> &[Shadow] {
        &self.shadows
    }

    /// What the programs are to do, as of the last round.
    pub(super) const fn enforcement(&self) -> &Enforcement {
        &self.enforcement
    }

    /// How the programs of each interface are attached. An interface that lacks one is not in it.
    pub(super) fn hooks(&self) -> BTreeMap<IfName, Hook> {
        let interfaces = self.enforcement.interfaces.iter();
        interfaces
            .filter_map(|(name, interface)| Some((name.clone(), self.programs.hook(interface)?)))
            .collect()
    }

    /// Where the XDP program is attached to each uplink, or why it is not. Uplinks where there is nothing to screen are
    /// not in it.
    pub(super) fn xdp(&self) -> BTreeMap<IfName, Result<XdpPlace, String>> {
        let interfaces = self.enforcement.interfaces.iter();
        interfaces
            .filter_map(|(name, interface)| Some((name.clone(), self.programs.xdp(interface)?)))
            .collect()
    }

    /// Whether the programs carry a tunnel.
    pub(super) fn is_carried(&self, name: &IfName) -> bool {
        let carried = self.enforcement.outer_paths.get(name);
        let underlay = carried.and_then(|path| {
            let mut interfaces = self.enforcement.interfaces.values();
            interfaces.find(|interface| interface.index == path.index)
        });
        underlay.is_some_and(|underlay| self.programs.hook(underlay).is_some())
    }

    /// The endpoints of a tunnel whose outer packets are counted.
    pub(super) fn endpoints(&self, name: &IfName) -> Vec<Endpoint> {
        let endpoints = self.enforcement.endpoints.iter();
        let its = endpoints.filter(|(_, owner)| *owner == name);
        its.map(|(endpoint, _)| *endpoint).collect()
    }

    /// Whether all steps are done and all programs are attached. Conflicts with other software do not count: waiting
    /// does not solve them.
    pub(super) fn is_ready(&self) -> bool {
        let mut interfaces = self.enforcement.interfaces.values();
        self.plan().steps.is_empty()
            && interfaces.all(|interface| self.programs.hook(interface).is_some())
    }

    /// Reads interfaces, rules and routes.
    pub(super) async fn scan(&mut self, scope: &Scope) -> anyhow::Result<()> {
        self.routes.scan(&mut self.netlink, scope).await
    }

    /// Opens a new connection to netlink: the old one may be broken.
    pub(super) fn reconnect(&mut self) -> anyhow::Result<()> {
        self.netlink = Netlink::open()?;
        Ok(())
    }

    /// Reconciles the host with the goal, starting from the last scan. Programs come first, so that they redirect
    /// packets that leak meanwhile. An error in one part does not stop the others.
    pub(super) async fn run(&mut self, goal: &Goal<'_>, paths: &Paths, now: Duration) -> Round {
        let mut round = self.enforce(goal, now).await;
        let routing_goal = RoutingGoal {
            desired: &goal.desired,
            owners: &Owners::of(goal.config),
            scope: &goal.scope,
        };
        let corrections = &mut round.corrections;
        let reconciled = self
            .routes
            .reconcile(&mut self.netlink, &routing_goal, corrections, now)
            .await;
        match reconciled {
            Ok(problems) => round.problems.extend(problems),
            Err(error) => round.problems.push(format!("{error:#}")),
        }
        let found = self.find_shadows(goal).await;
        round.add_error(found);
        let written = self.write_table_names(goal.config, paths, &mut round);
        round.add_error(written);
        round
    }

    /// Attaches programs and fills their maps, for the interfaces of the last scan.
    async fn enforce(&mut self, goal: &Goal<'_>, now: Duration) -> Round {
        let mut round = Round::default();
        let links = &self.routes.observed().links;
        let is_started = |tunnel: &Tunnel| goal.is_started(tunnel);
        let mut paths = BTreeMap::new();
        if kernel_support::can_carry() {
            match self.programs.outer_paths() {
                Ok(present) => paths = outer_paths::choose(goal.config, present, &goal.outer),
                Err(error) => round.problems.push(format!("{error:#}")),
            }
        }
        let endpoints = endpoints(goal.config, links, &goal.endpoints, &paths);
        let screening = Screening {
            ends: screening::outer_ends(goal.config, &goal.outer_ends),
            passes_strangers: screening::shares_protocol_41(goal.config, links)
                || raw_sockets::are_foreign(PROTOCOL),
            // The programs allow for this difference of their clock.
            checks_time: self.is_clock_real
                && tai_offset().is_some_and(|seconds| (0..=LEAP_SECONDS).contains(&seconds)),
        };
        self.enforcement = Enforcement::new(goal.config, links, is_started)
            .with_endpoints(goal.config, &endpoints)
            .with_outer_paths(goal.config, links, &paths)
            .with_screening(goal.config, screening);
        round.problems.extend(self.enforcement.problems.clone());
        let sync = self
            .programs
            .sync(&self.enforcement, &goal.names, links, &self.netlink);
        let synced = sync.await.unwrap_or_else(|error| Synced {
            failures: vec![format!("{error:#}")],
            ..Synced::default()
        });
        round
            .problems
            .extend(self.failures.update(now, &synced.failures));
        round.problems.extend(synced.problems);
        for (name, hook) in synced.reattached {
            let step = format!("attach the program to {name} {hook}");
            let tunnel = goal.names.get(&name).cloned();
            round.add_correction(tunnel, step, Removed::Program);
        }
        round
    }

    /// Attaches missing programs, at the interfaces of the last scan. It does not scan first: a scan takes a
    /// millisecond, in which packets pass without a program.
    pub(super) async fn reattach(&mut self, goal: &Goal<'_>, now: Duration) -> Round {
        self.enforce(goal, now).await
    }

    /// Reads pins and maps back, and restores those that other software changed.
    pub(super) fn restore(&mut self) -> Vec<Correction> {
        self.unrestored.clear();
        let mut round = Round::default();
        match self.programs.restore() {
            Ok(restored) => {
                for step in restored {
                    round.add_correction(None, step, Removed::Pinned);
                }
            }
            Err(error) => self
                .unrestored
                .push(format!("read back what is pinned: {error:#}")),
        }
        round.corrections
    }

    /// Pins or maps that could not be restored.
    pub(super) fn unrestored(&self) -> &[String] {
        &self.unrestored
    }

    /// Whether a program was detached. The kernel sends no event when a TCX link is detached.
    pub(super) fn has_lost_a_program(&self) -> bool {
        self.programs.has_lost_a_program()
    }

    /// When the next round is due without a change: a step that failed may succeed now, or the grace period of an exit
    /// ends.
    /// `started`: the start of the daemon.
    pub(super) fn retry_due(&self, started: Instant) -> Option<Instant> {
        let failures = [self.routes.retry_due(), self.failures.due()];
        let retries = failures
            .into_iter()
            .flatten()
            .map(|due| after(started, due));
        let exit_ends = self.netlink.exit_ends().map(Instant::from_std);
        retries.chain(exit_ends).min()
    }

    async fn find_shadows(&mut self, goal: &Goal<'_>) -> anyhow::Result<()> {
        let is_started = |tunnel: &Tunnel| goal.is_started(tunnel);
        let links = &self.routes.observed().links;
        self.shadows =
            rule_shadowing::shadows(&self.netlink, goal.config, links, is_started).await?;
        Ok(())
    }

    fn write_table_names(
        &mut self,
        config: &Config,
        paths: &Paths,
        round: &mut Round,
    ) -> anyhow::Result<()> {
        let were_missing = table_names_file::ensure(paths, config)?;
        if std::mem::replace(&mut self.has_written_names, true) && were_missing {
            let file = paths.table_names();
            let step = format!("write the tables' names to {}", file.display());
            round.add_correction(None, step, Removed::Names);
        }
        Ok(())
    }
}
