//! Removes the programs, filters, qdiscs and pins of all runs, with or without a daemon.

use std::path::Path;

use anyhow::Context as _;
use sixxs_core::link::Links;

use super::{
    AttachPoint, Pins,
    clsact::{remove_clsact, remove_filter},
    dispatcher, pins, unscoped,
};
use crate::netlink::{Netlink, tc::Direction};

/// Detaches the programs of sixxs from all interfaces of this network namespace, removes the clsact qdiscs that
/// sixxs has made and nothing else uses, and removes all pins of this namespace.
pub async fn remove(pin_dir: &Path, links: &Links, netlink: &Netlink) -> anyhow::Result<()> {
    let pins = Pins::for_this_namespace(pin_dir)?;
    // The filters show who owns pins without a namespace, so check before removing them.
    let former = unscoped::take_over(&pins, netlink).await?;
    for former in former.iter().filter(|former| !former.is_shared) {
        former.pins.remove()?;
    }
    for other in pins.other_versions()? {
        pins.create_directories()?;
        pins.adopt(&other)?;
    }
    for link in links.iter() {
        for direction in Direction::BOTH {
            let point = AttachPoint {
                index: link.index,
                direction,
            };
            remove_filter(netlink, point).await?;
        }
    }
    for link in pins
        .pinned_shared_xdp()?
        .into_iter()
        .filter_map(|index| links.by_index(index))
    {
        dispatcher::leave(&pins, link)
            .with_context(|| format!("leave the XDP dispatcher at {}", link.name))?;
    }
    for index in pins.marked_clsact()? {
        remove_clsact(&pins, netlink, index).await?;
    }
    pins::remove_all(&pins)
}
