//! Decides which link carries the prefixes of a group. Pure; time is an argument.
//!
//! ```text
//! active link fails or is down --> the first good link in the order of preference
//! preferred link good for `return_seconds` --> that link
//! no link is good --> the active link stays, unless it is down and another one is up
//! ```

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    config::{Config, Group, RuleMode},
    failure_tracker::REPAIR_TIME,
    health::{Health, Level, Reason},
    routing::{DEFAULT_METRIC, Observed, desired::RouteKey, observed::ObservedTarget},
    types::{IfName, Prefix},
};

/// Whether a link can carry packets, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// It can.
    Good,
    /// Its health is failing.
    Failing,
    /// It is not up.
    Down,
}

/// A link, as its health shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Whether it can carry packets.
    pub fitness: Fitness,
    /// A fault has to last for this long before it counts: a repair may end it.
    pub settles_in: Duration,
    /// The worst fault; empty if there is none.
    pub fault: String,
}

impl LinkState {
    /// A link with this health.
    #[must_use]
    pub fn of(health: &Health) -> Self {
        let is_down = |reason: &Reason| matches!(reason, Reason::NotUp(_));
        let fitness = if health.reasons.iter().any(is_down) {
            Fitness::Down
        } else if health.level == Level::Failing {
            Fitness::Failing
        } else {
            Fitness::Good
        };
        let is_certain = health.reasons.iter().any(Reason::is_certain);
        Self {
            fitness,
            settles_in: match is_certain {
                true => Duration::ZERO,
                false => REPAIR_TIME,
            },
            fault: health
                .reasons
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
        }
    }
}

/// Another link takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The group.
    pub group: IfName,
    /// The link that carried its prefixes.
    pub from: IfName,
    /// The link that carries them now.
    pub to: IfName,
    /// Why.
    pub cause: SwitchCause,
}

/// Why another link takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchCause {
    /// The active link has this fault.
    Fault(String),
    /// The other one is preferred, and has been good for this long.
    Returned(Duration),
}

/// A clause, after the names of both links.
impl fmt::Display for SwitchCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => f.write_str(fault),
            Self::Returned(time) => {
                write!(
                    f,
                    "it is preferred, and has been good for {} s",
                    time.as_secs()
                )
            }
        }
    }
}

/// The links of one group over time.
#[derive(Clone, Debug, Default)]
pub struct ActiveLink {
    /// The fitness of each link, and since when.
    since: BTreeMap<IfName, (Fitness, Duration)>,
    due: Option<Duration>,
    /// Whether no link is good.
    all_fail: bool,
}

impl ActiveLink {
    /// Takes the present state of the links. Returns the switch to make, if any. A link without a state counts as down.
    pub fn decide(
        &mut self,
        group: &Group,
        links: &BTreeMap<IfName, LinkState>,
        now: Duration,
    ) -> Option<Switch> {
        let fitness = |name: &IfName| links.get(name).map_or(Fitness::Down, |link| link.fitness);
        self.since.retain(|name, _| group.links.contains(name));
        for name in &group.links {
            let present = fitness(name);
            let entry = self.since.entry(name.clone()).or_insert((present, now));
            if entry.0 != present {
                *entry = (present, now);
            }
        }
        let is_good = |name: &&IfName| fitness(name) == Fitness::Good;
        let good: Vec<_> = group.in_order().filter(is_good).collect();
        self.all_fail = good.is_empty();
        self.due = None;
        let active = &group.active;
        let (to, cause) = match fitness(active) {
            Fitness::Good => self.preferred(group, now)?,
            present => {
                let state = links.get(active);
                let since = self.since.get(active).map_or(now, |(_, since)| *since);
                let settles = state.map_or(Duration::ZERO, |state| state.settles_in);
                if now.saturating_sub(since) < settles {
                    self.due = Some(since.saturating_add(settles));
                    return None;
                }
                let is_up = |name: &&IfName| fitness(name) < present;
                let first = good.first().copied();
                let to = first.or_else(|| group.in_order().find(is_up))?;
                let fault = state.map_or("it is gone", |state| state.fault.as_str());
                (to.clone(), SwitchCause::Fault(fault.to_owned()))
            }
        };
        Some(Switch {
            group: group.name.clone(),
            from: active.clone(),
            to,
            cause,
        })
    }

    /// The best link that is preferred to the active one and has been good for long enough.
    fn preferred(&mut self, group: &Group, now: Duration) -> Option<(IfName, SwitchCause)> {
        let before = group
            .prefer
            .iter()
            .take_while(|name| **name != group.active);
        for name in before {
            let Some((Fitness::Good, since)) = self.since.get(name) else {
                continue;
            };
            let good_for = now.saturating_sub(*since);
            if good_for >= group.return_after {
                return Some((name.clone(), SwitchCause::Returned(good_for)));
            }
            let due = since.saturating_add(group.return_after);
            self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        }
        None
    }

    /// When to decide again without a change of a link; `None`: only then.
    #[must_use]
    pub const fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Whether no link is good.
    #[must_use]
    pub const fn all_fail(&self) -> bool {
        self.all_fail
    }

    /// The fitness of a link.
    #[must_use]
    pub fn fitness(&self, link: &IfName) -> Option<Fitness> {
        self.since.get(link).map(|(fitness, _)| *fitness)
    }
}

impl Config {
    /// The configuration with these active links, by group.
    #[must_use]
    pub fn with_active(mut self, active: &BTreeMap<IfName, IfName>) -> Self {
        for group in &mut self.groups {
            if let Some(link) = active.get(&group.name)
                && group.links.contains(link)
            {
                group.active = link.clone();
            }
        }
        self
    }

    /// The active link of each group on a host: the one to which the group's route leads, or else the first one that is
    /// up.
    #[must_use]
    pub fn active_links(&self, observed: &Observed) -> BTreeMap<IfName, IfName> {
        let is_up = |name: &IfName| observed.links.by_name(name).is_some_and(|link| link.up);
        let active = |group: &Group| {
            let link = initial(group, self.routed_by(group, observed), is_up).clone();
            (group.name.clone(), link)
        };
        self.groups.iter().map(active).collect()
    }

    /// The interface to which the route of a group leads.
    fn routed_by<'a>(&self, group: &Group, observed: &'a Observed) -> Option<&'a IfName> {
        let key = RouteKey {
            table: group.table,
            metric: DEFAULT_METRIC,
            destination: Prefix::ALL,
            source: match self.rule_mode {
                RuleMode::Rules => Prefix::ALL,
                RuleMode::Subtrees => *group.prefixes.first()?,
            },
        };
        let mut routes = observed.routes.iter();
        let route = routes.find(|route| route.is_ours() && route.key() == key)?;
        let ObservedTarget::Interface { index, .. } = &route.target else {
            return None;
        };
        observed.links.by_index(*index).map(|link| &link.name)
    }
}

/// The link that carries the prefixes at the start: the one that did in an earlier run, or else the first one that is
/// up.
fn initial<'a>(
    group: &'a Group,
    earlier: Option<&IfName>,
    is_up: impl Fn(&IfName) -> bool,
) -> &'a IfName {
    let known = earlier.and_then(|earlier| group.links.iter().find(|link| *link == earlier));
    known
        .or_else(|| group.in_order().find(|link| is_up(link)))
        .or_else(|| group.in_order().next())
        .unwrap_or(&group.active)
}

#[cfg(test)]
#[path = "active_link_tests.rs"]
mod tests;
