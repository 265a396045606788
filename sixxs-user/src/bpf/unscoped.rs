//! Pins of earlier versions, which shared one directory among all network namespaces. The interfaces where
//! their programs are attached show which namespace owns them.

use std::{collections::BTreeSet, io};

use aya::{
    maps::MapData,
    programs::{ProgramError, loaded_programs},
};
use sixxs_core::types::IfIndex;

use super::{clsact::our_filter, objects, pins::Pins, tcx};
use crate::netlink::{Netlink, indexes, tc::Direction};

/// Pins that were taken over.
#[derive(Clone, Debug)]
pub(super) struct FormerPins {
    pub(super) pins: Pins,
    /// Whether another network namespace still uses them.
    pub(super) is_shared: bool,
}

/// The links and filters of sixxs in this network namespace.
struct LocalAttachments {
    /// The IDs of TCX links.
    links: BTreeSet<u32>,
    /// The clsact filters of sixxs, with the IDs of their programs.
    filters: Vec<(IfIndex, Option<u32>)>,
}

/// Takes over links and marks of this network namespace from unscoped pins. Returns the pins whose counters
/// can be taken over. Pins without any attachment go to the first namespace that takes them; pins of
/// another namespace stay untouched.
pub(super) async fn take_over(pins: &Pins, netlink: &Netlink) -> anyhow::Result<Vec<FormerPins>> {
    let unscoped = pins.unscoped()?;
    if unscoped.is_empty() {
        return Ok(Vec::new());
    }
    pins.create_directories()?;
    let local = local_attachments(netlink).await?;
    let mut taken = Vec::new();
    for other in unscoped {
        if let Some(is_shared) = take(pins, &other, &local)? {
            taken.push(FormerPins {
                pins: other,
                is_shared,
            });
        }
    }
    Ok(taken)
}

/// `None`: they belong to another namespace only. Else whether another namespace uses them too.
fn take(pins: &Pins, other: &Pins, local: &LocalAttachments) -> anyhow::Result<Option<bool>> {
    let links = other.read_links()?;
    let is_here = |link: &objects::Link| local.links.contains(&link.id);
    let has_links_here = links.iter().any(|(_, link)| is_here(link));
    let elsewhere: BTreeSet<_> = links
        .iter()
        .filter(|(_, link)| link.interface != 0 && !is_here(link))
        .map(|(name, _)| name)
        .collect();
    let maps = map_ids(other)?;
    let users = users(&maps);
    // Without permission to list programs, decide by the links, or by whether filters of sixxs exist in this
    // namespace.
    let filters: Vec<_> = local
        .filters
        .iter()
        .filter(|(_, program)| match (&users, program) {
            (Some(users), Some(program)) => users.contains(program),
            _ => links.is_empty(),
        })
        .map(|(index, _)| *index)
        .collect();
    let known: BTreeSet<_> = (links.iter().map(|(_, link)| link.program))
        .chain(local.filters.iter().filter_map(|(_, program)| *program))
        .collect();
    let is_used_elsewhere = users.is_some_and(|users| !users.is_subset(&known));
    let is_shared = !elsewhere.is_empty() || is_used_elsewhere;
    if is_shared && !has_links_here && filters.is_empty() {
        return Ok(None);
    }
    for (name, _) in &links {
        if !elsewhere.contains(name) {
            pins.adopt_link(other, name)?;
        }
    }
    for index in other.marked_clsact()? {
        if !is_shared || filters.contains(&index) {
            pins.adopt_mark(other, index)?;
        }
    }
    Ok(Some(is_shared))
}

async fn local_attachments(netlink: &Netlink) -> anyhow::Result<LocalAttachments> {
    let mut local = LocalAttachments {
        links: BTreeSet::new(),
        filters: Vec::new(),
    };
    for index in indexes()? {
        for direction in Direction::BOTH {
            // An error: the kernel has no TCX (before 6.6), or the interface is gone.
            let attached = tcx::attached(index, direction).unwrap_or_default();
            local
                .links
                .extend(attached.iter().map(|attached| attached.link));
            if let Some(filter) = our_filter(netlink, index, direction).await? {
                local.filters.push((index, filter.program));
            }
        }
    }
    Ok(local)
}

/// The IDs of the pinned maps.
fn map_ids(pins: &Pins) -> anyhow::Result<BTreeSet<u32>> {
    let maps = pins.pinned_maps()?;
    let id = |(_, map): &(_, MapData)| Some(map.info().ok()?.id());
    Ok(maps.iter().filter_map(id).collect())
}

/// The IDs of programs that use one of these maps; `None` without `CAP_SYS_ADMIN`.
fn users(maps: &BTreeSet<u32>) -> Option<BTreeSet<u32>> {
    let mut users = BTreeSet::new();
    for program in loaded_programs() {
        match program {
            Ok(program) => {
                let used = program.map_ids().ok().flatten().unwrap_or_default();
                if used.iter().any(|map| maps.contains(map)) {
                    users.insert(program.id());
                }
            }
            Err(error) if is_permission_denied(&error) => return None,
            // The program was unloaded meanwhile.
            Err(_) => {}
        }
    }
    Some(users)
}

fn is_permission_denied(error: &ProgramError) -> bool {
    matches!(
        error,
        ProgramError::SyscallError(error)
            if error.io_error.kind() == io::ErrorKind::PermissionDenied
    )
}
