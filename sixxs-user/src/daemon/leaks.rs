//! From leaks that the kernel counts and reports to alerts.

use std::time::Duration;

use bytemuck::pod_read_unaligned;
use sixxs_common::{
    flow::Flow,
    layout::{FlowRecord, LeakEvent},
    stat::Stat,
    treatment::Treatment,
};
use sixxs_core::{
    alert::{Leaks, Merger},
    health::Leaking,
};

use super::{culprit, report, state::State};
use crate::api::About;

/// Outer packets that would go into their own tunnel are told of again after so long.
const TOLD_AGAIN: Duration = Duration::from_secs(3600);

/// Outer packets of a tunnel that would have gone into it.
pub(super) struct Recursion {
    /// The last of them.
    pub(super) flow: Flow,
    /// When that was.
    pub(super) at: Duration,
    /// When an alert told of them.
    told: Duration,
}

impl State {
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
                    Stat::Recursions,
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
            let now = self.started.elapsed();
            self.leaks.event(event.flow, event.record, now);
            self.leaks_on(&event.record, now);
        }
    }

    fn leaks_on(&mut self, record: &FlowRecord, now: Duration) {
        let treatment = Treatment::try_from(record.treatment).unwrap_or(Treatment::Dropped);
        self.leaking
            .entry(record.tunnel)
            .and_modify(|leaking| leaking.go_on(now, treatment))
            .or_insert_with(|| Leaking::begin(now, treatment));
    }

    /// Whether this is about outer packets of a tunnel that were told of: they go on until somebody cures it,
    /// and status says how many there are.
    fn is_told_already(&mut self, line: &Leaks, now: Duration) -> bool {
        let Some((flow, record)) = &line.flow else {
            return false;
        };
        if record.treatment != Treatment::Recursion.raw() {
            return false;
        }
        let before = self.recursions.get(&line.tunnel);
        let before = before.filter(|before| {
            before.flow.remote == flow.remote && now.saturating_sub(before.told) < TOLD_AGAIN
        });
        let (is_told, told) = before.map_or((false, now), |before| (true, before.told));
        let recursion = Recursion {
            flow: *flow,
            at: now,
            told,
        };
        self.recursions.insert(line.tunnel, recursion);
        is_told
    }

    /// Whether there may be anything to tell together.
    pub(super) fn has_lines(&self) -> bool {
        !self.leaks.is_idle() || self.tamper_log.has_more() || self.alerts.has_more()
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
        let now = self.started.elapsed();
        self.health_alerts.look_later(now);
        let kernel = &self.kernel;
        let lines = self.leaks.tick(now, |flow| kernel.flow(flow), totals);
        self.control_groups.begin();
        for line in lines {
            if self.is_told_already(&line, now) {
                continue;
            }
            let mut leak = report::leak(self, &line);
            culprit::sender(&mut self.control_groups, &mut leak);
            if let Some(cause) = culprit::why(self, &line) {
                leak.cause = Some(cause.name().to_owned());
                leak.why = Some(cause.sentence());
                leak.cure = Some(cause.cure());
            }
            self.alerts.raise(About::Leak(Box::new(leak)));
        }
    }
}
