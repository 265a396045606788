//! The metrics, from a snapshot. Pure.

use std::collections::BTreeMap;

use prometheus_client::metrics::histogram::Histogram;
use sixxs_common::stat::Stat;
use sixxs_core::{broker::connects::Standing, echo_health::EchoCounts};

use super::{snapshot::Snapshot, status};
use crate::metrics::{MetricsSnapshot, TunnelMetrics};

/// Values that are not part of a snapshot.
pub(super) struct Others {
    /// How each broker limits connects.
    pub(super) standings: BTreeMap<String, Standing>,
    /// How long repairs took.
    pub(super) repairs: Histogram,
    /// Alerts that the queue of each hook has dropped.
    pub(super) hooks_dropped: Vec<(&'static str, u64)>,
    /// The time.
    pub(super) now: jiff::Timestamp,
}

/// All metrics.
pub(super) fn metrics(snapshot: &Snapshot<'_>, others: Others) -> MetricsSnapshot {
    let readings = &snapshot.readings;
    let tunnels = || snapshot.config.tunnels.iter().map(|tunnel| &tunnel.name);
    let lost = tunnels().map(|name| readings.get(name, Stat::EventsLost));
    let page = tunnels().map(|name| TunnelMetrics {
        counted: EchoCounts::of(readings.counters(name)),
        times: snapshot
            .echo_times
            .get(name)
            .cloned()
            .unwrap_or_default()
            .times,
    });
    let unix_seconds = u64::try_from(others.now.as_second()).unwrap_or(0);
    MetricsSnapshot {
        lost_events: lost.sum(),
        tunnels: page.collect(),
        status: status::status(snapshot, others.standings, unix_seconds),
        repairs: others.repairs,
        hooks_dropped: others.hooks_dropped,
        unix_seconds: others.now.as_duration().as_secs_f64(),
    }
}
