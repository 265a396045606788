//! Chaos: random faults are injected into a host while traffic runs, and the host must recover.
//!
//! [`plan`] draws the faults from a seed; [`host`] applies them. The invariants have a module each:
//! [`loss_account`] (which packets may be lost), [`monotonic_counters`] (counters never decrease),
//! [`host_snapshot`] and [`programs`] (the kernel has its earlier state, foreign state included),
//! [`footprint`] (the daemon holds no more than before). They ask the kernel, not the program, wherever
//! the kernel knows.
//!
//! Tasks: those of [`traffic`] and of [`monitor`]; they end with the run.

pub mod clock;
mod exit;
pub mod fault;
pub mod footprint;
pub mod host;
pub mod host_snapshot;
mod inject;
pub mod loss_account;
pub mod monitor;
pub mod monotonic_counters;
pub mod plan;
pub mod programs;
mod renumbering;
pub mod run_log;
pub mod traffic;

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::lab::topology::{ROUTER_SYSCTLS, TUNNELS, TunnelPlan};
use crate::lab::{Lab, Spec};
use crate::probe::service::Services;
use crate::program::{Hook, Program};
use fault::Action;
use footprint::Footprint;
use host::Host;
use monitor::Monitor;
use plan::{Plan, Scope, Step};
use run_log::RunLog;

/// Limit for the restoration of all pins after a round of the daemon.
const PINNED: Duration = Duration::from_secs(3);

/// A long run prints its progress after this number of faults.
const PROGRESS: u64 = 500;

/// A kind of host to test.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its lab.
    pub spec: Spec,
    /// How the program attaches.
    pub hook: Hook,
    /// Whether the configuration names the uplink; the daemon finds it otherwise.
    pub uplink_is_named: bool,
}

/// Length of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// This number of faults with one daemon, after a quarter of it with daemons that are killed and
    /// started.
    Faults(u64),
    /// Half of this time for each of the two parts.
    Time(Duration),
}

/// Options of a run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Determines all faults.
    pub seed: u64,
    /// Length of the run.
    pub length: Length,
}

impl Options {
    /// From `SIXXS_CHAOS_SEED` and `SIXXS_CHAOS_FAULTS`, which `cargo xtask test chaos` sets. The default is
    /// a random seed and `usual`.
    pub fn from_environment(usual: Duration) -> Result<Self> {
        let number = |name: &str| -> Result<Option<u64>> {
            let Ok(value) = std::env::var(name) else {
                return Ok(None);
            };
            let number = value.parse();
            Ok(Some(number.with_context(|| format!("{name}: {value}"))?))
        };
        let faults = number("SIXXS_CHAOS_FAULTS")?;
        Ok(Self {
            seed: number("SIXXS_CHAOS_SEED")?
                .unwrap_or_else(|| RandomState::new().build_hasher().finish()),
            length: faults.map_or(Length::Time(usual), Length::Faults),
        })
    }
}

/// Does a run. An error has the command to repeat it, and the last entries of the log.
pub fn run(variant: &Variant, options: Options) -> Result<()> {
    let Options { seed, length } = options;
    println!("{}: seed {seed}, {length:?}", variant.name);
    on_host(variant, |host, log, scope| {
        let mut run = Run {
            host,
            log,
            scope,
            faults: 0,
        };
        let ran = run.through(options);
        let faults = run.faults;
        println!("{}", run.summary());
        ran.with_context(|| {
            format!(
                "after {faults} faults; again: cargo xtask test chaos {} --seed {seed} --faults {}",
                variant.name,
                // The failure may be in the first part, which has a quarter of the faults.
                4 * faults
            )
        })
    })
}

