//! The daemon's state, and what it does about the host's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::Duration,
};

use bytemuck::pod_read_unaligned;
use sixxs_common::{layout::LeakEvent, stat::Stat};
use sixxs_core::{
    alert::Merger,
    config::{Config, Conflict, Learned, RuleMode, Tunnel},
    enforce::Enforcement,
    routing::{
        Desired, Observed, Plan, Problem, Rule, Step,
        desired::{Place, Target},
        diff,
    },
    types::{IfIndex, IfName, Prefix, RulePriority},
};
use tokio::{sync::mpsc, time::Instant};
use tracing::debug;

use super::{
    Request, Verb,
    alerts::Alerts,
    reload::{Changes, Trial},
    report,
    tunnels::{Running, Stopped},
};
use crate::{
    api::{self, About},
    bpf::Kernel,
    driver::Services,
    netlink::{Netlink, Scope},
    paths::Paths,
    table_file,
};

/// Rounds of plan and apply before something is called a problem: others may be at work too.
const ROUNDS: usize = 3;

pub(super) struct State {
    pub(super) paths: Paths,
    /// What the user wants.
    pub(super) wanted: Config,
    /// That, with what brokers said about their tunnels.
    pub(super) config: Config,
    pub(super) learned: BTreeMap<IfName, Learned>,
    /// Tunnels that were added by their accounts, and go when they are stopped.
    pub(super) added: BTreeSet<IfName>,
    /// Whether there ever was a tunnel.
    pub(super) had_tunnels: bool,
    conflicts: Vec<Conflict>,
    netlink: Netlink,
    pub(super) kernel: Kernel,
    pub(super) services: Services,
    pub(super) stopped_to: mpsc::Sender<Stopped>,
    pub(super) tunnels: BTreeMap<IfName, Running>,
    /// As of the last look.
    pub(super) observed: Observed,
    /// What that look left to do.
    pub(super) plan: Plan,
    pub(super) enforcement: Enforcement,
    /// What could not be done, in words.
    pub(super) problems: Vec<String>,
    /// What was in place after the last round: what of it is missing now, somebody took away.
    in_place: InPlace,
    pub(super) corrections: u64,
    pub(super) alerts: Alerts,
    pub(super) trial: Option<Trial>,
    /// Of a configuration that is just being taken over.
    pub(super) changes: Changes,
    leaks: Merger,
    started: Instant,
}

#[derive(Default)]
struct InPlace {
    rules: BTreeSet<Rule>,
    routes: BTreeSet<Place>,
    /// Interfaces that were set up, and their addresses.
    set_up: BTreeSet<(IfIndex, Option<Ipv6Addr>)>,
}

impl State {
    pub(super) fn new(
        paths: Paths,
        config: Config,
        netlink: Netlink,
        kernel: Kernel,
        services: Services,
        stopped_to: mpsc::Sender<Stopped>,
    ) -> Self {
        let tunnels = config
            .tunnels
            .iter()
            .map(|tunnel| {
                (
                    tunnel.name.clone(),
                    Running::start(tunnel, &services, false),
                )
            })
            .collect();
        Self {
            paths,
            wanted: config.clone(),
            config,
            learned: BTreeMap::new(),
            added: BTreeSet::new(),
            had_tunnels: false,
            conflicts: Vec::new(),
            netlink,
            kernel,
            services,
            stopped_to,
            tunnels,
            observed: Observed::default(),
            plan: Plan::default(),
            enforcement: Enforcement::default(),
            problems: Vec::new(),
            in_place: InPlace::default(),
            corrections: 0,
            alerts: Alerts::new(),
            trial: None,
            changes: Changes::default(),
            leaks: Merger::default(),
            started: Instant::now(),
        }
    }

    fn scope(&self) -> Scope {
        Scope::of(&self.config)
    }

    fn desired(&self) -> Desired {
        let mut desired = Desired::new(&self.config, |tunnel| self.is_wanted(tunnel));
        for tunnel in &self.config.tunnels {
            let said = self.tunnels.get(&tunnel.name).and_then(Running::said);
            if said.is_some_and(|said| said.has_made) {
                desired.set_up(tunnel);
            }
        }
        desired
    }

    pub(super) fn is_wanted(&self, tunnel: &Tunnel) -> bool {
        self.tunnels
            .get(&tunnel.name)
            .is_some_and(Running::is_wanted)
    }

