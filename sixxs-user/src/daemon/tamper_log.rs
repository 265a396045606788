//! Records the objects that other programs remove and the daemon restores, and names the process behind it.
//!
//! Removals arrive as netlink events; corrections come from the scan. The kernel removes first and sends
//! the event afterwards, so a scan can find something missing before its event is there. Such a correction
//! is held back for [`GRACE`].

use std::{collections::BTreeMap, fs, time::Duration};

use sixxs_core::{
    correction_limiter::{CorrectionLimiter, Culprit},
    types::IfName,
};

use crate::{
    control::api::About,
    netlink::{Removal, Removed},
};

/// Limit of processes recorded between two scans.
const MAX_PROCESSES: usize = 64;

/// How long a correction waits for its event. The kernel may preempt the removing process between the removal and
/// the event.
const GRACE: Duration = Duration::from_millis(200);

/// A leak is reported up to a second after it happened; a correction shortly before may be its cause.
const RECENT: Duration = Duration::from_secs(3);

/// A restored object.
#[derive(Clone, Debug)]
pub(super) struct Correction {
    /// The tunnel that it belongs to; `None`: it belongs to all.
    pub(super) tunnel: Option<IfName>,
    /// The step that restored it, in words.
    pub(super) step: String,
    /// The kind of the missing object.
    pub(super) removed: Removed,
}

/// Removals, corrections, and how much of them is reported.
#[derive(Debug, Default)]
pub(super) struct TamperLog {
    removals: Removals,
    corrections: u64,
    limiter: CorrectionLimiter,
    recent: Recent,
    /// Corrections that still wait for their event, with the time of each.
    unattributed: Vec<(Correction, Duration)>,
}

impl TamperLog {
    /// Corrections of this run.
    pub(super) const fn corrections(&self) -> u64 {
        self.corrections
    }

    /// Records a removal event. `is_late`: it came after a scan had begun, which may have missed the removal.
    /// Returns reports of the corrections that it explains.
    pub(super) fn record_removal(
        &mut self,
        removal: &Removal,
        is_late: bool,
        now: Duration,
    ) -> Vec<About> {
        let process = removal.process.filter(|id| *id != std::process::id());
        // Most such processes exit soon, so their name is read at once.
        let by = process.and_then(|id| Some(named_process(&name_of(id)?, id)));
        self.record(removal.what, by, is_late, now)
    }

    fn record(
        &mut self,
        what: Removed,
        by: Option<Culprit>,
        is_late: bool,
        now: Duration,
    ) -> Vec<About> {
        self.removals.record(what, by, is_late);
        let unattributed = std::mem::take(&mut self.unattributed);
        let (named, still) = unattributed
            .into_iter()
            .partition(|(correction, _)| self.removals.has_event_for(correction.removed));
        self.unattributed = still;
        self.report(named, now)
    }

    /// Records a correction. Returns its report, unless it waits for its event or for a summary.
    pub(super) fn record_correction(
        &mut self,
        correction: Correction,
        now: Duration,
    ) -> Option<About> {
        self.corrections += 1;
        let has_event = matches!(
            correction.removed,
            Removed::Rule | Removed::Route | Removed::Address
        );
        if has_event && !self.removals.has_event_for(correction.removed) {
            self.unattributed.push((correction, now));
            return None;
        }
        self.report(vec![(correction, now)], now).pop()
    }

    /// Ends a round. Forgets its removals, except those that came after its scan had begun: that scan may have missed
    /// them, and the next one finds them.
    pub(super) fn end_round(&mut self) {
        self.removals.end_round();
    }

    /// When the first waiting correction is reported without the name of a process.
    pub(super) fn due(&self) -> Option<Duration> {
        let (_, at) = self.unattributed.first()?;
        Some(at.saturating_add(GRACE))
    }

    /// Reports the corrections that are due.
    pub(super) fn report_due(&mut self, now: Duration) -> Vec<About> {
        let is_due = |(_, at): &(Correction, Duration)| at.saturating_add(GRACE) <= now;
        let unattributed = std::mem::take(&mut self.unattributed);
        let (due, still) = unattributed.into_iter().partition(is_due);
        self.unattributed = still;
        self.report(due, now)
    }

    fn report(&mut self, corrections: Vec<(Correction, Duration)>, now: Duration) -> Vec<About> {
        let mut reported = Vec::new();
        for (correction, at) in corrections {
            let by = self.removals.by(correction.removed).cloned();
            let named = by.as_ref().map(Culprit::to_string);
            if matches!(correction.removed, Removed::Rule | Removed::Route) {
                self.recent
                    .record(correction.tunnel.clone(), named.clone(), at);
            }
            if self.limiter.corrected(now, by.as_ref()) {
                reported.push(About::Correction {
                    tunnel: correction.tunnel.map(|name| name.to_string()),
                    correction: correction.step,
                    by: named,
                });
            }
        }
        reported
    }

