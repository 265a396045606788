//! Leaks that the kernel reports: merged into lines, and judged by what becomes of them.
//!
//! Must not know the tunnels' configuration, the kernel's maps or the loop: counts come in as arguments.

use std::{collections::BTreeMap, time::Duration};

use sixxs_common::{
    flow::Flow,
    layout::{FlowRecord, LeakEvent},
    stat::{Counters, Stat},
    treatment::Treatment,
};
use sixxs_core::{
    health::Leaking,
    leak_lines::{LeakGrouper, LeakLine},
};

/// An alert about recursive packets is repeated after this time.
const REPEAT: Duration = Duration::from_secs(3600);

/// Recursive packets are a problem for this long after the last one.
const RECENT: Duration = Duration::from_secs(300);

/// Outer packets of a tunnel that were routed into the tunnel itself.
#[derive(Debug)]
struct Recursion {
    /// The last of them.
    flow: Flow,
    at: Duration,
    /// When an alert reported them.
    reported: Duration,
}

/// Leaks by slot of their tunnel. Times are since the start of the daemon.
#[derive(Debug, Default)]
pub(super) struct LeakReports {
    lines: LeakGrouper,
    leaking: BTreeMap<u32, Leaking>,
    recursions: BTreeMap<u32, Recursion>,
}

impl LeakReports {
    /// Starts at these totals by slot: an earlier run has reported them.
    pub(super) fn start_at(&mut self, totals: impl IntoIterator<Item = (u32, u64)>) {
        self.lines = LeakGrouper::new(totals.into_iter().collect());
    }

    /// The kernel reports a leak.
    pub(super) fn event(&mut self, event: &LeakEvent, now: Duration) {
        self.lines.event(event.flow, event.record, now);
        let record = &event.record;
        let treatment = Treatment::try_from(record.treatment).unwrap_or(Treatment::Dropped);
        self.leaking
            .entry(record.tunnel)
            .and_modify(|leaking| leaking.add(now, treatment))
            .or_insert_with(|| Leaking::begin(now, treatment));
    }

    /// Whether [`LeakReports::lines`] may have something to report.
    pub(super) fn is_idle(&self) -> bool {
        self.lines.is_idle()
    }

    /// The lines to report since the last call. `read` and `totals` as for [`LeakGrouper::take_lines`].
    pub(super) fn lines(
        &mut self,
        read: impl Fn(&Flow) -> Option<FlowRecord>,
        totals: Vec<(u32, u64)>,
        now: Duration,
    ) -> Vec<LeakLine> {
        let lines = self.lines.take_lines(now, read, totals);
        let mut new = Vec::new();
        for line in lines {
            if !self.is_reported(&line, now) {
                new.push(line);
            }
        }
        new
    }

    /// Whether a line is about recursive packets that an alert has reported. They continue until a route
    /// changes, and the status counts them.
    fn is_reported(&mut self, line: &LeakLine, now: Duration) -> bool {
        let Some((flow, record)) = &line.flow else {
            return false;
        };
        if record.treatment != Treatment::Recursion.raw() {
            return false;
        }
        let before = self.recursions.get(&line.tunnel);
        let before = before.filter(|before| {
            before.flow.remote == flow.remote && now.saturating_sub(before.reported) < REPEAT
        });
        let (is_reported, reported) = before.map_or((false, now), |before| (true, before.reported));
        let recursion = Recursion {
            flow: *flow,
            at: now,
            reported,
        };
        self.recursions.insert(line.tunnel, recursion);
        is_reported
    }

    /// The treatment of the packets of a tunnel that leak at present.
    pub(super) fn treatment(&self, slot: u32, now: Duration) -> Option<Treatment> {
        self.leaking.get(&slot)?.treatment(now)
    }

    /// The last recursive packet of a tunnel, if there was one recently.
    pub(super) fn recursion(&self, slot: u32, now: Duration) -> Option<&Flow> {
        let recursion = self.recursions.get(&slot)?;
        (now.saturating_sub(recursion.at) <= RECENT).then_some(&recursion.flow)
    }
}

