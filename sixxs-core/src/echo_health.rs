//! Evaluates the kernel's pairs of echo requests and replies: whether a tunnel answers.

use std::{collections::VecDeque, fmt, time::Duration};

use sixxs_common::{
    echo::{BUCKETS, Times, bucket_end_ns},
    stat::{Counters, Stat},
};

/// A request younger than this counts as waiting, not as unanswered.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// Counters of echo requests to a tunnel's own addresses, since the counters started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EchoCounts {
    /// Requests that were tracked.
    pub requests: u64,
    /// Requests whose reply left by the tunnel.
    pub answered: u64,
    /// Requests whose reply was about to leave elsewhere.
    pub astray: u64,
    /// Requests with an unknown result.
    pub forgotten: u64,
}

impl EchoCounts {
    /// From the kernel's counters.
    #[must_use]
    pub const fn of(counters: &Counters) -> Self {
        Self {
            requests: counters[Stat::EchoWatched.index()],
            answered: counters[Stat::EchoAnswered.index()],
            astray: counters[Stat::EchoAstray.index()],
            forgotten: counters[Stat::EchoForgotten.index()],
        }
    }

    /// Requests with a known result that had time for a reply; `waiting` is the number of [`REPLY_TIMEOUT`]
    /// ones.
    const fn due(&self, waiting: u64) -> u64 {
        let due = self.requests.saturating_sub(self.forgotten);
        let due = due.saturating_sub(waiting);
        // The counters change while they are read.
        let known = self.answered.saturating_add(self.astray);
        if due < known { known } else { due }
    }

    /// Requests without any reply, by the tunnel or elsewhere.
    #[must_use]
    pub const fn unanswered(&self, waiting: u64) -> u64 {
        self.due(waiting)
            .saturating_sub(self.answered.saturating_add(self.astray))
    }

    /// Requests that may still get a reply. `waiting` is the number of [`REPLY_TIMEOUT`] ones, read after these counters,
    /// and `later` are counters read after that. A request whose reply left in between is neither answered in these
    /// counters nor waiting.
    #[must_use]
    pub const fn not_missing(&self, waiting: u64, later: &Self) -> u64 {
        let answered_since = later.replies().saturating_sub(self.replies());
        waiting.saturating_add(answered_since)
    }

    /// Requests per thousand whose reply left by the tunnel, rounded down: 1000 means all. `None`: there
    /// were no requests.
    #[must_use]
    pub fn answered_per_mille(&self, waiting: u64) -> Option<u16> {
        let share = u128::from(self.answered) * 1000 / u128::from(self.due(waiting)).max(1);
        (self.due(waiting) > 0).then(|| u16::try_from(share).unwrap_or(1000))
    }

    /// Requests whose reply left, by the tunnel or elsewhere.
    const fn replies(&self) -> u64 {
        self.answered.saturating_add(self.astray)
    }

    /// The counts since earlier ones.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            answered: self.answered.saturating_sub(earlier.answered),
            astray: self.astray.saturating_sub(earlier.astray),
            forgotten: self.forgotten.saturating_sub(earlier.forgotten),
        }
    }
}

