//! The daemon's state, and what it does about the host's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prometheus_client::metrics::histogram::Histogram;
use sixxs_core::{
    alert::Merger,
    config::{Config, Conflict, Learned, Taken, Tunnel},
    doctor::ways::Shadow,
    enforce::Enforcement,
    health::Leaking,
    lasting::{Lasting, REPAIR},
    proof::Vigil,
    routing::{Desired, Observed, Plan, connected::local_networks, diff},
    types::{IfName, Prefix},
};
use tokio::{sync::mpsc, time::Instant};
use tracing::debug;

use super::{
    Request, Verb,
    alerts::Alerts,
    culprit::ControlGroups,
    health::HealthAlerts,
    leaks::Recursion,
    page,
    reload::{Changes, Trial},
    report,
    routes::InPlace,
    tamper_log::{Correction, TamperLog},
    tunnels::{Running, Stopped},
};
use crate::{
    api::{self, About},
    bpf::Kernel,
    clock,
    driver::Services,
    exporter::Exporter,
    metrics,
    netlink::{Netlink, OthersChange, Removal, Removed, Scope, Watcher},
    paths::{Paths, absolute},
    shadow, table_file,
};

/// Limit of events taken at a time.
const EVENTS_AT_A_TIME: usize = 4096;

/// Ways back into the daemon's loop, for tasks of its own; and what the loop listens to.
pub(super) struct Ways {
    pub(super) stopped_to: mpsc::Sender<Stopped>,
    pub(super) requests_to: mpsc::Sender<Request>,
    pub(super) watcher: Arc<Watcher>,
}

pub(super) struct State {
    pub(super) paths: Paths,
    /// What the user wants.
    pub(super) wanted: Config,
    /// That, with what brokers said about their tunnels.
    pub(super) config: Config,
    pub(super) learned: BTreeMap<IfName, Learned>,
    /// Tunnels whose interfaces their drivers had made, as they said along with what they learned: a
    /// driver may speak at any time, and what it made is set up by what it learned before.
    made: BTreeSet<IfName>,
    /// Tunnels that were added by their accounts, and go when they are stopped.
    pub(super) added: BTreeSet<IfName>,
    /// Whether there ever was a tunnel.
    pub(super) had_tunnels: bool,
    conflicts: Vec<Conflict>,
    /// What the host has, which no broker can give away, as of the last look.
    taken: Taken,
    /// As of the last look.
    local_networks: BTreeSet<Prefix>,
    pub(super) netlink: Netlink,
    pub(super) kernel: Kernel,
    pub(super) services: Services,
    pub(super) ways: Ways,
    exporter: Option<Exporter>,
    /// How long repairs took.
    pub(super) repairs: Histogram,
    pub(super) tunnels: BTreeMap<IfName, Running>,
    /// As of the last look.
    pub(super) observed: Observed,
    /// What that look left to do.
    pub(super) plan: Plan,
    pub(super) enforcement: Enforcement,
    /// What pinned maps or links could not be put right, in words, as of the last time they were read back.
    unrestored: Vec<String>,
    /// Why there is no control socket, in words.
    pub(super) not_listening: Option<String>,
    /// When to attach again what could not be attached.
    attach_again_at: Option<Instant>,
    /// What could not be done, in words.
    pub(super) problems: Vec<String>,
    /// Steps that failed, until it is seen whether they succeed the next time.
    pub(super) lasting: Lasting,
    pub(super) in_place: InPlace,
    pub(super) tamper_log: TamperLog,
    /// Whether the tables' names were written in this run.
    has_named: bool,
    /// What was heard while looking: something; that an interface is new, or may be a new exit.
    pub(super) heard: Option<bool>,
    pub(super) alerts: Alerts,
    pub(super) trial: Option<Trial>,
    /// Of a configuration that is just being taken over.
    pub(super) changes: Changes,
    pub(super) leaks: Merger,
    /// By slot of the tunnel.
    pub(super) leaking: BTreeMap<u32, Leaking>,
    /// Outer packets that would have gone into their own tunnel, by its slot.
    pub(super) recursions: BTreeMap<u32, Recursion>,
    pub(super) control_groups: ControlGroups,
    /// Over whether tunnels answer.
    pub(super) vigils: BTreeMap<IfName, Vigil>,
    /// Rules of others before ours, as of the last scan.
    pub(super) shadows: Vec<Shadow>,
    pub(super) health_alerts: HealthAlerts,
    pub(super) started: Instant,
}

