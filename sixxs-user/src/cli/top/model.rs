//! The data: the last status with the rates of its counters, and the alerts. Pure; time is an argument. It does
//! not depend on the screen.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::meter::Meter;
use crate::{
    control::api::{
        About, Alert, Group, Health, Program, Routing, State, Status, Treatment, Tunnel, Uplink,
    },
    control::text,
};

/// Maximum number of alerts, as many as the daemon keeps, so that alerts that it sends again are recognised.
const ALERTS: usize = 1000;

/// All data for drawing the screen.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// The time without a status after which rates are unknown.
    stale_after: Duration,
    /// The time of the last status, since any fixed start.
    received_at: Duration,
    status: Option<Status>,
    lost: Option<Lost>,
    tunnels: BTreeMap<String, TunnelMeters>,
    uplinks: BTreeMap<String, UplinkMeters>,
    alerts: VecDeque<AlertLine>,
}

/// The daemon does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// The time of day of the first failed request.
    pub(super) since: String,
    /// The error.
    pub(super) why: String,
}

/// Rates of a tunnel's counters.
#[derive(Clone, Debug, Default)]
pub(super) struct TunnelMeters {
    pub(super) bytes_in: Meter,
    pub(super) bytes_out: Meter,
    pub(super) pings: Meter,
    pub(super) leaks: Meter,
}

/// Rates of an uplink's counters.
#[derive(Clone, Debug, Default)]
pub(super) struct UplinkMeters {
    pub(super) bytes_out: Meter,
    pub(super) leaks: Meter,
}

/// An alert, ready for the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AlertLine {
    /// The JSON, to recognise it when it comes again.
    line: String,
    /// The time of day.
    pub(super) time: String,
    /// The alert as text.
    pub(super) text: String,
    pub(super) urgency: Urgency,
}

/// Whether a tunnel's condition or an alert needs action by the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    None,
    /// The program has handled it, or it may resolve by itself.
    Low,
    /// It needs action now.
    High,
}

/// The sort key of tunnels. Higher values and worse states come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// The order in the configuration.
    #[default]
    File,
    Name,
    State,
    In,
    Out,
    Pings,
    Answered,
    Leaks,
}

impl Sort {
    const ALL: [Self; 8] = [
        Self::File,
        Self::Name,
        Self::State,
        Self::In,
        Self::Out,
        Self::Pings,
        Self::Answered,
        Self::Leaks,
    ];

    /// The sort key of the next column.
    pub(super) fn next(self) -> Self {
        let this = Self::ALL.iter().position(|one| *one == self);
        let next = this.map_or(0, |this| this + 1);
        Self::ALL.get(next).copied().unwrap_or_default()
    }

    /// The name for the screen.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Name => "name",
            Self::State => "state",
            Self::In => "in",
            Self::Out => "out",
            Self::Pings => "pings",
            Self::Answered => "answers",
            Self::Leaks => "leaks",
        }
    }
}

