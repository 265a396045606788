//! Makes the records of minutes from observations, which come every few seconds and when something changes.
//!
//! ```text
//! minute     |------------------- 03:12 -------------------|----- 03:13 ...
//! observed   ^ healthy      ^ failing    ^ failing  ^ healthy  ^
//! counts as    healthy        failing      failing    healthy  the record of 03:12 is made, and that of 03:13 begins
//! ```

use std::{collections::BTreeMap, time::Duration};

use sixxs_common::echo::Times;

use super::{
    cause::Cause,
    minute::Minute,
    record::{Record, Share, State},
};
use crate::{
    echo_health::{self, EchoCounts},
    health::Level,
    types::IfName,
};

/// An observation stands for at most this long. Observations are ten seconds apart; in a longer gap the daemon was stopped,
/// and nothing is known.
const LONGEST: Duration = Duration::from_secs(60);

/// What is known about a tunnel at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Its state.
    pub state: State,
    /// Its health.
    pub level: Level,
    /// Why it is not healthy.
    pub cause: Option<Cause>,
    /// Pings from outside, since the counters started.
    pub echo: EchoCounts,
    /// Pings that may still get a reply.
    pub waiting: u64,
    /// Leaks, since the counters started.
    pub leaks: u64,
}

/// A minute that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The tunnel.
    pub tunnel: IfName,
    /// The minute.
    pub minute: Minute,
    /// Its record.
    pub record: Record,
}

/// Makes records.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The present minute; `None`: there was no observation yet.
    minute: Option<Minute>,
    tallies: BTreeMap<IfName, Tally>,
}

impl Recorder {
    /// Whether the next observation in `minute` ends another one.
    #[must_use]
    pub fn ends_with(&self, minute: Minute) -> bool {
        self.minute != Some(minute)
    }

    /// Takes an observation of all tunnels in `minute`, and returns the records of the minute that has ended with it. `now`
    /// is the time by a clock that never jumps. `times` gives the reply times of a tunnel since the counters started; it is
    /// called once a minute. Tunnels that are not observed any more are dropped.
    pub fn observe(
        &mut self,
        now: Duration,
        minute: Minute,
        observed: BTreeMap<IfName, Observation>,
        mut times: impl FnMut(&IfName) -> Option<Times>,
    ) -> Vec<Ended> {
        let before = self.minute.replace(minute);
        let same_minute = before == Some(minute);
        self.tallies.retain(|name, _| observed.contains_key(name));
        let mut ended = Vec::new();
        for (tunnel, observation) in observed {
            let mut tally = self.tallies.remove(&tunnel);
            if let Some(tally) = &mut tally {
                tally.observe(now, observation);
            }
            let tally = match tally {
                Some(tally) if same_minute => tally,
                last => {
                    let times = times(&tunnel);
                    // A clock that was never set gives no minute that anybody would look for.
                    let minute = before.filter(|before| *before >= Minute::EARLIEST);
                    if let (Some(last), Some(minute)) = (last, minute) {
                        ended.push(Ended {
                            tunnel: tunnel.clone(),
                            minute,
                            record: last.record(times.as_ref()),
                        });
                    }
                    Tally::begin(now, observation, times)
                }
            };
            self.tallies.insert(tunnel, tally);
        }
        ended
    }

    /// Adds a correction of a tunnel, or of all of them.
    pub fn add_correction(&mut self, tunnel: Option<&IfName>) {
        for (name, tally) in &mut self.tallies {
            if tunnel.is_none_or(|tunnel| tunnel == name) {
                tally.corrections = tally.corrections.saturating_add(1);
            }
        }
    }

    /// Adds an inside test of a tunnel.
    pub fn add_inside_test(&mut self, tunnel: &IfName, passed: bool) {
        if let Some(tally) = self.tallies.get_mut(tunnel) {
            tally.inside_tests = tally.inside_tests.saturating_add(1);
            tally.inside_passed = tally.inside_passed.saturating_add(u64::from(passed));
        }
    }
}

