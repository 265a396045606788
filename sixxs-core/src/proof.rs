//! What the kernel's pairs of echo requests and replies prove: whether a tunnel answers.

use std::{collections::VecDeque, fmt, time::Duration};

use sixxs_common::{
    echo::{BUCKETS, Times, bucket_end_ns},
    stat::{Counters, Stat},
};

/// A request that came so lately is not yet without a reply, but waits for one.
pub const YOUNG: Duration = Duration::from_secs(1);

/// Echo requests for a tunnel's own addresses, as counted since its counters began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Requests whose reply was waited for.
    pub requests: u64,
    /// Those whose reply left by the tunnel.
    pub answered: u64,
    /// Those whose reply was about to leave elsewhere.
    pub astray: u64,
    /// Those of which it is not known.
    pub forgotten: u64,
}

impl Counted {
    /// As counted by the kernel.
    #[must_use]
    pub const fn of(counters: &Counters) -> Self {
        Self {
            requests: counters[Stat::EchoWatched.index()],
            answered: counters[Stat::EchoAnswered.index()],
            astray: counters[Stat::EchoAstray.index()],
            forgotten: counters[Stat::EchoForgotten.index()],
        }
    }

    /// Requests that had time for a reply, if `waiting` are [`YOUNG`], and of which it is known
    /// whether they got it.
    const fn due(&self, waiting: u64) -> u64 {
        let due = self.requests.saturating_sub(self.forgotten);
        let due = due.saturating_sub(waiting);
        // Counters are read while they count.
        let known = self.answered.saturating_add(self.astray);
        if due < known { known } else { due }
    }

    /// Requests without a reply, by the tunnel or elsewhere.
    #[must_use]
    pub const fn unanswered(&self, waiting: u64) -> u64 {
        self.due(waiting)
            .saturating_sub(self.answered.saturating_add(self.astray))
    }

    /// How many of a thousand got their reply by the tunnel, rounded down: 1000 means all. `None`: there
    /// were none.
    #[must_use]
    pub fn answered_per_mille(&self, waiting: u64) -> Option<u16> {
        let share = u128::from(self.answered) * 1000 / u128::from(self.due(waiting)).max(1);
        (self.due(waiting) > 0).then(|| u16::try_from(share).unwrap_or(1000))
    }

    /// Requests whose reply left, by the tunnel or elsewhere.
    const fn replies(&self) -> u64 {
        self.answered.saturating_add(self.astray)
    }

    const fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            answered: self.answered.saturating_sub(earlier.answered),
            astray: self.astray.saturating_sub(earlier.astray),
            forgotten: self.forgotten.saturating_sub(earlier.forgotten),
        }
    }
}

/// The time that half of all replies took at most, to within a quarter of it; `None`: there were none.
#[must_use]
pub fn median(times: &Times) -> Option<Duration> {
    let replies = &times.replies[..BUCKETS];
    let all: u64 = replies.iter().sum();
    let wanted = all.div_ceil(2);
    let mut below = 0;
    for (bucket, &here) in replies.iter().enumerate() {
        if below + here >= wanted && here > 0 {
            let begin = bucket.checked_sub(1).and_then(bucket_end_ns).unwrap_or(0);
            // Of what is beyond all buckets, no more is known than that.
            let end = bucket_end_ns(bucket).unwrap_or(begin);
            let into = u128::from(end - begin) * u128::from(wanted - below) / u128::from(here);
            return Some(Duration::from_nanos(
                begin.saturating_add(u64::try_from(into).unwrap_or(0)),
            ));
        }
        below += here;
    }
    None
}

/// How a tunnel answers of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// As it should, or nobody asked.
    #[default]
    Fine,
    /// Requests come, and hardly any reply leaves.
    Silent {
        /// Requests.
        requests: u64,
        /// Of which were answered.
        answered: u64,
    },
    /// Replies leave elsewhere, or are dropped there.
    Astray {
        /// Requests.
        requests: u64,
        /// Whose reply went astray.
        astray: u64,
    },
}

