//! The host under test. Injects faults, and waits until everything is restored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::account::{Account, Counts, Filter};
use super::chronicle::Chronicle;
use super::clock;
use super::exit;
use super::footprint::Footprint;
use super::kept::{Counters, Kept};
use super::plan::Step;
use super::programs::Programs;
use super::traffic::{MARKS, Traffic};
use super::whole::Whole;
use crate::lab::{Lab, Tunnel};
use crate::program::{Daemon, Program};
use crate::{own, shell, status, wait};

/// Limit for restoring everything after the last fault.
pub(super) const REPAIRED: Duration = Duration::from_secs(3);
/// The same, if the daemon first has to connect to a broker whose rate limit is used up.
const CONNECTED: Duration = Duration::from_secs(90);
/// Limit until the status reports the restored state.
const TOLD: Duration = Duration::from_secs(5);
/// If no packet is lost in this time, the loss is over. It covers several leaks of each sender; both this
/// time and the senders' interval are multiplied by [`wait::patience`].
pub(super) const QUIET: Duration = Duration::from_millis(60);

/// Memory that native tunnels fill gradually: AYIYA's replay protection has at most 8 MiB, and 6in4 has 64
/// buffers for packets of any length; memory of a buffer is allocated when it is first used.
const FILLED_KIB: u64 = 8 * 1024 + 64 * 67;

/// Foreign rules and routes, which stay for the whole run. The unreachable routes keep packets off the uplink
/// that the host forwards for a tunnel's missing address, or for an unused part of its prefix.
const OTHERS: &str = "rule add from 2001:db8:77::/48 lookup 77 priority 16000 protocol static\n\
     rule add from 2001:db8:78::/48 lookup main priority 16390\n\
     route add 2001:db8:77::/48 dev lo table 77 proto static\n\
     route add unreachable 2001:db8:78::/48 proto static metric 50\n\
     route add unreachable 2001:db8:a::/64 proto static metric 50000\n\
     route add unreachable 2001:db8:b::/64 proto static metric 50000\n\
     route add unreachable 2001:db8:bb::/48 proto static metric 50000\n";

/// Longest time of each part of a repair.
#[derive(Clone, Copy, Debug, Default)]
pub struct Repair {
    /// Time until all programs are attached.
    pub programs: Duration,
    /// Time until rules, routes and addresses are as at the beginning.
    pub routing: Duration,
    /// Time until the status reports it.
    pub told: Duration,
}

/// The host under test.
#[derive(Debug)]
pub struct Host<'a> {
    pub(super) lab: &'a Lab,
    pub(super) program: &'a Program,
    pub(super) native: bool,
    pub(super) daemon: Option<Daemon>,
    /// Whether it may not be ready yet, and so may not hold the kernel objects without pins.
    pub(super) starting: bool,
    pub(super) programs: Programs,
    traffic: Traffic,
    whole: Whole,
    maps: BTreeSet<String>,
    account: Account,
    kept: Kept,
    pub(super) chronicle: Chronicle,
    faults: BTreeMap<String, u64>,
    /// The longest times of all repairs.
    pub slowest: Repair,
}

impl<'a> Host<'a> {
    /// Starts daemon and traffic on a host that also has foreign rules and routes.
    pub fn start(
        lab: &'a Lab,
        program: &'a Program,
        (clsact, native): (bool, bool),
        chronicle: &Chronicle,
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
        let daemon = program.start_as(program.command(&clock::MOVABLE))?;
        let programs = Programs::new(host, clsact, lab.paths().pins())?;
        let is_up = |status: &status::Status| status.healthy;
        program.status_until("everything is up", is_up)?;
        let mut host = Self {
            whole: Whole::look(host)?,
            maps: programs.pinned_maps()?,
            lab,
            program,
            native,
            daemon: Some(daemon),
            starting: false,
            programs,
            traffic: Traffic::start(lab)?,
            account: Account::new(clsact),
            kept: Kept::default(),
            chronicle: chronicle.clone(),
            faults: BTreeMap::new(),
            slowest: Repair::default(),
        };
        ensure!(!host.maps.is_empty(), "no map is pinned");
        host.is_whole_again()?;
        Ok(host)
    }

