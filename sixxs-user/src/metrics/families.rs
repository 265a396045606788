//! The metric families by subject: name, help and samples of each.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeMetric as _, NoLabelSet},
    metrics::MetricType,
};
use sixxs_common::echo::{BUCKETS, Times, bucket_end_ns};
use sixxs_core::echo_health::EchoCounts;

use super::{Families, MetricsSnapshot};
use crate::control::api::{
    Echo, Health, InOut, Outer, Program, Routing, Silence, State, Status, UpdateState,
};

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

impl MetricsSnapshot {
    pub(super) fn daemon(&self, families: &mut Families<'_>) -> fmt::Result {
        families.family(
            "sixxs_build",
            "Version of the program",
            MetricType::Info,
            |mut metric| metric.encode_info(&[("version", env!("CARGO_PKG_VERSION"))]),
        )?;
        let status = &self.status;
        families.gauge(
            "sixxs_healthy",
            "Whether every tunnel is up, with its routing in place and its programs attached",
            flag(status.healthy),
        )?;
        let problems = u32::try_from(status.problems.len()).unwrap_or(u32::MAX);
        families.gauge(
            "sixxs_problems",
            "Problems that sixxs status lists",
            problems.into(),
        )?;
        families.counter(
            "sixxs_corrections",
            "Rules, routes and other objects that were removed and have been restored",
            status.corrections,
        )?;
        families.counter(
            "sixxs_lost_events",
            "Leak events not reported because there were too many; the leaks are counted",
            self.lost_events,
        )?;
        families.family(
            "sixxs_repair_duration_seconds",
            "From the first event to the end of the round that restored the missing objects",
            MetricType::Histogram,
            |metric| self.repairs.encode(metric),
        )?;
        families.counters(
            "sixxs_hook_dropped",
            "Alerts that did not reach the hook: the delivery was given up, or the queue was full",
            self.hooks_dropped
                .iter()
                .map(|(hook, dropped)| ([("hook", *hook)], *dropped)),
        )
    }

    pub(super) fn traffic(&self, families: &mut Families<'_>) -> fmt::Result {
        let both = |interface, value: InOut| {
            [("in", value.incoming), ("out", value.out)].map(|(direction, value)| {
                ([("interface", interface), ("direction", direction)], value)
            })
        };
        let out = |interface, value| ([("interface", interface), ("direction", "out")], value);
        let uplinks = || self.status.uplinks.iter();
        families.counters(
            "sixxs_interface_packets",
            "Packets through an interface, as the kernel hands them over: a batch counts once; for \
             uplinks only packets that left",
            self.interfaces()
                .flat_map(|(name, packets, _)| both(name, packets))
                .chain(uplinks().map(|uplink| out(&uplink.name, uplink.packets.out))),
        )?;
        families.counters(
            "sixxs_interface_bytes",
            "Bytes through an interface, without link layer; for uplinks only those of packets that left",
            self.interfaces()
                .flat_map(|(name, _, bytes)| both(name, bytes))
                .chain(uplinks().map(|uplink| out(&uplink.name, uplink.bytes.out))),
        )
    }

    pub(super) fn echo(&self, families: &mut Families<'_>) -> fmt::Result {
        let echo = |choose: fn(&Echo) -> [u64; 2]| {
            self.status.tunnels.iter().flat_map(move |tunnel| {
                let [came, left] = choose(&tunnel.echo);
                [("in", came), ("out", left)].map(|(direction, count)| {
                    let interface = tunnel.name.as_str();
                    ([("interface", interface), ("direction", direction)], count)
                })
            })
        };
        families.counters(
            "sixxs_echo_requests",
            "ICMPv6 echo requests through a tunnel's interface",
            echo(|echo| [echo.requests_in, echo.requests_out]),
        )?;
        families.counters(
            "sixxs_echo_replies",
            "ICMPv6 echo replies through a tunnel's interface",
            echo(|echo| [echo.replies_in, echo.replies_out]),
        )?;
        families.counters(
            "sixxs_echo_answered_by_programs",
            "Echo requests to a tunnel's own addresses that the programs answered",
            self.status.tunnels.iter().map(|tunnel| {
                let labels = [("interface", tunnel.name.as_str())];
                (labels, tunnel.echo.answered_by_programs)
            }),
        )?;
        let last = |choose: fn(&Echo) -> Option<f64>| {
            self.status.tunnels.iter().filter_map(move |tunnel| {
                let ago = choose(&tunnel.echo)?;
                Some(([("interface", tunnel.name.as_str())], self.unix(ago)))
            })
        };
        families.gauges(
            "sixxs_echo_last_request_timestamp_seconds",
            "When the last echo request arrived by a tunnel",
            last(|echo| echo.last_request_in_seconds_ago),
        )?;
        families.gauges(
            "sixxs_echo_last_reply_timestamp_seconds",
            "When the last echo reply left by a tunnel",
            last(|echo| echo.last_reply_out_seconds_ago),
        )
    }

