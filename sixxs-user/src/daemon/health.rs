//! The health of tunnels: gathers the facts for [`Health::judge`], and decides which changes are reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::Duration,
};

use sixxs_core::{
    active_link::{Switch, SwitchCause},
    config::{OnLeak, Tunnel},
    doctor::routing::Shadow,
    enforce,
    failure_tracker::REPAIR_TIME,
    health::{Facts, Health, ShadowEffect, ShadowFate, Watch},
    types::IfName,
};

use super::snapshot::Snapshot;
use crate::control::api::About;

/// Decides which changes of health are reported.
#[derive(Debug, Default)]
pub(super) struct HealthMonitor {
    watches: BTreeMap<IfName, Watch>,
    due: Option<Duration>,
}

impl HealthMonitor {
    /// Something may have changed. Health is judged once a repair has had its time.
    pub(super) fn schedule(&mut self, now: Duration) {
        self.due.get_or_insert(now.saturating_add(REPAIR_TIME));
    }

    /// A judgement failed: tries again later.
    pub(super) fn postpone(&mut self, now: Duration) {
        self.due = Some(now.saturating_add(REPAIR_TIME));
    }

    /// When health is judged next; `None`: when something changes.
    pub(super) const fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Takes the present health of all tunnels. Returns a report for each that has changed.
    pub(super) fn report(&mut self, now: Duration, all: BTreeMap<IfName, Health>) -> Vec<About> {
        let changed = self.changed(now, all);
        let report = |(name, health): (IfName, Health)| About::Health {
            tunnel: name.to_string(),
            health: health.level.into(),
            reasons: health.reasons.iter().map(ToString::to_string).collect(),
        };
        changed.into_iter().map(report).collect()
    }

    fn changed(&mut self, now: Duration, all: BTreeMap<IfName, Health>) -> Vec<(IfName, Health)> {
        self.watches.retain(|name, _| all.contains_key(name));
        let watches = &mut self.watches;
        let is_reported = |(name, health): &(IfName, Health)| {
            watches
                .entry(name.clone())
                .or_default()
                .observe(now, health)
        };
        let changed = all.into_iter().filter(is_reported).collect();
        self.due = self.watches.values().filter_map(Watch::due).min();
        changed
    }
}

/// The health of all tunnels.
pub(super) fn judge_all(snapshot: &Snapshot<'_>) -> BTreeMap<IfName, Health> {
    let tunnels = snapshot.config.tunnels.iter();
    tunnels
        .map(|tunnel| (tunnel.name.clone(), judge(snapshot, tunnel)))
        .collect()
}

/// The health of a tunnel.
pub(super) fn judge(snapshot: &Snapshot<'_>, tunnel: &Tunnel) -> Health {
    let known = &snapshot.tunnels[&tunnel.name];
    let addresses: Vec<_> = tunnel.addresses.iter().map(|a| a.address).collect();
    let mut shadows = snapshot.shadows.iter();
    let shadow = shadows.find(|shadow| shadow.tunnel == tunnel.name.as_str());
    Health::judge(&Facts {
        state: &known.view.state,
        link: snapshot.links.by_name(&tunnel.name),
        elsewhere: &elsewhere(snapshot, &tunnel.name, &addresses),
        covered_uplink: covered_uplink(snapshot, tunnel).as_ref(),
        addresses: &addresses,
        follows_addresses: tunnel.follows.addresses,
        lacks_sources: tunnel.follows.is_any() && tunnel.sources().next().is_none(),
        is_routed: snapshot.is_routed(tunnel),
        has_program: snapshot.has_program(&tunnel.name),
        shadow: shadow.map(|shadow| effect(snapshot, shadow)).as_ref(),
        leaks: known.leaks,
        broker_sends_to: known
            .update
            .as_ref()
            .and_then(|update| update.sends_elsewhere),
        unanswered_in_a_row: known.unanswered_in_a_row,
        echo_health: known.echo_health,
        unanswered_peer: known
            .view
            .wireguard
            .as_ref()
            .and_then(|view| view.unanswered(snapshot.since_boot)),
        no_answer: known.no_answer.as_ref(),
        quality: known.quality,
    })
}

/// The alert about another link that carries the prefixes of a group.
pub(super) fn switched(switch: &Switch) -> About {
    // The cause is about this link.
    let link = match &switch.cause {
        SwitchCause::Fault(_) => &switch.from,
        SwitchCause::Returned(_) => &switch.to,
    };
    About::Switch {
        group: switch.group.to_string(),
        from: switch.from.to_string(),
        to: switch.to.to_string(),
        reason: format!("{link}: {}", switch.cause),
    }
}

