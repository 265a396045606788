//! The status of groups, and of the probes of links. Pure.

use sixxs_common::stat::Stat;
use sixxs_core::{active_link::Fitness, config::Tunnel, link_quality::Summary, types::IfName};

use super::{readings::Readings, snapshot::Snapshot};
use crate::control::api;

/// All groups.
pub(super) fn groups(snapshot: &Snapshot<'_>) -> Vec<api::Group> {
    let groups = snapshot.config.groups_as_tunnels();
    let shown = groups.filter_map(|(group, tunnel)| {
        let view = snapshot.groups.get(&group.name)?;
        let links = view.links.iter().map(|(name, fitness)| api::GroupLink {
            name: name.to_string(),
            state: match fitness {
                Some(Fitness::Good) => api::LinkState::Good,
                Some(Fitness::Failing) => api::LinkState::Failing,
                Some(Fitness::Down) => api::LinkState::Down,
                None => api::LinkState::Unknown,
            },
        });
        Some(api::Group {
            name: group.name.to_string(),
            active: group.active.to_string(),
            active_seconds: snapshot.now.saturating_sub(view.since).as_secs_f64(),
            switches: view.switches,
            links: links.collect(),
            prefixes: group.prefixes.iter().map(ToString::to_string).collect(),
            table: group.table.0,
            routing: routing(snapshot, &tunnel),
            leaks: leaks(&group.name, &snapshot.readings),
        })
    });
    shown.collect()
}

/// Whether the rules of a group are there, and its route to the active link.
fn routing(snapshot: &Snapshot<'_>, group: &Tunnel) -> api::Routing {
    match snapshot.is_routed(group) {
        true => api::Routing::InPlace,
        false => api::Routing::Missing,
    }
}

/// Leaks of a tunnel or a group, by treatment.
pub(super) fn leaks(name: &IfName, readings: &Readings) -> api::Leaks {
    let get = |stat| readings.get(name, stat);
    api::Leaks {
        redirected: get(Stat::LeakRedirected),
        dropped: get(Stat::LeakDropped),
        observed: get(Stat::LeakObserved),
        too_big: get(Stat::LeakTooBig),
    }
}

/// The probes of a link.
pub(super) fn probes(summary: &Summary) -> api::Probes {
    api::Probes {
        sent: summary.sent,
        lost: summary.lost,
        loss_percent: summary.loss_percent(),
        median_seconds: summary.median.map(|median| median.as_secs_f64()),
    }
}