impl Model {
    /// `interval`: the time between two status requests.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            // One request or its answer may be late.
            stale_after: interval.saturating_mul(3).max(Duration::from_secs(3)),
            received_at: Duration::ZERO,
            status: None,
            lost: None,
            tunnels: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            alerts: VecDeque::new(),
        }
    }

    /// Stores a new status, with the time since any fixed start.
    pub(super) fn set_status(&mut self, status: Status, at: Duration) {
        let stale_after = self.stale_after;
        let (tunnels, uplinks) = (&status.tunnels, &status.uplinks);
        self.tunnels
            .retain(|name, _| tunnels.iter().any(|tunnel| tunnel.name == *name));
        self.uplinks
            .retain(|name, _| uplinks.iter().any(|uplink| uplink.name == *name));
        for tunnel in tunnels {
            let meters = self.tunnels.entry(tunnel.name.clone()).or_default();
            meters.bytes_in.add(at, tunnel.bytes.incoming, stale_after);
            meters.bytes_out.add(at, tunnel.bytes.out, stale_after);
            meters.pings.add(at, tunnel.echo.requests_in, stale_after);
            meters.leaks.add(at, leaks(tunnel), stale_after);
        }
        for uplink in uplinks {
            let meters = self.uplinks.entry(uplink.name.clone()).or_default();
            meters.bytes_out.add(at, uplink.bytes.out, stale_after);
            meters.leaks.add(at, uplink.leaks, stale_after);
        }
        self.received_at = at;
        self.status = Some(status);
        self.lost = None;
    }

    /// Records that the daemon does not answer, at this time of day.
    pub(super) fn set_lost(&mut self, since: String, why: String) {
        for meters in self.tunnels.values_mut() {
            meters.bytes_in.forget_last();
            meters.bytes_out.forget_last();
            meters.pings.forget_last();
            meters.leaks.forget_last();
        }
        for meters in self.uplinks.values_mut() {
            meters.bytes_out.forget_last();
            meters.leaks.forget_last();
        }
        let since = self.lost.take().map_or(since, |lost| lost.since);
        self.lost = Some(Lost { since, why });
    }

    /// Adds an alert, as a line of JSON. Ignores one that is already there: a new connection repeats them.
    pub(super) fn add_alert(&mut self, line: &str) {
        if self.alerts.iter().any(|alert| alert.line == line) {
            return;
        }
        let alert = match serde_json::from_str::<Alert>(line) {
            Ok(alert) => AlertLine {
                line: line.to_owned(),
                time: time_of_day(&alert.time),
                text: text::alert(&alert),
                urgency: urgency(&alert.about),
            },
            // An alert of a newer daemon: show the JSON.
            Err(_) => AlertLine {
                line: line.to_owned(),
                time: String::new(),
                text: line.to_owned(),
                urgency: Urgency::None,
            },
        };
        self.alerts.push_back(alert);
        if self.alerts.len() > ALERTS {
            self.alerts.pop_front();
        }
    }

    /// The last status.
    pub(super) fn status(&self) -> Option<&Status> {
        self.status.as_ref()
    }

    /// The time of the last status, since any fixed start.
    pub(super) fn received_at(&self) -> Duration {
        self.received_at
    }

    /// Since when and why the daemon does not answer; `None` if it does.
    pub(super) fn lost(&self) -> Option<&Lost> {
        self.lost.as_ref()
    }

    /// Newest last.
    pub(super) fn alerts(&self) -> &VecDeque<AlertLine> {
        &self.alerts
    }

    /// The tunnels, sorted.
    pub(super) fn tunnels(&self, sort: Sort, reverse: bool) -> Vec<(&Tunnel, &TunnelMeters)> {
        let tunnels = self.status.iter().flat_map(|status| &status.tunnels);
        let mut rows: Vec<_> = tunnels
            .filter_map(|tunnel| Some((tunnel, self.tunnels.get(&tunnel.name)?)))
            .collect();
        // A stable sort: equal tunnels stay in the order of the configuration.
        rows.sort_by(|(one, of_one), (other, of_other)| match sort {
            Sort::File => Ordering::Equal,
            Sort::Name => one.name.cmp(&other.name),
            Sort::State => tunnel_urgency(other).cmp(&tunnel_urgency(one)),
            Sort::In => more(of_one.bytes_in.rate(), of_other.bytes_in.rate()),
            Sort::Out => more(of_one.bytes_out.rate(), of_other.bytes_out.rate()),
            Sort::Pings => more(of_one.pings.rate(), of_other.pings.rate()),
            Sort::Answered => more(unanswered(one), unanswered(other)),
            Sort::Leaks => leaks(other).cmp(&leaks(one)),
        });
        if reverse {
            rows.reverse();
        }
        rows
    }

    /// The groups.
    pub(super) fn groups(&self) -> &[Group] {
        let status = self.status.as_ref();
        status.map_or(&[], |status| status.groups.as_slice())
    }

    /// The uplinks.
    pub(super) fn uplinks(&self) -> Vec<(&Uplink, &UplinkMeters)> {
        let uplinks = self.status.iter().flat_map(|status| &status.uplinks);
        uplinks
            .filter_map(|uplink| Some((uplink, self.uplinks.get(&uplink.name)?)))
            .collect()
    }
}

/// A tunnel's leaks, of all treatments.
pub(super) fn leaks(tunnel: &Tunnel) -> u64 {
    let leaks = &tunnel.leaks;
    [
        leaks.redirected,
        leaks.dropped,
        leaks.observed,
        leaks.too_big,
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

/// A tunnel's condition as one word: its state, or the problem of one that is up.
pub(super) fn condition(tunnel: &Tunnel) -> &'static str {
    match tunnel.state {
        State::Up if tunnel.program != Program::Attached => "no program",
        State::Up if tunnel.routing != Routing::InPlace => "no routes",
        State::Up if matches!(tunnel.health, Health::Degraded | Health::Failing) => {
            tunnel.health.name()
        }
        state => state.name(),
    }
}

pub(super) fn tunnel_urgency(tunnel: &Tunnel) -> Urgency {
    let is_complete = tunnel.program == Program::Attached && tunnel.routing == Routing::InPlace;
    match (tunnel.state, tunnel.health) {
        (State::Up, Health::Healthy | Health::Unknown) if is_complete => Urgency::None,
        (State::Up, Health::Degraded) if is_complete => Urgency::Low,
        (State::Down | State::Waiting | State::Connecting, _) => Urgency::Low,
        _ => Urgency::High,
    }
}

fn unanswered(tunnel: &Tunnel) -> Option<f64> {
    tunnel.proof.answered_percent.map(|percent| 100.0 - percent)
}

/// Larger values first, unknown ones last.
fn more(one: Option<f64>, other: Option<f64>) -> Ordering {
    let or_least = |value: Option<f64>| value.unwrap_or(f64::NEG_INFINITY);
    or_least(other).total_cmp(&or_least(one))
}

fn urgency(about: &About) -> Urgency {
    match about {
        About::Leak(leak) if leak.treatment == Some(Treatment::Redirected) => Urgency::Low,
        About::Leak(_) | About::Problem { .. } => Urgency::High,
        About::Tunnel {
            state: State::Failed | State::LockedOut,
            ..
        } => Urgency::High,
        About::Health {
            health: Health::Failing,
            ..
        } => Urgency::High,
        About::Health {
            health: Health::Degraded,
            ..
        }
        | About::Switch { .. }
        | About::Deprecation {
            deprecated: true, ..
        } => Urgency::Low,
        About::Tunnel { .. }
        | About::Health { .. }
        | About::Correction { .. }
        | About::Deprecation { .. } => Urgency::None,
    }
}

/// `12:03:11` from `2024-01-01T12:03:11.5Z`.
pub(super) fn time_of_day(time: &str) -> String {
    let (_, time) = time.split_once('T').unwrap_or(("", time));
    time.chars().take("12:03:11".len()).collect()
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
