//! The counters of the kernel programs, read at one moment.
//!
//! The only file of the daemon that reads counters. All judgements work on these values.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};
use sixxs_common::{
    echo::Times,
    endpoint::OuterCounters,
    screening::{ForgedCounters, Forgery},
    stat::{CAPACITY, Counters, Stat},
};
use sixxs_core::{
    echo_health::{EchoCounts, REPLY_TIMEOUT},
    types::IfName,
};

use crate::bpf::Kernel;

const NONE: Counters = [0; CAPACITY];

/// How often pending requests are read, until no reply leaves meanwhile.
const ATTEMPTS: u32 = 3;

/// Counters by interface name, which may be a tunnel's or an uplink's.
#[derive(Debug, Default)]
pub(super) struct Readings {
    /// The time of the reading, by the clock that the programs use, in nanoseconds.
    pub(super) now_ns: u64,
    interfaces: BTreeMap<IfName, Reading>,
}

#[derive(Debug)]
struct Reading {
    slot: u32,
    counters: Counters,
    outer: OuterCounters,
    forged: ForgedCounters,
    /// Requests so recent that no reply is missing yet.
    pending: u64,
}

impl Readings {
    /// Reads the counters of these interfaces. Those without a slot read as zero.
    pub(super) fn read<'a>(
        programs: &Kernel,
        names: impl IntoIterator<Item = &'a IfName>,
    ) -> anyhow::Result<Self> {
        let now_ns = monotonic_ns()?;
        let mut interfaces = BTreeMap::new();
        for name in names {
            if let Some(slot) = programs.slot(name) {
                let reading = Reading {
                    slot,
                    counters: programs.counters(slot)?,
                    outer: programs.outer_counters(slot)?,
                    forged: programs.forged(slot)?,
                    pending: 0,
                };
                interfaces.insert(name.clone(), reading);
            }
        }
        let mut readings = Self { now_ns, interfaces };
        let since_ns = now_ns.saturating_sub(nanoseconds(REPLY_TIMEOUT));
        if readings.may_have_pending(since_ns) {
            readings.read_pending(programs, since_ns)?;
        }
        Ok(readings)
    }

    /// Reads the requests that are so recent that no reply is missing yet. A request whose reply leaves between the two
    /// readings is in neither, so both are repeated then.
    fn read_pending(&mut self, programs: &Kernel, since_ns: u64) -> anyhow::Result<()> {
        for attempt in 1..=ATTEMPTS {
            let pending = programs.waiting_since(since_ns)?;
            let mut is_exact = true;
            for reading in self.interfaces.values_mut() {
                let counted = EchoCounts::of(&reading.counters);
                reading.pending = pending.get(&reading.slot).copied().unwrap_or(0);
                if counted.unanswered(reading.pending) == 0 {
                    continue;
                }
                let later = programs.counters(reading.slot)?;
                let not_missing = counted.not_missing(reading.pending, &EchoCounts::of(&later));
                if not_missing == reading.pending {
                    continue;
                }
                is_exact = false;
                match attempt {
                    ATTEMPTS => reading.pending = not_missing,
                    _ => reading.counters = later,
                }
            }
            if is_exact {
                break;
            }
        }
        Ok(())
    }

    /// Whether a reply may still come. Counting pending requests takes some milliseconds, and most of the
    /// time there are none.
    fn may_have_pending(&self, since_ns: u64) -> bool {
        self.interfaces.values().any(|reading| {
            reading.counters[Stat::LastRequestIn.index()] >= since_ns
                && EchoCounts::of(&reading.counters).unanswered(0) > 0
        })
    }

    /// The slots of all interfaces that have one.
    pub(super) fn slots(&self) -> impl Iterator<Item = (&IfName, u32)> {
        let readings = self.interfaces.iter();
        readings.map(|(name, reading)| (name, reading.slot))
    }

    /// The slot of an interface.
    pub(super) fn slot(&self, name: &IfName) -> Option<u32> {
        self.interfaces.get(name).map(|reading| reading.slot)
    }

    /// The counters of an interface.
    pub(super) fn counters(&self, name: &IfName) -> &Counters {
        let reading = self.interfaces.get(name);
        reading.map_or(&NONE, |reading| &reading.counters)
    }

    /// One counter of an interface.
    pub(super) fn get(&self, name: &IfName, stat: Stat) -> u64 {
        self.counters(name)[stat.index()]
    }

    /// The outer packets of a tunnel.
    pub(super) fn outer(&self, name: &IfName) -> OuterCounters {
        let reading = self.interfaces.get(name);
        reading.map_or_else(OuterCounters::default, |reading| reading.outer)
    }

    /// The forged packets for a tunnel, by reason.
    pub(super) fn forged(&self, name: &IfName) -> impl Iterator<Item = (Forgery, u64)> {
        let forged = self.interfaces.get(name).map(|reading| reading.forged);
        let forged = forged.unwrap_or_default();
        Forgery::ALL
            .into_iter()
            .map(move |reason| (reason, forged[reason.index()]))
    }

    /// Requests of a tunnel that are so recent that no reply is missing yet.
    pub(super) fn pending(&self, name: &IfName) -> u64 {
        let reading = self.interfaces.get(name);
        reading.map_or(0, |reading| reading.pending)
    }

    /// The age in seconds of a counter that holds a time; `None`: it never happened.
    pub(super) fn age(&self, name: &IfName, stat: Stat) -> Option<f64> {
        self.since(self.get(name, stat))
    }

    /// The age in seconds of a time in nanoseconds; `None` for zero.
    pub(super) fn since(&self, then_ns: u64) -> Option<f64> {
        (then_ns != 0).then(|| seconds(self.now_ns.saturating_sub(then_ns)))
    }
}