/// Runs `work` on a host of this kind, in a lab of its own with traffic. An error has the last entries of
/// the log.
pub fn on_host(
    variant: &Variant,
    work: impl FnOnce(&mut Host<'_>, &RunLog, Scope) -> Result<()>,
) -> Result<()> {
    let lab = Lab::new(variant.spec)?;
    // The uplink is a veth, for which the daemon would not choose XDP by itself.
    let mut config = lab.config(if variant.spec.brokers.is_some() {
        "xdp = \"native\""
    } else {
        ""
    });
    if !variant.uplink_is_named {
        config = config.replace("uplinks = [\"net0\"]\n", "");
    }
    for TunnelPlan {
        address, prefix, ..
    } in &TUNNELS
    {
        let line = format!("address = \"{address}/64\"\n");
        let prefix = prefix.map_or(String::new(), |prefix| {
            format!("prefixes = [\"{prefix}\"]\n")
        });
        config = config.replacen(&line, &format!("{line}{prefix}"), 1);
    }
    let native = variant.spec.brokers.is_some();
    if !native {
        config += renumbering::CONFIG;
    }
    lab.write_config(&config)?;
    // The host forwards packets to the prefix.
    lab.host().sysctl(ROUTER_SYSCTLS)?;
    let program = Program::new(&lab, variant.hook)?;
    let addresses = lab.tunnels().each_ref().map(|tunnel| tunnel.plan.address);
    let _outside_services = Services::start(lab.outside(), &[])?;
    let _host_services = Services::start(lab.host(), &addresses)?;
    let log = RunLog::default();
    let clsact = variant.hook == Hook::Clsact || !crate::kernel::has_tcx()?;
    let plan = Scope {
        clsact,
        native,
        finds_exits: !variant.uplink_is_named,
        renumbers: !native,
        one_daemon: false,
    };
    std::thread::scope(|scope| {
        let monitor = Monitor::start(scope, &lab, native, &log);
        let mut host = Host::start(&lab, &program, (clsact, native), &log)?;
        let worked = work(&mut host, &log, plan).and_then(|()| monitor.end());
        if worked.is_err() {
            let described = host.describe();
            return worked.with_context(|| format!("{log}{described}"));
        }
        host.end()
    })
}

/// Replaces the address of a link this many times, while traffic runs and without another fault.
pub fn renumber(variant: &Variant, count: u64) -> Result<()> {
    on_host(variant, |host, log, _| {
        let mut early = None;
        for number in 1..=count {
            host.apply(&[Step {
                pause: Duration::ZERO,
                action: Action::Renumber,
            }])?;
            if number == count.div_ceil(10) {
                host.wait_until_repaired()?;
                early = Some(host.footprint()?);
            }
            if number % PROGRESS == 0 {
                host.wait_until_repaired()?;
            }
        }
        host.wait_until_repaired()?;
        let early = early.context("at least one")?;
        let late = host.wait_until_footprint_within(&early)?;
        let seconds = log.elapsed().as_secs();
        println!("{count} new addresses in {seconds} s; {early}, then {late}");
        Ok(())
    })
}

struct Run<'run, 'lab> {
    host: &'run mut Host<'lab>,
    log: &'run RunLog,
    scope: Scope,
    faults: u64,
}

impl Run<'_, '_> {
    fn through(&mut self, Options { seed, length }: Options) -> Result<()> {
        let (first, second) = match length {
            Length::Faults(count) => (Length::Faults(count.div_ceil(4)), length),
            Length::Time(time) => (Length::Time(time / 2), Length::Time(time / 2)),
        };
        self.inject(Plan::new(seed, self.scope), first)?;
        self.host.wait_until_pinned(PINNED)?;
        self.scope.one_daemon = true;
        let mut plan = Plan::new(seed.wrapping_add(1), self.scope);
        plan = self.inject(plan, part(second, 10))?;
        let early = self.print_footprint()?;
        self.inject(plan, rest(second, 10))?;
        self.host.wait_until_pinned(PINNED)?;
        let late = self.host.wait_until_footprint_within(&early);
        self.print_footprint()?;
        late?;
        Ok(())
    }

    fn inject(&mut self, mut plan: Plan, length: Length) -> Result<Plan> {
        let since = Instant::now();
        let mut done = 0;
        loop {
            let left = match length {
                Length::Faults(count) => count.saturating_sub(done),
                Length::Time(time) if since.elapsed() < time => u64::MAX,
                Length::Time(_) => 0,
            };
            if left == 0 {
                return Ok(plan);
            }
            let batch = plan.batch(usize::try_from(left).unwrap_or(usize::MAX));
            let faults = self.host.apply(&batch)?;
            let before = self.faults;
            (done, self.faults) = (done + faults, before + faults);
            self.host.wait_until_repaired()?;
            if before / PROGRESS < self.faults / PROGRESS {
                self.print_footprint()?;
            }
        }
    }

    fn print_footprint(&self) -> Result<Footprint> {
        let footprint = self.host.footprint()?;
        let (after, elapsed) = (self.faults, self.log.elapsed().as_secs());
        println!("after {after} faults, {elapsed} s: {footprint}");
        Ok(footprint)
    }

    fn summary(&self) -> String {
        let host = &*self.host;
        let (lost, resets) = host.losses();
        let mut text = format!(
            "{} faults in {:.1} s; slowest repair: {:?}\n",
            self.faults,
            self.log.elapsed().as_secs_f64(),
            host.slowest
        );
        // Writing to a string cannot fail.
        let _written = write!(
            text,
            "{} packets leaked; lost while programs were away: {lost:?}; counters began anew \
             {resets} times\nfaults: {:?}",
            host.leaked(),
            host.faults()
        );
        text
    }
}

/// The first one of `parts` equal parts.
fn part(length: Length, parts: u32) -> Length {
    match length {
        Length::Faults(count) => Length::Faults(count.div_ceil(parts.into())),
        Length::Time(time) => Length::Time(time / parts),
    }
}

/// The other parts.
fn rest(length: Length, parts: u32) -> Length {
    match (length, part(length, parts)) {
        (Length::Faults(all), Length::Faults(first)) => Length::Faults(all - first),
        (Length::Time(all), Length::Time(first)) => Length::Time(all.saturating_sub(first)),
        (length, _) => length,
    }
}
