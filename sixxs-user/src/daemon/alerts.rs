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

/// Limit of states of a tunnel that are reported at once. A few manual restarts are no flood.
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
    hooks: Hooks,
}

impl Alerts {
    /// No alerts yet. Their times are read from this clock.
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            started: Instant::now(),
            limiter: AlertLimiter::default(),
            tunnels: BTreeSet::new(),
            stored: VecDeque::new(),
            followers: broadcast::channel(MAX_LAG).0,
            hooks: Hooks::default(),
        }
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
            alert.more = match &alert.about {
                // A leak's packet count already includes the others.
                About::Leak(_) => 0,
                About::Correction { .. }
                | About::Tunnel { .. }
                | About::Health { .. }
                | About::Switch { .. }
                | About::Deprecation { .. }
                | About::Problem { .. } => more,
            };
            self.report(alert);
        }
    }

    fn key(&self, about: &About) -> AlertKey {
        let names = self.tunnels.iter().map(String::as_str).collect();
        let (kind, text, at_once, is_bounded) = match about {
            About::Leak(leak) => (
                format!("leak of {}", leak.tunnel),
                stable_text(&leak_cause(leak), &names),
                LEAKS_AT_ONCE,
                false,
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
                ("correction".to_owned(), text, CORRECTIONS_AT_ONCE, false)
            }
            About::Tunnel { tunnel, .. } => {
                ("tunnel".to_owned(), tunnel.clone(), STATES_AT_ONCE, true)
            }
            About::Health { tunnel, .. } => {
                ("health".to_owned(), tunnel.clone(), STATES_AT_ONCE, true)
            }
            About::Switch { group, .. } => {
                ("switch".to_owned(), group.clone(), STATES_AT_ONCE, true)
            }
            About::Deprecation { tunnel, .. } => (
                "deprecation".to_owned(),
                tunnel.clone(),
                STATES_AT_ONCE,
                true,
            ),
            About::Problem { problem } => {
                ("problem".to_owned(), stable_text(problem, &names), 1, false)
            }
        };
        AlertKey {
            kind,
            text,
            at_once,
            is_bounded,
        }
    }

    fn report(&mut self, alert: Alert) {
        let shown = Plain::line(&crate::control::text::alert(&alert));
        let needs_attention = match &alert.about {
            About::Tunnel { .. } => false,
            About::Health { health, .. } => *health != Health::Healthy,
            About::Deprecation { deprecated, .. } => *deprecated,
            About::Leak(_)
            | About::Correction { .. }
            | About::Switch { .. }
            | About::Problem { .. } => true,
        };
        match needs_attention {
            true => warn!("{shown}"),
            false => info!("{shown}"),
        }
        if self.stored.len() == MAX_STORED {
            self.stored.pop_front();
        }
        self.stored.push_back(alert.clone());
        self.hooks.raise(&alert);
        // An error means that nobody listens.
        let _nobody = self.followers.send(alert);
    }

    /// The stored alerts, and a receiver for those to come.
    pub(super) fn subscribe(&self) -> (Vec<Alert>, broadcast::Receiver<Alert>) {
        let so_far = self.stored.iter().cloned().collect();
        (so_far, self.followers.subscribe())
    }

    /// The time, as alerts show it.
    fn now(&self) -> String {
        timestamp(self.clock.wall())
    }
}

/// The properties that leaks of one group have in common.
fn leak_cause(leak: &Leak) -> String {
    let sender = [&leak.container, &leak.unit, &leak.cgroup_path];
    let treatment = leak.treatment.map(|treatment| treatment.to_string());
    let way = [&leak.interface, &treatment, &leak.cause];
    let uid = leak.uid.map(|uid| format!("uid {uid}"));
    let known = way.into_iter().chain(sender).flatten();
    let parts: Vec<_> = known.cloned().chain(uid).collect();
    parts.join(" ")
}

/// Merges two alerts of one cause: packets add up. For the same flow the later one remains; for different flows, a
/// line without a flow.
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

/// A time in RFC 3339, to the millisecond: a text of fixed width.
fn timestamp(time: jiff::Timestamp) -> String {
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_fixed_width() {
        for (time, expected) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000Z"),
            ("2026-01-02T03:04:51.7Z", "2026-01-02T03:04:51.700Z"),
            ("2026-01-02T03:04:05.0129Z", "2026-01-02T03:04:05.012Z"),
        ] {
            assert_eq!(timestamp(time.parse().unwrap()), expected);
        }
    }
}