/// Echo times of a tunnel.
#[derive(Clone, Debug)]
pub(super) struct EchoTimes {
    /// How long replies took.
    pub(super) times: Times,
    /// Since when replies are counted, in nanoseconds; 0: they are not.
    pub(super) watched_ns: u64,
}

impl Default for EchoTimes {
    fn default() -> Self {
        Self {
            times: Times::NONE,
            watched_ns: 0,
        }
    }
}

/// Reads the echo times of all interfaces in a reading.
pub(super) fn echo_times(
    programs: &Kernel,
    readings: &Readings,
) -> anyhow::Result<BTreeMap<IfName, EchoTimes>> {
    let mut all = BTreeMap::new();
    for (name, slot) in readings.slots() {
        let times = EchoTimes {
            times: programs.times(slot)?,
            watched_ns: programs.watched_ns(slot)?,
        };
        all.insert(name.clone(), times);
    }
    Ok(all)
}

/// The reply times of a tunnel; `None`: it has no slot, or they cannot be read.
pub(super) fn reply_times(programs: &Kernel, name: &IfName) -> Option<Times> {
    programs.times(programs.slot(name)?).ok()
}

/// Seconds, rounded down to a tenth.
fn seconds(ns: u64) -> f64 {
    let tenths = ns / 100_000_000;
    f64::from(u32::try_from(tenths).unwrap_or(u32::MAX)) / 10.0
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The clock that the programs use (`bpf_ktime_get_ns`).
pub(super) fn monotonic_ns() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}

/// An interface, and the counters that a test gives it.
#[cfg(test)]
type Fake<'a> = (&'a str, &'a [(Stat, u64)]);

#[cfg(test)]
impl Readings {
    /// A reading that a test makes: slots are numbered from 0.
    pub(super) fn fake(now_ns: u64, interfaces: &[Fake<'_>]) -> Self {
        let reading = |(slot, (name, values)): (u32, &Fake<'_>)| {
            let mut counters = NONE;
            for (stat, value) in *values {
                counters[stat.index()] = *value;
            }
            let reading = Reading {
                slot,
                counters,
                outer: OuterCounters::default(),
                forged: ForgedCounters::default(),
                pending: 0,
            };
            (name.parse().unwrap(), reading)
        };
        Self {
            now_ns,
            interfaces: (0..).zip(interfaces).map(reading).collect(),
        }
    }

    /// With these outer packets of an interface.
    pub(super) fn with_outer(mut self, name: &str, outer: OuterCounters) -> Self {
        let reading = self.interfaces.get_mut(&name.parse().unwrap());
        reading.unwrap().outer = outer;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_in_tenths_of_a_second() {
        let second = 1_000_000_000;
        let readings = Readings::fake(
            100 * second,
            &[("sixxs0", &[(Stat::LastRequestIn, 98 * second + 1)])],
        );
        let name: IfName = "sixxs0".parse().unwrap();
        assert_eq!(readings.age(&name, Stat::LastRequestIn), Some(1.9));
        assert_eq!(readings.age(&name, Stat::LastReplyOut), None);
        // Another processor may have counted later.
        assert_eq!(readings.since(101 * second), Some(0.0));
    }

    #[test]
    fn an_interface_without_a_slot_reads_as_zero() {
        let readings = Readings::fake(0, &[]);
        let name: IfName = "sixxs0".parse().unwrap();
        assert_eq!(readings.get(&name, Stat::InPackets), 0);
        assert_eq!((readings.slot(&name), readings.pending(&name)), (None, 0));
    }

    #[test]
    fn pending_requests_are_counted_only_if_there_may_be_some() {
        let may = |values: &[(Stat, u64)]| {
            Readings::fake(2000, &[("sixxs0", values)]).may_have_pending(1000)
        };
        assert!(may(&[(Stat::LastRequestIn, 1000), (Stat::EchoWatched, 1)]));
        assert!(!may(&[(Stat::LastRequestIn, 999), (Stat::EchoWatched, 1)]));
        assert!(!may(&[(Stat::LastRequestIn, 1000)]));
    }
}