    /// Looks at the host, and makes it what it should be: programs first, which catch what leaks
    /// meanwhile, then rules and routes. What goes wrong in one part does not keep the others from
    /// being done; an error means that nothing could be seen.
    pub(super) async fn reconcile(&mut self) -> anyhow::Result<()> {
        self.listen();
        self.observed = self.netlink.observe(&self.scope()).await?;
        self.tell_drivers();
        let mut problems: Vec<_> = self.conflicts.iter().map(ToString::to_string).collect();
        for part in [
            self.enforce().await,
            self.route().await,
            self.shadows().await,
            self.name_tables(),
        ] {
            match part {
                Ok(found) => problems.extend(found),
                Err(error) => problems.push(format!("{error:#}")),
            }
        }
        self.tell_problems(problems);
        self.tell_states();
        Ok(())
    }

    /// Takes up what drivers learned from brokers. What was learned of a tunnel that is stopped still
    /// holds.
    fn listen(&mut self) {
        let mut learned = self.learned.clone();
        for (name, running) in &self.tunnels {
            if let Some(said) = running.said().and_then(|said| said.learned) {
                learned.insert(name.clone(), said);
            }
        }
        if learned != self.learned {
            self.learned = learned;
            self.overlay();
        }
    }

    /// Lays what brokers said over what the user wants.
    pub(super) fn overlay(&mut self) {
        (self.config, self.conflicts) = self.wanted.with(&self.learned);
    }

    /// Whether everything is in place that can be: what others hold in our place is a problem, told
    /// as one, and none that waiting would solve.
    pub(super) fn is_ready(&self) -> bool {
        let mut interfaces = self.enforcement.interfaces.values();
        self.plan.steps.is_empty()
            && interfaces.all(|interface| self.kernel.hook(interface).is_some())
    }

    /// As [`State::reconcile`]; an error becomes a problem of the daemon, which goes on with a new
    /// connection: the old one may be what is broken.
    pub(super) async fn reconcile_or_report(&mut self) {
        if let Err(error) = self.reconcile().await {
            let mut problems = vec![format!("{error:#}")];
            match Netlink::open() {
                Ok(netlink) => self.netlink = netlink,
                Err(error) => problems.push(format!("{error:#}")),
            }
            self.tell_problems(problems);
        }
    }

    async fn enforce(&mut self) -> anyhow::Result<Vec<String>> {
        self.enforcement = Enforcement::new(&self.config, &self.observed.links, |tunnel| {
            self.is_wanted(tunnel)
        });
        let names: BTreeSet<_> = self.tunnels.keys().cloned().collect();
        let links = &self.observed.links;
        let mut problems = self.enforcement.problems.clone();
        let sync = self
            .kernel
            .sync(&self.enforcement, &names, links, &self.netlink);
        problems.extend(sync.await?);
        Ok(problems)
    }

    /// Where somebody's rule comes before ours and leads elsewhere. The kernel is asked: what a rule
    /// does depends on more than can be seen in it.
    async fn shadows(&self) -> anyhow::Result<Vec<String>> {
        // What is asked first of all that we have.
        let first = RulePriority(self.config.rule_priority.0 - 1);
        let before = self.netlink.rules_before(first);
        if before.is_empty() {
            return Ok(Vec::new());
        }
        let mut problems = Vec::new();
        for tunnel in self.config.tunnels.iter().filter(|t| self.is_wanted(t)) {
            let link = self.observed.links.by_name(&tunnel.name);
            let (Some(link), Some(source)) = (link, tunnel.addresses.first()) else {
                continue;
            };
            let source = source.address;
            let is_local = link.addresses.contains(&source);
            if link.up && is_local && self.netlink.way_out(source).await? != Some(link.index) {
                let before: Vec<_> = before.iter().map(ToString::to_string).collect();
                problems.push(format!(
                    "{}: packets from {source} are led elsewhere by a rule that comes before ours \
                     (priority {}); remove that rule, or set `rule_priority` below it",
                    tunnel.name,
                    before.join(" or ")
                ));
            }
        }
        Ok(problems)
    }

    fn name_tables(&self) -> anyhow::Result<Vec<String>> {
        table_file::ensure(&self.paths, &self.config)?;
        Ok(Vec::new())
    }