    /// Injects a batch of faults; returns their number.
    pub fn suffer(&mut self, batch: &[Step]) -> Result<u64> {
        let mut faults = 0;
        for step in batch {
            sleep(step.pause);
            self.chronicle.note(step.act.to_string());
            self.account.happens(step.act);
            self.kept.happens(step.act);
            self.strike(step.act)
                .with_context(|| step.act.to_string())?;
            if self.daemon.is_none() {
                self.kept.daemon_is_dead();
            }
            if self.daemon.is_none() || self.starting {
                self.account.daemon_is_dead();
            }
            if step.act.is_fault() {
                faults += 1;
                *self.faults.entry(step.act.kind()).or_default() += 1;
            }
        }
        Ok(faults)
    }

    /// Waits until everything is restored, and checks the loss meanwhile.
    pub fn is_whole_again(&mut self) -> Result<()> {
        self.is_whole_within(if self.native { CONNECTED } else { REPAIRED })
    }

    /// Routes, neighbours and addresses of the host and both brokers, to debug missing replies although
    /// everything is in place.
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

    /// Like [`Host::is_whole_again`], with another limit.
    pub fn is_whole_within(&mut self, limit: Duration) -> Result<()> {
        let since = Instant::now();
        let host = self.lab.host();
        let wrong = || self.programs.wrong();
        wait::until("all programs are back", limit, wrong, Vec::is_empty)?;
        let programs = since.elapsed();
        let differences = || Ok(self.whole.differences(&Whole::look(host)?));
        wait::until("the routing is back", limit, differences, Vec::is_empty)?;
        let routing = since.elapsed();
        let unwell = || self.unwell();
        wait::until(
            "the program says so",
            limit.max(TOLD),
            unwell,
            Vec::is_empty,
        )?;
        let told = since.elapsed();
        self.chronicle.note(format!(
            "whole again: programs {programs:?}, routing {routing:?}, told {told:?}"
        ));
        let slowest = &mut self.slowest;
        slowest.programs = slowest.programs.max(programs);
        slowest.routing = slowest.routing.max(routing);
        slowest.told = slowest.told.max(told);
        self.starting = false;
        self.programs.foreign_is_untouched()?;
        let counts = self.counts_at_rest()?;
        self.account.settle(&counts)?;
        if self.programs.unpinned(&self.maps)?.is_empty() {
            self.pins_are_there();
        }
        self.kept.settle(self.counters()?)?;
        self.traffic
            .is_answered()
            .with_context(|| self.neighbourhood())
    }

    /// Waits until all pins are restored. The kernel sends no event when a pin is removed. The daemon notices
    /// it in its next round: here a foreign rule triggers one, and at the latest it comes after 30 seconds.
    pub fn is_pinned_again(&mut self, limit: Duration) -> Result<()> {
        let rule = "from 2001:db8:79::/48 lookup main priority 16391";
        for verb in ["add", "del"] {
            self.lab.host().sh(&format!("ip -6 rule {verb} {rule}"))?;
        }
        let unpinned = || self.programs.unpinned(&self.maps);
        wait::until("the pins are back", limit, unpinned, Vec::is_empty)?;
        self.pins_are_there();
        Ok(())
    }

    fn pins_are_there(&mut self) {
        self.account.pins_are_there();
        self.kept.pins_are_there();
    }

    /// The problems that the program still reports.
    fn unwell(&self) -> Result<Vec<String>> {
        let status = self.program.status()?;
        let mut unwell = Vec::new();
        let tunnels = status.tunnels.iter().filter(|tunnel| !tunnel.is_whole());
        unwell.extend(tunnels.map(|tunnel| format!("{tunnel:?}")));
        let uplinks = status.uplinks.iter().filter(|u| u.program != "attached");
        unwell.extend(uplinks.map(|uplink| format!("{uplink:?}")));
        // The program stays attached at a former exit for some seconds.
        let lasting = status.uplinks.iter().filter(|u| u.name != exit::EXIT);
        if !status.works() || status.tunnels.len() != 2 || lasting.count() != 1 {
            let screen = self.program.run(&["status"])?;
            unwell.push(screen.stdout);
        }
        let plan = self.program.run(&["plan"])?;
        if plan.code != 0 {
            unwell.push(plan.stdout + &plan.stderr);
        }
        Ok(unwell)
    }