/// What people read of a tunnel named before.
impl fmt::Display for Manner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = JUDGED.as_secs();
        match self {
            Self::Fine => write!(f, "it answers"),
            Self::Silent { requests, answered } => write!(
                f,
                "it does not answer: of {requests} echo requests in {seconds} s, {answered} got a \
                 reply; see `sixxs doctor` for what may keep this host from replying"
            ),
            Self::Astray { requests, astray } => write!(
                f,
                "its replies leave elsewhere or are dropped: {astray} of {requests} in {seconds} s; \
                 see `sixxs alerts` for where"
            ),
        }
    }
}

/// What is judged at a time.
pub const JUDGED: Duration = Duration::from_secs(30);

/// Replies that go astray count from one in so many requests on: fewer are those of a moment, as when an
/// exit comes.
const ASTRAY_IN: u64 = 10;

/// Fewer requests say nothing.
const ENOUGH: u64 = 3;

/// Watches over one tunnel's answers.
#[derive(Clone, Debug, Default)]
pub struct Vigil {
    /// What was counted at earlier looks, the oldest first; that is as old as what is judged.
    looks: VecDeque<(Duration, Counted)>,
    /// How it was last judged.
    manner: Manner,
    /// What was counted when a reply was last counted, or at the first look.
    last_reply: Option<Counted>,
}

impl Vigil {
    /// Looks again; `waiting` are [`YOUNG`].
    pub fn look(&mut self, now: Duration, counted: Counted, waiting: u64) {
        // Counters began anew.
        let last = self.looks.back();
        if last.is_some_and(|(_, last)| last.requests > counted.requests) {
            self.looks.clear();
            self.last_reply = None;
        }
        if self
            .last_reply
            .is_none_or(|last| last.replies() < counted.replies())
        {
            self.last_reply = Some(counted);
        }
        // The newest that is old enough is compared with; what is older is not wanted any more.
        let is_old = |(then, _): &(Duration, Counted)| now.saturating_sub(*then) >= JUDGED;
        while self.looks.len() > 1 && is_old(&self.looks[1]) {
            self.looks.pop_front();
        }
        let lately = match self.looks.front() {
            Some((_, then)) => counted.since(then),
            None => Counted::default(),
        };
        self.looks.push_back((now, counted));
        if let Some(manner) = judge(&lately, waiting) {
            self.manner = manner;
        }
    }

    /// How many requests in a row got no reply, if the last of them got none; `waiting` are [`YOUNG`].
    #[must_use]
    pub fn unanswered_in_a_row(&self, counted: &Counted, waiting: u64) -> u64 {
        match &self.last_reply {
            Some(last) if last.replies() == counted.replies() => {
                counted.since(last).unanswered(waiting)
            }
            _ => 0,
        }
    }

    /// How it answered when that could last be said.
    #[must_use]
    pub const fn manner(&self) -> Manner {
        self.manner
    }
}

