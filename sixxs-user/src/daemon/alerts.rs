//! Alerts: written to the log, stored for later requests, sent to followers, and passed to hooks. All four get
//! repeated alerts in groups.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use sixxs_core::{
    alert_limiter::{AlertKey, AlertLimiter, stable_text},
    config::Config,
};
use tokio::{sync::broadcast, time::Instant};
use tracing::{info, warn};

use crate::{
    control::api::{About, Alert, Health, Leak},
    hooks::Hooks,
    host::clock::Clock,
    host::plain::Plain,
};

/// Limit of stored alerts. The oldest are dropped first.
const MAX_STORED: usize = 1000;

/// Limit of alerts that a slow follower may lag behind before it loses some.
const MAX_LAG: usize = 256;

/// Limit of states of a tunnel that are reported at once. A few manual restarts are no limiter.
const STATES_AT_ONCE: u32 = 6;

/// Limit of corrections of one cause that are reported at once. A restarted network manager causes two.
const CORRECTIONS_AT_ONCE: u32 = 3;

/// Limit of lines about leaks of one cause that are reported at once. Each flow has one a second.
const LEAKS_AT_ONCE: u32 = 5;

/// All alerts of this run.
pub(super) struct Alerts {
    clock: Clock,
    started: Instant,
    limiter: AlertLimiter<Alert>,
    /// Names of tunnels. Causes with different names are different.
    tunnels: BTreeSet<String>,
    stored: VecDeque<Alert>,
    followers: broadcast::Sender<Alert>,
    /// The present problems, as messages.
    problems: Vec<String>,
    hooks: Hooks,
}

impl Alerts {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            started: Instant::now(),
            limiter: AlertLimiter::default(),
            tunnels: BTreeSet::new(),
            stored: VecDeque::new(),
            followers: broadcast::channel(MAX_LAG).0,
            problems: Vec::new(),
            hooks: Hooks::default(),
        }
    }

    /// The present problems, as messages.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Sets the present problems. A problem is reported when it appears, and not again while it lasts.
    pub(super) fn set_problems(&mut self, problems: Vec<String>) {
        for problem in &problems {
            if !self.problems.contains(problem) {
                let problem = problem.clone();
                self.raise(About::Problem { problem });
            }
        }
        self.problems = problems;
    }

    /// Adds problems to the present ones, and raises alerts of new ones.
    pub(super) fn add_problems(&mut self, problems: Vec<String>) {
        let known = self.problems.iter().cloned();
        let all: BTreeSet<_> = known.chain(problems).collect();
        self.set_problems(all.into_iter().collect());
    }

    /// The problems of hooks, as messages.
    pub(super) fn hook_problems(&self) -> impl Iterator<Item = String> {
        self.hooks.problems()
    }

    /// Alerts that the queue of each hook has dropped.
    pub(super) fn dropped(&self) -> Vec<(&'static str, u64)> {
        self.hooks.dropped()
    }

    /// Reports all suppressed alerts, and waits for hooks for no longer than `limit`.
    pub(super) async fn finish(mut self, limit: Duration) {
        self.report_rest();
        self.hooks.finish(limit).await;
    }

    /// Applies a configuration: its hooks, and the names of its tunnels.
    pub(super) fn set_config(&mut self, config: &Config) {
        self.hooks.set(&config.alerting);
        let names = config.tunnels.iter();
        self.tunnels = names.map(|tunnel| tunnel.name.to_string()).collect();
    }

    /// Reports an alert at once, or suppresses it until the next summary of its cause.
    pub(super) fn raise(&mut self, about: About) {
        let alert = Alert {
            time: self.now(),
            about,
            more: 0,
        };
        let key = self.key(&alert.about);
        let now = self.started.elapsed();
        if let Some(alert) = self.limiter.admit(now, key, alert, merged) {
            self.report(alert);
        }
    }

    /// Whether alerts are suppressed.
    pub(super) fn has_more(&self) -> bool {
        self.limiter.has_more()
    }

    /// Reports the summaries that are due.
    pub(super) fn report_summaries(&mut self) {
        let summaries = self.limiter.summaries(self.started.elapsed());
        self.report_all(summaries);
    }

    /// Reports all suppressed alerts.
    fn report_rest(&mut self) {
        let summaries = self.limiter.rest();
        self.report_all(summaries);
    }

    fn report_all(&mut self, summaries: Vec<(Alert, u64)>) {
        for (mut alert, more) in summaries {
            // A leak alert already has the sum of the packets of all alerts that it replaces.
            if !matches!(alert.about, About::Leak(_)) {
                alert.more = more;
            }
            self.report(alert);
        }
    }

    fn key(&self, about: &About) -> AlertKey {
        let names = self.tunnels.iter().map(String::as_str).collect();
        let (kind, text, at_once) = match about {
            About::Leak(leak) => (
                format!("leak of {}", leak.tunnel),
                stable_text(&leak_cause(leak), &names),
                LEAKS_AT_ONCE,
            ),
            About::Correction {
                tunnel,
                correction,
                by,
            } => {
                // Each address of a tunnel is a cause of its own.
                let what = match tunnel {
                    Some(tunnel) => format!("{tunnel}: {correction}"),
                    None => stable_text(correction, &names),
                };
                let by = by.as_deref().unwrap_or_default();
                let text = format!("{what} by {}", stable_text(by, &names));
                ("correction".to_owned(), text, CORRECTIONS_AT_ONCE)
            }
            About::Tunnel { tunnel, .. } => ("tunnel".to_owned(), tunnel.clone(), STATES_AT_ONCE),
            About::Health { tunnel, .. } => ("health".to_owned(), tunnel.clone(), STATES_AT_ONCE),
            About::Problem { problem } => ("problem".to_owned(), stable_text(problem, &names), 1),
        };
        AlertKey {
            kind,
            text,
            at_once,
            is_bounded: matches!(about, About::Tunnel { .. } | About::Health { .. }),
        }
    }

    fn report(&mut self, alert: Alert) {
        let shown = Plain::line(&crate::control::text::alert(&alert));
        match &alert.about {
            About::Tunnel { .. } => info!("{shown}"),
            About::Health { health, .. } if *health == Health::Healthy => info!("{shown}"),
            _ => warn!("{shown}"),
        }
        if self.stored.len() == MAX_STORED {
            self.stored.pop_front();
        }
        self.stored.push_back(alert.clone());
        self.hooks.raise(&alert);
        // An error means that nobody listens.
        let _nobody = self.followers.send(alert);
    }

    pub(super) fn subscribe(&self) -> (Vec<Alert>, broadcast::Receiver<Alert>) {
        let so_far = self.stored.iter().cloned().collect();
        (so_far, self.followers.subscribe())
    }

    fn now(&self) -> String {
        timestamp(self.clock.wall())
    }
}

