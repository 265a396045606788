//! Whether tunnels answer echo requests.
//!
//! Must not know the kernel: counts come in as [`Readings`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sixxs_common::stat::Stat;
use sixxs_core::{
    echo_health::{self, EchoCounts, EchoHealth, EchoMonitor},
    types::IfName,
};

use super::readings::{EchoTimes, Readings};
use crate::control::api;

/// One monitor per tunnel.
#[derive(Debug, Default)]
pub(super) struct EchoMonitors(BTreeMap<IfName, EchoMonitor>);

impl EchoMonitors {
    /// Takes the present counts of all tunnels. Tunnels that are not in `names` are dropped.
    pub(super) fn observe(&mut self, names: &BTreeSet<IfName>, readings: &Readings, now: Duration) {
        self.0.retain(|name, _| names.contains(name));
        for (name, _) in readings.slots() {
            let monitor = self.0.entry(name.clone()).or_default();
            let counted = EchoCounts::of(readings.counters(name));
            monitor.observe(now, counted, readings.pending(name));
        }
    }

    /// How a tunnel has answered lately.
    pub(super) fn health(&self, name: &IfName) -> EchoHealth {
        self.0
            .get(name)
            .map_or(EchoHealth::Fine, EchoMonitor::health)
    }

    /// Requests since the last reply of a tunnel.
    pub(super) fn unanswered_in_a_row(&self, name: &IfName, readings: &Readings) -> u64 {
        let counted = EchoCounts::of(readings.counters(name));
        let monitor = self.0.get(name);
        monitor.map_or(0, |monitor| {
            monitor.unanswered_in_a_row(&counted, readings.pending(name))
        })
    }
}

/// Requests and replies of a tunnel, as the status shows them.
pub(super) fn proof(name: &IfName, readings: &Readings, times: Option<&EchoTimes>) -> api::Proof {
    let Some(times) = times else {
        return api::Proof::default();
    };
    let counted = EchoCounts::of(readings.counters(name));
    let pending = readings.pending(name);
    api::Proof {
        requests: counted.requests,
        answered: counted.answered,
        astray: counted.astray,
        unanswered: counted.unanswered(pending),
        answered_percent: counted
            .answered_per_mille(pending)
            .map(|share| f64::from(share) / 10.0),
        last_answered_seconds_ago: readings.age(name, Stat::LastAnswer),
        median_seconds: echo_health::median(&times.times).map(|median| median.as_secs_f64()),
        watched_seconds: readings.since(times.watched_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(requests: u64, answered: u64) -> Readings {
        let counts = [
            (Stat::EchoWatched, requests),
            (Stat::EchoAnswered, answered),
        ];
        Readings::fake(1, &[("sixxs0", &counts)])
    }

    #[test]
    fn a_silent_tunnel_is_noticed_until_it_is_dropped() {
        let name: IfName = "sixxs0".parse().unwrap();
        let names = BTreeSet::from([name.clone()]);
        let mut monitors = EchoMonitors::default();
        for (round, seconds) in (0..8).zip((0..).step_by(10)) {
            let now = Duration::from_secs(seconds);
            monitors.observe(&names, &readings(round * 10, 0), now);
        }
        assert!(matches!(monitors.health(&name), EchoHealth::Silent { .. }));
        assert!(monitors.unanswered_in_a_row(&name, &readings(80, 0)) >= 60);
        monitors.observe(
            &BTreeSet::new(),
            &Readings::default(),
            Duration::from_secs(90),
        );
        assert_eq!(monitors.health(&name), EchoHealth::Fine);
        assert_eq!(monitors.unanswered_in_a_row(&name, &readings(80, 0)), 0);
    }

    #[test]
    fn a_share_is_shown_in_percent() {
        let name: IfName = "sixxs0".parse().unwrap();
        let shown = proof(&name, &readings(8, 6), Some(&EchoTimes::default()));
        assert_eq!((shown.requests, shown.answered), (8, 6));
        assert_eq!(shown.answered_percent, Some(75.0));
        let unknown = proof(&name, &readings(8, 6), None);
        assert_eq!(unknown, api::Proof::default());
    }
}
