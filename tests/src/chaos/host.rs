//! Owns the host under test: applies batches of actions and waits until everything is repaired.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::clock;
use super::exit;
use super::footprint::Footprint;
use super::host_snapshot::HostSnapshot;
use super::loss_account::{Counts, Filter, LossAccount};
use super::monotonic_counters::{Counters, MonotonicCounters};
use super::plan::Step;
use super::programs::Programs;
use super::renumbering::Renumbering;
use super::run_log::RunLog;
use super::traffic::{MARKS, Traffic};
use crate::lab::{Lab, Tunnel};
use crate::program::{Daemon, Program};
use crate::program::{owned_state, status};
use crate::{shell, wait};

/// Limit for the repair after the last action.
pub(super) const REPAIRED: Duration = Duration::from_secs(3);
/// The same limit where a connect to a broker may have to wait for the rate limit.
const CONNECTED: Duration = Duration::from_secs(90);
/// Limit until the status reports the repaired state.
const REPORTED: Duration = Duration::from_secs(5);
/// If no packet is lost in this time, the loss has ended. Each sender leaks several times in it.
pub(super) const QUIET: Duration = Duration::from_millis(60);

/// Memory that native tunnels fill over time: the replay window of AYIYA (at most 8 MiB), and 64 buffers of
/// 6in4, whose pages are allocated on first use.
const FILLED_KIB: u64 = 8 * 1024 + 64 * 67;

/// Foreign rules and routes, which must stay. The unreachable routes keep packets for a missing tunnel
/// address, or for an unused part of the prefix, off the uplink.
const OTHERS: &str = "rule add from 2001:db8:77::/48 lookup 77 priority 16000 protocol static\n\
     rule add from 2001:db8:78::/48 lookup main priority 16390\n\
     route add 2001:db8:77::/48 dev lo table 77 proto static\n\
     route add unreachable 2001:db8:78::/48 proto static metric 50\n\
     route add unreachable 2001:db8:a::/64 proto static metric 50000\n\
     route add unreachable 2001:db8:b::/64 proto static metric 50000\n\
     route add unreachable 2001:db8:bb::/48 proto static metric 50000\n";

/// Duration of the slowest repair, by part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Repair {
    /// Time until all programs are attached.
    pub programs: Duration,
    /// Time until rules, routes and addresses are as at the beginning.
    pub routing: Duration,
    /// Until the status reported it.
    pub reported: Duration,
}

/// The host under test.
#[derive(Debug)]
pub struct Host<'a> {
    pub(super) lab: &'a Lab,
    pub(super) program: &'a Program,
    pub(super) native: bool,
    pub(super) daemon: Option<Daemon>,
    /// Whether it may not be ready yet. A daemon that starts holds no link or map of its own.
    pub(super) starting: bool,
    pub(super) programs: Programs,
    /// A link that the daemon follows; none with native tunnels.
    pub(super) renumbering: Option<Renumbering>,
    traffic: Traffic,
    initial: HostSnapshot,
    maps: BTreeSet<String>,
    losses: LossAccount,
    counters: MonotonicCounters,
    pub(super) log: RunLog,
    faults: BTreeMap<String, u64>,
    /// The longest times of all repairs.
    pub slowest: Repair,
}

impl<'a> Host<'a> {
    /// Starts daemon and traffic on a host that has foreign rules and routes too.
    pub fn start(
        lab: &'a Lab,
        program: &'a Program,
        (clsact, native): (bool, bool),
        log: &RunLog,
    ) -> Result<Self> {
        let host = lab.host();
        exit::create(lab)?;
        let mut others = OTHERS.to_owned() + exit::RULE;
        for (mark, table) in MARKS.into_iter().zip(200..) {
            others += &format!("rule add fwmark {mark} lookup {table} priority 100\n");
        }
        let mut ip = std::process::Command::new("ip");
        ip.args(["-6", "-n", host.name(), "-batch", "-"]);
        shell::capture_with_input(&mut ip, &others)?;
        let renumbering = match native {
            true => None,
            false => Some(Renumbering::create(lab)?),
        };
        let daemon = program.start_as(program.command(&clock::MOVABLE))?;
        let programs = Programs::new(host, clsact, native, lab.paths().pins())?;
        let is_up = |status: &status::Status| status.healthy;
        program.status_until("everything is up", is_up)?;
        let mut host = Self {
            initial: HostSnapshot::take(host)?,
            maps: programs.pinned_maps()?,
            lab,
            program,
            native,
            daemon: Some(daemon),
            starting: false,
            programs,
            renumbering,
            traffic: Traffic::start(lab)?,
            losses: LossAccount::new(clsact),
            counters: MonotonicCounters::default(),
            log: log.clone(),
            faults: BTreeMap::new(),
            slowest: Repair::default(),
        };
        ensure!(!host.maps.is_empty(), "no map is pinned");
        host.wait_until_repaired()?;
        Ok(host)
    }

