//! Who sees the packets of an interface, and what the pin directory is like: without a daemon.

use std::path::{Path, PathBuf};

use aya::programs::SchedClassifier;
use sixxs_core::types::{IfIndex, IfName};

use super::{
    EGRESS, Hook, INGRESS,
    hook::{HANDLE, attach_type},
    pins::{Pins, mount_point, on_bpffs},
};
use crate::netlink::{
    Netlink,
    tc::{Direction, Filter},
};

/// Something that sees an interface's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether it is a program of ours.
    pub ours: bool,
    /// How it is attached.
    pub hook: Hook,
    /// The name of a program, or the kind of a filter.
    pub name: String,
    /// The number of a program, or the priority of a filter.
    pub number: u32,
}

/// Who sees what leaves by, or comes in by, an interface, in their order.
pub async fn seen_at(
    netlink: &Netlink,
    name: &IfName,
    index: IfIndex,
    direction: Direction,
) -> anyhow::Result<Vec<Seen>> {
    let own = match direction {
        Direction::Egress => EGRESS,
        Direction::Ingress => INGRESS,
    };
    // An error: there is no TCX before 6.6, or it is not for us to know.
    let tcx = SchedClassifier::query_tcx(name.as_str(), attach_type(direction));
    let tcx = tcx.map(|(_, programs)| programs).unwrap_or_default();
    let programs = tcx.iter().map(|program| {
        let name = program.name_as_str().unwrap_or_default();
        Seen {
            ours: name == own,
            hook: Hook::Tcx,
            name: name.to_owned(),
            number: program.id(),
        }
    });
    let mut seen: Vec<_> = programs.collect();
    let mut filters = netlink.filters(index, direction).await?;
    // Each has a head entry besides, and some have entries of their own making.
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
            ours: kind == "bpf" && handle == HANDLE,
            hook: Hook::Clsact,
            name: kind,
            number: priority.into(),
        }
    }));
    Ok(seen)
}

/// What a pin directory is like.
pub struct SeenPins {
    /// Whether it is on a bpffs.
    pub mounted: bool,
    /// Where one is mounted if not.
    pub mount_point: PathBuf,
    /// Which other versions of this program left pins there.
    pub left: Vec<String>,
}

/// Looks at a pin directory.
#[must_use]
pub fn seen_pins(pin_dir: &Path) -> SeenPins {
    let pins = Pins::at(pin_dir);
    let others = |pins: &Pins| Some([pins.others().ok()?, pins.unscoped().ok()?].concat());
    let others = pins.ok().as_ref().and_then(others).unwrap_or_default();
    SeenPins {
        mounted: on_bpffs(pin_dir),
        mount_point: mount_point(pin_dir).to_owned(),
        left: others.iter().filter_map(Pins::version).collect(),
    }
}
