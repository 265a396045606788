//! Checks over all tunnels and groups: the properties that they must not share, their number, and the links of groups.

use std::collections::{BTreeMap, BTreeSet};

use sixxs_common::layout;

use super::{
    Config, Group, Kind, Tunnel,
    section::{Located, SectionHeader},
};
use crate::{
    diagnostics::{Diagnostics, Location},
    types::{IfName, Prefix},
};

/// The maximum number of tunnels. Each has a slot in the programs' tables, and uplinks need some slots as
/// well.
pub(super) const TUNNELS: usize = layout::SLOTS as usize - 64;

/// The maximum number of sources, over all tunnels. Addresses of uplinks within them need some entries as
/// well.
const SOURCES: usize = layout::SOURCES as usize - 1024;

/// The maximum number of direct destinations, over all tunnels.
const DIRECTS: usize = layout::DIRECTS as usize;

/// The loopback interface of every network namespace. Its name and its index (`LOOPBACK_IFINDEX`) are fixed
/// in the kernel.
const LOOPBACK: &str = "lo";

/// Locations of the parts of a tunnel that other tunnels may contradict.
pub(super) struct Locations {
    pub(super) name: Location,
    pub(super) table: Location,
    pub(super) sources: Vec<Location>,
}

/// Locations of the parts of a group that other sections may contradict.
pub(super) struct GroupLocations {
    pub(super) name: Location,
    pub(super) table: Location,
    pub(super) links: Vec<Location>,
    pub(super) prefixes: Vec<Location>,
}

/// Checks all tunnels and groups against each other.
pub(super) fn check(
    uplinks: &[Located<IfName>],
    (tunnels, locations): (&[Tunnel], &[Locations]),
    (groups, group_locations): (&[Group], &[GroupLocations]),
) -> Diagnostics {
    let mut diagnostics = Diagnostics::default();
    let uplink_names = check_uplinks(uplinks, &mut diagnostics);
    let mut names = BTreeSet::new();
    let mut tables = BTreeMap::new();
    for (tunnel, at) in tunnels.iter().zip(locations) {
        let name = tunnel.name.as_str();
        check_loopback(&tunnel.name, &at.name, &mut diagnostics);
        if uplink_names.contains(&tunnel.name) {
            diagnostics.add(
                &at.name,
                format!("expected a tunnel, found {name:?}, which is also in uplinks"),
            );
        }
        if !names.insert(&tunnel.name) {
            diagnostics.add(
                &at.name,
                format!("expected each name once, found {name:?} again"),
            );
        }
        if let Some(other) = tables.insert(tunnel.table, &tunnel.name) {
            diagnostics.add(
                &at.table,
                format!(
                    "expected a table of its own, found {}, which {other} has",
                    tunnel.table
                ),
            );
        }
    }
    for (group, at) in groups.iter().zip(group_locations) {
        let is_taken = names.contains(&group.name) || uplink_names.contains(&group.name);
        check_group(group, at, is_taken, &mut diagnostics);
        names.insert(&group.name);
        if let Some(other) = tables.insert(group.table, &group.name) {
            let message = format!(
                "expected a table of its own, found {}, which {other} has",
                group.table
            );
            diagnostics.add(&at.table, message);
        }
    }
    let tunnel_sources = tunnels
        .iter()
        .zip(locations)
        .map(|(tunnel, at)| Owner::new(&tunnel.name, tunnel.sources(), &at.sources));
    let group_sources = groups.iter().zip(group_locations).map(|(group, at)| {
        let prefixes = group.prefixes.iter().copied();
        Owner::new(&group.name, prefixes, &at.prefixes)
    });
    let owners: Vec<_> = tunnel_sources.chain(group_sources).collect();
    check_sources(&owners, &mut diagnostics);
    check_counts(tunnels, groups, &mut diagnostics);
    diagnostics
}

/// Checks the names of uplinks, and returns them.
fn check_uplinks<'a>(
    uplinks: &'a [Located<IfName>],
    diagnostics: &mut Diagnostics,
) -> BTreeSet<&'a IfName> {
    let mut uplink_names = BTreeSet::new();
    for uplink in uplinks {
        check_loopback(&uplink.value, &uplink.location, diagnostics);
        if !uplink_names.insert(&uplink.value) {
            let name = uplink.value.as_str();
            diagnostics.add(
                &uplink.location,
                format!("expected each name once, found {name:?} again"),
            );
        }
    }
    for uplink in uplinks.iter().filter(|uplink| uplink.value.has_wildcard()) {
        let message = format!(
            "expected the name of an interface, found {}: patterns are for [[link]] and [[tunnel]]; leave the key out \
             for all uplinks",
            uplink.value
        );
        diagnostics.add(&uplink.location, message);
    }
    uplink_names
}

/// Checks the name of a group.
fn check_group(group: &Group, at: &GroupLocations, is_taken: bool, diagnostics: &mut Diagnostics) {
    let name = &group.name;
    if is_taken || name.has_wildcard() || name.as_str() == LOOPBACK {
        let name = name.as_str();
        let message = format!("expected a name that no interface has, found {name:?}");
        diagnostics.add(&at.name, message);
    }
}