    /// Whether corrections wait for a summary.
    pub(super) const fn has_more(&self) -> bool {
        self.limiter.has_more()
    }

    /// A summary of the corrections that were not reported one by one, if one is due.
    pub(super) fn summary(&mut self, now: Duration) -> Option<About> {
        let summary = self.limiter.summary(now)?;
        Some(About::Correction {
            tunnel: None,
            correction: format!(
                "{} more rules, routes and similar objects",
                summary.corrections
            ),
            by: summary.by.as_ref().map(Culprit::to_string),
        })
    }

    /// The problem, as a message, while other software keeps removing objects of sixxs.
    pub(super) fn problem(&mut self, now: Duration) -> Option<String> {
        self.limiter.problem(now)
    }

    /// Whether a tunnel's rule or route was restored shortly before. The inner value names the process
    /// that had removed it, if that is known.
    pub(super) fn recent(&self, tunnel: &IfName, now: Duration) -> Option<Option<String>> {
        self.recent.of(tunnel, now)
    }
}

/// The last correction of a rule or route, by tunnel (`None`: of all tunnels): its time, and the process that had
/// removed the object.
#[derive(Debug, Default)]
struct Recent(BTreeMap<Option<IfName>, (Duration, Option<String>)>);

impl Recent {
    fn record(&mut self, tunnel: Option<IfName>, by: Option<String>, at: Duration) {
        self.0
            .retain(|_, (before, _)| at.saturating_sub(*before) <= RECENT);
        self.0.insert(tunnel, (at, by));
    }

    fn of(&self, tunnel: &IfName, now: Duration) -> Option<Option<String>> {
        let keys = [Some(tunnel.clone()), None];
        let mut found = keys.iter().filter_map(|key| self.0.get(key));
        let (_, by) = found.find(|(at, _)| now.saturating_sub(*at) <= RECENT)?;
        Some(by.clone())
    }
}

/// A removal and its process; `None`: the process is unknown.
type Event = (Removed, Option<Culprit>);

/// Removals since the last scan.
#[derive(Debug, Default)]
struct Removals {
    all: Vec<Event>,
    /// The removals among `all` whose event came after the scan had begun.
    late: Vec<Event>,
}

impl Removals {
    fn record(&mut self, what: Removed, by: Option<Culprit>, is_late: bool) {
        if is_late {
            add(&mut self.late, what, by.clone());
        }
        add(&mut self.all, what, by);
    }

    fn end_round(&mut self) {
        self.all = std::mem::take(&mut self.late);
    }

    /// Whether an event explains why something of this kind is missing.
    fn has_event_for(&self, what: Removed) -> bool {
        let goes_with_link = matches!(what, Removed::Address | Removed::Route);
        let explains = |kind: Removed| kind == what || (goes_with_link && kind == Removed::Link);
        self.all.iter().any(|(kind, _)| explains(*kind))
    }

    /// The process that removed something of this kind, if there was just one. An interface takes its
    /// addresses and routes along.
    fn by(&self, what: Removed) -> Option<&Culprit> {
        let of = |kind: Removed| {
            let events = self.all.iter().filter(move |(removed, _)| *removed == kind);
            events.filter_map(|(_, by)| by.as_ref())
        };
        let mut found = of(what);
        match (found.next(), found.next()) {
            (Some(by), None) => Some(by),
            (None, None) if matches!(what, Removed::Address | Removed::Route) => {
                let mut found = of(Removed::Link);
                let by = found.next()?;
                found.next().is_none().then_some(by)
            }
            _ => None,
        }
    }
}

/// Adds a removal. Processes with the same name count as one.
fn add(removals: &mut Vec<Event>, what: Removed, by: Option<Culprit>) {
    let mut of_kind = removals.iter_mut().filter(|(removed, _)| *removed == what);
    let is_known = of_kind.any(|(_, known)| match (known, &by) {
        (Some(known), Some(by)) => known.merge(by),
        (None, None) => true,
        _ => false,
    });
    if !is_known && removals.len() < MAX_PROCESSES {
        removals.push((what, by));
    }
}