/// All leaks that the kernel has counted for a tunnel.
pub(super) fn total(counters: &Counters) -> u64 {
    let leaks = [
        Stat::LeakRedirected,
        Stat::LeakDropped,
        Stat::LeakObserved,
        Stat::LeakTooBig,
        Stat::Recursions,
    ];
    leaks.iter().map(|stat| counters[stat.index()]).sum()
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn event(treatment: Treatment, packets: u64) -> LeakEvent {
        let mut event = LeakEvent::zeroed();
        event.record.tunnel = 3;
        event.record.treatment = treatment.raw();
        event.record.packets = packets;
        event
    }

    /// Reports an event, and the lines that follow from it.
    fn report(reports: &mut LeakReports, event: LeakEvent, now: Duration) -> Vec<LeakLine> {
        reports.event(&event, now);
        let totals = vec![(3, event.record.packets)];
        reports.lines(|_| Some(event.record), totals, now)
    }

    #[test]
    fn a_leak_becomes_a_line_and_a_treatment() {
        for (treatment, expected) in [
            (Treatment::Redirected, Treatment::Redirected),
            // The sender gets an answer, which is as good.
            (Treatment::TooBig, Treatment::Redirected),
            (Treatment::Observed, Treatment::Observed),
            (Treatment::Dropped, Treatment::Dropped),
        ] {
            let mut reports = LeakReports::default();
            assert!(reports.is_idle());
            let lines = report(&mut reports, event(treatment, 1), at(1));
            assert_eq!(lines.len(), 1);
            assert_eq!((lines[0].tunnel, lines[0].packets), (3, 1));
            report(&mut reports, event(treatment, 2), at(2));
            report(&mut reports, event(treatment, 3), at(3));
            assert_eq!(reports.treatment(3, at(3)), Some(expected));
            assert_eq!(reports.treatment(4, at(3)), None);
        }
        // A number of another version of the programs counts as dropped.
        let mut unknown = event(Treatment::Dropped, 1);
        unknown.record.treatment = u32::MAX;
        let mut reports = LeakReports::default();
        for seconds in 1..4 {
            report(&mut reports, unknown, at(seconds));
        }
        assert_eq!(reports.treatment(3, at(3)), Some(Treatment::Dropped));
    }

    #[test]
    fn recursive_packets_are_reported_once_an_hour() {
        let mut reports = LeakReports::default();
        let recursion = |packets| event(Treatment::Recursion, packets);
        assert_eq!(report(&mut reports, recursion(1), at(1)).len(), 1);
        assert_eq!(report(&mut reports, recursion(2), at(60)).len(), 0);
        assert!(reports.recursion(3, at(360)).is_some());
        assert!(reports.recursion(3, at(361)).is_none());
        assert_eq!(report(&mut reports, recursion(3), at(3601)).len(), 1);
        // Another endpoint.
        let mut other = recursion(4);
        other.flow.remote = sixxs_common::address::Address::from_octets([9; 16]);
        assert_eq!(report(&mut reports, other, at(3602)).len(), 1);
    }

    #[test]
    fn leaks_of_an_earlier_run_are_not_reported() {
        let mut reports = LeakReports::default();
        reports.start_at([(3, 100)]);
        let lines = reports.lines(|_| None, vec![(3, 100)], at(1));
        assert!(lines.is_empty(), "{lines:?}");
    }

    #[test]
    fn each_leak_is_counted_once() {
        let mut counters: Counters = [0; sixxs_common::stat::CAPACITY];
        for (value, stat) in (1..).zip([
            Stat::LeakRedirected,
            Stat::LeakDropped,
            Stat::LeakObserved,
            Stat::LeakTooBig,
            Stat::Recursions,
        ]) {
            counters[stat.index()] = value;
        }
        assert_eq!(total(&counters), 15);
    }
}
