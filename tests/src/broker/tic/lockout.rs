//! The broker's rate limit for connects. The time is an argument.
//!
//! Connects of a refused client count too, towards the next time that it exceeds the limit. The count
//! restarts each time.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// Clients to remember; a lab has a handful.
const MOST_CLIENTS: usize = 1024;

/// The rate limit; by default as in the SixXS FAQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Connects allowed within [`Rule::window`]; one more exceeds the limit.
    pub connects: usize,
    /// Period in which connects are counted.
    pub window: Duration,
    /// Time for which a client that exceeded the limit is refused.
    pub refusal: Duration,
    /// A client that exceeds the limit again within this time is blocked.
    pub memory: Duration,
    /// Duration of the block.
    pub block: Duration,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            connects: 4,
            window: Duration::from_secs(60),
            refusal: Duration::from_secs(5 * 60),
            memory: Duration::from_secs(24 * 60 * 60),
            block: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

/// The decision about one connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Accepted.
    Welcome,
    /// The limit is exceeded; refused until this time.
    Refused(Duration),
    /// The limit is exceeded again; blocked until this time.
    Blocked(Duration),
}

/// The remembered connects.
#[derive(Debug, Default)]
pub(super) struct Lockout {
    clients: BTreeMap<IpAddr, Client>,
}

#[derive(Debug, Default)]
struct Client {
    connects: VecDeque<Duration>,
    exceeded: VecDeque<Duration>,
    refused_until: Duration,
    blocked_until: Duration,
}

impl Lockout {
    /// Counts a connect at `now` (since any epoch).
    pub(super) fn connect(&mut self, rule: &Rule, from: IpAddr, now: Duration) -> Verdict {
        if self.clients.len() >= MOST_CLIENTS {
            self.clients.pop_first();
        }
        let client = self.clients.entry(from).or_default();
        let past = |times: &mut VecDeque<Duration>, span: Duration| {
            while times.front().is_some_and(|time| *time + span <= now) {
                times.pop_front();
            }
        };
        past(&mut client.connects, rule.window);
        past(&mut client.exceeded, rule.memory);
        client.connects.push_back(now);
        if client.connects.len() > rule.connects {
            client.connects.clear();
            client.exceeded.push_back(now);
            if client.exceeded.len() > 1 {
                client.blocked_until = now + rule.block;
            } else {
                client.refused_until = now + rule.refusal;
            }
        }
        if now < client.blocked_until {
            Verdict::Blocked(client.blocked_until)
        } else if now < client.refused_until {
            Verdict::Refused(client.refused_until)
        } else {
            Verdict::Welcome
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
    const START: u64 = 1_000_000;

    #[test]
    fn by_the_rule() {
        use Verdict::{Blocked, Refused, Welcome};
        let at = |second| Duration::from_secs(START + second);
        let (refused, blocked) = (Refused(at(304)), Blocked(at(400 + 7 * 86_400)));
        let mut lockout = Lockout::default();
        for (second, verdict) in [
            (0, Welcome),
            (1, Welcome),
            (2, Welcome),
            (3, Welcome),
            // The fifth one in a minute.
            (4, refused),
            (5, refused),
            (303, refused),
            (304, Welcome),
            (396, Welcome),
            (397, Welcome),
            (398, Welcome),
            (399, Welcome),
            // The limit is exceeded again on the same day.
            (400, blocked),
            (86_400, blocked),
            (400 + 7 * 86_400 - 1, blocked),
            (400 + 7 * 86_400, Welcome),
        ] {
            assert_eq!(
                lockout.connect(&Rule::default(), FROM, at(second)),
                verdict,
                "at {second}"
            );
        }
    }

    #[test]
    fn who_continues_while_refused_is_blocked() {
        let mut lockout = Lockout::default();
        let verdicts = (0..10).map(|second| {
            let now = Duration::from_secs(START + second);
            lockout.connect(&Rule::default(), FROM, now)
        });
        let verdicts: Vec<_> = verdicts.collect();
        assert!(
            verdicts[..4]
                .iter()
                .all(|verdict| *verdict == Verdict::Welcome)
        );
        assert!(
            verdicts[4..9]
                .iter()
                .all(|verdict| matches!(verdict, Verdict::Refused(_)))
        );
        assert!(matches!(verdicts[9], Verdict::Blocked(_)));
        let other = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11));
        let now = Duration::from_secs(START + 10);
        assert_eq!(
            lockout.connect(&Rule::default(), other, now),
            Verdict::Welcome
        );
    }

    #[test]
    fn four_a_minute_for_a_day_is_fine() {
        let mut lockout = Lockout::default();
        for number in 0..4 * 24 * 60 {
            let now = Duration::from_secs(START + number * 15);
            let verdict = lockout.connect(&Rule::default(), FROM, now);
            assert_eq!(verdict, Verdict::Welcome, "connect {number}");
        }
    }
}