    async fn route(&mut self) -> anyhow::Result<Vec<String>> {
        let desired = self.desired();
        let mut problems = Vec::new();
        self.plan = diff(&desired, &self.observed);
        for _ in 0..ROUNDS {
            if self.plan.steps.is_empty() {
                break;
            }
            let outcome = self.netlink.apply(&self.plan).await;
            for step in &outcome.done {
                debug!("{step}");
                self.note_correction(step);
            }
            problems = outcome.failed.iter().map(ToString::to_string).collect();
            // What counts is what the kernel says afterwards.
            self.observed = self.netlink.observe(&self.scope()).await?;
            self.plan = diff(&desired, &self.observed);
        }
        // An interface that is not there is seen as its tunnel's state.
        let occupied = |problem: &&Problem| matches!(problem, Problem::Occupied { .. });
        let occupied = self.plan.problems.iter().filter(occupied);
        problems.extend(occupied.map(ToString::to_string));
        self.in_place = InPlace {
            rules: desired
                .rules
                .iter()
                .filter(|rule| !self.plan.steps.contains(&Step::AddRule(**rule)))
                .copied()
                .collect(),
            routes: desired
                .routes
                .keys()
                .filter(|key| !self.is_route_missing(**key, &desired))
                .copied()
                .collect(),
            set_up: self.set_up(&desired),
        };
        Ok(problems)
    }

    /// What interfaces of our own making have of what they should have.
    fn set_up(&self, desired: &Desired) -> BTreeSet<(IfIndex, Option<Ipv6Addr>)> {
        let mut set_up = BTreeSet::new();
        for (name, wanted) in &desired.interfaces {
            let Some(link) = self.observed.links.by_name(name) else {
                continue;
            };
            if link.up {
                set_up.insert((link.index, None));
            }
            let addresses = wanted.addresses.iter().map(|a| a.address);
            let there = addresses.filter(|address| link.addresses.contains(address));
            set_up.extend(there.map(|address| (link.index, Some(address))));
        }
        set_up
    }

    /// Whether a route is not there because its interface is not.
    fn waits_for_interface(&self, place: Place, desired: &Desired) -> bool {
        let Some(Target::Interface { name: wanted, .. }) = desired.routes.get(&place) else {
            return false;
        };
        self.plan.problems.iter().any(|problem| match problem {
            Problem::InterfaceMissing { name, .. } | Problem::InterfaceDown { name, .. } => {
                name == wanted
            }
            Problem::Occupied { table, .. } => *table == place.table,
        })
    }

    fn is_route_missing(&self, place: Place, desired: &Desired) -> bool {
        let in_steps = self.plan.steps.iter().any(|step| match step {
            Step::AddRoute(route) | Step::ReplaceRoute(route) => route.place == place,
            Step::SetUp(..)
            | Step::AddAddress(..)
            | Step::AddRule(_)
            | Step::KeepNeighbour(..)
            | Step::DeleteRule(_)
            | Step::DeleteRoute(_)
            | Step::DeleteNeighbour(..) => false,
        });
        in_steps || self.waits_for_interface(place, desired)
    }

    /// A step that puts back what was in place before is a correction.
    fn note_correction(&mut self, step: &Step) {
        let by_table = |table, source: Prefix| {
            let mut tunnels = self.config.tunnels.iter();
            // One table for all: the source says whose it is.
            let tunnel = tunnels.find(|tunnel| match source {
                Prefix::ALL => tunnel.table == table && self.config.rule_mode == RuleMode::Rules,
                source => tunnel.sources().any(|own| own == source),
            });
            tunnel.map(|tunnel| tunnel.name.clone())
        };
        let was_set_up = |index, address| self.in_place.set_up.contains(&(index, address));
        let (lost, tunnel) = match step {
            Step::SetUp(index, name, _) => (was_set_up(*index, None), Some(name.clone())),
            Step::AddAddress(index, name, address) => (
                was_set_up(*index, Some(address.address)),
                Some(name.clone()),
            ),
            Step::AddRule(rule) => (
                self.in_place.rules.contains(rule),
                by_table(rule.table, rule.from),
            ),
            Step::AddRoute(route) | Step::ReplaceRoute(route) => (
                self.in_place.routes.contains(&route.place),
                by_table(route.place.table, route.place.source),
            ),
            // A gateway comes and goes with its interface.
            Step::KeepNeighbour(..)
            | Step::DeleteRule(_)
            | Step::DeleteRoute(_)
            | Step::DeleteNeighbour(..) => return,
        };
        if !lost {
            return;
        }
        self.corrections += 1;
        self.alerts.raise(About::Correction {
            tunnel: tunnel.map(|name| name.to_string()),
            correction: step.to_string(),
        });
    }

