//! Reads the counters, times and flows that the programs recorded.

use std::collections::BTreeMap;

use anyhow::Context as _;
use aya::maps::MapError;
use sixxs_common::{
    echo::{self, Times},
    flow::Flow,
    layout::FlowRecord,
    stat::{CAPACITY, Counters, Stat},
};

use super::{Raw, Tables};

impl Tables {
    /// The counters of a slot, summed over all CPUs.
    pub(in crate::bpf) fn counters(&self, slot: u32) -> anyhow::Result<Counters> {
        let values = self.counters.get(&slot, 0).context("read counters")?;
        let mut values: Vec<Counters> = values.iter().map(|value| value.0.counters).collect();
        values.push(self.carried.get(&slot, 0).context("read counters")?.0);
        Ok(sum(&values))
    }

    /// Reply times of a tunnel, summed over all CPUs.
    pub(in crate::bpf) fn times(&self, slot: u32) -> anyhow::Result<Times> {
        let mut times = Times::NONE;
        let per_cpu = match self.times.get(&slot, 0) {
            Ok(per_cpu) => per_cpu,
            Err(MapError::KeyNotFound) => return Ok(times),
            Err(error) => return Err(error).context("read the times of replies"),
        };
        for Raw(one_cpu) in per_cpu.iter() {
            for (sum, replies) in times.replies.iter_mut().zip(one_cpu.replies) {
                *sum = sum.wrapping_add(replies);
            }
            times.sum_ns = times.sum_ns.wrapping_add(one_cpu.sum_ns);
        }
        Ok(times)
    }

    /// The time since which the programs expect replies of a tunnel, in nanoseconds of CLOCK_MONOTONIC; 0 for never.
    pub(in crate::bpf) fn watched_ns(&self, slot: u32) -> anyhow::Result<u64> {
        let state = self.states.get(&slot, 0).context("read a tunnel's state")?;
        Ok(state.0.watched_ns)
    }

    /// The number of echo requests since this time that have no reply yet, by slot.
    pub(in crate::bpf) fn waiting_since(
        &self,
        since_ns: u64,
    ) -> anyhow::Result<BTreeMap<u32, u64>> {
        let mut waiting = BTreeMap::new();
        for index in 0..echo::ENTRIES {
            let Raw(pending) = self.echoes.get(&index, 0).context("read an echo request")?;
            if pending.tag != 0 && pending.at_ns >= since_ns {
                *waiting.entry(pending.slot).or_default() += 1;
            }
        }
        Ok(waiting)
    }

    /// The kernel's record of a flow; `None` if the map has evicted it.
    pub(in crate::bpf) fn flow(&self, flow: &Flow) -> Option<FlowRecord> {
        self.leaks.get(&Raw(*flow), 0).ok().map(|record| record.0)
    }
}

/// Combines the counters; `Stat` defines how, for each of them.
pub(in crate::bpf) fn sum(values: &[Counters]) -> Counters {
    let mut sums = [0; CAPACITY];
    for stat in Stat::ALL {
        sums[stat.index()] = stat.combined(values);
    }
    sums
}