    /// Applies a batch; returns the number of its faults.
    pub fn apply(&mut self, batch: &[Step]) -> Result<u64> {
        let mut faults = 0;
        for step in batch {
            sleep(step.pause);
            self.log.note(step.action.to_string());
            self.losses.record(step.action);
            self.counters.record(step.action);
            self.inject(step.action)
                .with_context(|| step.action.to_string())?;
            if self.daemon.is_none() {
                self.counters.daemon_ended();
            }
            if self.daemon.is_none() || self.starting {
                self.losses.daemon_ended();
            }
            if step.action.is_fault() {
                faults += 1;
                *self.faults.entry(step.action.kind()).or_default() += 1;
            }
        }
        Ok(faults)
    }

    /// Waits until everything is repaired, and checks the losses.
    pub fn wait_until_repaired(&mut self) -> Result<()> {
        self.wait_until_repaired_within(if self.native { CONNECTED } else { REPAIRED })
    }

    /// Routes and neighbours of the host, the brokers and the routers between, to explain missing replies.
    fn neighbourhood(&self) -> String {
        let brokers = self.lab.tunnels().iter().map(Tunnel::pop);
        let mut text = String::new();
        for namespace in [self.lab.host(), self.lab.outside(), self.lab.core()]
            .into_iter()
            .chain(brokers)
        {
            for command in [
                "ip -6 route show table all",
                "ip -6 -statistics neighbour show",
                "ip -6 address show",
                "ip -brief link show",
            ] {
                let printed = namespace.sh(command).unwrap_or_else(|e| format!("{e:#}\n"));
                text += &format!("{}: {command}\n{printed}", namespace.name());
            }
        }
        text
    }

    /// As [`Host::wait_until_repaired`] with another limit.
    pub fn wait_until_repaired_within(&mut self, limit: Duration) -> Result<()> {
        let since = Instant::now();
        let host = self.lab.host();
        let wrong = || self.programs.wrong();
        wait::until("all programs are back", limit, wrong, Vec::is_empty)?;
        let programs = since.elapsed();
        let differences = || Ok(self.initial.differences(&HostSnapshot::take(host)?));
        wait::until("the routing is back", limit, differences, Vec::is_empty)?;
        let routing = since.elapsed();
        let problems = || self.problems();
        wait::until(
            "the status is healthy",
            limit.max(REPORTED),
            problems,
            Vec::is_empty,
        )?;
        let reported = since.elapsed();
        self.log.note(format!(
            "repaired: programs {programs:?}, routing {routing:?}, reported {reported:?}"
        ));
        let slowest = &mut self.slowest;
        slowest.programs = slowest.programs.max(programs);
        slowest.routing = slowest.routing.max(routing);
        slowest.reported = slowest.reported.max(reported);
        self.starting = false;
        self.programs.foreign_is_untouched()?;
        let counts = self.counts_at_rest()?;
        self.losses.settle(&counts)?;
        if self.programs.unpinned(&self.maps)?.is_empty() {
            self.pins_restored();
        }
        self.counters.settle(self.counters()?)?;
        self.traffic
            .is_answered()
            .with_context(|| self.neighbourhood())
    }

    /// Waits until all pins are back. The kernel sends no event for a removed pin. The program checks pins
    /// in each round, so a foreign rule is added and deleted here; a round without events comes after 30 s.
    pub fn wait_until_pinned(&mut self, limit: Duration) -> Result<()> {
        let rule = "from 2001:db8:79::/48 lookup main priority 16391";
        for verb in ["add", "del"] {
            self.lab.host().sh(&format!("ip -6 rule {verb} {rule}"))?;
        }
        let unpinned = || self.programs.unpinned(&self.maps);
        wait::until("the pins are back", limit, unpinned, Vec::is_empty)?;
        self.pins_restored();
        Ok(())
    }

    fn pins_restored(&mut self) {
        self.losses.pins_restored();
        self.counters.pins_restored();
    }

