//! Limits floods of alerts with one cause: the first alert is reported at once, the others in summaries.
//!
//! [`stable_text`] removes the parts that vary between such alerts (process IDs, addresses, names of temporary
//! interfaces). If causes still vary too much, they share one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The interval of summaries for a cause.
pub const SUMMARY: Duration = Duration::from_secs(10);

/// The maximum number of separate causes of a kind, except causes that the configuration bounds.
pub const MAX_SEPARATE: usize = 16;

/// The key that separates an alert from others, and merges it with similar ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlertKey {
    /// Its kind. If a kind has too many causes, the rest of them share one.
    pub kind: String,
    /// Its text without the varying parts.
    pub text: String,
    /// The number of alerts that are reported at once, before others are held back.
    pub at_once: u32,
    /// Whether the configuration bounds the number of such causes: these always stay separate.
    pub is_bounded: bool,
}

/// Alerts held back.
#[derive(Debug)]
pub struct AlertLimiter<T> {
    causes: BTreeMap<(String, String), Held<T>>,
}

#[derive(Debug)]
struct Held<T> {
    /// The number of alerts that may still be reported at once.
    credit: u32,
    is_bounded: bool,
    /// Time of the last report.
    last_report: Duration,
    /// The last alert held back, and the number of these.
    last: Option<(T, u64)>,
}

impl<T> Default for AlertLimiter<T> {
    fn default() -> Self {
        Self {
            causes: BTreeMap::new(),
        }
    }
}

impl<T> AlertLimiter<T> {
    /// Takes an alert. Returns it if it can be reported at once; otherwise holds it back until the
    /// summary. `merge` adds the numbers of an earlier alert to a later one.
    pub fn admit(
        &mut self,
        now: Duration,
        cause: AlertKey,
        alert: T,
        merge: impl FnOnce(T, T) -> T,
    ) -> Option<T> {
        self.forget(now);
        let AlertKey {
            kind,
            text,
            at_once,
            is_bounded,
        } = cause;
        let mut key = (kind, text);
        if !is_bounded && !self.causes.contains_key(&key) {
            let causes = self.causes.iter();
            let of_kind = causes.filter(|((kind, _), held)| *kind == key.0 && !held.is_bounded);
            if of_kind.count() >= MAX_SEPARATE {
                key.1.clear();
            }
        }
        let held = self.causes.entry(key).or_insert_with(|| Held {
            credit: at_once.max(1),
            is_bounded,
            last_report: now,
            last: None,
        });
        if held.last.is_none()
            && let Some(credit) = held.credit.checked_sub(1)
        {
            held.credit = credit;
            held.last_report = now;
            return Some(alert);
        }
        held.last = Some(match held.last.take() {
            Some((before, count)) => (merge(before, alert), count + 1),
            None => (alert, 1),
        });
        None
    }

    /// Whether any alert is held back.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.causes.values().any(|held| held.last.is_some())
    }

    /// The summaries that are due: the last alert of each cause, with the number of other alerts that it
    /// represents.
    pub fn summaries(&mut self, now: Duration) -> Vec<(T, u64)> {
        let mut due = Vec::new();
        for held in self.causes.values_mut() {
            if now >= held.last_report.saturating_add(SUMMARY)
                && let Some((alert, count)) = held.last.take()
            {
                held.last_report = now;
                due.push((alert, count - 1));
            }
        }
        due
    }

    /// All alerts held back, for the end of the program.
    pub fn rest(&mut self) -> Vec<(T, u64)> {
        let causes = std::mem::take(&mut self.causes).into_values();
        let last = causes.filter_map(|held| held.last);
        last.map(|(alert, count)| (alert, count - 1)).collect()
    }

    /// Removes causes that were quiet for the interval of a summary: they start again.
    fn forget(&mut self, now: Duration) {
        self.causes.retain(|_, held| {
            held.last.is_some() || now < held.last_report.saturating_add(SUMMARY)
        });
    }
}

