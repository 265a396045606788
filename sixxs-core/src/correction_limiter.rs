//! Limits the reports of corrections when other software keeps removing objects.
//!
//! The daemon restores the objects in any case; [`crate::reconcile_limiter`] decides how often.

use std::{fmt, time::Duration};

/// Number of corrections that may be reported one by one in a burst.
const BURST: u32 = 20;

/// After this time, one more may be reported.
const CREDIT_INTERVAL: Duration = Duration::from_secs(1);

/// The interval of summaries of all other corrections.
const SUMMARY: Duration = Duration::from_secs(10);

/// The conflict ends this long after the last correction that was not reported by itself.
const CONFLICT_ENDS: Duration = Duration::from_secs(30);

/// One or more processes with the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// The name of the process, sanitised for display.
    pub name: String,
    /// The process ID of the first one.
    pub process: u32,
    /// Whether there were other processes of that name.
    pub others: bool,
}

impl Culprit {
    /// Adds another process, if it has the same name.
    pub fn merge(&mut self, other: &Self) -> bool {
        let is_same = self.name == other.name;
        self.others |= is_same && (self.process != other.process || other.others);
        is_same
    }
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others = if self.others { " and others" } else { "" };
        write!(f, "{} (process {}{others})", self.name, self.process)
    }
}

/// The recent corrections, and the process that removed the objects.
#[derive(Debug)]
pub struct CorrectionLimiter {
    credit: u32,
    credited_at: Duration,
    unreported: u64,
    /// Time of the last correction that was not reported by itself.
    last: Option<Duration>,
    /// The last known process that removed an object, until the conflict ends.
    by: Option<Culprit>,
    last_summary: Duration,
}

impl Default for CorrectionLimiter {
    fn default() -> Self {
        Self {
            credit: BURST,
            credited_at: Duration::ZERO,
            unreported: 0,
            last: None,
            by: None,
            last_summary: Duration::ZERO,
        }
    }
}

/// The corrections that were not reported one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Their number.
    pub corrections: u64,
    /// The last known process that removed an object.
    pub by: Option<Culprit>,
}