/// The properties that leaks of one group have in common.
fn leak_cause(leak: &Leak) -> String {
    let sender = [&leak.container, &leak.unit, &leak.cgroup_path];
    let treatment = leak.treatment.map(|treatment| treatment.to_string());
    let parts = [&leak.interface, &treatment, &leak.cause];
    let parts = parts.into_iter().chain(sender).flatten();
    let uid = leak.uid.map(|uid| format!("uid {uid}"));
    let parts = parts.cloned().chain(uid).collect::<Vec<_>>();
    parts.join(" ")
}

/// The later of two alerts of a cause, with the packets of both. If their flows differ, the result names no flow.
fn merged(before: Alert, after: Alert) -> Alert {
    let (About::Leak(before), About::Leak(leak)) = (before.about, &after.about) else {
        return after;
    };
    let flow = |leak: &Leak| {
        (
            leak.source,
            leak.destination,
            leak.ports,
            leak.protocol.clone(),
        )
    };
    let packets = before.packets.saturating_add(leak.packets);
    let merged = match flow(&before) == flow(leak) {
        true => Leak {
            packets,
            ..(**leak).clone()
        },
        false => Leak {
            tunnel: leak.tunnel.clone(),
            packets,
            ..Leak::default()
        },
    };
    Alert {
        about: About::Leak(Box::new(merged)),
        ..after
    }
}

/// A time in RFC 3339, to the millisecond. The length of the text is always the same.
fn timestamp(time: jiff::Timestamp) -> String {
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_all_as_long() {
        for (time, expected) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000Z"),
            ("2026-01-02T03:04:51.7Z", "2026-01-02T03:04:51.700Z"),
            ("2026-01-02T03:04:05.0129Z", "2026-01-02T03:04:05.012Z"),
        ] {
            assert_eq!(timestamp(time.parse().unwrap()), expected);
        }
    }
}