    pub(super) fn uplinks(&self, families: &mut Families<'_>) -> fmt::Result {
        let Status {
            tunnels, uplinks, ..
        } = &self.status;
        families.counters(
            "sixxs_strays",
            "Packets that left by a tunnel with a source that belongs to no tunnel: the far end drops them",
            tunnels
                .iter()
                .map(|tunnel| ([("interface", tunnel.name.as_str())], tunnel.strays)),
        )?;
        families.counters(
            "sixxs_loops",
            "Packets dropped when leaving by a tunnel, since a tunnel would have routed them back",
            tunnels
                .iter()
                .map(|tunnel| ([("interface", tunnel.name.as_str())], tunnel.loops)),
        )?;
        families.counters(
            "sixxs_recursions",
            "Outer packets of a tunnel with its own address that were dropped, since they were routed into it",
            tunnels
                .iter()
                .map(|tunnel| ([("tunnel", tunnel.name.as_str())], tunnel.recursions)),
        )?;
        let attached = tunnels
            .iter()
            .map(|tunnel| (&tunnel.name, tunnel.program))
            .chain(uplinks.iter().map(|uplink| (&uplink.name, uplink.program)));
        families.gauges(
            "sixxs_program_attached",
            "Whether an interface's programs are attached",
            attached.map(|(name, program)| {
                (
                    [("interface", name.as_str())],
                    flag(program == Program::Attached),
                )
            }),
        )?;
        families.gauges(
            "sixxs_xdp_attached",
            "Whether the XDP program is attached to an uplink",
            uplinks.iter().filter_map(|uplink| {
                let is_attached = uplink.xdp.as_ref()?.mode.is_some();
                Some(([("interface", uplink.name.as_str())], flag(is_attached)))
            }),
        )?;
        families.counters(
            "sixxs_uplink_leaks",
            "Packets with a tunnel's source that were caught at an uplink",
            uplinks
                .iter()
                .map(|uplink| ([("interface", uplink.name.as_str())], uplink.leaks)),
        )
    }

    pub(super) fn tunnels(&self, families: &mut Families<'_>) -> fmt::Result {
        self.leaks(families)?;
        self.states(families)?;
        families.counters(
            "sixxs_tunnel_refused",
            "Packets for a native tunnel that were refused, by reason",
            self.status.tunnels.iter().flat_map(|tunnel| {
                tunnel.refused.iter().map(|(reason, count)| {
                    let labels = [("tunnel", tunnel.name.as_str()), ("reason", reason)];
                    (labels, *count)
                })
            }),
        )
    }

    fn leaks(&self, families: &mut Families<'_>) -> fmt::Result {
        let leaks = self.status.tunnels.iter().flat_map(|tunnel| {
            let leaks = tunnel.leaks;
            [
                ("redirected", leaks.redirected),
                ("dropped", leaks.dropped),
                ("observed", leaks.observed),
                ("too_big", leaks.too_big),
            ]
            .map(|(treatment, count)| {
                let tunnel = tunnel.name.as_str();
                ([("tunnel", tunnel), ("treatment", treatment)], count)
            })
        });
        families.counters(
            "sixxs_tunnel_leaks",
            "Leaks of a tunnel's addresses, wherever they leaked, by treatment",
            leaks,
        )
    }

