//! The only place that uses aya: loads the programs, fills their maps, attaches them, and reads their
//! counters.
//!
//! [`Kernel::sync`] keeps the order: load, write the maps, then attach; detach before it clears map entries.
//! Maps and links are pinned, so that enforcement outlives the daemon, and a new daemon takes over without
//! a gap.

mod attach;
mod clsact;
mod counter_migration;
mod dispatcher;
mod dry_run;
mod hook;
mod inside_test;
mod inspect;
mod live_test;
mod load;
mod lost_pins;
mod object;
mod objects;
pub(crate) mod outside_test;
mod pins;
mod pod;
mod remove;
mod rings;
mod shape;
mod syscall;
mod tables;
mod tcx;
pub mod test_run;
mod unscoped;
mod xdp;
mod xdp_link;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf,
    maps::MapData,
    programs::{Program, SchedClassifier, Xdp},
};
use sixxs_common::{
    echo::Times, endpoint::OuterCounters, flow::Flow, layout::FlowRecord,
    screening::ForgedCounters, stat::Counters,
};
use sixxs_core::{
    enforce::{
        Enforcement, Interface,
        screening::{XdpPlace, XdpWish},
    },
    link::Links,
    tunnel::OuterPath,
    types::{IfIndex, IfName},
};

use crate::{
    host::files,
    netlink::{Netlink, tc::Direction},
};

pub use dry_run::dry_run;
pub use hook::{Hook, HookChoice};
pub use inside_test::{InsideTester, TestRequest, Testers};
pub use inspect::{Seen, SeenPins, seen_at, seen_pins};
pub use live_test::LiveTest;
pub use remove::remove;
pub use rings::{Debugging, LeakRing, RingReader, Rings, wait_on};

use attach::directions;
use hook::Attachments;
use load::loaded;
use pins::Pins;
use tables::Tables;
use unscoped::FormerPins;
use xdp::XdpLinks;

/// The eBPF object that `cargo xtask build` made.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SIXXS_EBPF_OBJECT"));

/// Names of the programs in the object.
const EGRESS: &str = "sixxs_egress";
const INGRESS: &str = "sixxs_ingress";
const UNDERLAY: &str = "sixxs_underlay";
/// The same for interfaces without a link layer.
const UNDERLAY_IP: &str = "sixxs_underlay0";

/// The XDP program.
const XDP: &str = "sixxs_xdp";

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct AttachPoint {
    index: IfIndex,
    direction: Direction,
}

/// The programs in the kernel, with their maps.
pub struct Kernel {
    ebpf: Ebpf,
    tables: Tables,
    attachments: Attachments,
    xdp: XdpLinks,
    /// Why the kernel does not load the XDP program, as a message, once that was tried.
    xdp_unloaded: Option<String>,
    pins: Pins,
    /// Every pinned map, to pin it again if its pin disappears.
    pinned: Vec<(PathBuf, MapData)>,
    /// Pins of programs with other layouts that are not yet replaced.
    former: Vec<FormerPins>,
    /// Why nothing is pinned, as a message.
    unpinned: Option<String>,
    /// Whether programs of an earlier run may still be attached. They cache lookups where the programs of this run
    /// find them.
    has_earlier_programs: bool,
}

/// The result of [`Kernel::sync`].
#[derive(Debug, Default)]
pub struct Synced {
    /// Failures that a later attempt may resolve, as messages; everything else is in place.
    pub failures: Vec<String>,
    /// Problems that last for the whole run, as messages.
    pub problems: Vec<String>,
    /// Programs that were attached again after other software detached them: the interface, and the hook's name.
    pub reattached: Vec<(IfName, &'static str)>,
}

/// Whether the kernel supports programs for traffic control; `None` if this process cannot determine it.
#[must_use]
pub fn is_supported() -> Option<bool> {
    aya::sys::is_program_supported(aya::programs::ProgramType::SchedClassifier).ok()
}

impl Kernel {
    /// Takes over the pins that earlier versions made for this namespace, outside a namespace's directory. Call
    /// it before the first [`Kernel::sync`].
    pub async fn take_over(&mut self, netlink: &Netlink) -> anyhow::Result<()> {
        if !self.pins.is_enabled() {
            return Ok(());
        }
        self.former
            .splice(0..0, unscoped::take_over(&self.pins, netlink).await?);
        Ok(())
    }

    /// The pins of other network namespaces in the same pin directory.
    pub fn other_namespace_pins(&self) -> anyhow::Result<Vec<PathBuf>> {
        if !self.pins.is_enabled() {
            return Ok(Vec::new());
        }
        let is_taken = |pins: &Pins| self.former.iter().any(|former| former.pins == *pins);
        let unscoped = self.pins.unscoped()?.into_iter();
        let left = unscoped
            .filter(|pins| !is_taken(pins))
            .map(|pins| pins.root());
        Ok(left.chain(self.pins.other_namespaces()?).collect())
    }

