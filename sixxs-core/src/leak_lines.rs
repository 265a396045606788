//! Groups leaks into lines: one line per second for each flow, and one for all flows that are too
//! many to name.

use std::collections::BTreeMap;
use std::time::Duration;

use sixxs_common::{flow::Flow, layout::FlowRecord};

/// Flows named per second and tunnel; all others share one line.
pub const MAX_NAMED_FLOWS: usize = 10;

/// A flow without leaks for this time is forgotten.
const QUIET_TIME: Duration = Duration::from_secs(5);

/// The maximum number of tracked flows; the shared line still counts more.
const MAX_FLOWS: usize = 1024;

/// A line about leaks of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeakLine {
    /// Slot of the tunnel.
    pub tunnel: u32,
    /// The flow and its record; `None`: all flows that are not named.
    pub flow: Option<(Flow, FlowRecord)>,
    /// Packets since the last line of this kind.
    pub packets: u64,
}

/// Groups leaks into lines. The caller supplies the time.
#[derive(Debug, Default)]
pub struct LeakGrouper {
    flows: BTreeMap<FlowKey, WatchedFlow>,
    /// Packets in lines until now, by tunnel, including those counted before the start.
    reported: BTreeMap<u32, u64>,
}

/// A flow with an order, so that the order of lines is deterministic.
type FlowKey = ([u8; 16], [u8; 16], u32, u16, u16);

#[derive(Debug)]
struct WatchedFlow {
    flow: Flow,
    record: FlowRecord,
    /// Packets of the flow that were in lines.
    reported: u64,
    active: Duration,
}

fn key(flow: &Flow) -> FlowKey {
    (
        flow.local.octets(),
        flow.remote.octets(),
        flow.protocol,
        flow.local_port,
        flow.remote_port,
    )
}

impl LeakGrouper {
    /// Leaks that were counted until now (per slot) count as reported.
    #[must_use]
    pub fn new(totals: BTreeMap<u32, u64>) -> Self {
        Self {
            flows: BTreeMap::new(),
            reported: totals,
        }
    }

    /// Handles the kernel's event for a flow.
    pub fn event(&mut self, flow: Flow, record: FlowRecord, now: Duration) {
        let full = self.flows.len() >= MAX_FLOWS;
        match self.flows.get_mut(&key(&flow)) {
            Some(watched) => {
                // The kernel has evicted the record of the flow since, and counts from zero again.
                if record.packets < watched.reported {
                    watched.reported = 0;
                }
                watched.record = record;
                watched.active = now;
            }
            None if full => {}
            None => {
                // A flow that the kernel tracks longer than this grouper was in earlier lines: its
                // event counts as one packet.
                let reported = record.packets.saturating_sub(1);
                let watched = WatchedFlow {
                    flow,
                    record,
                    reported,
                    active: now,
                };
                self.flows.insert(key(&flow), watched);
            }
        }
    }

