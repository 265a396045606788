//! Where a silent tunnel is silent: judged by its outer packets at the uplinks, and by the packets that its interface
//! delivers. Pure; time is an argument.
//!
//! ```text
//! far end --outer packets--> uplink --delivered packets--> tunnel's interface --> this host
//!          nothing arrives           not delivered                             not answered (`echo_health`)
//! ```
//!
//! This is evidence and no proof: a tunnel that nobody answers may work. So it has no effect on a tunnel's health.

use std::{collections::VecDeque, fmt, time::Duration};

use sixxs_common::{
    packet::{GRE, UDP},
    six_in_four,
};

use crate::endpoint::Endpoint;

/// The period that is judged at a time.
pub const WINDOW: Duration = Duration::from_secs(30);

/// Fewer packets to the far end in a [`WINDOW`] mean nothing. WireGuard without an answer sends one each 5 s.
const MIN_SENT: u64 = 5;

/// Counters of a tunnel at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OuterCounts {
    /// Outer packets that left by an uplink.
    pub sent: u64,
    /// Outer packets that arrived at an uplink.
    pub arrived: u64,
    /// Packets that the tunnel's interface delivered.
    pub delivered: u64,
}

/// The number of outer packets that must arrive in a [`WINDOW`] so that some of them would be delivered. `None`: no
/// number is enough, since packets between both hosts need not belong to the tunnel.
#[must_use]
pub fn min_arrived(endpoints: &[Endpoint]) -> Option<u64> {
    let needed = endpoints.iter().map(|endpoint| match endpoint.protocol {
        // All their packets have payload.
        Some(six_in_four::PROTOCOL | GRE) => Some(3),
        // Keepalives and handshakes have none.
        Some(UDP) => Some(20),
        Some(_) => Some(40),
        None => None,
    });
    needed.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// Where a tunnel is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Outer packets left, and none arrived.
    NothingArrives {
        /// Packets that left.
        sent: u64,
        /// In this time.
        within: Duration,
    },
    /// Outer packets arrived, and the tunnel's interface delivered nothing.
    NotDelivered {
        /// Packets that arrived.
        arrived: u64,
        /// In this time.
        within: Duration,
    },
}

/// A silent tunnel. `Display` gives a clause about a tunnel that was named before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilentTunnel {
    /// Where it is silent.
    pub silence: Silence,
    /// The far end.
    pub endpoint: String,
    /// The age of the last outer packet that arrived; `None`: none has arrived.
    pub last_arrived: Option<Duration>,
}

impl fmt::Display for SilentTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            silence,
            endpoint,
            last_arrived,
        } = self;
        match silence {
            Silence::NothingArrives { sent, within } => {
                write!(f, "nothing arrives from {endpoint}")?;
                match last_arrived.map(|age| age.as_secs() / 60) {
                    None => write!(f, ", and nothing ever has")?,
                    Some(0) => {}
                    Some(minutes) => write!(f, " for {minutes} min")?,
                }
                write!(
                    f,
                    "; {sent} packets were sent in {} s: the far end is down, or a NAT or firewall drops them",
                    within.as_secs()
                )
            }
            Silence::NotDelivered { arrived, within } => write!(
                f,
                "{arrived} packets from {endpoint} arrived in {} s, and its interface delivered none: this host drops \
                 them, or the tunnel's software refuses them; see `sixxs doctor`",
                within.as_secs()
            ),
        }
    }
}

/// Watches the outer packets of one tunnel.
#[derive(Clone, Debug, Default)]
pub struct OuterMonitor {
    /// Earlier counters, oldest first; the first entry is the start of the judged period.
    observations: VecDeque<(Duration, OuterCounts)>,
    silence: Option<Silence>,
}

impl OuterMonitor {
    /// Judges new counters. `min_arrived`: see [`min_arrived`].
    pub fn observe(&mut self, now: Duration, counts: OuterCounts, min_arrived: Option<u64>) {
        let last = self.observations.back().map(|(_, last)| *last);
        if last.is_some_and(|last| last.arrived > counts.arrived || last.sent > counts.sent) {
            // The counters were reset.
            *self = Self::default();
        }
        let is_old = |(then, _): &(Duration, OuterCounts)| now.saturating_sub(*then) >= WINDOW;
        while self.observations.len() > 1 && is_old(&self.observations[1]) {
            self.observations.pop_front();
        }
        let first = self.observations.front().copied();
        self.observations.push_back((now, counts));
        let Some((then, first)) = first else {
            return;
        };
        let within = now.saturating_sub(then);
        let sent = counts.sent.saturating_sub(first.sent);
        let arrived = counts.arrived.saturating_sub(first.arrived);
        let delivered = counts.delivered.saturating_sub(first.delivered);
        if within < WINDOW {
            // A packet ends a silence at once.
            let is_over = match self.silence {
                Some(Silence::NothingArrives { .. }) => arrived > 0,
                Some(Silence::NotDelivered { .. }) => delivered > 0,
                None => false,
            };
            self.silence = self.silence.filter(|_| !is_over);
            return;
        }
        self.silence = if delivered > 0 {
            None
        } else if min_arrived.is_some_and(|least| arrived >= least) {
            Some(Silence::NotDelivered { arrived, within })
        } else if arrived == 0 && sent >= MIN_SENT {
            Some(Silence::NothingArrives { sent, within })
        } else {
            None
        };
    }