/// A text without its varying parts: without words that contain a digit (numbers, addresses, interface
/// names), except names from the configuration.
#[must_use]
pub fn stable_text(text: &str, configured: &BTreeSet<&str>) -> String {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '@' | '%');
    let mut cause = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest
            .find(|c| is_part(c) != is_part(first))
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let name = word.trim_end_matches([':', '.']);
        let varies = is_part(first)
            && word.contains(|c: char| c.is_ascii_digit())
            && !configured.contains(name);
        if varies {
            cause.push('#');
            cause.push_str(&word[name.len()..]);
        } else {
            cause.push_str(word);
        }
        rest = after;
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn of(text: &str) -> AlertKey {
        AlertKey {
            kind: "problem".to_owned(),
            text: text.to_owned(),
            at_once: 1,
            is_bounded: false,
        }
    }

    #[test]
    fn varying_parts_are_removed() {
        let configured = BTreeSet::from(["sixxs0", "he-ipv6"]);
        for (text, expected) in [
            (
                "ip (process 4711) keeps removing rules or routes of sixxs",
                "ip (process #) keeps removing rules or routes of sixxs",
            ),
            (
                "attach the program to veth1a2b egress: No such device (os error 19)",
                "attach the program to # egress: No such device (os error #)",
            ),
            (
                "sixxs0: packets from 2001:db8:a::2 are routed elsewhere (priority 100 or 101)",
                "sixxs0: packets from # are routed elsewhere (priority # or #)",
            ),
            (
                "he-ipv6: no broker at 192.0.2.1:3874.",
                "he-ipv6: no broker at #.",
            ),
            ("eth0.7@if3: gone", "#: gone"),
            ("", ""),
            ("ünïcode – 5 ≠ 6", "ünïcode – # ≠ #"),
        ] {
            assert_eq!(stable_text(text, &configured), expected);
        }
    }

    #[test]
    fn the_first_is_reported_at_once_and_the_others_in_summaries() {
        let mut limiter = AlertLimiter::default();
        let take = |limiter: &mut AlertLimiter<u64>, now, packets| {
            limiter.admit(now, of("one"), packets, |before, after| before + after)
        };
        assert_eq!(take(&mut limiter, seconds(0), 1), Some(1));
        assert!(!limiter.has_more());
        for packets in 2..=100 {
            assert_eq!(take(&mut limiter, seconds(1), packets), None);
        }
        assert!(limiter.has_more());
        assert_eq!(limiter.summaries(seconds(9)), []);
        // The summary has the merged numbers, and the number of alerts that it represents.
        assert_eq!(limiter.summaries(seconds(10)), [(5049, 98)]);
        // The limiter continues, and there is another summary.
        assert_eq!(take(&mut limiter, seconds(11), 1), None);
        assert_eq!(limiter.summaries(seconds(19)), []);
        assert_eq!(limiter.summaries(seconds(20)), [(1, 0)]);
        // After a quiet time, the next alert is reported at once.
        assert_eq!(take(&mut limiter, seconds(30), 7), Some(7));
        assert_eq!(take(&mut limiter, seconds(31), 8), None);
        assert_eq!(limiter.rest(), [(8, 0)]);
    }

    #[test]
    fn a_few_may_be_reported_at_once() {
        let mut limiter = AlertLimiter::default();
        let cause = AlertKey {
            at_once: 3,
            ..of("one")
        };
        let reported: Vec<_> = (0..5)
            .map(|number| limiter.admit(seconds(0), cause.clone(), number, |_, after| after))
            .collect();
        assert_eq!(reported, [Some(0), Some(1), Some(2), None, None]);
    }

    #[test]
    fn varying_causes_are_few_reports_and_little_memory() {
        let mut limiter = AlertLimiter::default();
        let mut reported = 0;
        for number in 0..100_000_u64 {
            let now = Duration::from_millis(number);
            let cause = of(&format!("{number}"));
            reported += u64::from(limiter.admit(now, cause, (), |(), ()| ()).is_some());
            reported += limiter.summaries(now).len() as u64;
            assert!(limiter.causes.len() <= MAX_SEPARATE + 1);
        }
        assert!(reported < 250, "{reported}");
    }

    #[test]
    fn bounded_causes_stay_separate() {
        let mut limiter = AlertLimiter::default();
        for number in 0..1000_u64 {
            let cause = AlertKey {
                is_bounded: true,
                ..of(&format!("{number}"))
            };
            assert!(limiter.admit(seconds(0), cause, (), |(), ()| ()).is_some());
        }
        // They use up no place of another cause.
        assert!(
            limiter
                .admit(seconds(0), of("one"), (), |(), ()| ())
                .is_some()
        );
        assert!(
            limiter
                .admit(seconds(0), of("other"), (), |(), ()| ())
                .is_some()
        );
    }

    /// Alerts of one kind share a cause once there are very many of them.
    #[test]
    fn kinds_do_not_share_their_causes() {
        let mut flood = AlertLimiter::default();
        let now = seconds(0);
        let mut is_told = |kind: &str, number: usize, is_bounded| {
            let key = AlertKey {
                kind: kind.to_owned(),
                text: number.to_string(),
                at_once: 1,
                is_bounded,
            };
            flood.admit(now, key, number, |_, after| after).is_some()
        };
        // Bounded causes do not count, however many there are.
        assert!((0..2 * MAX_SEPARATE).all(|number| is_told("leak", number, true)));
        assert!((0..MAX_SEPARATE).all(|number| is_told("leak", 1000 + number, false)));
        // From here on they are one cause, whose first alert is reported.
        assert!(is_told("leak", 2000, false));
        assert!(!is_told("leak", 2001, false));
        assert!(is_told("problem", 2001, false), "another kind");
        assert!(is_told("leak", 2002, true), "a bounded one");
    }

    #[test]
    fn a_quiet_cause_starts_again_at_its_time() {
        for (pause, is_told) in [(9, false), (10, true)] {
            let mut flood = AlertLimiter::default();
            assert_eq!(flood.admit(seconds(5), of("one"), 1, |_, b| b), Some(1));
            let again = flood.admit(seconds(5 + pause), of("one"), 2, |_, b| b);
            assert_eq!(again.is_some(), is_told, "{pause}");
            assert_eq!(flood.has_more(), !is_told);
        }
    }

    #[test]
    fn none_at_once_means_one() {
        let mut flood = AlertLimiter::default();
        let key = AlertKey {
            at_once: 0,
            ..of("one")
        };
        assert_eq!(flood.admit(seconds(0), key.clone(), 1, |_, b| b), Some(1));
        assert_eq!(flood.admit(seconds(0), key, 2, |_, b| b), None);
        assert_eq!(flood.rest(), [(2, 0)]);
        assert!(!flood.has_more());
    }
}