    /// Whether there is nothing to report or to forget, so that [`LeakGrouper::take_lines`] can be skipped.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flows.is_empty()
    }

    /// Returns the lines that are due; called once a second. `read` returns the kernel's current record of a
    /// flow. `totals` has the leaks counted per tunnel slot. The caller must read them before this
    /// call: then packets that leak in between are in the flows' records, and do not count as
    /// packets of unknown flows.
    pub fn take_lines(
        &mut self,
        now: Duration,
        read: impl Fn(&Flow) -> Option<FlowRecord>,
        totals: impl IntoIterator<Item = (u32, u64)>,
    ) -> Vec<LeakLine> {
        let mut lines: BTreeMap<u32, Vec<LeakLine>> = BTreeMap::new();
        for watched in self.flows.values_mut() {
            if let Some(record) = read(&watched.flow)
                && record.packets >= watched.reported
            {
                watched.record = record;
            }
            let packets = watched.record.packets.saturating_sub(watched.reported);
            if packets == 0 {
                continue;
            }
            watched.reported = watched.record.packets;
            watched.active = now;
            let tunnel = watched.record.tunnel;
            lines.entry(tunnel).or_default().push(LeakLine {
                tunnel,
                flow: Some((watched.flow, watched.record)),
                packets,
            });
        }
        self.flows
            .retain(|_, watched| now.saturating_sub(watched.active) < QUIET_TIME);

        let mut all = Vec::new();
        for (tunnel, total) in totals {
            let mut named = lines.remove(&tunnel).unwrap_or_default();
            // The busiest flows come first. The sort is stable, so equal flows keep their order.
            named.sort_by_key(|line| std::cmp::Reverse(line.packets));
            named.truncate(MAX_NAMED_FLOWS);
            let reported = self.reported.entry(tunnel).or_default();
            *reported += named.iter().map(|line| line.packets).sum::<u64>();
            all.append(&mut named);
            let others = total.saturating_sub(*reported);
            if others > 0 {
                *reported += others;
                all.push(LeakLine {
                    tunnel,
                    flow: None,
                    packets: others,
                });
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> Flow {
        Flow {
            local_port: port,
            protocol: 17,
            ..Flow::default()
        }
    }

    fn record(packets: u64) -> FlowRecord {
        FlowRecord {
            packets,
            tunnel: 1,
            ..FlowRecord::default()
        }
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_flood_of_one_flow_is_one_line_a_second() {
        let mut grouper = LeakGrouper::default();
        grouper.event(flow(1), record(1), seconds(0));
        let mut counts = Vec::new();
        for second in 1..4 {
            let packets = second * 1000;
            let lines =
                grouper.take_lines(seconds(second), |_| Some(record(packets)), [(1, packets)]);
            counts.extend(lines.into_iter().map(|line| line.packets));
        }
        assert_eq!(counts, [1000, 1000, 1000]);
    }

    #[test]
    fn many_flows_share_a_line() {
        let mut grouper = LeakGrouper::default();
        for port in 0..64 {
            grouper.event(flow(port), record(1), seconds(0));
        }
        // 500 packets leaked; the kernel reported 64 flows of one packet each.
        let lines = grouper.take_lines(seconds(1), |_| Some(record(1)), [(1, 500)]);
        assert_eq!(lines.len(), MAX_NAMED_FLOWS + 1);
        assert_eq!(lines.iter().map(|line| line.packets).sum::<u64>(), 500);
        assert!(lines.last().unwrap().flow.is_none());
    }

    #[test]
    fn a_quiet_flow_is_forgotten_and_reported_again() {
        let mut grouper = LeakGrouper::default();
        grouper.event(flow(1), record(1), seconds(0));
        assert_eq!(
            grouper
                .take_lines(seconds(1), |_| Some(record(1)), [(1, 1)])
                .len(),
            1
        );
        assert_eq!(
            grouper
                .take_lines(seconds(2), |_| Some(record(1)), [(1, 1)])
                .len(),
            0
        );
        assert!(!grouper.is_idle());
        assert_eq!(
            grouper
                .take_lines(seconds(7), |_| Some(record(1)), [(1, 1)])
                .len(),
            0
        );
        assert!(grouper.is_idle());
        grouper.event(flow(1), record(2), seconds(60));
        let lines = grouper.take_lines(seconds(61), |_| Some(record(2)), [(1, 2)]);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].packets, 1);
    }

    #[test]
    fn leaks_counted_before_the_start_are_not_reported() {
        let mut grouper = LeakGrouper::new([(1, 100)].into_iter().collect());
        grouper.event(flow(1), record(3), seconds(0));
        let lines = grouper.take_lines(seconds(1), |_| Some(record(3)), [(1, 101)]);
        assert_eq!(
            lines.iter().map(|line| line.packets).collect::<Vec<_>>(),
            [1]
        );
    }

    /// A flow that leaks while the total of its tunnel is read does not count as another flow.
    #[test]
    fn packets_that_leak_meanwhile_are_reported_once() {
        let mut grouper = LeakGrouper::default();
        grouper.event(flow(1), record(1), seconds(0));
        let mut reported = 0;
        for second in 1..5 {
            let total = second * 1000;
            let lines =
                grouper.take_lines(seconds(second), |_| Some(record(total + 7)), [(1, total)]);
            assert_eq!(lines.len(), 1);
            reported += lines[0].packets;
        }
        assert_eq!(reported, 4007);
    }

    #[test]
    fn the_number_of_watched_flows_is_bounded() {
        let mut grouper = LeakGrouper::default();
        for port in 0..u16::MAX {
            grouper.event(flow(port), record(1), seconds(0));
        }
        assert_eq!(grouper.flows.len(), MAX_FLOWS);
    }

    /// The kernel keeps records of a limited number of flows, and starts again from zero.
    #[test]
    fn a_record_that_starts_again_is_told_from_its_start() {
        let told = |merger: &mut LeakGrouper, second, packets, total| {
            let lines = merger.take_lines(seconds(second), |_| Some(record(packets)), [(1, total)]);
            lines.iter().map(|line| line.packets).collect::<Vec<_>>()
        };
        let mut merger = LeakGrouper::default();
        merger.event(flow(1), record(1), seconds(0));
        assert_eq!(told(&mut merger, 1, 10, 10), [10]);
        // The same record again is no news.
        merger.event(flow(1), record(10), seconds(1));
        assert_eq!(told(&mut merger, 2, 10, 10), []);
        // Until there is an event, a lower count is not believed.
        assert_eq!(told(&mut merger, 3, 4, 10), []);
        merger.event(flow(1), record(1), seconds(3));
        assert_eq!(told(&mut merger, 4, 4, 14), [4]);
    }

    #[test]
    fn an_event_keeps_a_flow_from_being_forgotten() {
        let mut merger = LeakGrouper::default();
        merger.event(flow(1), record(1), seconds(0));
        let tick = |merger: &mut LeakGrouper, second| {
            merger.take_lines(seconds(second), |_| None, [(1, 1)]);
            !merger.is_idle()
        };
        assert!(tick(&mut merger, 1));
        merger.event(flow(1), record(1), seconds(5));
        assert!(tick(&mut merger, 9));
        assert!(!tick(&mut merger, 10));
    }

    #[test]
    fn lines_of_tunnels_are_apart_and_the_busiest_flows_come_first() {
        let of = |tunnel, packets| FlowRecord {
            tunnel,
            ..record(packets)
        };
        let mut merger = LeakGrouper::default();
        merger.event(flow(1), of(1, 1), seconds(0));
        merger.event(flow(2), of(1, 1), seconds(0));
        merger.event(flow(3), of(2, 1), seconds(0));
        let read = |flow: &Flow| {
            Some(match flow.local_port {
                1 => of(1, 5),
                2 => of(1, 9),
                _ => of(2, 7),
            })
        };
        let lines = merger.take_lines(seconds(1), read, [(1, 20), (2, 7)]);
        let told: Vec<_> = lines
            .iter()
            .map(|line| {
                let port = line.flow.map(|(flow, _)| flow.local_port);
                (line.tunnel, port, line.packets)
            })
            .collect();
        let expected = [
            (1, Some(2), 9),
            (1, Some(1), 5),
            (1, None, 6),
            (2, Some(3), 7),
        ];
        assert_eq!(told, expected);
    }
}