    /// Where the tunnel is silent; `None`: it is not, or it has too little traffic to judge.
    #[must_use]
    pub const fn silence(&self) -> Option<Silence> {
        self.silence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Observes these counters every 10 s.
    fn judged(all: &[(u64, u64, u64)]) -> Option<Silence> {
        let mut monitor = OuterMonitor::default();
        for (seconds, (sent, arrived, delivered)) in (0..).step_by(10).zip(all) {
            let counts = OuterCounts {
                sent: *sent,
                arrived: *arrived,
                delivered: *delivered,
            };
            monitor.observe(Duration::from_secs(seconds), counts, Some(3));
        }
        monitor.silence()
    }

    #[test]
    #[rustfmt::skip] // one table is easier to read
    fn each_place_of_silence() {
        let none = None;
        let within = WINDOW;
        let nothing_arrives = |sent| Some(Silence::NothingArrives { sent, within });
        let not_delivered = |arrived| Some(Silence::NotDelivered { arrived, within });
        let dead = [(0, 7, 7), (10, 7, 7), (20, 7, 7), (30, 7, 7)];
        let with = |more: &[(u64, u64, u64)]| [&dead[..], more].concat();
        for (name, counts, expected) in [
            ("idle", [(5, 5, 5); 5].to_vec(), none),
            ("works", vec![(0, 0, 0), (10, 10, 10), (20, 20, 20), (30, 30, 30)], none),
            ("no answer", dead.to_vec(), nothing_arrives(30)),
            ("too short", dead[..3].to_vec(), none),
            ("too few", vec![(0, 0, 0), (1, 0, 0), (3, 0, 0), (4, 0, 0)], none),
            ("dropped", vec![(0, 0, 4), (0, 10, 4), (0, 20, 4), (0, 30, 4)], not_delivered(30)),
            ("few dropped", vec![(0, 0, 0), (9, 1, 0), (18, 2, 0), (27, 2, 0)], none),
            ("no more traffic", with(&[(30, 7, 7); 3]), none),
            ("recovers", with(&[(40, 8, 8)]), none),
            ("arrives again", with(&[(40, 8, 7)]), none),
            ("reset", with(&[(1, 0, 0)]), none),
        ] {
            assert_eq!(judged(&counts), expected, "{name}");
        }
    }

    #[test]
    fn a_silence_ends_with_the_first_packet() {
        let mut monitor = OuterMonitor {
            silence: Some(Silence::NothingArrives {
                sent: 9,
                within: WINDOW,
            }),
            ..OuterMonitor::default()
        };
        let counts = |arrived| OuterCounts {
            arrived,
            ..OuterCounts::default()
        };
        let at = Duration::from_secs;
        monitor.observe(at(0), counts(0), None);
        monitor.observe(at(1), counts(0), None);
        assert!(monitor.silence().is_some());
        monitor.observe(at(2), counts(1), None);
        assert_eq!(monitor.silence(), None);
    }

    #[test]
    fn the_protocol_decides_how_many_packets_mean_something() {
        let endpoint = |protocol| Endpoint {
            remote: "198.51.100.1".parse().unwrap(),
            protocol,
            remote_port: None,
            local_port: None,
        };
        for (protocols, expected) in [
            (&[Some(41)][..], Some(3)),
            (&[Some(47)], Some(3)),
            (&[Some(17)], Some(20)),
            (&[Some(17), Some(6)], Some(40)),
            (&[None], None),
            (&[], None),
        ] {
            let endpoints: Vec<_> = protocols
                .iter()
                .map(|protocol| endpoint(*protocol))
                .collect();
            assert_eq!(min_arrived(&endpoints), expected, "{protocols:?}");
        }
        // Without endpoints nothing is counted, and any packet would be wrong.
        let mut monitor = OuterMonitor::default();
        for seconds in (0..=40).step_by(10) {
            let counts = OuterCounts {
                arrived: seconds * 10,
                ..OuterCounts::default()
            };
            monitor.observe(Duration::from_secs(seconds), counts, None);
        }
        assert_eq!(monitor.silence(), None);
    }

    #[test]
    fn the_clause_names_the_endpoint_and_the_time() {
        let silent = |silence, seconds: Option<u64>| SilentTunnel {
            silence,
            endpoint: "198.51.100.1:5072".to_owned(),
            last_arrived: seconds.map(Duration::from_secs),
        };
        let within = Duration::from_secs(40);
        let nothing = Silence::NothingArrives { sent: 12, within };
        for (seconds, expected) in [
            (
                None,
                "nothing arrives from 198.51.100.1:5072, and nothing ever has; 12 packets were sent in 40 s",
            ),
            (
                Some(31),
                "nothing arrives from 198.51.100.1:5072; 12 packets",
            ),
            (
                Some(190),
                "nothing arrives from 198.51.100.1:5072 for 3 min; 12 packets",
            ),
        ] {
            let text = silent(nothing, seconds).to_string();
            assert!(text.starts_with(expected), "{text}");
        }
        let text = silent(Silence::NotDelivered { arrived: 7, within }, Some(0)).to_string();
        assert!(
            text.starts_with("7 packets from 198.51.100.1:5072 arrived in 40 s"),
            "{text}"
        );
    }
}
