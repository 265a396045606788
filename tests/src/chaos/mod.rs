//! Chaos: injects random faults into a host with traffic, and checks that everything is restored.
//!
//! [`plan`] chooses the faults from a seed; they happen to a [`host`]. Each invariant has its module:
//! [`account`] (which packets may be lost, and when), [`kept`] (counters never decrease), [`whole`] and
//! [`programs`] (the kernel has the same objects as before, including foreign ones), and [`footprint`] (the
//! daemon uses no more resources than before). They read the kernel instead of the program's report where
//! they can.
//!
//! Tasks: those of [`traffic`] and of [`watch`]; they end with the run.

pub mod account;
pub mod act;
pub mod chronicle;
pub mod clock;
mod exit;
pub mod footprint;
pub mod host;
pub mod kept;
pub mod plan;
pub mod programs;
mod strike;
pub mod traffic;
pub mod watch;
pub mod whole;

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::lab::{Lab, Spec};
use crate::program::{Hook, Program};
use crate::service::Services;
use crate::topology::{ROUTER_SYSCTLS, TUNNELS, TunnelPlan};
use chronicle::Chronicle;
use footprint::Footprint;
use host::Host;
use plan::{Plan, Scope};
use watch::Watch;

/// Limit for all pins to be restored after a round of the daemon.
const PINNED: Duration = Duration::from_secs(3);

/// A long run reports progress after this number of faults.
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
    /// Whether the configuration names the uplink, or the daemon detects it.
    pub uplink_is_named: bool,
}

/// Length of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// This number of faults with one daemon, after a quarter of that with faults that also kill and start
    /// the daemon.
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
    /// Reads `SIXXS_CHAOS_SEED` and `SIXXS_CHAOS_FAULTS`, which `cargo xtask test chaos` sets. By default the
    /// seed is random, and the run takes the time `usual`.
    pub fn from_environment(usual: Duration) -> Result<Self> {
        let number = |name: &str| -> Result<Option<u64>> {
            let Ok(said) = std::env::var(name) else {
                return Ok(None);
            };
            let number = said.parse();
            Ok(Some(number.with_context(|| format!("{name}: {said}"))?))
        };
        let faults = number("SIXXS_CHAOS_FAULTS")?;
        Ok(Self {
            seed: number("SIXXS_CHAOS_SEED")?
                .unwrap_or_else(|| RandomState::new().build_hasher().finish()),
            length: faults.map_or(Length::Time(usual), Length::Faults),
        })
    }
}

/// Runs the test. An error has the command to repeat it, and the last events.
pub fn run(variant: &Variant, options: Options) -> Result<()> {
    let Options { seed, length } = options;
    println!("{}: seed {seed}, {length:?}", variant.name);
    on_host(variant, |host, chronicle, scope| {
        let mut run = Run {
            host,
            chronicle,
            scope,
            struck: 0,
        };
        let ran = run.through(options);
        let struck = run.struck;
        println!("{}", run.summary());
        ran.with_context(|| {
            format!(
                "after {struck} faults; again: cargo xtask test chaos {} --seed {seed} --faults {}",
                variant.name,
                // The failure may be in the first part, which has a quarter of the faults.
                4 * struck
            )
        })
    })
}

/// Runs `work` on a host of this kind, in its own lab with traffic. An error includes the last events.
pub fn on_host(
    variant: &Variant,
    work: impl FnOnce(&mut Host<'_>, &Chronicle, Scope) -> Result<()>,
) -> Result<()> {
    let lab = Lab::new(variant.spec)?;
    let mut config = lab.config("");
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
    lab.write_config(&config)?;
    // The host forwards packets to the prefix.
    lab.host().sysctl(ROUTER_SYSCTLS)?;
    let program = Program::new(&lab, variant.hook)?;
    let addresses = lab.tunnels().each_ref().map(|tunnel| tunnel.plan.address);
    let _outside_services = Services::start(lab.outside(), &[])?;
    let _host_services = Services::start(lab.host(), &addresses)?;
    let chronicle = Chronicle::default();
    let native = variant.spec.brokers.is_some();
    let clsact = variant.hook == Hook::Clsact || !crate::kernel::has_tcx()?;
    let plan = Scope {
        clsact,
        native,
        finds_exits: !variant.uplink_is_named,
        one_daemon: false,
    };
    std::thread::scope(|scope| {
        let watch = Watch::start(scope, &lab, native, &chronicle);
        let mut host = Host::start(&lab, &program, (clsact, native), &chronicle)?;
        let worked = work(&mut host, &chronicle, plan).and_then(|()| watch.end());
        if worked.is_err() {
            let described = host.describe();
            return worked.with_context(|| format!("{chronicle}{described}"));
        }
        host.end()
    })
}

struct Run<'run, 'lab> {
    host: &'run mut Host<'lab>,
    chronicle: &'run Chronicle,
    scope: Scope,
    struck: u64,
}

impl Run<'_, '_> {
    fn through(&mut self, Options { seed, length }: Options) -> Result<()> {
        let (first, second) = match length {
            Length::Faults(count) => (Length::Faults(count.div_ceil(4)), length),
            Length::Time(time) => (Length::Time(time / 2), Length::Time(time / 2)),
        };
        self.faults(Plan::new(seed, self.scope), first)?;
        self.host.is_pinned_again(PINNED)?;
        self.scope.one_daemon = true;
        let mut plan = Plan::new(seed.wrapping_add(1), self.scope);
        plan = self.faults(plan, part(second, 10))?;
        let early = self.look_at_daemon()?;
        self.faults(plan, rest(second, 10))?;
        self.host.is_pinned_again(PINNED)?;
        let late = self.host.holds_no_more_than(&early);
        self.look_at_daemon()?;
        late?;
        Ok(())
    }

    fn faults(&mut self, mut plan: Plan, length: Length) -> Result<Plan> {
        let since = Instant::now();
        let mut struck = 0;
        loop {
            let left = match length {
                Length::Faults(count) => count.saturating_sub(struck),
                Length::Time(time) if since.elapsed() < time => u64::MAX,
                Length::Time(_) => 0,
            };
            if left == 0 {
                return Ok(plan);
            }
            let batch = plan.batch(usize::try_from(left).unwrap_or(usize::MAX));
            let faults = self.host.suffer(&batch)?;
            let before = self.struck;
            (struck, self.struck) = (struck + faults, before + faults);
            self.host.is_whole_again()?;
            if before / PROGRESS < self.struck / PROGRESS {
                self.look_at_daemon()?;
            }
        }
    }

    fn look_at_daemon(&self) -> Result<Footprint> {
        let footprint = self.host.footprint()?;
        let (after, elapsed) = (self.struck, self.chronicle.elapsed().as_secs());
        println!("after {after} faults, {elapsed} s: {footprint}");
        Ok(footprint)
    }

    fn summary(&self) -> String {
        let host = &*self.host;
        let (lost, resets) = host.losses();
        let mut text = format!(
            "{} faults in {:.1} s; slowest repair: {:?}\n",
            self.struck,
            self.chronicle.elapsed().as_secs_f64(),
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
