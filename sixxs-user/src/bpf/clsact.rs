//! Attaches programs as filters on the clsact qdisc of an interface, and removes filters and qdiscs of this
//! program.

use std::io;

use anyhow::Context as _;
use aya::programs::{
    SchedClassifier,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};
use sixxs_core::types::{IfIndex, IfName};

use super::{AttachPoint, Pins, program_id, tcx::attach_type};
use crate::netlink::{
    Netlink,
    tc::{Direction, Filter},
};

/// Handle that identifies the filters of sixxs: "ixxs".
pub(super) const HANDLE: u32 = 0x6978_7873;

/// Filter priorities to try: the first one, so that no other filter ends the chain before it; and another
/// one, in case a filter of another kind uses the first.
const PRIORITIES: [u16; 2] = [1, 116];

/// Attaches the program as a filter. An earlier filter of sixxs gets the program instead.
pub(super) async fn attach(
    pins: &Pins,
    program: &mut SchedClassifier,
    name: &IfName,
    AttachPoint { index, direction }: AttachPoint,
    netlink: &Netlink,
) -> anyhow::Result<()> {
    if let Some(ours) = our_filter(netlink, index, direction).await? {
        return replace(program, name, direction, ours.priority);
    }
    // The kernel lists the qdiscs of all interfaces, even if the request names one. A filter implies the qdisc, so
    // the code above needs no such request.
    if !netlink.has_clsact(index).await? {
        add_qdisc(pins, name, index)?;
    }
    add(program, name, direction)
}

/// Whether the filter of sixxs exists and has this program.
pub(super) async fn has(
    program: &SchedClassifier,
    AttachPoint { index, direction }: AttachPoint,
    netlink: &Netlink,
) -> anyhow::Result<bool> {
    let own = program_id(program)?;
    let filter = our_filter(netlink, index, direction).await?;
    // Other software may have put another program into the filter.
    Ok(filter.is_some_and(|filter| filter.program == Some(own)))
}

/// The filter of sixxs, if it exists.
pub(super) async fn our_filter(
    netlink: &Netlink,
    index: IfIndex,
    direction: Direction,
) -> anyhow::Result<Option<Filter>> {
    let filters = netlink.filters(index, direction).await?;
    Ok(filters
        .into_iter()
        .find(|filter| filter.kind == "bpf" && filter.handle == HANDLE))
}

/// Removes the filter of sixxs from an interface, if both exist.
pub(super) async fn remove_filter(
    netlink: &Netlink,
    AttachPoint { index, direction }: AttachPoint,
) -> anyhow::Result<()> {
    let Some(name) = crate::netlink::index_to_name(index) else {
        return Ok(());
    };
    if let Some(ours) = our_filter(netlink, index, direction).await? {
        use aya::programs::Link as _;
        filter(&name, direction, ours.priority)?
            .detach()
            .with_context(|| format!("remove the filter from {name} {}", direction.name()))?;
    }
    Ok(())
}

/// Removes the clsact qdisc of an interface if sixxs has made it and it has no filters left.
pub(super) async fn remove_clsact(
    pins: &Pins,
    netlink: &Netlink,
    index: IfIndex,
) -> anyhow::Result<()> {
    if crate::netlink::index_to_name(index).is_some() {
        for direction in Direction::BOTH {
            if !netlink.filters(index, direction).await?.is_empty() {
                return Ok(());
            }
        }
        if pins.unmark_clsact(index) && netlink.has_clsact(index).await? {
            netlink.delete_clsact(index).await?;
        }
    } else {
        pins.unmark_clsact(index);
    }
    Ok(())
}

/// Puts the program into the filter with this priority.
fn replace(
    program: &mut SchedClassifier,
    name: &IfName,
    direction: Direction,
    priority: u16,
) -> anyhow::Result<()> {
    let link = filter(name, direction, priority)?;
    let id = program
        .attach_to_link(link)
        .context("replace the clsact filter")?;
    // Dropping the link would detach it; the filter has to outlive the daemon.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn add_qdisc(pins: &Pins, name: &IfName, index: IfIndex) -> anyhow::Result<()> {
    // Mark it before it exists: if the daemon dies in between, an unmarked qdisc would stay forever.
    pins.mark_clsact(index)?;
    match tc::qdisc_add_clsact(name.as_str()) {
        Ok(()) => Ok(()),
        Err(error) => {
            pins.unmark_clsact(index);
            if is_there_already(&error) {
                return Ok(());
            }
            Err(error).context("add the clsact qdisc")
        }
    }
}

/// Adds a filter, with the first priority that the kernel accepts.
fn add(program: &mut SchedClassifier, name: &IfName, direction: Direction) -> anyhow::Result<()> {
    let mut tried = None;
    for priority in PRIORITIES {
        let options = NlOptions {
            priority,
            handle: TcHandle::from(HANDLE),
            classid: None,
        };
        let options = TcAttachOptions::Netlink(options);
        match program.attach_with_options(name.as_str(), attach_type(direction), options) {
            Ok(id) => {
                std::mem::forget(program.take_link(id)?);
                return Ok(());
            }
            Err(error) => tried = Some(error),
        }
    }
    match tried {
        Some(error) => Err(error).context("add a clsact filter"),
        None => Ok(()),
    }
}

fn filter(
    name: &IfName,
    direction: Direction,
    priority: u16,
) -> anyhow::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(
        name.as_str(),
        attach_type(direction),
        priority,
        TcHandle::from(HANDLE),
        None,
    )
    .with_context(|| format!("look up interface {name}"))
}

fn is_there_already(error: &TcError) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
        {
            return true;
        }
        cause = error.source();
    }
    matches!(error, TcError::AlreadyAttached)
}