/// The present minute of a tunnel.
#[derive(Debug)]
struct Tally {
    /// The counters at its begin. Pings that waited then count for this minute.
    echo: EchoCounts,
    leaks: u64,
    times: Option<Times>,
    /// The last observation, and its time.
    last: Observation,
    last_at: Duration,
    /// The time that counts, and the times of each fault.
    observed: Duration,
    faults: BTreeMap<(Level, Cause), Duration>,
    inside_tests: u64,
    inside_passed: u64,
    corrections: u64,
}

impl Tally {
    fn begin(now: Duration, first: Observation, times: Option<Times>) -> Self {
        let waiting = first.waiting;
        Self {
            echo: EchoCounts {
                requests: first.echo.requests.saturating_sub(waiting),
                ..first.echo
            },
            leaks: first.leaks,
            times,
            last: first,
            last_at: now,
            observed: Duration::ZERO,
            faults: BTreeMap::new(),
            inside_tests: 0,
            inside_passed: 0,
            corrections: 0,
        }
    }

    /// The last observation counts until now.
    fn observe(&mut self, now: Duration, observation: Observation) {
        let elapsed = now.saturating_sub(self.last_at).min(LONGEST);
        let Observation {
            state,
            level,
            cause,
            ..
        } = self.last;
        // A tunnel that a user has stopped does not count.
        let counted = match state {
            State::Down => Duration::ZERO,
            _ => elapsed,
        };
        self.observed = self.observed.saturating_add(counted);
        if level > Level::Healthy {
            let cause = cause.unwrap_or(Cause::Unknown);
            let fault = self.faults.entry((level, cause)).or_default();
            *fault = fault.saturating_add(counted);
        }
        self.last = observation;
        self.last_at = now;
    }

    /// The record of the minute, with the reply times at its end.
    fn record(&self, times: Option<&Times>) -> Record {
        // Of the worst level, the cause that took longest.
        let fault = self
            .faults
            .iter()
            .max_by_key(|((level, _), time)| (*level, **time));
        let (level, cause) = match fault {
            Some(((level, cause), _)) => (*level, Some(*cause)),
            None => (Level::Healthy, None),
        };
        let answered = self.last.echo.since(&self.echo);
        let answered = answered.answered_per_mille(self.last.waiting);
        let median = self.times.as_ref().zip(times);
        Record {
            state: self.last.state,
            level,
            failing_seconds: self.failing_seconds(),
            cause,
            outside: answered.and_then(|share| Share::of(u64::from(share), 1000)),
            inside: Share::of(self.inside_passed, self.inside_tests),
            median: median.and_then(|(begin, end)| echo_health::median(&since(begin, end))),
            leaks: self.last.leaks.saturating_sub(self.leaks),
            corrections: self.corrections,
        }
    }

    /// The part of the minute in which the tunnel failed, in sixtieths of the time that is known: 0 and 60 only if it is
    /// exactly that.
    fn failing_seconds(&self) -> u8 {
        let failing = self
            .faults
            .iter()
            .filter(|((level, _), _)| *level == Level::Failing);
        let failing: Duration = failing.map(|(_, time)| *time).sum();
        if failing.is_zero() {
            return 0;
        }
        if failing >= self.observed {
            return 60;
        }
        let sixtieths = failing.as_millis() * 60 / self.observed.as_millis().max(1);
        u8::try_from(sixtieths.clamp(1, 59)).unwrap_or(59)
    }
}

/// The reply times of a period, by those at its begin and at its end.
fn since(begin: &Times, end: &Times) -> Times {
    let mut between = *end;
    for (replies, before) in between.replies.iter_mut().zip(begin.replies) {
        *replies = replies.saturating_sub(before);
    }
    between.sum_ns = between.sum_ns.saturating_sub(begin.sum_ns);
    between
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