    /// Reconciles maps and attachments with `wanted`. `names` are all interfaces that may ever need a slot:
    /// every tunnel in the configuration, whether it is wanted now or not.
    pub async fn sync(
        &mut self,
        wanted: &Enforcement,
        names: &BTreeSet<IfName>,
        links: &Links,
        netlink: &Netlink,
    ) -> anyhow::Result<Synced> {
        let answering = self.xdp.answering(links);
        self.tables.write(wanted, names, &answering)?;
        // Pin links first: they keep programs and maps alive if the daemon dies. `ensure` below reports
        // failed pins, with the interface.
        self.attachments.pin_all_again();
        self.xdp.pin_all_again();
        let counted = self.tables.write_endpoints(wanted);
        let screened = self.tables.write_screening(wanted);
        let mut synced = Synced {
            failures: self.pin_again(),
            problems: self.unpinned.iter().cloned().collect(),
            reattached: Vec::new(),
        };
        // A failure here is no reason to let packets leak.
        let unwritten = [counted, screened].into_iter().filter_map(Result::err);
        synced
            .failures
            .extend(unwritten.map(|error| format!("{error:#}")));
        self.attach_all(wanted, links, netlink, &mut synced).await;
        let without_xdp = self.attach_xdp(wanted, links, &mut synced.reattached);
        if self.xdp.answering(links) != answering {
            self.tables
                .write_interfaces(wanted, &self.xdp.answering(links))?;
        }
        let keep = |point: AttachPoint| {
            wanted.interfaces.values().any(|interface: &Interface| {
                interface.index == point.index && directions(interface).contains(&point.direction)
            })
        };
        let undetached = self.attachments.retain(&keep, links, netlink).await;
        synced.failures.extend(undetached);
        self.tables.forget(wanted)?;
        if self.has_earlier_programs && synced.failures.is_empty() {
            // If the pin of a map was removed, they had looked up in another map.
            self.tables.invalidate_caches()?;
            self.has_earlier_programs = false;
        }
        // Until all programs are replaced, the old ones still count in their own maps.
        if synced.failures.is_empty()
            && let Err(error) = self.take_over_counters()
        {
            let failure = format!("take over the counters: {error:#}");
            synced.failures.push(failure);
        }
        // The programs at TC do the same, so nothing waits for it.
        synced.failures.extend(without_xdp);
        Ok(synced)
    }

    /// Where the XDP program is attached to an interface, or why it is not. `None`: it is not wanted there.
    #[must_use]
    pub fn xdp(&self, interface: &Interface) -> Option<Result<XdpPlace, String>> {
        let XdpWish::Attach(_) = interface.xdp? else {
            return None;
        };
        let state = self.xdp.state(interface.index)?;
        Some(state.map_err(ToString::to_string))
    }

    /// Whether a program was detached from an interface. The kernel sends no event when a TCX link is detached.
    #[must_use]
    pub fn has_lost_a_program(&self) -> bool {
        self.attachments.has_lost() || self.xdp.has_lost()
    }

    /// Takes over the counters of programs with other layouts, which are all replaced now.
    fn take_over_counters(&mut self) -> anyhow::Result<()> {
        while let Some(other) = self.former.pop() {
            let counted = counter_migration::read_counters(&other.pins);
            // Remove the pins first, so that no error leads to counting twice. Shared pins have no link of this
            // namespace any more.
            if !other.is_shared {
                other.pins.remove()?;
            }
            self.tables.add_carried(&counted?)?;
        }
        Ok(())
    }

    /// Reads maps back, and the pins of maps and links: root can write there, and the kernel sends no event.
    /// Restores what differs; returns the corrections, as messages.
    pub fn restore(&mut self) -> anyhow::Result<Vec<String>> {
        let mut restored = Vec::new();
        for (path, map) in &self.pinned {
            let wanted = map.info().context("query a map's ID")?.id();
            // The next round restores a missing pin.
            if path.exists() && shape::pinned(path).map(|found| found.id) != Some(wanted) {
                files::remove_if_exists(path)?;
                map.pin(path)
                    .with_context(|| format!("pin {} again", path.display()))?;
                restored.push(format!(
                    "pin {} again, where another object was",
                    path.display()
                ));
            }
        }
        restored.extend(self.attachments.restore_pins()?);
        let maps = self.tables.restore()?;
        let written = maps
            .iter()
            .map(|map| format!("write the map {map} again, which another process had written to"));
        restored.extend(written);
        Ok(restored)
    }

