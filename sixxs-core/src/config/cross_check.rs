//! Checks over all tunnels: what they may not share, and how many there may be.

use std::collections::{BTreeMap, BTreeSet};

use sixxs_common::layout;

use super::{
    Tunnel,
    section::{Head, Located},
};
use crate::{
    diagnostics::{Diagnostics, Location},
    types::{IfName, Prefix},
};

/// Tunnels at most: each has a slot in the programs' tables, and uplinks need some as well.
pub(super) const TUNNELS: usize = layout::SLOTS as usize - 64;

/// Sources at most, over all tunnels: addresses of uplinks within them need some room as well.
const SOURCES: usize = layout::SOURCES as usize - 1024;

/// Direct destinations at most, over all tunnels.
const DIRECTS: usize = layout::DIRECTS as usize;

/// The loopback interface, in every network namespace (`LOOPBACK_IFINDEX` is fixed, and so is the name
/// that the kernel gives it).
const LOOPBACK: &str = "lo";

/// Where the parts of a tunnel are that other tunnels may contradict.
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

/// The programs' tables have limits.
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
            let location = Head::of_file().location("tunnel");
            let message = format!("expected at most {most} {what}, found {found}");
            diagnostics.add(&location, message);
        }
    }
}

/// Nothing leaves this host by the loopback interface.
fn check_loopback(name: &IfName, location: &Location, diagnostics: &mut Diagnostics) {
    if name.as_str() == LOOPBACK {
        diagnostics.add(
            location,
            "expected an interface that leads out of this host, found \"lo\", the loopback interface",
        );
    }
}

/// No source may lie within another, nor stand twice. In the order of addresses, and the shorter
/// prefix first, whatever contains a source stands right before it, among those not yet left.
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
