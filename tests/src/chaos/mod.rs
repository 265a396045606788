//! Chaos: random faults strike a host while traffic runs, and in the end nothing is left of them.
//!
//! What happens is decided by [`plan`], from a seed, and happens to a [`host`]. What must hold is
//! held by parts of its own: [`account`] (what may be lost, and when), [`kept`] (counters never go
//! back), [`whole`] and [`programs`] (the kernel has what it had, others' things included),
//! [`footprint`] (the daemon holds no more than before). None of them takes the program's word for
//! what the kernel can say.
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

use crate::lab::topology::{ROUTER_SYSCTLS, TUNNELS, TunnelPlan};
use crate::lab::{Lab, Spec};
use crate::probe::service::Services;
use crate::program::{Hook, Program};
use chronicle::Chronicle;
use footprint::Footprint;
use host::Host;
use plan::{Plan, Scope};
use watch::Watch;

/// How soon after the program looked at everything all pins are back.
const PINNED: Duration = Duration::from_secs(3);

/// In a long run there is a word after so many faults.
const PROGRESS: u64 = 500;

/// A kind of host.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Its name, by which it is asked for.
    pub name: &'static str,
    /// Its lab.
    pub spec: Spec,
    /// How programs are attached.
    pub hook: Hook,
    /// Whether the daemon is told its uplink, or finds it.
    pub uplink_is_named: bool,
}

/// How long to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// For so many faults that one daemon lives through, after a quarter of that with daemons
    /// killed and started as well.
    Faults(u64),
    /// For half this time each.
    Time(Duration),
}

/// A run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides everything that happens.
    pub seed: u64,
    /// How long.
    pub length: Length,
}

impl Options {
    /// As `SIXXS_CHAOS_SEED` and `SIXXS_CHAOS_FAULTS` say, which `cargo xtask test chaos` sets; else
    /// by chance, and for a short time.
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

/// Lets it all happen. An error says how to have the same again, and what happened last.
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
                // Whichever part it was in: the first one has a quarter of that.
                4 * struck
            )
        })
    })
}

/// Has a host of this kind, in a lab of its own with traffic, for some time. An error comes with what
/// happened last.
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
    // What comes for the prefix goes on.
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

/// The first of so many parts.
fn part(length: Length, parts: u32) -> Length {
    match length {
        Length::Faults(count) => Length::Faults(count.div_ceil(parts.into())),
        Length::Time(time) => Length::Time(time / parts),
    }
}

/// The others.
fn rest(length: Length, parts: u32) -> Length {
    match (length, part(length, parts)) {
        (Length::Faults(all), Length::Faults(first)) => Length::Faults(all - first),
        (Length::Time(all), Length::Time(first)) => Length::Time(all.saturating_sub(first)),
        (length, _) => length,
    }
}