    /// Pins maps again whose pins were removed; returns errors as messages.
    fn pin_again(&self) -> Vec<String> {
        let made = match self.pins.have_directories() {
            true => Ok(()),
            false => self.pins.create_directories(),
        };
        let mut problems: Vec<_> = made.err().map(|e| format!("{e:#}")).into_iter().collect();
        for (path, map) in &self.pinned {
            if !path.exists()
                && let Err(error) = map.pin(path)
            {
                problems.push(format!("pin {} again: {error}", path.display()));
            }
        }
        problems
    }

    /// The hook of an interface's programs; `None` if one of them is not attached.
    #[must_use]
    pub fn hook(&self, interface: &Interface) -> Option<Hook> {
        let mut hook = None;
        for direction in directions(interface) {
            hook = Some(self.attachments.hook(interface.index, *direction)?);
        }
        hook
    }

    /// The outer paths of the tunnels that the programs carry now.
    pub fn outer_paths(&self) -> anyhow::Result<BTreeMap<IfName, OuterPath>> {
        self.tables.outer_paths()
    }

    /// The slot of an interface or tunnel.
    #[must_use]
    pub fn slot(&self, name: &IfName) -> Option<u32> {
        self.tables.slots().get(name).copied()
    }

    /// All slots in use, by name.
    #[must_use]
    pub fn slots(&self) -> &BTreeMap<IfName, u32> {
        self.tables.slots()
    }

    /// The counters of a slot, summed over all CPUs.
    pub fn counters(&self, slot: u32) -> anyhow::Result<Counters> {
        self.tables.counters(slot)
    }

    /// The outer packets of a tunnel, summed over all CPUs.
    pub fn outer_counters(&self, slot: u32) -> anyhow::Result<OuterCounters> {
        self.tables.outer_counters(slot)
    }

    /// The forged packets for a tunnel, summed over all CPUs.
    pub fn forged(&self, slot: u32) -> anyhow::Result<ForgedCounters> {
        self.tables.forged(slot)
    }

    /// Reply times of a tunnel, summed over all CPUs.
    pub fn times(&self, slot: u32) -> anyhow::Result<Times> {
        self.tables.times(slot)
    }

    /// The time since which the programs expect replies of a tunnel, in nanoseconds of CLOCK_MONOTONIC; 0 for never.
    pub fn watched_ns(&self, slot: u32) -> anyhow::Result<u64> {
        self.tables.watched_ns(slot)
    }

    /// The number of echo requests since this time that have no reply yet, by slot.
    pub fn waiting_since(&self, since_ns: u64) -> anyhow::Result<BTreeMap<u32, u64>> {
        self.tables.waiting_since(since_ns)
    }

    /// The kernel's record of a leaking flow.
    #[must_use]
    pub fn flow(&self, flow: &Flow) -> Option<FlowRecord> {
        self.tables.flow(flow)
    }

    /// The descriptor of the XDP program, for test runs.
    pub fn xdp_program(&mut self) -> anyhow::Result<OwnedFd> {
        let program: &mut Xdp = loaded(&mut self.ebpf, XDP)?.try_into()?;
        Ok(program.fd()?.as_fd().try_clone_to_owned()?)
    }

    /// Descriptors of the programs, for test runs: egress, ingress of tunnels, ingress of uplinks and underlays.
    pub fn programs(&mut self) -> anyhow::Result<[OwnedFd; 3]> {
        let mut descriptor = |name| -> anyhow::Result<OwnedFd> {
            let descriptor = program(&mut self.ebpf, name)?.fd()?.as_fd();
            Ok(descriptor.try_clone_to_owned()?)
        };
        Ok([
            descriptor(EGRESS)?,
            descriptor(INGRESS)?,
            descriptor(UNDERLAY)?,
        ])
    }

    /// Writes only the maps, without attaching, for test runs and benchmarks.
    pub fn write_maps(&mut self, wanted: &Enforcement) -> anyhow::Result<()> {
        let names = wanted.tunnels.keys().cloned().collect();
        let all = wanted.interfaces.values().map(|interface| interface.index);
        self.tables.write(wanted, &names, &all.collect())?;
        self.tables.write_endpoints(wanted)?;
        self.tables.write_screening(wanted)?;
        self.tables.forget(wanted)
    }
}

fn find<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Program> {
    let program = ebpf.program_mut(name);
    program.ok_or_else(|| anyhow!("the eBPF object has no program {name}"))
}

/// A program for traffic control. It is loaded if it is not.
fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    Ok(loaded(ebpf, name)?.try_into()?)
}

fn program_id(program: &SchedClassifier) -> anyhow::Result<u32> {
    Ok(program.info().context("query the program's ID")?.id())
}
