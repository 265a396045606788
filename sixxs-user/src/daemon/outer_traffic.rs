//! Outer packets of tunnels: where silent tunnels are silent, and what the status shows.
//!
//! Must not know the kernel: counts come in as [`Readings`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sixxs_common::stat::Stat;
use sixxs_core::{
    endpoint::Endpoint,
    outer_traffic::{OuterCounts, OuterMonitor, Silence, SilentTunnel, min_arrived},
    types::IfName,
};

use super::readings::Readings;
use crate::control::api;

/// Tunnels whose deliveries are counted, with the endpoints whose packets are counted for them.
pub(super) type Watched = BTreeMap<IfName, Vec<Endpoint>>;

/// One monitor per tunnel.
#[derive(Debug, Default)]
pub(super) struct OuterMonitors {
    watched: Watched,
    monitors: BTreeMap<IfName, OuterMonitor>,
}

impl OuterMonitors {
    /// Takes the present counts. The judgement of a tunnel starts again if it was not watched before, or if its endpoints differ.
    pub(super) fn observe(&mut self, watched: Watched, readings: &Readings, now: Duration) {
        self.monitors.retain(|name, _| {
            watched.contains_key(name) && watched.get(name) == self.watched.get(name)
        });
        self.watched = watched;
        for (name, endpoints) in &self.watched {
            let outer = readings.outer(name);
            let counts = OuterCounts {
                sent: outer.out_packets,
                arrived: outer.in_packets,
                delivered: readings.get(name, Stat::InPackets),
            };
            let monitor = self.monitors.entry(name.clone()).or_default();
            monitor.observe(now, counts, min_arrived(endpoints));
        }
    }

    /// Where a tunnel is silent.
    pub(super) fn silence(&self, name: &IfName) -> Option<Silence> {
        let monitor = self.monitors.get(name);
        monitor.and_then(OuterMonitor::silence)
    }
}

/// The maximum number of endpoints to name.
const NAMED: usize = 2;

/// A silent tunnel with these endpoints; `None`: it is not silent, or its endpoints are not known any more.
pub(super) fn silent_tunnel(
    name: &IfName,
    readings: &Readings,
    endpoints: &[Endpoint],
    silence: Option<Silence>,
) -> Option<SilentTunnel> {
    let names = named(endpoints);
    let more = names.len().saturating_sub(NAMED);
    let mut endpoint = names.get(..NAMED).unwrap_or(&names).join(" or ");
    if more > 0 {
        endpoint += &format!(" or {more} more");
    }
    let age = readings.since(readings.outer(name).last_in_ns);
    Some(SilentTunnel {
        silence: silence.filter(|_| !names.is_empty())?,
        endpoint,
        last_arrived: age.and_then(|age| Duration::try_from_secs_f64(age).ok()),
    })
}

/// Each endpoint as text, once.
fn named(endpoints: &[Endpoint]) -> Vec<String> {
    let names: BTreeSet<_> = endpoints.iter().map(ToString::to_string).collect();
    names.into_iter().collect()
}

/// The outer packets of a tunnel, as the status shows them; `None`: it has no known endpoint.
pub(super) fn outer(
    name: &IfName,
    readings: &Readings,
    endpoints: &[Endpoint],
    silent: Option<&SilentTunnel>,
) -> Option<api::Outer> {
    if endpoints.is_empty() {
        return None;
    }
    let counters = readings.outer(name);
    Some(api::Outer {
        endpoints: named(endpoints),
        packets: api::InOut {
            incoming: counters.in_packets,
            out: counters.out_packets,
        },
        bytes: api::InOut {
            incoming: counters.in_bytes,
            out: counters.out_bytes,
        },
        last_in_seconds_ago: readings.since(counters.last_in_ns),
        last_out_seconds_ago: readings.since(counters.last_out_ns),
        silence: silent.map(|silent| match silent.silence {
            Silence::NothingArrives { .. } => api::Silence::NothingArrives,
            Silence::NotDelivered { .. } => api::Silence::NotDelivered,
        }),
        sentence: silent.map(ToString::to_string),
    })
}

#[cfg(test)]
mod tests {
    use sixxs_common::endpoint::{Direction, OuterCounters};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn endpoint(port: u16, protocol: u8) -> Endpoint {
        Endpoint {
            remote: "198.51.100.1".parse().unwrap(),
            protocol: Some(protocol),
            remote_port: Some(port),
            local_port: None,
        }
    }

    fn readings(sent: u64) -> Readings {
        let mut outer = OuterCounters::default();
        outer.count(Direction::In, 100, 10 * SECOND);
        for _ in 0..sent {
            outer.count(Direction::Out, 100, 99 * SECOND);
        }
        Readings::fake(100 * SECOND, &[("sixxs0", &[])]).with_outer("sixxs0", outer)
    }

    #[test]
    fn a_tunnel_without_answers_is_silent_until_it_is_dropped() {
        let name: IfName = "sixxs0".parse().unwrap();
        let endpoints = [endpoint(5072, 17), endpoint(5072, 6)];
        let watched = |endpoints: &[Endpoint]| Watched::from([(name.clone(), endpoints.to_vec())]);
        let mut monitors = OuterMonitors::default();
        for round in 0..5 {
            monitors.observe(
                watched(&endpoints),
                &readings(round * 10),
                Duration::from_secs(round * 10),
            );
        }
        let now = readings(40);
        let silent = silent_tunnel(&name, &now, &endpoints, monitors.silence(&name)).unwrap();
        assert_eq!(silent.endpoint, "198.51.100.1:5072");
        assert_eq!(silent.last_arrived, Some(Duration::from_secs(90)));
        let shown = outer(&name, &now, &endpoints, Some(&silent)).unwrap();
        assert_eq!(shown.endpoints, ["198.51.100.1:5072"]);
        assert_eq!((shown.packets.incoming, shown.packets.out), (1, 40));
        assert_eq!(shown.last_out_seconds_ago, Some(1.0));
        assert_eq!(shown.silence, Some(api::Silence::NothingArrives));
        // Without an endpoint nothing is counted.
        assert_eq!(
            silent_tunnel(&name, &now, &[], monitors.silence(&name)),
            None
        );
        assert!(outer(&name, &now, &[], None).is_none());
        // With another endpoint it starts again.
        monitors.observe(watched(&endpoints[..1]), &now, Duration::from_secs(50));
        assert_eq!(monitors.silence(&name), None);
    }

    #[test]
    fn many_endpoints_are_counted() {
        let name: IfName = "sixxs0".parse().unwrap();
        let endpoints: Vec<_> = (1..=4).map(|port| endpoint(port, 17)).collect();
        let within = Duration::from_secs(30);
        let silence = Some(Silence::NotDelivered { arrived: 9, within });
        let silent = silent_tunnel(&name, &readings(0), &endpoints, silence).unwrap();
        assert_eq!(
            silent.endpoint,
            "198.51.100.1:1 or 198.51.100.1:2 or 2 more"
        );
    }
}
