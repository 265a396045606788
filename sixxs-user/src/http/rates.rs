//! Rates and shares of answered pings, from counters that are read repeatedly. Pure; time is an argument.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::Serialize;

use crate::control::api::{Leaks, Status, Tunnel, Uplink};

/// The time over which answered pings are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The data of an event `rates`. It has the tunnels and uplinks of the event `state` before it, in the same order.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Rates {
    tunnels: Vec<Rate>,
    uplinks: Vec<Rate>,
}

/// The rates of an interface. Unknown values are `null`.
#[derive(Debug, PartialEq, Serialize)]
struct Rate {
    /// Bytes per second that arrive.
    #[serde(rename = "in")]
    incoming: Option<u64>,
    /// Bytes per second that leave.
    out: Option<u64>,
    /// Pings from outside in the last minute.
    pings: u64,
    /// The part of them that was answered, in hundredths of a per cent, rounded down.
    answered: Option<u64>,
    /// All leaks that were counted: those of the tunnel's sources, or those at the uplink.
    leaks: u64,
}

/// The counters of an interface.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    incoming: u64,
    out: u64,
    answered: u64,
    /// Pings whose reply went astray, or that got none.
    failed: u64,
    leaks: u64,
}

/// The counters of all interfaces at a time.
#[derive(Debug)]
struct Sample {
    at: Duration,
    interfaces: BTreeMap<String, Counters>,
}

/// The counters of the last minute.
#[derive(Debug, Default)]
pub(super) struct Meter {
    samples: VecDeque<Sample>,
}

impl Meter {
    /// Adds the counters of a status, read at a time since any fixed start. Returns the rates since the last ones.
    pub(super) fn add(&mut self, at: Duration, status: &Status) -> Rates {
        let is_old = |sample: &Sample| at.saturating_sub(sample.at) > WINDOW;
        while self.samples.front().is_some_and(is_old) {
            self.samples.pop_front();
        }
        let mut sample = Sample {
            at,
            interfaces: BTreeMap::new(),
        };
        let mut rate = |name: &str, counters| {
            sample.interfaces.insert(name.to_owned(), counters);
            self.rate(at, name, counters)
        };
        let tunnels = status.tunnels.iter();
        let tunnels = tunnels.map(|tunnel| rate(&tunnel.name, Counters::of_tunnel(tunnel)));
        let tunnels = tunnels.collect();
        let uplinks = status.uplinks.iter();
        let uplinks = uplinks.map(|uplink| rate(&uplink.name, Counters::of_uplink(uplink)));
        let uplinks = uplinks.collect();
        self.samples.push_back(sample);
        Rates { tunnels, uplinks }
    }

    fn rate(&self, at: Duration, name: &str, now: Counters) -> Rate {
        let find = |sample: Option<&Sample>| {
            let sample = sample?;
            Some((sample.at, *sample.interfaces.get(name)?))
        };
        let last = find(self.samples.back());
        let rate = |of: fn(Counters) -> u64| {
            let (then, last) = last?;
            let growth = of(now).checked_sub(of(last))?;
            let millis = u64::try_from(at.checked_sub(then)?.as_millis()).ok()?;
            growth.saturating_mul(1000).checked_div(millis)
        };
        let first = find(self.samples.front()).map_or(now, |(_, first)| first);
        let growth = |of: fn(Counters) -> u64| of(now).saturating_sub(of(first));
        let answered = growth(|counters| counters.answered);
        let pings = answered.saturating_add(growth(|counters| counters.failed));
        Rate {
            incoming: rate(|counters| counters.incoming),
            out: rate(|counters| counters.out),
            pings,
            answered: answered.saturating_mul(10_000).checked_div(pings),
            leaks: now.leaks,
        }
    }
}

impl Counters {
    fn of_tunnel(tunnel: &Tunnel) -> Self {
        let proof = &tunnel.proof;
        Self {
            incoming: tunnel.bytes.incoming,
            out: tunnel.bytes.out,
            answered: proof.answered,
            failed: proof.astray.saturating_add(proof.unanswered),
            leaks: total(tunnel.leaks),
        }
    }

    fn of_uplink(uplink: &Uplink) -> Self {
        Self {
            out: uplink.bytes.out,
            leaks: uplink.leaks,
            ..Self::default()
        }
    }
}

fn total(leaks: Leaks) -> u64 {
    let Leaks {
        redirected,
        dropped,
        observed,
        too_big,
    } = leaks;
    [redirected, dropped, observed, too_big]
        .into_iter()
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fixture::status;

    /// The rates of the first tunnel, whose counters of bytes, answered and failed pings are these at some seconds.
    fn after(samples: &[(u64, [u64; 3])]) -> Rate {
        let mut meter = Meter::default();
        let rates = samples.iter().map(|(second, [bytes, answered, failed])| {
            let mut status = status(&["sixxs0"]);
            let tunnel = &mut status.tunnels[0];
            tunnel.bytes.incoming = *bytes;
            tunnel.proof.answered = *answered;
            tunnel.proof.unanswered = *failed;
            meter.add(Duration::from_secs(*second), &status)
        });
        rates.last().unwrap().tunnels.remove(0)
    }

    #[test]
    fn rates_are_since_the_last_reading() {
        for (samples, expected) in [
            (&[(0, [7, 0, 0])][..], None),
            (&[(0, [7, 0, 0]), (2, [107, 0, 0])], Some(50)),
            (&[(0, [0, 0, 0]), (2, [9, 0, 0]), (4, [9, 0, 0])], Some(0)),
            (&[(0, [700, 0, 0]), (2, [7, 0, 0])], None),
            (&[(2, [0, 0, 0]), (2, [7, 0, 0])], None),
            (&[(2, [0, 0, 0]), (1, [7, 0, 0])], None),
        ] {
            assert_eq!(after(samples).incoming, expected, "{samples:?}");
        }
    }

    #[test]
    fn answers_are_those_of_the_last_minute() {
        for (samples, pings, answered) in [
            (&[(0, [0, 9, 9])][..], 0, None),
            (&[(0, [0, 10, 0]), (2, [0, 12, 1])], 3, Some(6666)),
            (&[(0, [0, 0, 5]), (60, [0, 8, 5])], 8, Some(10_000)),
            (
                &[(0, [0, 0, 0]), (30, [0, 0, 5]), (61, [0, 8, 5])],
                8,
                Some(10_000),
            ),
            (&[(0, [0, 9, 0]), (2, [0, 0, 0])], 0, None),
        ] {
            let rate = after(samples);
            assert_eq!(
                (rate.pings, rate.answered),
                (pings, answered),
                "{samples:?}"
            );
        }
    }

    #[test]
    fn interfaces_come_and_go() {
        let mut meter = Meter::default();
        meter.add(Duration::ZERO, &status(&["a"]));
        let rates = meter.add(Duration::from_secs(1), &status(&["b", "a"]));
        let known = rates.tunnels.iter().map(|rate| rate.incoming.is_some());
        assert_eq!(known.collect::<Vec<_>>(), [false, true]);
        for second in 0..1000 {
            meter.add(Duration::from_secs(second), &status(&["a"]));
        }
        assert!(meter.samples.len() <= 61, "{}", meter.samples.len());
    }
}