/// Checks that the links of groups exist, and that probes can show whether they work.
pub(super) fn check_links(config: &Config, locations: &[GroupLocations]) -> Diagnostics {
    let mut diagnostics = Diagnostics::default();
    for (group, at) in config.groups.iter().zip(locations) {
        for (link, location) in group.links.iter().zip(&at.links) {
            let mut tunnels = config.tunnels.iter();
            let fault = match tunnels.find(|tunnel| tunnel.name == *link) {
                Some(tunnel) => link_fault(tunnel),
                None => {
                    let names = config.tunnels.iter().map(|tunnel| tunnel.name.as_str());
                    let known = names.collect::<Vec<_>>().join(", ");
                    Some(format!(
                        "expected the name of a [[link]] or [[tunnel]], found {link}; there are {known}"
                    ))
                }
            };
            if let Some(message) = fault {
                diagnostics.add(location, message);
            }
        }
    }
    diagnostics
}

/// The fault of a link of a group, as a message: nothing shows whether the link works.
fn link_fault(link: &Tunnel) -> Option<String> {
    let is_learned = matches!(link.kind, Kind::Account(_));
    if link.addresses.is_empty() && !link.follows.addresses && !is_learned {
        return Some(format!(
            "expected a link with an address of its own, from which it is probed; {} has none",
            link.name
        ));
    }
    (link.probe_target().is_none() && !is_learned).then(|| {
        format!(
            "expected a link with check_target, an address that answers pings through it; {} has neither check_target \
             nor a global peer, so nothing shows whether it works",
            link.name
        )
    })
}

/// Checks the limits of the programs' tables.
fn check_counts(tunnels: &[Tunnel], groups: &[Group], diagnostics: &mut Diagnostics) {
    let total = |count: fn(&Tunnel) -> usize| tunnels.iter().map(count).sum::<usize>();
    let of_groups = |count: fn(&Group) -> usize| groups.iter().map(count).sum::<usize>();
    let sources =
        total(|tunnel| tunnel.sources().count()) + of_groups(|group| group.prefixes.len());
    let directs = total(|tunnel| tunnel.direct.len()) + of_groups(|group| group.direct.len());
    for (what, found, most) in [
        ("tunnels and groups", tunnels.len() + groups.len(), TUNNELS),
        ("addresses and prefixes", sources, SOURCES),
        ("direct destinations", directs, DIRECTS),
    ] {
        if found > most {
            let location = SectionHeader::of_file().location("tunnel");
            let message = format!("expected at most {most} {what}, found {found}");
            diagnostics.add(&location, message);
        }
    }
}

/// Reports the loopback interface: no packet leaves this host by it.
fn check_loopback(name: &IfName, location: &Location, diagnostics: &mut Diagnostics) {
    if name.as_str() == LOOPBACK {
        diagnostics.add(
            location,
            "expected an interface that leads out of this host, found \"lo\", the loopback interface",
        );
    }
}

/// A tunnel or a group with its sources, and where the file has them.
struct Owner<'a> {
    name: &'a IfName,
    sources: Vec<(Prefix, &'a Location)>,
}

impl<'a> Owner<'a> {
    fn new(
        name: &'a IfName,
        sources: impl Iterator<Item = Prefix>,
        locations: &'a [Location],
    ) -> Self {
        let sources = sources.zip(locations).collect();
        Self { name, sources }
    }
}

/// Reports sources that overlap a source of another owner, or that are listed twice. The sources are sorted
/// by address, shorter prefixes first. So `around` always holds exactly the earlier sources that contain the
/// current one.
fn check_sources(owners: &[Owner<'_>], diagnostics: &mut Diagnostics) {
    let owned = owners.iter().enumerate();
    let owned = owned.flat_map(|(by, owner)| owner.sources.iter().map(move |source| (by, source)));
    let mut sources: Vec<_> = owned
        .map(|(by, (source, at))| (source.address(), source.bits(), by, *source, *at))
        .collect();
    sources.sort_by_key(|(address, bits, owner, ..)| (*address, *bits, *owner));
    let mut around: Vec<(Prefix, usize)> = Vec::new();
    for (.., owner, source, location) in sources {
        while around
            .last()
            .is_some_and(|(outer, _)| !outer.overlaps(source))
        {
            around.pop();
        }
        if let Some((outer, _)) = around
            .iter()
            .find(|(outer, by)| *outer == source && *by == owner)
        {
            diagnostics.add(location, format!("expected each once, found {outer} again"));
        }
        if let Some((outer, by)) = around.iter().find(|(_, by)| *by != owner) {
            diagnostics.add(
                location,
                format!(
                    "expected sources of its own, found {source}, which overlaps {outer} of {}",
                    owners[*by].name
                ),
            );
        }
        around.push((source, owner));
    }
}
