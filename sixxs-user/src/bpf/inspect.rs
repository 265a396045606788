//! Inspects the programs on an interface and the pin directory, without a daemon.

use std::path::{Path, PathBuf};

use aya::programs::SchedClassifier;
use nix::{
    errno::Errno,
    unistd::{AccessFlags, access},
};
use sixxs_core::types::{IfIndex, IfName};

use super::{
    EGRESS, Hook, INGRESS, OBJECT, UNDERLAY, UNDERLAY_IP,
    clsact::HANDLE,
    object,
    pins::{Pins, is_mount_point, mount_point, on_bpffs},
    shape,
    tcx::attach_type,
};
use crate::netlink::{
    Netlink,
    tc::{Direction, Filter},
};

/// A program or filter that receives an interface's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether it is a program of sixxs.
    pub is_ours: bool,
    /// How it is attached.
    pub hook: Hook,
    /// The name of a program, or the kind of a filter.
    pub name: String,
    /// The ID of a program, or the priority of a filter.
    pub number: u32,
}

/// The programs and filters for packets that leave by, or come in by, an interface, in their order.
pub async fn seen_at(
    netlink: &Netlink,
    name: &IfName,
    index: IfIndex,
    direction: Direction,
) -> anyhow::Result<Vec<Seen>> {
    let own: &[_] = match direction {
        Direction::Egress => &[EGRESS],
        Direction::Ingress => &[INGRESS, UNDERLAY, UNDERLAY_IP],
    };
    // An error: the kernel has no TCX (before 6.6), or this process may not query it.
    let tcx = SchedClassifier::query_tcx(name.as_str(), attach_type(direction));
    let tcx = tcx.map(|(_, programs)| programs).unwrap_or_default();
    let programs = tcx.iter().map(|program| {
        let name = program.name_as_str().unwrap_or_default();
        Seen {
            is_ours: own.contains(&name),
            hook: Hook::Tcx,
            name: name.to_owned(),
            number: program.id(),
        }
    });
    let mut seen: Vec<_> = programs.collect();
    let mut filters = netlink.filters(index, direction).await?;
    // The kernel also lists a head entry for each filter, and some classifiers add their own entries.
    filters.sort_by_key(|filter| (filter.priority, filter.handle != HANDLE));
    filters.dedup_by_key(|filter| filter.priority);
    seen.extend(filters.into_iter().map(|filter| {
        let Filter {
            kind,
            priority,
            handle,
            ..
        } = filter;
        Seen {
            is_ours: kind == "bpf" && handle == HANDLE,
            hook: Hook::Clsact,
            name: kind,
            number: priority.into(),
        }
    }));
    Ok(seen)
}

/// The state of a pin directory.
pub struct SeenPins {
    /// Whether it is on a bpffs.
    pub mounted: bool,
    /// Where to mount one if not.
    pub mount_point: PathBuf,
    /// Pins of other versions of this program, by version.
    pub left: Vec<String>,
    /// Why nothing can be pinned; with the mount point, if its file system is read-only.
    pub refused: Option<(String, Option<PathBuf>)>,
    /// Foreign objects in the places of the maps of sixxs.
    pub strange: Vec<PathBuf>,
}

/// Inspects the pin directory, for this network namespace.
#[must_use]
pub fn seen_pins(pin_dir: &Path) -> SeenPins {
    let pins = Pins::for_this_namespace(pin_dir).ok();
    let left = |pins: &Pins| Some([pins.other_versions().ok()?, pins.unscoped().ok()?].concat());
    let left = pins.as_ref().and_then(left).unwrap_or_default();
    let mounted = on_bpffs(pin_dir);
    let refused = match (&pins, mounted) {
        (Some(pins), true) => refused(&pins.maps()),
        _ => refused(pin_dir),
    };
    let strange = match (&pins, &refused) {
        (Some(pins), None) => strange(pins),
        _ => Vec::new(),
    };
    SeenPins {
        mounted,
        mount_point: mount_point(pin_dir).to_owned(),
        left: left.iter().filter_map(Pins::version).collect(),
        refused,
        strange,
    }
}

/// Why a directory cannot be created or written to.
fn refused(directory: &Path) -> Option<(String, Option<PathBuf>)> {
    let mut above = directory.ancestors();
    let nearest = above.find(|path| path.symlink_metadata().is_ok())?;
    let shown = nearest.display();
    if !nearest.is_dir() {
        return Some((format!("{shown} is no directory"), None));
    }
    let error = access(nearest, AccessFlags::W_OK).err()?;
    let mut mounts = nearest.ancestors().filter(|path| is_mount_point(path));
    let mount = mounts.next().filter(|_| error == Errno::EROFS);
    Some((
        format!("{shown}: {}", error.desc()),
        mount.map(Path::to_owned),
    ))
}

fn strange(pins: &Pins) -> Vec<PathBuf> {
    let maps = object::pinned_maps(OBJECT).unwrap_or_default();
    let paths = maps
        .iter()
        .map(|(name, shape)| (pins.maps().join(name), shape));
    paths
        .filter(|(path, wanted)| {
            path.exists() && shape::pinned(path).is_none_or(|found| found.shape != **wanted)
        })
        .map(|(path, _)| path)
        .collect()
}
