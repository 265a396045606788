//! Deprecates the addresses of links that fail, where the configuration asks for it.
//!
//! Owns the record of deprecated addresses, and which links fail. It gets their health when that is judged, and changes
//! addresses in each round, after the scan.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    path::Path,
    time::Duration,
};

use sixxs_core::{
    config::{Config, Tunnel},
    deprecation::{Change, FailingLinks, FailingSources, Step},
    failure_tracker::REPAIR_TIME,
    health::{Health, Level},
    link::Links,
    types::IfName,
};

use crate::{
    control::api::About,
    deprecation::{Deprecations, Outcome},
    netlink::Netlink,
};

/// Deprecates addresses of links that fail.
#[derive(Debug)]
pub(super) struct Deprecator {
    deprecations: Deprecations,
    links: FailingLinks,
    /// Why links fail, as of the last time that they did.
    reasons: BTreeMap<IfName, String>,
    due: Option<Duration>,
}

/// The intended state of addresses.
#[derive(Clone, Copy)]
pub(super) struct Intended<'a> {
    /// The configuration in force.
    pub(super) config: &'a Config,
    /// The tunnels that are started.
    pub(super) started: &'a BTreeSet<IfName>,
}

impl Intended<'_> {
    /// The tunnels with the option, if they are started.
    fn tunnels(&self) -> impl Iterator<Item = &Tunnel> {
        let tunnels = self.config.tunnels.iter();
        tunnels
            .filter(|tunnel| tunnel.deprecate_when_failing && self.started.contains(&tunnel.name))
    }

    /// Why the addresses of a tunnel are not deprecated any more.
    fn why_restored(&self, name: &IfName) -> &'static str {
        let mut tunnels = self.config.tunnels.iter();
        let tunnel = tunnels.find(|tunnel| tunnel.name == *name);
        match tunnel {
            Some(tunnel) if !self.started.contains(&tunnel.name) => "it is stopped",
            Some(tunnel) if tunnel.deprecate_when_failing => "it does not fail any more",
            Some(_) | None => "`deprecate_when_failing` is off",
        }
    }
}

/// What a round has done.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// A report per tunnel and kind of change.
    pub(super) alerts: Vec<About>,
    /// Errors, as messages.
    pub(super) problems: Vec<String>,
}

impl Deprecator {
    /// Takes what an earlier run has left in the run directory. Its links fail until they have been good for some time.
    pub(super) fn new(run_dir: &Path) -> Self {
        let deprecations = Deprecations::load(run_dir);
        let links = FailingLinks::resume(deprecations.record().tunnels().cloned());
        Self {
            deprecations,
            links,
            reasons: BTreeMap::new(),
            due: None,
        }
    }

    /// Takes the present health of all tunnels. Returns whether a round is needed: others fail than before.
    pub(super) fn judge(
        &mut self,
        now: Duration,
        intended: Intended<'_>,
        health: &BTreeMap<IfName, Health>,
    ) -> bool {
        let mut present = Vec::new();
        for tunnel in intended.tunnels() {
            let Some(health) = health.get(&tunnel.name) else {
                continue;
            };
            let is_failing = health.level == Level::Failing;
            if is_failing {
                self.reasons.insert(tunnel.name.clone(), reason(health));
            }
            present.push((tunnel.name.clone(), is_failing));
        }
        let has_changed = self.links.observe(now, present);
        self.due = self.links.due();
        has_changed
    }

    /// When health has to be judged next; `None`: when something changes.
    pub(super) const fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Health could not be judged: it is judged later.
    pub(super) fn postpone(&mut self, now: Duration) {
        self.due = self.due.map(|_| now.saturating_add(REPAIR_TIME));
    }

    /// The deprecated addresses of a tunnel.
    pub(super) fn deprecated(&self, name: &IfName) -> Vec<Ipv6Addr> {
        self.deprecations.record().of_tunnel(name).collect()
    }

    /// Deprecates the addresses of the links that fail, and restores the lifetimes of all others.
    pub(super) async fn run(
        &mut self,
        netlink: &Netlink,
        intended: Intended<'_>,
        links: &Links,
    ) -> Done {
        let tunnels: BTreeSet<_> = intended.tunnels().map(|tunnel| &tunnel.name).collect();
        let is_failing = |name: &IfName| tunnels.contains(name) && self.links.is_failing(name);
        let failing = FailingSources::of(intended.config, links, is_failing);
        let outcome = self.deprecations.carry_out(netlink, &failing).await;
        self.done(outcome, |name| intended.why_restored(name))
    }

    /// Restores the lifetimes of all addresses: the daemon ends.
    pub(super) async fn undo(&mut self, netlink: &Netlink) -> Done {
        let outcome = self.deprecations.undo(netlink).await;
        self.done(outcome, |_| "the daemon ends")
    }