/// The median reply time, exact to a quarter of it; `None`: there were no replies.
#[must_use]
pub fn median(times: &Times) -> Option<Duration> {
    let replies = &times.replies[..BUCKETS];
    let all: u64 = replies.iter().sum();
    let wanted = all.div_ceil(2);
    let mut below = 0;
    for (bucket, &here) in replies.iter().enumerate() {
        if below + here >= wanted && here > 0 {
            let begin = bucket.checked_sub(1).and_then(bucket_end_ns).unwrap_or(0);
            // The last bucket has no upper bound.
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

/// The recent result of echo pairing for a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EchoHealth {
    /// It answers, or there were no requests.
    #[default]
    Fine,
    /// There are requests, but hardly any reply leaves.
    Silent {
        /// Requests.
        requests: u64,
        /// Number of answered ones.
        answered: u64,
    },
    /// Replies leave elsewhere, or are dropped there.
    Astray {
        /// Requests.
        requests: u64,
        /// Number of requests whose reply left elsewhere.
        astray: u64,
    },
}

/// A clause for users about a tunnel that was named before.
impl fmt::Display for EchoHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = WINDOW.as_secs();
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

/// The period that is evaluated at a time.
pub const WINDOW: Duration = Duration::from_secs(30);

/// Replies that leave elsewhere count if they are at least one in this many requests. Fewer are
/// transient, for example when an exit appears.
const ASTRAY_ONE_IN: u64 = 10;

/// Fewer requests are too few to judge.
const MIN_REQUESTS: u64 = 3;

/// Watches the replies of one tunnel.
#[derive(Clone, Debug, Default)]
pub struct EchoMonitor {
    /// Earlier counters, oldest first; the first entry is the start of the evaluated period.
    observations: VecDeque<(Duration, EchoCounts)>,
    /// The last result.
    health: EchoHealth,
    /// The counters at the last reply, or at the first look.
    last_reply: Option<EchoCounts>,
}

impl EchoMonitor {
    /// Evaluates new counters; `waiting` is the number of [`REPLY_TIMEOUT`] requests.
    pub fn observe(&mut self, now: Duration, counted: EchoCounts, waiting: u64) {
        // The counters were reset.
        let last = self.observations.back();
        if last.is_some_and(|(_, last)| last.requests > counted.requests) {
            self.observations.clear();
            self.last_reply = None;
        }
        if self
            .last_reply
            .is_none_or(|last| last.replies() < counted.replies())
        {
            self.last_reply = Some(counted);
        }
        // The comparison uses the newest entry that is old enough; older ones are removed.
        let is_old = |(then, _): &(Duration, EchoCounts)| now.saturating_sub(*then) >= WINDOW;
        while self.observations.len() > 1 && is_old(&self.observations[1]) {
            self.observations.pop_front();
        }
        let recent = match self.observations.front() {
            Some((_, then)) => counted.since(then),
            None => EchoCounts::default(),
        };
        self.observations.push_back((now, counted));
        if let Some(health) = judge(&recent, waiting) {
            self.health = health;
        }
    }

    /// Number of unanswered requests since the last reply; `waiting` is the number of [`REPLY_TIMEOUT`] ones.
    #[must_use]
    pub fn unanswered_in_a_row(&self, counted: &EchoCounts, waiting: u64) -> u64 {
        match &self.last_reply {
            Some(last) if last.replies() == counted.replies() => {
                counted.since(last).unanswered(waiting)
            }
            _ => 0,
        }
    }

    /// The last result that was certain.
    #[must_use]
    pub const fn health(&self) -> EchoHealth {
        self.health
    }
}

/// `None`: too few requests to judge.
fn judge(recent: &EchoCounts, waiting: u64) -> Option<EchoHealth> {
    let requests = recent.due(waiting);
    if recent.astray > 0 && recent.astray.saturating_mul(ASTRAY_ONE_IN) >= requests {
        return Some(EchoHealth::Astray {
            requests,
            astray: recent.astray,
        });
    }
    let answered = recent.answered;
    if requests < MIN_REQUESTS {
        // Too few requests to judge, unless all were answered.
        return (answered > 0 && answered == requests).then_some(EchoHealth::Fine);
    }
    Some(if answered * 10 < requests {
        EchoHealth::Silent { requests, answered }
    } else {
        EchoHealth::Fine
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sixxs_common::echo::bucket;

    fn counted(requests: u64, answered: u64, astray: u64) -> EchoCounts {
        EchoCounts {
            requests,
            answered,
            astray,
            forgotten: 0,
        }
    }

    #[test]
    fn pending_and_evicted_requests_are_not_unanswered() {
        let all = EchoCounts {
            forgotten: 1,
            ..counted(10, 7, 0)
        };
        assert_eq!(all.unanswered(2), 0);
        assert_eq!(all.answered_per_mille(2), Some(1000));
        assert_eq!(all.unanswered(0), 2);
        assert_eq!(all.answered_per_mille(0), Some(777));
        assert_eq!(EchoCounts::default().answered_per_mille(0), None);
        assert_eq!(counted(1, 0, 0).answered_per_mille(1), None);
        // Never 100% while one reply is missing.
        let nearly = counted(1_000_000, 999_999, 0);
        assert_eq!(nearly.answered_per_mille(0), Some(999));
    }

    #[test]
    fn a_reply_while_the_counters_are_read_is_not_missing() {
        let (counters, later) = (counted(10, 8, 0), counted(11, 9, 0));
        // One waits, and the reply of another left between the two readings.
        assert_eq!(counters.unanswered(1), 1);
        assert_eq!(counters.unanswered(counters.not_missing(1, &later)), 0);
        // A reply that is missing stays missing.
        assert_eq!(counters.unanswered(counters.not_missing(1, &counters)), 1);
        assert_eq!(counters.not_missing(0, &EchoCounts::default()), 0);
    }

    #[test]
    fn requests_in_a_row_without_a_reply() {
        let mut monitor = EchoMonitor::default();
        let at = Duration::from_secs;
        // Counters from before the first look do not describe the present.
        assert_eq!(monitor.unanswered_in_a_row(&counted(9, 0, 0), 0), 0);
        monitor.observe(at(0), counted(9, 0, 0), 0);
        assert_eq!(monitor.unanswered_in_a_row(&counted(12, 0, 0), 0), 3);
        // The last request may still get its reply.
        assert_eq!(monitor.unanswered_in_a_row(&counted(12, 0, 0), 1), 2);
        monitor.observe(at(10), counted(13, 1, 0), 0);
        assert_eq!(monitor.unanswered_in_a_row(&counted(15, 1, 0), 0), 2);
        assert_eq!(monitor.unanswered_in_a_row(&counted(16, 2, 0), 0), 0);
        // A reply that left elsewhere is a reply.
        assert_eq!(monitor.unanswered_in_a_row(&counted(16, 1, 1), 0), 0);
        // The counters were reset.
        monitor.observe(at(20), counted(2, 0, 0), 0);
        assert_eq!(monitor.unanswered_in_a_row(&counted(6, 0, 0), 0), 4);
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

    /// The results after each look, at a time in seconds, with these counters.
    fn healths(observations: &[(u64, EchoCounts)]) -> Vec<EchoHealth> {
        let mut monitor = EchoMonitor::default();
        let observations = observations.iter();
        observations
            .map(|(seconds, counted)| {
                monitor.observe(Duration::from_secs(*seconds), *counted, 0);
                monitor.health()
            })
            .collect()
    }

    #[test]
    fn silence_lasts_until_there_is_an_answer() {
        let silent = |requests| EchoHealth::Silent {
            requests,
            answered: 0,
        };
        let observations = [
            (0, counted(500, 10, 0)),
            (10, counted(502, 10, 0)),
            (20, counted(520, 10, 0)),
            (30, counted(540, 10, 0)),
            // Without requests the result does not change.
            (70, counted(540, 10, 0)),
            (80, counted(540, 10, 0)),
            (110, counted(541, 11, 0)),
            (120, counted(541, 11, 0)),
        ];
        assert_eq!(
            healths(&observations),
            [
                EchoHealth::Fine,
                EchoHealth::Fine,
                silent(20),
                silent(40),
                silent(40),
                silent(40),
                EchoHealth::Fine,
                EchoHealth::Fine,
            ]
        );
    }

    #[test]
    fn replies_that_leave_elsewhere() {
        let astray = |requests| EchoHealth::Astray {
            requests,
            astray: 1,
        };
        let observations = [
            (0, counted(0, 0, 0)),
            (10, counted(10, 9, 1)),
            (20, counted(20, 18, 2)),
            (60, counted(60, 58, 2)),
            // A reset of the counters changes nothing.
            (70, counted(1, 0, 0)),
            // Few of many.
            (80, counted(1001, 997, 3)),
        ];
        assert_eq!(
            healths(&observations),
            [
                EchoHealth::Fine,
                astray(10),
                EchoHealth::Astray {
                    requests: 20,
                    astray: 2,
                },
                EchoHealth::Fine,
                EchoHealth::Fine,
                EchoHealth::Fine,
            ]
        );
    }

    #[test]
    fn counts_are_read_from_the_counters_of_their_names() {
        let mut counters = [0; sixxs_common::stat::CAPACITY];
        for (place, value) in counters.iter_mut().zip(1000..) {
            *place = value;
        }
        let at = |name: &str| {
            let stat = Stat::ALL.iter().find(|stat| stat.name() == name);
            counters[stat.unwrap().index()]
        };
        let expected = EchoCounts {
            requests: at("echo_watched"),
            answered: at("echo_answered"),
            astray: at("echo_astray"),
            forgotten: at("echo_forgotten"),
        };
        assert_eq!(EchoCounts::of(&counters), expected);
    }

    #[test]
    fn results_read_as_clauses() {
        let (requests, answered, astray) = (40, 2, 9);
        for (health, expected) in [
            (EchoHealth::Fine, "it answers"),
            (
                EchoHealth::Silent { requests, answered },
                "it does not answer: of 40 echo requests in 30 s, 2 got a reply; see `sixxs doctor`",
            ),
            (
                EchoHealth::Astray { requests, astray },
                "its replies leave elsewhere or are dropped: 9 of 40 in 30 s; see `sixxs alerts`",
            ),
        ] {
            let text = health.to_string();
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[test]
    #[rustfmt::skip] // one case per line
    fn few_requests_are_judged_only_if_all_were_answered() {
        let silent = |requests, answered| Some(EchoHealth::Silent { requests, answered });
        let astray = |requests, astray| Some(EchoHealth::Astray { requests, astray });
        let fine = Some(EchoHealth::Fine);
        // requests, answered, astray, waiting
        for (requests, answered, gone, waiting, expected) in [
            (0, 0, 0, 0, None),
            (1, 0, 0, 0, None),
            (1, 1, 0, 0, fine),
            (2, 1, 0, 0, None),
            (2, 1, 0, 1, fine),
            (2, 0, 0, 0, None),
            (3, 0, 0, 0, silent(3, 0)),
            (3, 0, 0, 1, None),
            (4, 0, 0, 1, silent(3, 0)),
            (20, 1, 0, 0, silent(20, 1)),
            (20, 2, 0, 0, fine),
            (20, 18, 2, 0, astray(20, 2)),
            (21, 19, 2, 0, fine),
            (1, 0, 1, 0, astray(1, 1)),
        ] {
            let found = judge(&counted(requests, answered, gone), waiting);
            assert_eq!(found, expected, "{requests} {answered} {gone} {waiting}");
        }
    }

    #[test]
    fn counters_that_change_while_they_are_read_do_no_harm() {
        let torn = counted(5, 4, 3);
        assert_eq!(torn.unanswered(0), 0);
        assert_eq!(torn.answered_per_mille(0), Some(571));
        let forgotten = EchoCounts {
            forgotten: 9,
            ..counted(5, 2, 1)
        };
        assert_eq!(forgotten.unanswered(0), 0);
        assert_eq!(forgotten.answered_per_mille(0), Some(666));
        let earlier = EchoCounts {
            forgotten: 3,
            ..counted(9, 4, 2)
        };
        let later = EchoCounts {
            forgotten: 4,
            ..counted(20, 11, 5)
        };
        let since = later.since(&earlier);
        assert_eq!(
            since,
            EchoCounts {
                forgotten: 1,
                ..counted(11, 7, 3)
            }
        );
    }

    /// The comparison is with the counters of at least 30 seconds before.
    #[test]
    fn what_is_long_ago_does_not_count() {
        let mut vigil = EchoMonitor::default();
        let mut look = |seconds, requests, answered| {
            let at = Duration::from_secs(seconds);
            vigil.observe(at, counted(requests, answered, 0), 0);
            vigil.health()
        };
        assert_eq!(look(0, 0, 0), EchoHealth::Fine);
        assert_eq!(look(10, 100, 100), EchoHealth::Fine);
        // 100 answers of 110 requests since the start, and none of 10 since the second look.
        assert_eq!(look(39, 110, 100), EchoHealth::Fine);
        let expected = EchoHealth::Silent {
            requests: 11,
            answered: 0,
        };
        assert_eq!(look(40, 111, 100), expected);
    }

    #[test]
    fn the_median_moves_within_its_bucket() {
        let replies = |counts: &[(usize, u64)]| {
            let mut times = Times::NONE;
            for (bucket, count) in counts {
                times.replies[*bucket] = *count;
            }
            median(&times).map(|median| median.as_nanos())
        };
        // The first bucket ends at 1024 ns, the next ones at 2048 and 3072 ns.
        assert_eq!(replies(&[(0, 1)]), Some(1024));
        assert_eq!(replies(&[(0, 4)]), Some(512));
        assert_eq!(replies(&[(0, 1), (1, 1)]), Some(1024));
        assert_eq!(replies(&[(0, 1), (1, 2)]), Some(1536));
        assert_eq!(replies(&[(1, 4)]), Some(1536));
        assert_eq!(replies(&[(0, 2), (1, 8)]), Some(1024 + 384));
        assert_eq!(replies(&[]), None);
    }
}
