//! The groups: which link carries the prefixes of each.
//!
//! Must not know the kernel or the loop: the intent takes the active links from here, and a round does the rest.

use std::{collections::BTreeMap, time::Duration};

use sixxs_core::{
    active_link::{ActiveLink, Fitness, LinkState, Switch},
    config::Config,
    routing::Observed,
    types::IfName,
};

/// The state of all groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    by_name: BTreeMap<IfName, GroupState>,
}

/// The state of a group.
#[derive(Debug)]
struct GroupState {
    /// The link that carries its prefixes.
    active: IfName,
    /// When it took over.
    since: Duration,
    /// Times that another link took over, in this run.
    switches: u64,
    choice: ActiveLink,
}

/// A group, as the status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupView {
    /// When its active link took over, as a time since the start.
    pub(super) since: Duration,
    /// Times that another link took over, in this run.
    pub(super) switches: u64,
    /// Its links, in the order of preference.
    pub(super) links: Vec<(IfName, Option<Fitness>)>,
}

impl Groups {
    /// Takes over new groups as the host has them, and forgets those that are gone. Returns whether the active link of
    /// any group is another one now.
    pub(super) fn follow(&mut self, config: &Config, observed: &Observed, now: Duration) -> bool {
        let before = self.active();
        let find = |name: &IfName| config.groups.iter().find(|group| group.name == *name);
        self.by_name.retain(|name, state| {
            find(name).is_some_and(|group| group.links.contains(&state.active))
        });
        if self.by_name.len() < config.groups.len() {
            for (name, active) in config.active_links(observed) {
                self.by_name.entry(name).or_insert_with(|| GroupState {
                    active,
                    since: now,
                    switches: 0,
                    choice: ActiveLink::default(),
                });
            }
        }
        self.active() != before
    }

    /// The active links, by group.
    pub(super) fn active(&self) -> BTreeMap<IfName, IfName> {
        let groups = self.by_name.iter();
        groups
            .map(|(name, state)| (name.clone(), state.active.clone()))
            .collect()
    }

    /// Takes the present state of the links. Returns the switches: their links are active now.
    pub(super) fn decide(
        &mut self,
        config: &Config,
        links: &BTreeMap<IfName, LinkState>,
        now: Duration,
    ) -> Vec<Switch> {
        let mut switches = Vec::new();
        for group in &config.groups {
            let Some(state) = self.by_name.get_mut(&group.name) else {
                continue;
            };
            if let Some(switch) = state.choice.decide(group, links, now) {
                state.active = switch.to.clone();
                state.since = now;
                state.switches += 1;
                switches.push(switch);
            }
        }
        switches
    }

    /// When to decide again without a change of a link.
    pub(super) fn due(&self) -> Option<Duration> {
        let groups = self.by_name.values();
        groups.filter_map(|state| state.choice.due()).min()
    }

    /// Whether each group has a good link.
    pub(super) fn have_good_links(&self) -> BTreeMap<IfName, bool> {
        let groups = self.by_name.iter();
        groups
            .map(|(name, state)| (name.clone(), !state.choice.all_fail()))
            .collect()
    }

    /// Groups without a good link, as messages.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let failing = self
            .by_name
            .iter()
            .filter(|(_, state)| state.choice.all_fail());
        failing.map(|(name, state)| {
            format!(
                "{name}: no link of the group is good; {} carries its prefixes",
                state.active
            )
        })
    }

    /// A group, for the status.
    pub(super) fn view(&self, config: &Config, name: &IfName) -> Option<GroupView> {
        let group = config.groups.iter().find(|group| group.name == *name)?;
        let state = self.by_name.get(name)?;
        let links = group.in_order();
        Some(GroupView {
            since: state.since,
            switches: state.switches,
            links: links
                .map(|link| (link.clone(), state.choice.fitness(link)))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use sixxs_core::{
        config,
        health::{Health, Level, Reason},
    };

    use super::*;
    use crate::daemon::fixture::host;

    fn name(text: &str) -> IfName {
        text.parse().unwrap()
    }

    fn config(links: &str) -> Config {
        let link = |name: &str| {
            format!(
                "[[link]]\nname = \"{name}\"\nkind = \"interface\"\naddress = \"2001:db8:{name}::2/64\"\n\
                 peer = \"2001:db8:{name}::1\"\n"
            )
        };
        let text = format!(
            "{}{}{}[[group]]\nname = \"lan\"\nlinks = {links}\nprefixes = \"2001:db8:cc::/48\"\n",
            link("a"),
            link("b"),
            link("c")
        );
        config::parse("test", &text).unwrap()
    }

    #[test]
    fn a_group_is_taken_over_switched_and_forgotten() {
        let both = config("[\"a\", \"b\"]");
        let host = host(&["b", "c"]);
        let at = Duration::from_secs;
        let mut groups = Groups::default();
        assert!(groups.follow(&both, &host, at(1)));
        assert_eq!(groups.active(), [(name("lan"), name("b"))].into());
        assert!(!groups.follow(&both, &host, at(2)));
        let failing = LinkState::of(&Health {
            level: Level::Failing,
            reasons: vec![Reason::NoCarrier],
        });
        let good = LinkState::of(&Health::default());
        let links = [(name("a"), good), (name("b"), failing.clone())].into();
        let in_force = both.clone().with_active(&groups.active());
        let switches = groups.decide(&in_force, &links, at(5));
        assert_eq!((switches.len(), &switches[0].to), (1, &name("a")));
        let view = groups.view(&both, &name("lan")).unwrap();
        assert_eq!((view.since, view.switches), (at(5), 1));
        assert_eq!(view.links[1], (name("b"), Some(Fitness::Failing)));
        assert_eq!(groups.problems().count(), 0);
        // Both fail.
        let in_force = both.clone().with_active(&groups.active());
        let links = [(name("a"), failing.clone()), (name("b"), failing)].into();
        assert!(groups.decide(&in_force, &links, at(6)).is_empty());
        assert_eq!(groups.problems().count(), 1);
        assert_eq!(groups.due(), None);
        // A reload keeps the active link while it is one of the group.
        assert!(!groups.follow(&config("[\"c\", \"a\"]"), &host, at(7)));
        assert!(groups.follow(&config("[\"b\", \"c\"]"), &host, at(8)));
        assert!(groups.follow(&Config::default(), &host, at(9)));
        assert!(groups.active().is_empty());
    }
}