    fn counts_at_rest(&self) -> Result<Counts> {
        if !self.account.has_excuses() {
            return counts(self.lab);
        }
        let twice = || {
            let before = counts(self.lab)?;
            sleep(QUIET * wait::patience());
            Ok((before, counts(self.lab)?))
        };
        let is_quiet = |(before, now): &(Counts, Counts)| before == now;
        let (_, now) = wait::until("nothing is lost any more", TOLD, twice, is_quiet)?;
        Ok(now)
    }

    fn counters(&self) -> Result<Counters> {
        let (_, mut values) = self.program.json(&["counters"])?;
        let value = values.pop().context("sixxs counters printed nothing")?;
        let mut counters: Counters =
            serde_json::from_value(value["interfaces"].clone()).context("read the counters")?;
        // The exit's counters exist only while it is an exit.
        counters.remove(exit::EXIT);
        Ok(counters)
    }

    /// The daemon's resources. They may include a client's connection that it has not closed yet.
    pub fn footprint(&self) -> Result<Footprint> {
        let daemon = self.daemon.as_ref().context("a daemon lives")?;
        Footprint::of(daemon.pid()?)
    }

    /// Waits until the daemon uses no more resources than earlier.
    pub fn holds_no_more_than(&self, earlier: &Footprint) -> Result<Footprint> {
        let room_kib = if self.native { FILLED_KIB } else { 0 };
        let excess = || {
            let now = self.footprint()?;
            now.no_more_than(earlier, room_kib)?;
            Ok(now)
        };
        wait::until("the daemon holds no more than before", TOLD, excess, |_| {
            true
        })
    }

    /// Faults so far, by kind.
    pub fn faults(&self) -> &BTreeMap<String, u64> {
        &self.faults
    }

    /// Lost packets by fault, and the number of counter resets.
    pub fn losses(&self) -> (&BTreeMap<String, u64>, u64) {
        (self.account.excused(), self.kept.resets())
    }

    /// Number of packets that were sent to the wrong interface.
    pub fn leaked(&self) -> u64 {
        self.traffic.leaked()
    }

    /// The programs, for additional faults.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The state of program and lab, for debugging.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        let status = self.program.run(&["status"]);
        // Writing to a string cannot fail.
        let _written = write!(text, "---- sixxs status ----\n{status:#?}\n");
        for tunnel in self.lab.tunnels() {
            let (pop, seen) = (tunnel.plan.pop, tunnel.seen_at_broker());
            let sees = tunnel.broker_sees().unwrap_or_else(|e| format!("{e:#}"));
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

    /// Stops the daemon, and removes everything that the program made.
    pub fn end(mut self) -> Result<()> {
        let daemon = self.daemon.take().context("a daemon lives")?;
        let code = daemon.stop()?;
        ensure!(code == 0, "sixxs run ended with {code}");
        self.account.daemon_is_dead();
        let last = counts(self.lab)?;
        self.account.settle(&last).context("after its end")?;
        self.program.ok(&["down"])?;
        let left = own::rules(self.lab.host())? + &own::routes(self.lab.host())?;
        ensure!(left.is_empty(), "left behind: {left}");
        Ok(())
    }
}

/// The counter of each filter.
pub fn counts(lab: &Lab) -> Result<Counts> {
    let [first, second] = lab.tunnels();
    let mut counts = Counts::from([(Filter::Isp, lab.filtered()?)]);
    for (number, tunnel) in [first, second].into_iter().enumerate() {
        let seen = tunnel.seen_at_broker()?;
        counts.insert(Filter::Broker(number), seen.get("strays")?);
        counts.insert(Filter::Round(number), seen.get("rounds")?);
    }
    Ok(counts)
}