impl State {
    pub(super) fn new(
        paths: Paths,
        config: Config,
        netlink: Netlink,
        kernel: Kernel,
        services: Services,
        tunnels: BTreeMap<IfName, Running>,
        ways: Ways,
    ) -> Self {
        let alerts = Alerts::new(services.clock.clone());
        Self {
            paths,
            wanted: config.clone(),
            config,
            learned: BTreeMap::new(),
            made: BTreeSet::new(),
            added: BTreeSet::new(),
            had_tunnels: false,
            conflicts: Vec::new(),
            taken: Taken::new(),
            local_networks: BTreeSet::new(),
            netlink,
            kernel,
            services,
            ways,
            exporter: None,
            repairs: metrics::repairs(),
            tunnels,
            observed: Observed::default(),
            plan: Plan::default(),
            enforcement: Enforcement::default(),
            unrestored: Vec::new(),
            not_listening: None,
            attach_again_at: None,
            problems: Vec::new(),
            lasting: Lasting::default(),
            in_place: InPlace::default(),
            tamper_log: TamperLog::default(),
            has_named: false,
            heard: None,
            alerts,
            trial: None,
            changes: Changes::default(),
            leaks: Merger::default(),
            leaking: BTreeMap::new(),
            recursions: BTreeMap::new(),
            control_groups: ControlGroups::default(),
            vigils: BTreeMap::new(),
            shadows: Vec::new(),
            health_alerts: HealthAlerts::default(),
            started: Instant::now(),
        }
    }

    pub(super) fn scope(&self) -> Scope {
        Scope::of(&self.wanted)
    }

