//! Removes the programs, filters, qdiscs and pins of all runs, with or without a daemon.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use sixxs_core::{link::Links, types::IfIndex};
use tokio::time::sleep;

use super::{
    AttachPoint, Pins,
    clsact::{remove_clsact, remove_filter},
    dispatcher, objects, pins, tcx, unscoped,
};
use crate::{
    host::files,
    netlink::{Netlink, tc::Direction},
};

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
    let tcx = pins.read_links()?;
    detach_one_by_one(&pins)?;
    pins::remove_all(&pins)?;
    wait_until_detached(tcx.into_iter().map(|(_, link)| link).collect()).await;
    Ok(())
}

/// Detaches the programs of all pinned links. The last descriptor of a link detaches its program when it is closed; the last
/// pin does that later, and with hundreds of links no other process can change an interface for seconds.
fn detach_one_by_one(pins: &Pins) -> anyhow::Result<()> {
    for path in pins.link_paths()? {
        // What cannot be opened goes with the other pins.
        let link = objects::open(&path);
        files::remove_if_exists(&path)?;
        drop(link);
    }
    Ok(())
}

/// Waits until the kernel has detached the programs of links without pins, for a limited time.
async fn wait_until_detached(mut links: Vec<objects::Link>) {
    const LIMIT: Duration = Duration::from_secs(2);
    let started = Instant::now();
    while started.elapsed() < LIMIT {
        links.retain(is_attached);
        if links.is_empty() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

fn is_attached(link: &objects::Link) -> bool {
    Direction::BOTH.into_iter().any(|direction| {
        let found = tcx::attached(IfIndex(link.interface), direction).unwrap_or_default();
        found.iter().any(|found| found.link == link.id)
    })
}
