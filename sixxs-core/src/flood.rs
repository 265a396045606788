//! Alerts of one cause, when they come without end: the first is told at once, the others together.
//!
//! What varies from one to the next (process numbers, addresses, names of interfaces that come and go) is no
//! part of a cause: [`cause`] leaves it out. Whatever still varies shares one cause, once there are many.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What is held back of a cause is told together, this often.
pub const SUMMARY: Duration = Duration::from_secs(10);

/// Causes of a kind that are told apart, of those that a host's own configuration does not bound.
pub const APART: usize = 16;

/// How an alert is told apart from others, and merged with those like it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// Its kind. Causes of a kind that are too many share one.
    pub kind: String,
    /// What is left of it without what varies.
    pub text: String,
    /// So many are told at once before others are held back.
    pub at_once: u32,
    /// Whether the configuration bounds how many there are: those are always told apart.
    pub is_bounded: bool,
}

/// Alerts held back.
#[derive(Debug)]
pub struct Flood<T> {
    causes: BTreeMap<(String, String), Held<T>>,
}

#[derive(Debug)]
struct Held<T> {
    /// So many may still be told at once.
    credit: u32,
    is_bounded: bool,
    /// When something of it was told.
    told: Duration,
    /// The last held back, and how many there are.
    last: Option<(T, u64)>,
}

impl<T> Default for Flood<T> {
    fn default() -> Self {
        Self {
            causes: BTreeMap::new(),
        }
    }
}

impl<T> Flood<T> {
    /// Takes an alert: gives it back if it is to be told at once, or else holds it until its summary.
    /// `merge` puts what an earlier one said of numbers into a later one.
    pub fn take(
        &mut self,
        now: Duration,
        cause: Cause,
        alert: T,
        merge: impl FnOnce(T, T) -> T,
    ) -> Option<T> {
        self.forget(now);
        let Cause {
            kind,
            text,
            at_once,
            is_bounded,
        } = cause;
        let mut key = (kind, text);
        if !is_bounded && !self.causes.contains_key(&key) {
            let causes = self.causes.iter();
            let of_kind = causes.filter(|((kind, _), held)| *kind == key.0 && !held.is_bounded);
            if of_kind.count() >= APART {
                key.1.clear();
            }
        }
        let held = self.causes.entry(key).or_insert_with(|| Held {
            credit: at_once.max(1),
            is_bounded,
            told: now,
            last: None,
        });
        if held.last.is_none()
            && let Some(credit) = held.credit.checked_sub(1)
        {
            held.credit = credit;
            held.told = now;
            return Some(alert);
        }
        held.last = Some(match held.last.take() {
            Some((before, count)) => (merge(before, alert), count + 1),
            None => (alert, 1),
        });
        None
    }

    /// Whether anything is held back.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.causes.values().any(|held| held.last.is_some())
    }

    /// What is to be told now: the last of each cause that was held back for long enough, with how many
    /// it stands for beside itself.
    pub fn summaries(&mut self, now: Duration) -> Vec<(T, u64)> {
        let mut told = Vec::new();
        for held in self.causes.values_mut() {
            if now >= held.told.saturating_add(SUMMARY)
                && let Some((alert, count)) = held.last.take()
            {
                held.told = now;
                told.push((alert, count - 1));
            }
        }
        told
    }

    /// All that is held back, as it is at the end.
    pub fn rest(&mut self) -> Vec<(T, u64)> {
        let causes = std::mem::take(&mut self.causes).into_values();
        let last = causes.filter_map(|held| held.last);
        last.map(|(alert, count)| (alert, count - 1)).collect()
    }

    /// A cause that was quiet for as long as a summary takes begins anew.
    fn forget(&mut self, now: Duration) {
        self.causes
            .retain(|_, held| held.last.is_some() || now < held.told.saturating_add(SUMMARY));
    }
}

