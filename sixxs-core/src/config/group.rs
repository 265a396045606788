//! Reads a `[[group]]` section: links that carry the same prefixes.

use std::{net::Ipv6Addr, time::Duration};

use super::{
    Config, Group, RuleMode, Tunnel,
    cross_check::GroupLocations,
    section::{Field, List, Located, Section},
    sources::{PREFIXES, unusable_prefix},
    table::{check_table, table_of},
};
use crate::{
    diagnostics::{Diagnostics, Location},
    types::{IfName, Prefix, TableId},
};

const KEYS: &[&str] = &[
    "name",
    "links",
    "prefer",
    "prefixes",
    "direct",
    "table",
    "return_seconds",
];

/// A link carries again when it has been good for this long, unless the configuration sets another time.
const RETURN_AFTER: Duration = Duration::from_secs(60);

impl Group {
    /// Its prefixes as those of a tunnel: of this link, with the table of the group.
    #[must_use]
    pub fn on(&self, link: &Tunnel) -> Tunnel {
        Tunnel {
            addresses: Vec::new(),
            tentative: Vec::new(),
            former: Vec::new(),
            on_link: Vec::new(),
            prefixes: self.prefixes.clone(),
            direct: self.direct.clone(),
            table: self.table,
            ..link.clone()
        }
    }
}

impl Config {
    /// The section of a group's active link.
    #[must_use]
    pub fn active_link(&self, group: &Group) -> Option<&Tunnel> {
        let mut tunnels = self.tunnels.iter();
        tunnels.find(|tunnel| tunnel.name == group.active)
    }

    /// Whether `is_wanted` accepts a link of the group.
    #[must_use]
    pub fn has_link(&self, group: &Group, is_wanted: impl Fn(&Tunnel) -> bool) -> bool {
        let mut tunnels = self.tunnels.iter();
        tunnels.any(|tunnel| group.links.contains(&tunnel.name) && is_wanted(tunnel))
    }

    /// Each group as a tunnel: with the name of its active link, and the prefixes and the table of the group.
    pub fn groups_as_tunnels(&self) -> impl Iterator<Item = (&Group, Tunnel)> {
        self.groups.iter().filter_map(move |group| {
            let tunnel = group.on(self.active_link(group)?);
            Some((group, tunnel))
        })
    }

    /// The prefixes of all groups, with the name of the group.
    pub fn group_prefixes(&self) -> impl Iterator<Item = (Prefix, &IfName)> {
        self.groups.iter().flat_map(|group| {
            let prefixes = group.prefixes.iter();
            prefixes.map(move |prefix| (*prefix, &group.name))
        })
    }

    /// Whether a group depends on this link.
    #[must_use]
    pub fn is_in_group(&self, link: &IfName) -> bool {
        self.groups.iter().any(|group| group.links.contains(link))
    }
}

/// Reads the section at `position` among the groups, behind `tunnels` tunnels.
pub(super) fn read(
    mut section: Section<'_>,
    position: u32,
    tunnels: u32,
    rule_mode: RuleMode,
) -> (Option<(Group, GroupLocations)>, Diagnostics) {
    let head = section.head();
    let name = section.parsed::<IfName>("name", "a name");
    let names = "names of links, such as [\"he\", \"wg0\"]";
    let links: List<IfName> = section.one_or_many("links", names);
    let prefer: List<IfName> = section.one_or_many("prefer", names);
    let prefixes: List<Prefix> = section.one_or_many("prefixes", PREFIXES);
    let direct: List<Prefix> = section.one_or_many("direct", PREFIXES);
    let table = section.integer("table", 1..=u32::MAX);
    let return_after = section.integer("return_seconds", 0..=86_400);
    let mut diagnostics = section.finish(KEYS);
    check_links(&links, &prefer, &mut diagnostics);
    check_prefixes(&prefixes, &head.location("prefixes"), &mut diagnostics);
    let found = prefixes.items();
    check_table(&table, rule_mode, &mut diagnostics);
    let locations = GroupLocations {
        name: location_or(name.location(), || head.location("name")),
        table: location_or(table.location(), || head.location("table")),
        links: links.items().iter().map(|l| l.location.clone()).collect(),
        prefixes: found.iter().map(|p| p.location.clone()).collect(),
    };
    let default_name = format!("group{position}").parse().ok();
    let links = links.values().unwrap_or_default();
    let (Some(name), Some(active)) = (name.value().or(default_name), links.first().cloned()) else {
        return (None, diagnostics);
    };
    let prefixes = prefixes.values().unwrap_or_default();
    let group = Group {
        name,
        prefer: prefer.values().unwrap_or_else(|| links.clone()),
        links,
        direct: match direct {
            Field::Absent(_) => prefixes.clone(),
            direct => direct.values().unwrap_or_default(),
        },
        prefixes,
        table: TableId(
            table
                .value()
                .unwrap_or_else(|| table_of(tunnels.saturating_add(position))),
        ),
        return_after: match return_after.value() {
            Some(seconds) => Duration::from_secs(seconds.into()),
            None => RETURN_AFTER,
        },
        active,
    };
    (Some((group, locations)), diagnostics)
}

/// A group needs prefixes.
fn check_prefixes(prefixes: &List<Prefix>, missing: &Location, diagnostics: &mut Diagnostics) {
    let found = prefixes.items();
    if found.is_empty() && !prefixes.is_invalid() {
        let message = "missing; expected the prefixes that the links carry";
        diagnostics.add(missing, message);
    }
    for Located { value, location } in found {
        if let Some(message) = unusable_prefix(*value) {
            diagnostics.add(location, message);
        }
    }
}

fn location_or(known: Option<&Location>, default: impl FnOnce() -> Location) -> Location {
    known.cloned().unwrap_or_else(default)
}

/// A group needs two different links; the preferred ones are among them.
fn check_links(links: &List<IfName>, prefer: &List<IfName>, diagnostics: &mut Diagnostics) {
    if let Field::Absent(location) = links {
        let message = "missing; expected the names of two links or more";
        diagnostics.add(location, message);
    }
    if let Some(Located { value, location }) = links.as_set()
        && value.len() < 2
    {
        let message = format!(
            "expected two links or more, found {}; prefixes of one link belong into its own section",
            value.len()
        );
        diagnostics.add(location, message);
    }
    for list in [links, prefer] {
        let items = list.items();
        for (at, item) in items.iter().enumerate() {
            if items[..at].iter().any(|other| other.value == item.value) {
                let message = format!("expected each link once, found {} again", item.value);
                diagnostics.add(&item.location, message);
            }
        }
    }
    for Located { value, location } in prefer.items() {
        let is_link = |link: &Located<IfName>| link.value == *value;
        if !links.is_invalid() && !links.items().iter().any(is_link) {
            let message = format!("expected one of the group's links, found {value}");
            diagnostics.add(location, message);
        }
    }
}

impl Tunnel {
    /// The address that probes go to. A link-local address needs an interface, to which no probe is bound.
    #[must_use]
    pub fn probe_target(&self) -> Option<Ipv6Addr> {
        let target = self.check_target.or(self.peer);
        target.filter(|target| !target.is_unicast_link_local())
    }
}