    fn states(&self, families: &mut Families<'_>) -> fmt::Result {
        let tunnels = || self.status.tunnels.iter();
        let states = tunnels().flat_map(|tunnel| {
            State::ALL.iter().map(|state| {
                let is = flag(tunnel.state == *state);
                (
                    [("tunnel", tunnel.name.as_str()), ("state", state.name())],
                    is,
                )
            })
        });
        families.gauges(
            "sixxs_tunnel_state",
            "A tunnel's state: 1 for the current one",
            states,
        )?;
        let healths = tunnels().flat_map(|tunnel| {
            Health::ALL.iter().map(|health| {
                let is = flag(tunnel.health == *health);
                (
                    [("tunnel", tunnel.name.as_str()), ("health", health.name())],
                    is,
                )
            })
        });
        families.gauges(
            "sixxs_tunnel_health",
            "A tunnel's health as the daemon assesses it: 1 for the current level",
            healths,
        )?;
        families.gauges(
            "sixxs_tunnel_routing_in_place",
            "Whether a tunnel's rules and routes are in place",
            tunnels().map(|tunnel| {
                let is = flag(tunnel.routing == Routing::InPlace);
                ([("tunnel", tunnel.name.as_str())], is)
            }),
        )
    }

    pub(super) fn outer(&self, families: &mut Families<'_>) -> fmt::Result {
        let both = |choose: fn(&Outer) -> InOut| {
            self.status.tunnels.iter().flat_map(move |tunnel| {
                tunnel.outer.iter().flat_map(move |outer| {
                    let InOut { incoming, out } = choose(outer);
                    [("in", incoming), ("out", out)].map(|(direction, count)| {
                        let tunnel = tunnel.name.as_str();
                        ([("tunnel", tunnel), ("direction", direction)], count)
                    })
                })
            })
        };
        families.counters(
            "sixxs_tunnel_outer_packets",
            "Outer packets of a tunnel at the uplinks; a batch counts once",
            both(|outer| outer.packets),
        )?;
        families.counters(
            "sixxs_tunnel_outer_bytes",
            "Bytes of a tunnel's outer packets at the uplinks, with the outer IP header",
            both(|outer| outer.bytes),
        )?;
        families.gauges(
            "sixxs_tunnel_silent",
            "Where a tunnel is silent by its outer packets: 1 for the current place; evidence and no proof",
            self.status.tunnels.iter().flat_map(|tunnel| {
                tunnel.outer.iter().flat_map(|outer| {
                    Silence::ALL.iter().map(|place| {
                        let labels = [("tunnel", tunnel.name.as_str()), ("place", place.name())];
                        (labels, flag(outer.silence == Some(*place)))
                    })
                })
            }),
        )?;
        let last = self.status.tunnels.iter().flat_map(|tunnel| {
            tunnel.outer.iter().flat_map(|outer| {
                let ages = [
                    ("in", outer.last_in_seconds_ago),
                    ("out", outer.last_out_seconds_ago),
                ];
                ages.into_iter().filter_map(|(direction, ago)| {
                    let labels = [("tunnel", tunnel.name.as_str()), ("direction", direction)];
                    Some((labels, self.unix(ago?)))
                })
            })
        });
        families.gauges(
            "sixxs_tunnel_outer_last_timestamp_seconds",
            "When the last outer packet of a tunnel arrived or left",
            last,
        )
    }

    pub(super) fn updates(&self, families: &mut Families<'_>) -> fmt::Result {
        let updates = || {
            let tunnels = self.status.tunnels.iter();
            tunnels.filter_map(|tunnel| Some((tunnel.name.as_str(), tunnel.update.as_ref()?)))
        };
        families.gauges(
            "sixxs_endpoint_update_state",
            "State of the updates of this host's IPv4 address at a broker: 1 for the state that it is in",
            updates().flat_map(|(name, update)| {
                UpdateState::ALL.iter().map(move |state| {
                    let labels = [("tunnel", name), ("state", state.name())];
                    (labels, flag(update.state == *state))
                })
            }),
        )?;
        families.counters(
            "sixxs_endpoint_update_requests",
            "Requests with this host's IPv4 address to a broker since the updates were started",
            updates().map(|(name, update)| ([("tunnel", name)], update.requests)),
        )?;
        families.gauges(
            "sixxs_endpoint_update_confirmed_timestamp_seconds",
            "When a broker has confirmed this host's IPv4 address",
            updates().filter_map(|(name, update)| {
                Some(([("tunnel", name)], self.unix(update.confirmed_seconds_ago?)))
            }),
        )
    }

