//! Checks over all tunnels: the properties that they must not share, and their number.

use std::collections::{BTreeMap, BTreeSet};

use sixxs_common::layout;

use super::{
    Tunnel,
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

/// Checks all tunnels against each other.
pub(super) fn check(
    uplinks: &[Located<IfName>],
    tunnels: &[Tunnel],
    locations: &[Locations],
) -> Diagnostics {
    let mut diagnostics = Diagnostics::default();
    let mut uplink_names = BTreeSet::new();
    for uplink in uplinks {
        check_loopback(&uplink.value, &uplink.location, &mut diagnostics);
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
    check_sources(tunnels, locations, &mut diagnostics);
    check_counts(tunnels, &mut diagnostics);
    diagnostics
}

/// Checks the limits of the programs' tables.
fn check_counts(tunnels: &[Tunnel], diagnostics: &mut Diagnostics) {
    let total = |count: fn(&Tunnel) -> usize| tunnels.iter().map(count).sum::<usize>();
    let sources = total(|tunnel| tunnel.sources().count());
    let directs = total(|tunnel| tunnel.direct.len());
    for (what, found, most) in [
        ("tunnels", tunnels.len(), TUNNELS),
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

/// Reports sources that overlap a source of another tunnel, or that are listed twice. The sources are sorted
/// by address, shorter prefixes first. So `around` always holds exactly the earlier sources that contain the
/// current one.
fn check_sources(tunnels: &[Tunnel], locations: &[Locations], diagnostics: &mut Diagnostics) {
    let mut sources: Vec<_> = tunnels
        .iter()
        .zip(locations)
        .enumerate()
        .flat_map(|(owner, (tunnel, at))| {
            let sources = tunnel.sources().zip(&at.sources);
            sources.map(move |(source, at)| (source.address(), source.bits(), owner, source, at))
        })
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
                    tunnels[*by].name
                ),
            );
        }
        around.push((source, owner));
    }
}