/// `None`: nothing can be said.
fn judge(lately: &Counted, waiting: u64) -> Option<Manner> {
    let requests = lately.due(waiting);
    if lately.astray > 0 && lately.astray.saturating_mul(ASTRAY_IN) >= requests {
        return Some(Manner::Astray {
            requests,
            astray: lately.astray,
        });
    }
    let answered = lately.answered;
    if requests < ENOUGH {
        // One answer is one; no answer to nobody is nothing.
        return (answered > 0 && answered == requests).then_some(Manner::Fine);
    }
    Some(if answered * 10 < requests {
        Manner::Silent { requests, answered }
    } else {
        Manner::Fine
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sixxs_common::echo::bucket;

    fn counted(requests: u64, answered: u64, astray: u64) -> Counted {
        Counted {
            requests,
            answered,
            astray,
            forgotten: 0,
        }
    }

    #[test]
    fn what_waits_or_is_forgotten_is_not_unanswered() {
        let all = Counted {
            forgotten: 1,
            ..counted(10, 7, 0)
        };
        assert_eq!(all.unanswered(2), 0);
        assert_eq!(all.answered_per_mille(2), Some(1000));
        assert_eq!(all.unanswered(0), 2);
        assert_eq!(all.answered_per_mille(0), Some(777));
        assert_eq!(Counted::default().answered_per_mille(0), None);
        assert_eq!(counted(1, 0, 0).answered_per_mille(1), None);
        // Never 100% as long as one is missing.
        let nearly = counted(1_000_000, 999_999, 0);
        assert_eq!(nearly.answered_per_mille(0), Some(999));
    }

    #[test]
    fn requests_in_a_row_without_a_reply() {
        let mut vigil = Vigil::default();
        let at = Duration::from_secs;
        // What was counted before the first look says nothing about the present.
        assert_eq!(vigil.unanswered_in_a_row(&counted(9, 0, 0), 0), 0);
        vigil.look(at(0), counted(9, 0, 0), 0);
        assert_eq!(vigil.unanswered_in_a_row(&counted(12, 0, 0), 0), 3);
        // The last one may still get its reply.
        assert_eq!(vigil.unanswered_in_a_row(&counted(12, 0, 0), 1), 2);
        vigil.look(at(10), counted(13, 1, 0), 0);
        assert_eq!(vigil.unanswered_in_a_row(&counted(15, 1, 0), 0), 2);
        assert_eq!(vigil.unanswered_in_a_row(&counted(16, 2, 0), 0), 0);
        // A reply that left elsewhere is a reply.
        assert_eq!(vigil.unanswered_in_a_row(&counted(16, 1, 1), 0), 0);
        // Counters began anew.
        vigil.look(at(20), counted(2, 0, 0), 0);
        assert_eq!(vigil.unanswered_in_a_row(&counted(6, 0, 0), 0), 4);
    }

    #[test]
    fn the_median_is_within_a_quarter() {
        assert_eq!(median(&Times::NONE), None);
        for ns in [300, 40_000, 41_000, 1_500_000, 3_000_000_000_u64] {
            let mut times = Times::NONE;
            times.replies[bucket(ns)] = 5;
            times.replies[bucket(1 << 40)] = 4;
            let found = u64::try_from(median(&times).unwrap().as_nanos()).unwrap();
            let off = found.abs_diff(ns);
            assert!(ns < 1024 && found <= 1024 || off * 4 <= ns, "{ns}: {found}");
        }
        let mut beyond = Times::NONE;
        beyond.replies[bucket(1 << 40)] = 1;
        assert_eq!(median(&beyond), Some(Duration::from_nanos(1 << 33)));
    }

    /// How the tunnel answers after each look, at a second, with what is counted then.
    fn manners(looks: &[(u64, Counted)]) -> Vec<Manner> {
        let mut vigil = Vigil::default();
        let looks = looks.iter();
        looks
            .map(|(seconds, counted)| {
                vigil.look(Duration::from_secs(*seconds), *counted, 0);
                vigil.manner()
            })
            .collect()
    }

    #[test]
    fn silence_lasts_until_there_is_an_answer() {
        let silent = |requests| Manner::Silent {
            requests,
            answered: 0,
        };
        let looks = [
            (0, counted(500, 10, 0)),
            (10, counted(502, 10, 0)),
            (20, counted(520, 10, 0)),
            (30, counted(540, 10, 0)),
            // Nobody asks: no better, no worse.
            (70, counted(540, 10, 0)),
            (80, counted(540, 10, 0)),
            (110, counted(541, 11, 0)),
            (120, counted(541, 11, 0)),
        ];
        assert_eq!(
            manners(&looks),
            [
                Manner::Fine,
                Manner::Fine,
                silent(20),
                silent(40),
                silent(40),
                silent(40),
                Manner::Fine,
                Manner::Fine,
            ]
        );
    }

    #[test]
    fn replies_that_leave_elsewhere() {
        let astray = |requests| Manner::Astray {
            requests,
            astray: 1,
        };
        let looks = [
            (0, counted(0, 0, 0)),
            (10, counted(10, 9, 1)),
            (20, counted(20, 18, 2)),
            (60, counted(60, 58, 2)),
            // A counter that begins anew is no news.
            (70, counted(1, 0, 0)),
            // Few of many.
            (80, counted(1001, 997, 3)),
        ];
        assert_eq!(
            manners(&looks),
            [
                Manner::Fine,
                astray(10),
                Manner::Astray {
                    requests: 20,
                    astray: 2,
                },
                Manner::Fine,
                Manner::Fine,
                Manner::Fine,
            ]
        );
    }
}