    pub(super) fn answers(&self, families: &mut Families<'_>) -> fmt::Result {
        let tunnels = || self.status.tunnels.iter().zip(&self.tunnels);
        let counts = |choose: fn(&EchoCounts) -> u64| {
            tunnels().map(move |(tunnel, page)| {
                ([("tunnel", tunnel.name.as_str())], choose(&page.counted))
            })
        };
        families.counters(
            "sixxs_tunnel_requests",
            "Echo requests from outside to a tunnel's own addresses, whose reply is expected",
            counts(|counted| counted.requests),
        )?;
        families.counters(
            "sixxs_tunnel_requests_answered",
            "Echo requests from outside whose reply left by the tunnel",
            counts(|counted| counted.answered),
        )?;
        families.counters(
            "sixxs_tunnel_requests_astray",
            "Echo requests from outside whose reply was routed to another interface, and was let pass \
             or dropped there",
            counts(|counted| counted.astray),
        )?;
        families.counters(
            "sixxs_tunnel_requests_forgotten",
            "Echo requests from outside whose reply is not known, because there were too many at a time",
            counts(|counted| counted.forgotten),
        )?;
        families.family(
            "sixxs_tunnel_reply_duration_seconds",
            "Time from an echo request to its reply, inside this host; of several between two ticks of \
             the kernel's clock, only the first on each processor",
            MetricType::Histogram,
            |mut metric| {
                for (tunnel, page) in tunnels() {
                    let labels = [("tunnel", tunnel.name.as_str())];
                    let (buckets, count) = buckets(&page.times);
                    metric
                        .encode_family(&labels)?
                        .encode_histogram::<NoLabelSet>(
                            seconds(page.times.sum_ns),
                            count,
                            &buckets,
                            None,
                        )?;
                }
                Ok(())
            },
        )
    }

    pub(super) fn brokers(&self, families: &mut Families<'_>) -> fmt::Result {
        let brokers = || self.status.brokers.iter();
        families.gauges(
            "sixxs_broker_connect_slots",
            "Connects to a broker that are allowed at a time",
            brokers().map(|broker| ([("broker", broker.name.as_str())], broker.slots.into())),
        )?;
        families.gauges(
            "sixxs_broker_connect_slots_free",
            "Connects to a broker that can be made now",
            brokers().map(|broker| ([("broker", broker.name.as_str())], broker.slots_left.into())),
        )?;
        let until = brokers().filter_map(|broker| {
            let until: jiff::Timestamp = broker.locked_out_until.as_ref()?.parse().ok()?;
            let until = until.as_duration().as_secs_f64();
            Some(([("broker", broker.name.as_str())], until))
        });
        families.gauges(
            "sixxs_broker_locked_out_until_timestamp_seconds",
            "Until when a broker refuses this host",
            until,
        )
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "of nanoseconds, nobody counts the last"
)]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The number of replies by upper bound of the time in seconds, with a bucket for each doubling; and the total.
fn buckets(times: &Times) -> (Vec<(f64, u64)>, u64) {
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    let mut open = 0;
    let mut count = 0;
    for (bucket, replies) in times.replies[..BUCKETS].iter().enumerate() {
        open += replies;
        count += replies;
        let end = bucket_end_ns(bucket);
        let ends_a_doubling = end.is_none_or(u64::is_power_of_two);
        let is_new = buckets.last().map(|(last, _)| *last) != end.map(seconds);
        match (ends_a_doubling, is_new) {
            (true, true) => {
                buckets.push((end.map_or(f64::INFINITY, seconds), open));
                open = 0;
            }
            // An empty range that ends at the previous bound: its replies belong to the bucket before.
            (true, false) => {
                if let Some((_, replies)) = buckets.last_mut() {
                    *replies += open;
                }
                open = 0;
            }
            (false, _) => {}
        }
    }
    (buckets, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sixxs_common::echo::bucket;

    #[test]
    fn buckets_end_with_doublings_and_lose_nothing() {
        let mut times = Times::NONE;
        for ns in [10, 1500, 1600, 40_000, 1 << 33, 1 << 34] {
            times.replies[bucket(ns)] += 1;
        }
        let (buckets, count) = buckets(&times);
        assert_eq!(count, 6);
        assert_eq!(buckets.iter().map(|(_, replies)| replies).sum::<u64>(), 6);
        assert_eq!(buckets[0], (1024e-9, 1));
        assert_eq!(buckets[1], (2048e-9, 2));
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 2)));
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(buckets.len(), 25);
    }
}