    /// Problems are told when they come up, not again while they last.
    fn tell_problems(&mut self, problems: Vec<String>) {
        for problem in &problems {
            if !self.problems.contains(problem) {
                let problem = problem.clone();
                self.alerts.raise(About::Problem { problem });
            }
        }
        self.problems = problems;
    }

    fn tell_drivers(&self) {
        for (name, running) in &self.tunnels {
            if let Some(driver) = &running.driver {
                driver.saw(self.observed.links.by_name(name));
            }
        }
    }

    fn tell_states(&mut self) {
        for (name, running) in &mut self.tunnels {
            let link = self.observed.links.by_name(name);
            let state = running.state(link);
            if running.told.as_ref() == Some(&state) {
                continue;
            }
            self.alerts.raise(About::Tunnel {
                tunnel: name.to_string(),
                state: state.name().to_owned(),
                reason: state.reason().map(str::to_owned),
            });
            running.told = Some(state);
        }
    }

    /// Takes the leaks counted until now as told: they were an earlier run's.
    pub(super) fn begin_alerts(&mut self) -> anyhow::Result<()> {
        self.leaks = Merger::new(self.leak_totals()?.into_iter().collect());
        Ok(())
    }

    fn leak_totals(&self) -> anyhow::Result<Vec<(u32, u64)>> {
        self.tunnels
            .keys()
            .filter_map(|name| self.kernel.slot(name))
            .map(|slot| {
                let counters = self.kernel.counters(slot)?;
                let total = [
                    Stat::LeakRedirected,
                    Stat::LeakDropped,
                    Stat::LeakObserved,
                    Stat::LeakTooBig,
                ]
                .iter()
                .map(|stat| counters[stat.index()])
                .sum();
                Ok((slot, total))
            })
            .collect()
    }

    /// The kernel reported a leak.
    pub(super) fn leaked(&mut self, event: &[u8]) {
        // The programs write whole events; anything else is none of theirs.
        if event.len() == size_of::<LeakEvent>() {
            let event: LeakEvent = pod_read_unaligned(event);
            self.leaks
                .event(event.flow, event.record, self.started.elapsed());
        }
    }

    pub(super) fn has_leaks(&self) -> bool {
        !self.leaks.is_idle()
    }

    /// Turns leaks since the last time into alerts.
    pub(super) fn tell_leaks(&mut self) {
        let totals = match self.leak_totals() {
            Ok(totals) => totals,
            Err(error) => {
                self.tell_problems(vec![format!("{error:#}")]);
                return;
            }
        };
        let now: Duration = self.started.elapsed();
        let kernel = &self.kernel;
        let lines = self.leaks.tick(now, |flow| kernel.flow(flow), totals);
        for line in lines {
            let about = About::Leak(report::leak(self, &line));
            self.alerts.raise(about);
        }
    }

    /// Answers a request.
    pub(super) async fn serve(&mut self, request: Request) {
        // Whoever asked may have gone: then the answer goes nowhere, and nobody minds.
        match request {
            Request::Status(answer) => {
                let standings = self.services.connects.standings().await;
                let _gone = answer.send(report::status(self, standings));
            }
            Request::Counters(answer) => {
                let _gone = answer.send(report::counters(self));
            }
            Request::Alerts(answer) => {
                let _gone = answer.send(self.alerts.subscribe());
            }
            Request::Plan(answer) => {
                let _gone = answer.send(self.plan_now().await);
            }
            Request::Reload(confirm_within, answer) => self.reload(confirm_within, answer).await,
            Request::Confirm(answer) => {
                let _gone = answer.send(self.confirm());
            }
            Request::Account(starts, file, answer) => {
                let acted = if starts {
                    self.add_account(&file)
                } else {
                    self.account(&file.file)
                };
                let verb = if starts { Verb::Start } else { Verb::Stop };
                match acted {
                    Ok(tunnel) => self.act(verb, vec![tunnel], file.refresh, answer).await,
                    Err(error) => {
                        let _gone = answer.send(Err(error));
                    }
                }
            }
            Request::Tunnels(verb, names, answer) => match self.choose(&names.tunnels) {
                Ok(chosen) => self.act(verb, chosen, names.refresh, answer).await,
                Err(error) => {
                    let _gone = answer.send(Err(error));
                }
            },
        }
    }

    async fn plan_now(&mut self) -> anyhow::Result<api::Plan> {
        let observed = self.netlink.observe(&self.scope()).await?;
        Ok(api::Plan::from(&diff(&self.desired(), &observed)))
    }
}