    fn done(&self, outcome: Outcome, why_restored: impl Fn(&IfName) -> &'static str) -> Done {
        let Outcome { done, problems } = outcome;
        let mut changed: BTreeMap<(IfName, bool), Vec<Ipv6Addr>> = BTreeMap::new();
        for Step {
            tunnel,
            address,
            change,
            preferred: _,
        } in done
        {
            let deprecated = match change {
                Change::Deprecate => true,
                Change::Restore => false,
                // A router advertises its prefix every few minutes.
                Change::DeprecateAgain => continue,
            };
            let addresses = changed.entry((tunnel, deprecated)).or_default();
            addresses.push(address.address);
        }
        let alert = |((tunnel, deprecated), addresses): ((IfName, bool), Vec<Ipv6Addr>)| {
            let reason = match deprecated {
                true => self.reasons.get(&tunnel).cloned().unwrap_or_default(),
                false => why_restored(&tunnel).to_owned(),
            };
            About::Deprecation {
                tunnel: tunnel.to_string(),
                deprecated,
                addresses,
                reason,
            }
        };
        Done {
            alerts: changed.into_iter().map(alert).collect(),
            problems,
        }
    }
}

/// The reasons why a tunnel fails, as one text.
fn reason(health: &Health) -> String {
    let reasons = health.reasons.iter();
    let failing = reasons.filter(|reason| reason.level() == Level::Failing);
    let texts: Vec<_> = failing.map(ToString::to_string).collect();
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use sixxs_core::{
        deprecation::{Lifetime, ListedAddress},
        health::Reason,
        types::IfIndex,
    };

    use super::*;
    use crate::daemon::fixture::config;

    fn name(text: &str) -> IfName {
        text.parse().unwrap()
    }

    fn failing() -> Health {
        Health {
            level: Level::Failing,
            reasons: vec![Reason::NoCarrier, Reason::NoProgram],
        }
    }

    fn step(tunnel: &str, last: u16, change: Change) -> Step {
        Step {
            tunnel: name(tunnel),
            address: ListedAddress {
                index: IfIndex(3),
                address: Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, last),
                preferred: Lifetime::Forever,
                valid: Lifetime::Forever,
                created: 1,
                changed: 1,
                is_usable: true,
                is_temporary: false,
            },
            change,
            preferred: Lifetime::OVER,
        }
    }

    #[test]
    fn only_started_tunnels_with_the_option_fail() {
        let directory = tempfile::tempdir().unwrap();
        let mut deprecator = Deprecator::new(directory.path());
        let mut config = config(&["a", "b", "c"]);
        config.tunnels[0].deprecate_when_failing = true;
        config.tunnels[1].deprecate_when_failing = true;
        let started = [name("a"), name("c")].into();
        let intended = Intended {
            config: &config,
            started: &started,
        };
        let health = ["a", "b", "c"].map(|text| (name(text), failing())).into();
        assert!(!deprecator.judge(Duration::ZERO, intended, &health));
        assert_eq!(deprecator.due(), Some(REPAIR_TIME));
        deprecator.postpone(REPAIR_TIME);
        assert_eq!(deprecator.due(), Some(REPAIR_TIME * 2));
        assert!(deprecator.judge(REPAIR_TIME, intended, &health));
        assert_eq!(deprecator.due(), None);
        let names = ["a", "b", "c"].map(name);
        let fails = names.map(|name| deprecator.links.is_failing(&name));
        assert_eq!(fails, [true, false, false]);
    }

    #[test]
    fn there_is_an_alert_for_each_tunnel_and_kind_of_change() {
        let directory = tempfile::tempdir().unwrap();
        let mut deprecator = Deprecator::new(directory.path());
        let mut config = config(&["a", "b", "c"]);
        config.tunnels[0].deprecate_when_failing = true;
        config.tunnels[1].deprecate_when_failing = true;
        let started = [name("a"), name("b"), name("c")].into();
        let intended = Intended {
            config: &config,
            started: &started,
        };
        let health = [(name("a"), failing())].into();
        deprecator.judge(Duration::ZERO, intended, &health);
        let outcome = Outcome {
            done: vec![
                step("a", 1, Change::Deprecate),
                step("a", 2, Change::Deprecate),
                step("a", 3, Change::DeprecateAgain),
                step("b", 4, Change::Restore),
                step("c", 5, Change::Restore),
                step("gone", 6, Change::Restore),
            ],
            problems: vec!["trouble".to_owned()],
        };
        let done = deprecator.done(outcome, |name| intended.why_restored(name));
        let texts: Vec<_> = done
            .alerts
            .iter()
            .map(|about| serde_json::to_string(about).unwrap())
            .collect();
        let text = |tunnel: &str, deprecated: bool, addresses: &[&str], reason: &str| {
            let addresses = serde_json::to_string(addresses).unwrap();
            format!(
                "{{\"kind\":\"deprecation\",\"tunnel\":\"{tunnel}\",\"deprecated\":{deprecated},\
                 \"addresses\":{addresses},\"reason\":\"{reason}\"}}"
            )
        };
        let why = "its interface has no carrier; look at the far end of the link; its program is not attached";
        let off = "`deprecate_when_failing` is off";
        assert_eq!(
            texts,
            [
                text("a", true, &["2001:db8:a::1", "2001:db8:a::2"], why),
                text("b", false, &["2001:db8:a::4"], "it does not fail any more"),
                text("c", false, &["2001:db8:a::5"], off),
                text("gone", false, &["2001:db8:a::6"], off),
            ]
        );
        assert_eq!(done.problems, ["trouble"]);
        let none = BTreeSet::new();
        let stopped = Intended {
            started: &none,
            ..intended
        };
        assert_eq!(stopped.why_restored(&name("a")), "it is stopped");
    }
}