/// The name of a process; `None`: it has exited, or the number is not a process ID.
fn name_of(process: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// A process, with its name sanitised for display.
fn named_process(name: &str, process: u32) -> Culprit {
    Culprit {
        name: name.escape_default().to_string(),
        process,
        others: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn correction(removed: Removed) -> Correction {
        Correction {
            tunnel: Some("sixxs0".parse().unwrap()),
            step: "ip -6 rule add".to_owned(),
            removed,
        }
    }

    /// The process named in an alert about a correction; the outer `None`: the alert has another subject.
    fn culprit(about: &About) -> Option<Option<&str>> {
        match about {
            About::Correction { by, .. } => Some(by.as_deref()),
            _ => None,
        }
    }

    fn networkd() -> Option<Culprit> {
        Some(named_process("networkd", 8))
    }

    #[test]
    fn a_process_is_named_if_it_was_the_only_one() {
        let mut removals = Removals::default();
        let named = |removals: &Removals, what| removals.by(what).map(Culprit::to_string);
        assert_eq!(named(&removals, Removed::Rule), None);
        removals.record(Removed::Link, Some(named_process("ip", 7)), false);
        assert_eq!(named(&removals, Removed::Rule), None);
        let ip = Some("ip (process 7)".to_owned());
        assert_eq!(named(&removals, Removed::Route), ip);
        removals.record(Removed::Rule, networkd(), false);
        removals.record(Removed::Rule, networkd(), false);
        removals.record(Removed::Rule, None, false);
        let found = Some("networkd (process 8)".to_owned());
        assert_eq!(named(&removals, Removed::Rule), found);
        removals.record(Removed::Rule, Some(named_process("ip", 9)), false);
        assert_eq!(named(&removals, Removed::Rule), None);
        // There may be many of one name.
        for process in 20..1000 {
            removals.record(Removed::Address, Some(named_process("ip", process)), true);
        }
        let ip = Some("ip (process 20 and others)".to_owned());
        assert_eq!(named(&removals, Removed::Address), ip);
        removals.end_round();
        assert_eq!(named(&removals, Removed::Route), None);
    }

    #[test]
    fn a_late_removal_counts_for_the_next_scan_too() {
        let mut log = TamperLog::default();
        log.record(Removed::Route, networkd(), false, at(0));
        log.record(Removed::Rule, networkd(), true, at(0));
        let by = |log: &mut TamperLog, removed| {
            let about = log.record_correction(correction(removed), at(1))?;
            culprit(&about)?.map(str::to_owned)
        };
        let name = Some("networkd (process 8)".to_owned());
        assert_eq!(by(&mut log, Removed::Rule), name);
        log.end_round();
        assert_eq!(by(&mut log, Removed::Route), None);
        assert_eq!(by(&mut log, Removed::Rule), name);
        log.end_round();
        assert_eq!(by(&mut log, Removed::Rule), None);
    }

    #[test]
    fn a_correction_waits_for_its_event() {
        let mut log = TamperLog::default();
        assert!(
            log.record_correction(correction(Removed::Rule), at(5))
                .is_none()
        );
        assert_eq!(log.corrections(), 1);
        log.end_round();
        assert_eq!(log.due(), Some(at(205)));
        assert!(log.report_due(at(204)).is_empty());
        // An event of another kind explains nothing.
        assert!(
            log.record(Removed::Link, networkd(), false, at(9))
                .is_empty()
        );
        let reported = log.record(Removed::Rule, networkd(), false, at(10));
        assert_eq!(culprit(&reported[0]), Some(Some("networkd (process 8)")));
        assert_eq!((reported.len(), log.due()), (1, None));
    }

    #[test]
    fn a_correction_without_an_event_is_reported_without_a_name() {
        let mut log = TamperLog::default();
        assert!(
            log.record_correction(correction(Removed::Route), at(0))
                .is_none()
        );
        assert!(
            log.record_correction(correction(Removed::Rule), at(100))
                .is_none()
        );
        let reported = log.report_due(at(200));
        assert_eq!((reported.len(), culprit(&reported[0])), (1, Some(None)));
        assert_eq!(log.due(), Some(at(300)));
        // The process had exited before its name was read.
        let reported = log.record(Removed::Rule, None, false, at(250));
        assert_eq!((reported.len(), culprit(&reported[0])), (1, Some(None)));
        // The kernel sends no event for these.
        let about = log
            .record_correction(correction(Removed::Program), at(300))
            .unwrap();
        assert_eq!(culprit(&about), Some(None));
    }

    #[test]
    fn a_recent_correction_is_known_by_tunnel() {
        let mut recent = Recent::default();
        let name: IfName = "sixxs0".parse().unwrap();
        assert_eq!(recent.of(&name, at(0)), None);
        recent.record(None, None, at(1000));
        assert_eq!(recent.of(&name, at(2000)), Some(None));
        let by = Some("ip (process 7)".to_owned());
        recent.record(Some(name.clone()), by.clone(), at(3000));
        assert_eq!(recent.of(&name, at(4000)), Some(by));
        assert_eq!(recent.of(&name, at(9000)), None);
        // An old correction of the tunnel does not hide a recent one of all tunnels.
        recent.record(Some(name.clone()), None, at(20_000));
        recent.record(None, Some("ip (process 8)".to_owned()), at(22_000));
        let by = Some("ip (process 8)".to_owned());
        assert_eq!(recent.of(&name, at(24_000)), Some(by));
    }
}