/// An uplink whose global addresses all belong to the tunnel, or lie in its prefixes.
fn covered_uplink(snapshot: &Snapshot<'_>, tunnel: &Tunnel) -> Option<IfName> {
    let is_covered = |address: &Ipv6Addr| tunnel.sources().any(|source| source.contains(*address));
    let uplinks = enforce::uplinks(snapshot.config, snapshot.links);
    let mut covered = uplinks.into_iter().filter(|uplink| {
        let mut addresses = uplink.global_addresses().peekable();
        addresses.peek().is_some() && addresses.all(is_covered)
    });
    covered.next().map(|uplink| uplink.name.clone())
}

/// Addresses of a tunnel that another interface has.
fn elsewhere(
    snapshot: &Snapshot<'_>,
    tunnel: &IfName,
    addresses: &[Ipv6Addr],
) -> Vec<(Ipv6Addr, IfName)> {
    let wanted: BTreeSet<_> = addresses.iter().collect();
    let others = snapshot.links.iter().filter(|link| link.name != *tunnel);
    others
        .flat_map(|link| {
            let has = link.addresses.iter().filter(|a| wanted.contains(a));
            has.map(|address| (*address, link.name.clone()))
        })
        .collect()
}

fn effect(snapshot: &Snapshot<'_>, shadow: &Shadow) -> ShadowEffect {
    let index = shadow.leaves_by;
    let link = index.and_then(|index| snapshot.links.by_index(index));
    let has_program = link.is_some_and(|link| snapshot.has_program(&link.name));
    let fate = match (shadow.leaves_by, snapshot.config.on_leak) {
        (None, _) => ShadowFate::Refused,
        (Some(_), OnLeak::Redirect) if has_program => ShadowFate::Redirected,
        (Some(_), _) => ShadowFate::Lost,
    };
    ShadowEffect {
        priority: shadow.rule.priority,
        fate,
    }
}

#[cfg(test)]
mod tests {
    use sixxs_core::{health::Level, routing::Plan};

    use super::*;
    use crate::control::api;
    use crate::{
        bpf::Hook,
        daemon::fixture::{config, host, snapshot},
    };

    fn level(snapshot: &Snapshot<'_>) -> Level {
        judge(snapshot, &snapshot.config.tunnels[0]).level
    }

    #[test]
    fn facts_come_from_the_snapshot() {
        let config = config(&["sixxs0"]);
        let mut host = host(&["sixxs0", "net0"]);
        let own = config.tunnels[0].addresses[0].address;
        let link = |host: &mut sixxs_core::routing::Observed, name: &str| {
            let mut links: Vec<_> = host.links.iter().cloned().collect();
            let link = links.iter_mut().find(|link| link.name.as_str() == name);
            link.unwrap().addresses.push(own);
            host.links = links.into_iter().collect();
        };
        link(&mut host, "sixxs0");
        let plan = Plan::default();
        let mut now = snapshot(&config, &host, &plan);
        assert_eq!(level(&now), Level::Failing, "no program is attached");
        let name = config.tunnels[0].name.clone();
        now.hooks.insert(name.clone(), Hook::Tcx);
        assert_eq!(level(&now), Level::Healthy);
        now.started.clear();
        assert_eq!(level(&now), Level::Failing, "nothing is routed for it");
        // The uplink has the tunnel's address, and no other.
        let mut twice = host.clone();
        link(&mut twice, "net0");
        let mut now = snapshot(&config, &twice, &plan);
        now.hooks.insert(name, Hook::Tcx);
        let tunnel = &config.tunnels[0];
        assert_eq!(covered_uplink(&now, tunnel).unwrap().as_str(), "net0");
        let found = elsewhere(&now, &tunnel.name, &[own]);
        assert_eq!(found, [(own, "net0".parse().unwrap())]);
        assert_ne!(level(&now), Level::Healthy);
    }

    #[test]
    fn a_change_of_health_is_reported_once_it_lasts() {
        let config = config(&["sixxs0"]);
        let host = host(&["sixxs0"]);
        let plan = Plan::default();
        let mut monitor = HealthMonitor::default();
        monitor.schedule(Duration::from_secs(1));
        assert_eq!(monitor.due(), Some(Duration::from_secs(1) + REPAIR_TIME));
        let mut reports = Vec::new();
        for seconds in 0..20 {
            let all = judge_all(&snapshot(&config, &host, &plan));
            reports.extend(monitor.report(Duration::from_secs(seconds), all));
        }
        assert_eq!(reports.len(), 1, "{reports:?}");
        let About::Health { tunnel, health, .. } = &reports[0] else {
            panic!("{reports:?}");
        };
        assert_eq!((tunnel.as_str(), *health), ("sixxs0", api::Health::Failing));
    }
}
