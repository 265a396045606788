//! Whether tunnels answer: what the kernel paired, for people and for those who watch.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};
use sixxs_common::stat::{Counters, Stat};
use sixxs_core::{
    proof::{self, Counted, YOUNG},
    types::IfName,
};

use super::state::State;
use crate::{api, bpf::Kernel};

/// Requests that came so lately that no reply is missing yet, by slot. Looking for them takes some
/// milliseconds; most of the time there is nothing to look for.
pub(super) struct Waiting(BTreeMap<u32, u64>);

impl Waiting {
    /// Looks, if any of these counters leaves a reply open that may still come.
    pub(super) fn look<'a>(
        kernel: &Kernel,
        counters: impl IntoIterator<Item = &'a Counters>,
        now_ns: u64,
    ) -> anyhow::Result<Self> {
        let since_ns = now_ns.saturating_sub(nanoseconds(YOUNG));
        let is_open = |counters: &Counters| {
            counters[Stat::LastRequestIn.index()] >= since_ns
                && Counted::of(counters).unanswered(0) > 0
        };
        let any = counters.into_iter().any(is_open);
        Ok(Self(match any {
            true => kernel.waiting_since(since_ns)?,
            false => BTreeMap::new(),
        }))
    }

    pub(super) fn of(&self, slot: u32) -> u64 {
        self.0.get(&slot).copied().unwrap_or(0)
    }
}

/// The proof of a tunnel in the shape that people and scripts see.
pub(super) fn proof(
    kernel: &Kernel,
    slot: u32,
    counters: &Counters,
    waiting: &Waiting,
    now_ns: u64,
) -> anyhow::Result<api::Proof> {
    let counted = Counted::of(counters);
    let waiting = waiting.of(slot);
    let ago = |then_ns: u64| (then_ns != 0).then(|| seconds(now_ns.saturating_sub(then_ns)));
    Ok(api::Proof {
        requests: counted.requests,
        answered: counted.answered,
        astray: counted.astray,
        unanswered: counted.unanswered(waiting),
        answered_percent: counted
            .answered_per_mille(waiting)
            .map(|share| f64::from(share) / 10.0),
        last_answered_seconds_ago: ago(counters[Stat::LastAnswer.index()]),
        median_seconds: proof::median(&kernel.times(slot)?).map(|median| median.as_secs_f64()),
        watched_seconds: ago(kernel.watched_ns(slot)?),
    })
}

impl State {
    /// Looks whether tunnels answer.
    pub(super) fn watch_answers(&mut self) -> anyhow::Result<()> {
        let now_ns = monotonic_ns()?;
        let mut looked: Vec<(IfName, u32, Counters)> = Vec::new();
        for name in self.tunnels.keys() {
            if let Some(slot) = self.kernel.slot(name) {
                looked.push((name.clone(), slot, self.kernel.counters(slot)?));
            }
        }
        let counters = looked.iter().map(|(_, _, counters)| counters);
        let waiting = Waiting::look(&self.kernel, counters, now_ns)?;
        let now = self.started.elapsed();
        let tunnels = &self.tunnels;
        self.vigils.retain(|name, _| tunnels.contains_key(name));
        for (name, slot, counters) in looked {
            let vigil = self.vigils.entry(name).or_default();
            vigil.look(now, Counted::of(&counters), waiting.of(slot));
        }
        Ok(())
    }
}

/// To a tenth.
pub(super) fn seconds(ns: u64) -> f64 {
    let tenths = ns / 100_000_000;
    f64::from(u32::try_from(tenths).unwrap_or(u32::MAX)) / 10.0
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The clock that the programs use.
pub(super) fn monotonic_ns() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}
