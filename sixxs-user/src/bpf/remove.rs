//! Removes the programs, filters, qdiscs and pins of all runs, with or without a daemon.

use std::path::Path;

use super::{
    Pins,
    clsact::{remove_clsact, remove_filter},
    pins, unscoped,
};
use crate::netlink::{Netlink, tc::Direction};
use sixxs_core::link::Links;

/// Detaches the programs of sixxs from all interfaces of this network namespace, removes the clsact qdiscs that
/// sixxs has made and nothing else uses, and removes all pins of this namespace.
pub async fn remove(pin_dir: &Path, links: &Links, netlink: &Netlink) -> anyhow::Result<()> {
    let pins = Pins::at(pin_dir)?;
    // The filters show who owns pins without a namespace, so check before removing them.
    let former = unscoped::take_over(&pins, netlink).await?;
    for former in former.iter().filter(|former| !former.is_shared) {
        former.pins.remove()?;
    }
    for other in pins.others()? {
        pins.create_directories()?;
        pins.adopt(&other)?;
    }
    for link in links.iter() {
        for direction in Direction::BOTH {
            remove_filter(netlink, (link.index, direction)).await?;
        }
    }
    for index in pins.marked_clsact()? {
        remove_clsact(&pins, netlink, index).await?;
    }
    pins::remove_all(&pins)
}