impl CorrectionLimiter {
    /// Records that an object was restored; `by`: the process that removed it, if known. Returns
    /// whether to report this correction by itself.
    pub fn corrected(&mut self, now: Duration, by: Option<&Culprit>) -> bool {
        let earned = now.saturating_sub(self.credited_at).as_secs() / CREDIT_INTERVAL.as_secs();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(BURST);
            self.credit = self.credit.saturating_add(earned).min(BURST);
            self.credited_at = now;
        }
        if let Some(credit) = self.credit.checked_sub(1) {
            self.credit = credit;
            return true;
        }
        if self.last.is_none() {
            self.last_summary = now;
        }
        self.unreported += 1;
        self.last = Some(now);
        if let Some(by) = by {
            let known = self.by.as_mut();
            if !known.is_some_and(|known| known.merge(by)) {
                self.by = Some(by.clone());
            }
        }
        false
    }

    /// Whether a summary is due, now or later.
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.unreported > 0
    }

    /// The summary, if one is due now.
    pub fn summary(&mut self, now: Duration) -> Option<Summary> {
        if self.unreported == 0 || now < self.last_summary.saturating_add(SUMMARY) {
            return None;
        }
        self.last_summary = now;
        Some(Summary {
            corrections: std::mem::take(&mut self.unreported),
            by: self.by.clone(),
        })
    }

    /// Describes the conflict; the text stays the same while it lasts.
    pub fn problem(&mut self, now: Duration) -> Option<String> {
        let last = self.last?;
        if now >= last.saturating_add(CONFLICT_ENDS) {
            self.last = None;
            self.by = None;
            return None;
        }
        let who = self
            .by
            .as_ref()
            .map_or("other software".to_owned(), Culprit::to_string);
        Some(format!(
            "{who} keeps removing rules or routes of sixxs; each is restored, and meanwhile the \
             programs redirect the packets that leak. Have it leave rules and routes of protocol 116 alone"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(name: &str, process: u32) -> Culprit {
        Culprit {
            name: name.to_owned(),
            process,
            others: false,
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_few_corrections_are_reported_one_by_one() {
        let mut limiter = CorrectionLimiter::default();
        for second in 0..1000 {
            assert!(limiter.corrected(seconds(second), Some(&by("ip", 7))));
            assert_eq!(limiter.summary(seconds(second)), None);
            assert_eq!(limiter.problem(seconds(second)), None);
        }
    }

    #[test]
    fn many_corrections_are_reported_in_summaries_with_their_culprit() {
        let mut limiter = CorrectionLimiter::default();
        let mut reported = 0;
        let mut last_summary = 0;
        let mut problems = std::collections::BTreeSet::new();
        for millisecond in 0..100_000u64 {
            let now = Duration::from_millis(millisecond);
            if limiter.corrected(now, Some(&by("networkd", 7))) {
                reported += 1;
            }
            if let Some(summary) = limiter.summary(now) {
                assert_eq!(summary.by, Some(by("networkd", 7)));
                last_summary += summary.corrections;
            }
            problems.extend(limiter.problem(now));
        }
        assert!((100..=130).contains(&reported), "{reported}");
        assert!(last_summary > 80_000, "{last_summary}");
        assert_eq!(problems.len(), 1);
        assert!(
            problems
                .first()
                .unwrap()
                .starts_with("networkd (process 7) keeps")
        );
        // The last corrections are in a summary; then the conflict is over.
        let end = seconds(120);
        assert_eq!(
            reported + last_summary + limiter.summary(end).unwrap().corrections,
            100_000
        );
        assert!(limiter.problem(end).is_some());
        assert_eq!(limiter.problem(seconds(131)), None);
    }

    #[test]
    fn processes_of_one_name_are_one_culprit() {
        let mut limiter = CorrectionLimiter::default();
        let mut problems = Vec::new();
        for process in 0..1000 {
            let now = Duration::from_millis(u64::from(process) * 5);
            limiter.corrected(now, Some(&by("ip", process)));
            problems.extend(limiter.problem(now));
        }
        problems.dedup();
        assert_eq!(problems.len(), 2, "{problems:#?}");
        for (problem, who) in problems.iter().zip(["20", "20 and others"]) {
            let begins = format!("ip (process {who}) keeps");
            assert!(problem.starts_with(&begins), "{problems:#?}");
        }
    }

    #[test]
    fn a_summary_is_due_until_it_is_told() {
        let mut contest = CorrectionLimiter::default();
        for _ in 0..BURST {
            assert!(contest.corrected(seconds(0), None));
            assert!(!contest.has_more());
        }
        assert!(!contest.corrected(seconds(0), None));
        assert!(contest.has_more());
        assert_eq!(contest.summary(seconds(9)), None);
        assert!(contest.has_more());
        let summary = contest.summary(seconds(10));
        let expected = Summary {
            corrections: 1,
            by: None,
        };
        assert_eq!(summary, Some(expected));
        assert!(!contest.has_more());
        let problem = contest.problem(seconds(29)).unwrap_or_default();
        assert!(problem.starts_with("other software keeps"), "{problem}");
        assert_eq!(contest.problem(seconds(30)), None);
    }

    #[test]
    fn one_more_may_be_told_each_second() {
        let mut contest = CorrectionLimiter::default();
        let mut told = |now, count| {
            let now = Duration::from_millis(now);
            (0..count).filter(|_| contest.corrected(now, None)).count()
        };
        assert_eq!(told(0, 30), 20);
        assert_eq!(told(999, 5), 0);
        assert_eq!(told(1000, 5), 1);
        assert_eq!(told(4500, 5), 3);
        assert_eq!(told(5400, 5), 0);
        assert_eq!(told(5500, 5), 1);
        assert_eq!(told(100_000, 30), 20);
    }

    #[test]
    fn others_of_the_same_name_are_mentioned() {
        for (name, process, others, joins, expected) in [
            ("ip", 7, false, true, "ip (process 7)"),
            ("ip", 8, false, true, "ip (process 7 and others)"),
            ("ip", 7, true, true, "ip (process 7 and others)"),
            ("networkd", 8, true, false, "ip (process 7)"),
        ] {
            let mut first = by("ip", 7);
            let mut other = by(name, process);
            other.others = others;
            assert_eq!(first.merge(&other), joins, "{other}");
            assert_eq!(first.to_string(), expected);
        }
    }
}