    /// Problems in the program's own status.
    fn problems(&self) -> Result<Vec<String>> {
        let status = self.program.status()?;
        let mut problems = Vec::new();
        let tunnels = status.tunnels.iter().filter(|tunnel| !tunnel.is_whole());
        problems.extend(tunnels.map(|tunnel| format!("{tunnel:?}")));
        let uplinks = status.uplinks.iter().filter(|u| u.program != "attached");
        problems.extend(uplinks.map(|uplink| format!("{uplink:?}")));
        // An exit stays guarded for some seconds after its route is gone.
        let lasting = status.uplinks.iter().filter(|u| u.name != exit::EXIT);
        let tunnels = self.lab.tunnels().len() + usize::from(self.renumbering.is_some());
        if !status.works() || status.tunnels.len() != tunnels || lasting.count() != 1 {
            let screen = self.program.run(&["status"])?;
            problems.push(screen.stdout);
        }
        let plan = self.program.run(&["plan"])?;
        if plan.code != 0 {
            problems.push(plan.stdout + &plan.stderr);
        }
        Ok(problems)
    }

    fn counts_at_rest(&self) -> Result<Counts> {
        if !self.losses.has_excuses() {
            return counts(self.lab);
        }
        let twice = || {
            let before = counts(self.lab)?;
            sleep(QUIET * wait::patience());
            Ok((before, counts(self.lab)?))
        };
        let is_quiet = |(before, now): &(Counts, Counts)| before == now;
        let (_, now) = wait::until("nothing is lost any more", REPORTED, twice, is_quiet)?;
        Ok(now)
    }

    fn counters(&self) -> Result<Counters> {
        let (_, mut values) = self.program.json(&["counters"])?;
        let value = values.pop().context("sixxs counters printed nothing")?;
        let mut counters: Counters =
            serde_json::from_value(value["interfaces"].clone()).context("read the counters")?;
        // They exist only while it is an exit.
        counters.remove(exit::EXIT);
        Ok(counters)
    }

    /// The resources of the daemon.
    pub fn footprint(&self) -> Result<Footprint> {
        let daemon = self.daemon.as_ref().context("a daemon lives")?;
        Footprint::of(daemon.pid()?)
    }

    /// Waits until the daemon uses no more resources than earlier.
    pub fn wait_until_footprint_within(&self, earlier: &Footprint) -> Result<Footprint> {
        let room_kib = if self.native { FILLED_KIB } else { 0 };
        let excess = || {
            let now = self.footprint()?;
            now.ensure_no_larger_than(earlier, room_kib)?;
            Ok(now)
        };
        wait::until(
            "the daemon holds no more than before",
            REPORTED,
            excess,
            |_| true,
        )
    }

    /// Faults so far, by kind.
    pub fn faults(&self) -> &BTreeMap<String, u64> {
        &self.faults
    }

    /// Excused losses, and the number of counter restarts.
    pub fn losses(&self) -> (&BTreeMap<String, u64>, u64) {
        (self.losses.excused(), self.counters.resets())
    }

    /// Packets that leaked.
    pub fn leaked(&self) -> u64 {
        self.traffic.leaked()
    }

    /// The kernel programs, for tests that change them without an action.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// State for a failure report.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        let status = self.program.run(&["status"]);
        // Writing to a string cannot fail.
        let _written = write!(text, "---- sixxs status ----\n{status:#?}\n");
        for tunnel in self.lab.tunnels() {
            let (pop, seen) = (tunnel.plan.pop, tunnel.broker_counters());
            let sees = tunnel.broker_state().unwrap_or_else(|e| format!("{e:#}"));
            let _written = write!(text, "---- {pop} ----\n{sees}{seen:?}\n");
        }
        if let Some(daemon) = &self.daemon {
            let log = daemon.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.len().saturating_sub(60);
            let _written = write!(text, "---- sixxs run ----\n{}\n", lines[last..].join("\n"));
        }
        text
    }

    /// Ends the daemon and removes everything that the program made.
    pub fn end(mut self) -> Result<()> {
        let daemon = self.daemon.take().context("a daemon lives")?;
        let code = daemon.stop()?;
        ensure!(code == 0, "sixxs run ended with {code}");
        self.losses.daemon_ended();
        let last = counts(self.lab)?;
        self.losses.settle(&last).context("after its end")?;
        self.program.run_ok(&["down"])?;
        let left = owned_state::rules(self.lab.host())? + &owned_state::routes(self.lab.host())?;
        ensure!(left.is_empty(), "left behind: {left}");
        Ok(())
    }
}

/// Packets per filter.
pub fn counts(lab: &Lab) -> Result<Counts> {
    let [first, second] = lab.tunnels();
    let mut counts = Counts::from([(Filter::Isp, lab.dropped_by_isp()?)]);
    for (number, tunnel) in [first, second].into_iter().enumerate() {
        let seen = tunnel.broker_counters()?;
        counts.insert(Filter::Broker(number), seen.get("strays")?);
        counts.insert(Filter::Round(number), seen.get("rounds")?);
    }
    Ok(counts)
}