/// What is left of a text without what varies: words with a digit in them, which numbers, addresses and
/// names of interfaces have, except names that the configuration has.
#[must_use]
pub fn cause(text: &str, configured: &BTreeSet<&str>) -> String {
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

    fn of(text: &str) -> Cause {
        Cause {
            kind: "problem".to_owned(),
            text: text.to_owned(),
            at_once: 1,
            is_bounded: false,
        }
    }

    #[test]
    fn what_varies_is_no_part_of_a_cause() {
        let configured = BTreeSet::from(["sixxs0", "he-ipv6"]);
        for (text, expected) in [
            (
                "ip (process 4711) keeps taking away what is ours",
                "ip (process #) keeps taking away what is ours",
            ),
            (
                "attach the program to veth1a2b egress: No such device (os error 19)",
                "attach the program to # egress: No such device (os error #)",
            ),
            (
                "sixxs0: packets from 2001:db8:a::2 are led elsewhere (priority 100 or 101)",
                "sixxs0: packets from # are led elsewhere (priority # or #)",
            ),
            (
                "he-ipv6: no broker at 192.0.2.1:3874.",
                "he-ipv6: no broker at #.",
            ),
            ("eth0.7@if3: gone", "#: gone"),
            ("", ""),
            ("ünïcode – 5 ≠ 6", "ünïcode – # ≠ #"),
        ] {
            assert_eq!(cause(text, &configured), expected);
        }
    }

    #[test]
    fn the_first_is_told_at_once_and_the_others_together() {
        let mut flood = Flood::default();
        let take = |flood: &mut Flood<u64>, now, packets| {
            flood.take(now, of("one"), packets, |before, after| before + after)
        };
        assert_eq!(take(&mut flood, seconds(0), 1), Some(1));
        assert!(!flood.has_more());
        for packets in 2..=100 {
            assert_eq!(take(&mut flood, seconds(1), packets), None);
        }
        assert!(flood.has_more());
        assert_eq!(flood.summaries(seconds(9)), []);
        // All numbers are in it, and how many it stands for.
        assert_eq!(flood.summaries(seconds(10)), [(5049, 98)]);
        // It goes on, and is told together again.
        assert_eq!(take(&mut flood, seconds(11), 1), None);
        assert_eq!(flood.summaries(seconds(19)), []);
        assert_eq!(flood.summaries(seconds(20)), [(1, 0)]);
        // It was over for a while: the next one is news.
        assert_eq!(take(&mut flood, seconds(30), 7), Some(7));
        assert_eq!(take(&mut flood, seconds(31), 8), None);
        assert_eq!(flood.rest(), [(8, 0)]);
    }

    #[test]
    fn a_few_may_be_told_at_once() {
        let mut flood = Flood::default();
        let cause = Cause {
            at_once: 3,
            ..of("one")
        };
        let told: Vec<_> = (0..5)
            .map(|number| flood.take(seconds(0), cause.clone(), number, |_, after| after))
            .collect();
        assert_eq!(told, [Some(0), Some(1), Some(2), None, None]);
    }

    #[test]
    fn whatever_varies_few_are_told_and_little_is_remembered() {
        let mut flood = Flood::default();
        let mut told = 0;
        for number in 0..100_000_u64 {
            let now = Duration::from_millis(number);
            let cause = of(&format!("{number}"));
            told += u64::from(flood.take(now, cause, (), |(), ()| ()).is_some());
            told += flood.summaries(now).len() as u64;
            assert!(flood.causes.len() <= APART + 1);
        }
        assert!(told < 250, "{told}");
    }

    #[test]
    fn what_the_configuration_bounds_is_told_apart() {
        let mut flood = Flood::default();
        for number in 0..1000_u64 {
            let cause = Cause {
                is_bounded: true,
                ..of(&format!("{number}"))
            };
            assert!(flood.take(seconds(0), cause, (), |(), ()| ()).is_some());
        }
        // And takes no other's place.
        assert!(flood.take(seconds(0), of("one"), (), |(), ()| ()).is_some());
        assert!(
            flood
                .take(seconds(0), of("other"), (), |(), ()| ())
                .is_some()
        );
    }
}
