//! All metrics, in the OpenMetrics format (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
//!
//! The values are the present ones of the kernel and the daemon; nothing is stored here between scrapes. Labels
//! are names from the configuration, constants of this program, and the keys and present endpoints of WireGuard's
//! peers, so their number is limited.

use std::fmt;

mod families;
mod groups;
mod wireguard;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, histogram::Histogram},
    registry::Registry,
};
use sixxs_common::echo::Times;
use sixxs_core::echo_health::EchoCounts;

use crate::control::api::{InOut, Status};

/// Upper bounds of the buckets of repair times, in seconds.
const REPAIRS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Repair times: from the first event to the end of the round that restored the missing objects.
#[must_use]
pub(crate) fn repair_times() -> Histogram {
    Histogram::new(REPAIRS)
}

/// Metrics of a tunnel that are not in its status.
#[derive(Clone, Debug)]
pub(crate) struct TunnelMetrics {
    /// Paired requests and replies.
    pub(crate) counted: EchoCounts,
    /// Reply times.
    pub(crate) times: Times,
}

/// All values to write.
#[derive(Clone, Debug)]
pub(crate) struct MetricsSnapshot {
    /// The status.
    pub(crate) status: Status,
    /// More values of the tunnels, in the same order.
    pub(crate) tunnels: Vec<TunnelMetrics>,
    /// Number of lost leak events.
    pub(crate) lost_events: u64,
    /// Repair times.
    pub(crate) repairs: Histogram,
    /// Number of lost alerts, by hook.
    pub(crate) hooks_dropped: Vec<(&'static str, u64)>,
    /// The time, in seconds since 1970.
    pub(crate) unix_seconds: f64,
}

impl MetricsSnapshot {
    /// The metrics as text.
    pub(crate) fn write(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }

    fn interfaces(&self) -> impl Iterator<Item = (&str, InOut, InOut)> {
        let tunnels = self.status.tunnels.iter();
        tunnels.map(|tunnel| (tunnel.name.as_str(), tunnel.packets, tunnel.bytes))
    }

    fn unix(&self, ago: f64) -> f64 {
        self.unix_seconds - ago
    }
}

/// Encodes the families in order.
struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Families<'_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        write: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(self.encoder.encode_descriptor(name, help, None, kind)?)
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |mut metric| {
            for (labels, value) in samples {
                metric
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
            }
            Ok(())
        })
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |mut metric| {
            for (labels, value) in samples {
                metric.encode_family(&labels)?.encode_gauge(&value)?;
            }
            Ok(())
        })
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |mut metric| {
            metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)
        })
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |mut metric| {
            metric.encode_gauge(&value)
        })
    }
}

impl Collector for MetricsSnapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families { encoder };
        self.daemon(&mut families)?;
        self.traffic(&mut families)?;
        self.echo(&mut families)?;
        self.uplinks(&mut families)?;
        self.tunnels(&mut families)?;
        self.outer(&mut families)?;
        self.wireguard(&mut families)?;
        self.groups(&mut families)?;
        self.probes(&mut families)?;
        self.updates(&mut families)?;
        self.answers(&mut families)?;
        self.brokers(&mut families)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn page() -> MetricsSnapshot {
        MetricsSnapshot {
            status: Status {
                healthy: true,
                corrections: 3,
                tunnels: Vec::new(),
                groups: Vec::new(),
                uplinks: Vec::new(),
                brokers: Vec::new(),
                problems: vec!["one".to_owned()],
            },
            tunnels: Vec::new(),
            lost_events: 7,
            repairs: repair_times(),
            hooks_dropped: vec![("command", 2)],
            unix_seconds: 1e9,
        }
    }

    #[test]
    fn a_daemon_without_tunnels_has_every_family() {
        let page = page();
        page.repairs.observe(0.003);
        let text = page.write().unwrap();
        for line in [
            "sixxs_build_info{version=\"",
            "sixxs_healthy 1.0\n",
            "sixxs_problems 1.0\n",
            "sixxs_corrections_total 3\n",
            "sixxs_lost_events_total 7\n",
            "sixxs_repair_duration_seconds_bucket{le=\"0.005\"} 1\n",
            "sixxs_repair_duration_seconds_count 1\n",
            "sixxs_hook_dropped_total{hook=\"command\"} 2\n",
            "# TYPE sixxs_broker_locked_out_until_timestamp_seconds gauge\n",
            "# TYPE sixxs_tunnel_reply_duration_seconds histogram\n",
            "# TYPE sixxs_tunnel_refused counter\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