    pub(super) fn desired(&self) -> Desired {
        let mut desired = Desired::new(&self.config, |tunnel| self.is_wanted(tunnel));
        let tunnels = self.config.tunnels.iter();
        for tunnel in tunnels.filter(|tunnel| self.made.contains(&tunnel.name)) {
            desired.set_up(tunnel);
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
        self.alerts.set(&self.config);
        self.listen();
        let is_first = self.observed.links.iter().next().is_none();
        self.observed = self.netlink.observe(&self.scope()).await?;
        let networks = local_networks(&self.wanted, &self.observed.links, &self.observed.connected);
        let (networks, too_many) = match networks {
            Ok(networks) => (networks, None),
            Err(too_many) => (BTreeSet::new(), Some(too_many)),
        };
        let taken = match self.wanted.has_accounts() {
            true => self.wanted.taken(&self.observed),
            false => Taken::new(),
        };
        if is_first || (&networks, &taken) != (&self.local_networks, &self.taken) {
            (self.local_networks, self.taken) = (networks, taken);
            // At first also what brokers said before anything was seen of the host.
            self.overlay();
        }
        self.drain_events();
        self.tell_drivers();
        let conflicts = self.conflicts.iter();
        let mut problems: Vec<_> = conflicts.map(|c| format!("{}: {c}", c.tunnel)).collect();
        problems.extend(too_many);
        for part in [
            self.enforce().await,
            self.route().await,
            self.find_shadows().await,
            self.name_tables(),
            self.export().await,
        ] {
            match part {
                Ok(found) => problems.extend(found),
                Err(error) => problems.push(format!("{error:#}")),
            }
        }
        self.tamper_log.scanned();
        problems.extend(self.tamper_log.problem(self.started.elapsed()));
        problems.extend(self.unrestored.iter().chain(&self.not_listening).cloned());
        problems.extend(self.alerts.hooks.problems());
        self.tell_problems(problems);
        self.tell_states();
        self.health_alerts.look_later(self.started.elapsed());
        Ok(())
    }

    /// Takes the netlink events that came before the scan, so that whatever it finds missing has a culprit.
    /// Events that came during the scan are among them, and call for another one.
    fn drain_events(&mut self) {
        for _ in 0..EVENTS_AT_A_TIME {
            let Some(change) = self.ways.watcher.changed_already() else {
                return;
            };
            if let Some(removal) = &change.removal {
                self.removed(removal, true);
            }
            let heard = self.heard.get_or_insert_default();
            *heard |= change.is_new_link || change.others == OthersChange::More;
            if change.others != OthersChange::Same {
                self.netlink.others_routes_changed();
            }
        }
    }

    /// Somebody removed something. `is_late`: a scan had begun already.
    pub(super) fn removed(&mut self, removal: &Removal, is_late: bool) {
        let now = self.started.elapsed();
        let named = self.tamper_log.removed(removal, is_late, now);
        named.into_iter().for_each(|about| self.alerts.raise(about));
    }

    /// Something was put back.
    pub(super) fn corrected(&mut self, tunnel: Option<IfName>, step: String, removed: Removed) {
        let correction = Correction {
            tunnel,
            step,
            removed,
        };
        let about = self.tamper_log.corrected(correction, self.started.elapsed());
        about.into_iter().for_each(|about| self.alerts.raise(about));
    }

    /// When [`State::report_unnamed`] has something to report.
    pub(super) fn unnamed_due(&self) -> Option<Instant> {
        let due = self.tamper_log.due()?;
        Some(clock::after(self.started, due))
    }

    /// Reports corrections whose event does not come.
    pub(super) fn report_unnamed(&mut self) {
        let unnamed = self.tamper_log.report_due(self.started.elapsed());
        unnamed.into_iter().for_each(|about| self.alerts.raise(about));
    }

    /// Reports together what was not reported one by one.
    pub(super) fn summarize(&mut self) {
        let summary = self.tamper_log.summary(self.started.elapsed());
        summary.into_iter().for_each(|about| self.alerts.raise(about));
        self.alerts.tell_together();
    }

    /// Takes up what drivers made, and learned from brokers. What was learned of a tunnel that is
    /// stopped still holds.
    fn listen(&mut self) {
        let mut learned = self.learned.clone();
        self.made.clear();
        for (name, running) in &self.tunnels {
            let Some(said) = running.said() else {
                continue;
            };
            if said.has_made {
                self.made.insert(name.clone());
            }
            if let Some(said) = said.learned {
                if let Some(before) = learned.get(name)
                    && (before.address, before.peer) != (said.address, said.peer)
                {
                    let problem = format!(
                        "{name}: the broker gives it {} with {} as its far end, where it had {} with {}",
                        said.address.address, said.peer, before.address.address, before.peer
                    );
                    self.alerts.raise(About::Problem { problem });
                }
                learned.insert(name.clone(), said);
            }
        }
        if learned != self.learned {
            self.learned = learned;
            self.overlay();
        }
    }

    /// Takes up what brokers said in an earlier run.
    pub(super) async fn know_from_before(&mut self) {
        self.learned = self.services.known(&self.wanted).await;
        self.overlay();
    }

    /// Lays what brokers said over what the user wants.
    pub(super) fn overlay(&mut self) {
        let wanted = &self.wanted;
        let (config, conflicts) = wanted.with(&self.learned, &self.taken, &self.config);
        self.config = config.with_direct(&self.local_networks);
        self.conflicts = conflicts;
        for (name, running) in &mut self.tunnels {
            let conflict = self.conflicts.iter().find(|c| c.tunnel == *name);
            running.refused = conflict.map(ToString::to_string);
        }
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
        let synced = sync.await?;
        // What fails for the first time may be over soon: somebody was at work at the same thing.
        let is_new = |problem: &String| !self.problems.contains(problem);
        self.attach_again_at = synced
            .problems
            .iter()
            .any(is_new)
            .then(|| clock::after(Instant::now(), REPAIR));
        problems.extend(synced.problems);
        for (name, direction) in synced.attached_again {
            let tunnel = self.is_tunnel(&name).then(|| name.clone());
            let what = format!("attach the program to {name} {}", direction.name());
            self.corrected(tunnel, what, Removed::Program);
        }
        Ok(problems)
    }

    /// Attaches what is missing, where it was at the last look: every millisecond without a program
    /// counts, and a whole look takes one.
    pub(super) async fn attach_again(&mut self) {
        if let Err(error) = self.enforce().await {
            // The look that follows has the same problem, and tells it.
            debug!("attach again: {error:#}");
        }
    }

    /// Reads back what is pinned, and puts right what somebody else wrote there.
    pub(super) fn restore(&mut self) {
        self.unrestored.clear();
        match self.kernel.restore() {
            Ok(restored) => {
                for what in restored {
                    self.corrected(None, what, Removed::Pinned);
                }
            }
            Err(error) => self
                .unrestored
                .push(format!("read back what is pinned: {error:#}")),
        }
    }

    /// Whether a program was taken away of which nothing tells.
    pub(super) fn has_lost_a_program(&self) -> bool {
        self.kernel.has_lost_a_program()
    }

    /// When to try again what failed; `None`: nothing did, or it is known to be a problem.
    pub(super) fn fails_until(&self) -> Option<Instant> {
        let due = self.lasting.due();
        let due = due.map(|due| clock::after(self.started, due));
        due.into_iter().chain(self.attach_again_at).min()
    }

    fn is_tunnel(&self, name: &IfName) -> bool {
        self.tunnels.contains_key(name)
    }

    /// Where somebody's rule comes before ours and leads elsewhere.
    async fn find_shadows(&mut self) -> anyhow::Result<Vec<String>> {
        let links = &self.observed.links;
        let wanted = |tunnel: &Tunnel| self.is_wanted(tunnel);
        self.shadows = shadow::shadows(&self.netlink, &self.config, links, wanted).await?;
        Ok(Vec::new())
    }

    fn name_tables(&mut self) -> anyhow::Result<Vec<String>> {
        let were_missing = table_file::ensure(&self.paths, &self.config)?;
        if std::mem::replace(&mut self.has_named, true) && were_missing {
            let file = self.paths.table_names();
            let what = format!("write the tables' names to {}", file.display());
            self.corrected(None, what, Removed::Names);
        }
        Ok(Vec::new())
    }

    /// Serves metrics where the configuration says, and nowhere else.
    async fn export(&mut self) -> anyhow::Result<Vec<String>> {
        let names = &self.config.metrics_hosts;
        if self.exporter.as_ref().map(Exporter::address) == self.config.metrics {
            self.exporter
                .iter()
                .for_each(|exporter| exporter.rename(names));
            return Ok(Vec::new());
        }
        // First, so that the same port can be served at another address.
        self.exporter = None;
        if let Some(address) = self.config.metrics {
            let requests = self.ways.requests_to.clone();
            self.exporter = Some(Exporter::serve(address, names, requests).await?);
        }
        Ok(Vec::new())
    }

    /// Problems are told when they come up, not again while they last.
    pub(super) fn tell_problems(&mut self, problems: Vec<String>) {
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
            Request::Metrics(answer) => {
                let standings = self.services.connects.standings().await;
                let _gone = answer.send(page::metrics(self, standings));
            }
            Request::Preview(asked, answer) => {
                let _gone = answer.send(self.preview(asked).await);
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
        Ok(api::Plan {
            config: Some(absolute(&self.paths.config)),
            ..api::Plan::from(&diff(&self.desired(), &observed))
        })
    }
}
