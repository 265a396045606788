//! The outer paths of tunnels that the programs carry.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};
use sixxs_common::{layout, six_in_four::OuterPath};
use sixxs_core::{
    enforce::Enforcement,
    tunnel,
    types::{IfIndex, IfName},
};

use super::{Raw, Tables, read_name, reconcile, take};

/// The maps, with copies of the values last written.
pub(super) struct Outers {
    paths: Array<MapData, Raw<OuterPath>>,
    slots: HashMap<MapData, [u8; 8], u32>,
    /// The entries of `paths` that are not empty, by slot.
    entries: BTreeMap<u32, OuterPath>,
}

impl Outers {
    /// Takes the maps of the object. `are_new`: they are empty.
    pub(super) fn new(ebpf: &mut Ebpf, are_new: bool) -> anyhow::Result<Self> {
        let paths: Array<_, Raw<OuterPath>> = take(ebpf, "OUTER_PATHS")?.try_into()?;
        let mut entries = BTreeMap::new();
        for slot in if are_new { 0..0 } else { 0..layout::SLOTS } {
            let entry = paths.get(&slot, 0).context("read an outer path")?.0;
            if entry != OuterPath::default() {
                entries.insert(slot, entry);
            }
        }
        Ok(Self {
            paths,
            slots: take(ebpf, "SLOTS_BY_OUTER")?.try_into()?,
            entries,
        })
    }

    fn set(&mut self, slot: u32, entry: OuterPath) -> anyhow::Result<()> {
        self.paths
            .set(slot, Raw(entry), 0)
            .context("write an outer path")?;
        if entry == OuterPath::default() {
            self.entries.remove(&slot);
        } else {
            self.entries.insert(slot, entry);
        }
        Ok(())
    }

    /// Makes `slots` what it should be. Returns whether something differed.
    fn write_slots(&mut self) -> anyhow::Result<bool> {
        let entries = self.entries.iter();
        let intended = entries.map(|(slot, path)| (path.ends(), *slot)).collect();
        reconcile(&mut self.slots, &intended)
    }
}

impl Tables {
    /// Writes the outer paths; call it before programs are attached.
    pub(super) fn write_outers(&mut self, wanted: &Enforcement) -> anyhow::Result<()> {
        let mut has_changed = false;
        for (name, path) in &wanted.outer_paths {
            let slot = self.slot(name)?;
            let tunnel = wanted.tunnels.get(name);
            let entry = OuterPath {
                ifindex: path.index.0,
                local: path.local.octets(),
                remote: path.remote.octets(),
                largest_inner: path.largest_inner,
                takes_batches: tunnel
                    .is_some_and(|tunnel| tunnel.mtu.0 <= path.largest_inner)
                    .into(),
            };
            if self.outers.entries.get(&slot) != Some(&entry) {
                self.outers.set(slot, entry)?;
                has_changed = true;
            }
        }
        if has_changed {
            self.outers.write_slots()?;
        }
        Ok(())
    }

    /// Clears the outer paths that are no longer wanted; call it after the tunnels' interfaces do not use them any
    /// more.
    pub(super) fn forget_outers(&mut self, wanted: &Enforcement) -> anyhow::Result<()> {
        let wanted: Vec<_> = wanted
            .outer_paths
            .keys()
            .filter_map(|name| self.slots.get(name))
            .collect();
        let entries = self.outers.entries.keys();
        let unwanted: Vec<_> = entries
            .filter(|slot| !wanted.contains(slot))
            .copied()
            .collect();
        for slot in &unwanted {
            self.outers.set(*slot, OuterPath::default())?;
        }
        if !unwanted.is_empty() {
            self.outers.write_slots()?;
        }
        Ok(())
    }

    /// The outer paths in the maps, by the tunnel's name.
    pub(in crate::bpf) fn outer_paths(
        &self,
    ) -> anyhow::Result<BTreeMap<IfName, tunnel::OuterPath>> {
        let mut carried = BTreeMap::new();
        for (slot, entry) in &self.outers.entries {
            let name = self.names.get(slot, 0).context("read a slot's name")?.0;
            let path = tunnel::OuterPath {
                index: IfIndex(entry.ifindex),
                local: Ipv4Addr::from(entry.local),
                remote: Ipv4Addr::from(entry.remote),
                largest_inner: entry.largest_inner,
            };
            carried.extend(read_name(&name).map(|name| (name, path)));
        }
        Ok(carried)
    }

    /// Restores the paths that other software changed.
    pub(super) fn restore_outers(&mut self) -> anyhow::Result<bool> {
        let mut restored = false;
        for slot in 0..layout::SLOTS {
            let intended = self.outers.entries.get(&slot).copied().unwrap_or_default();
            let found = self
                .outers
                .paths
                .get(&slot, 0)
                .context("read an outer path")?
                .0;
            if found != intended {
                self.outers.set(slot, intended)?;
                restored = true;
            }
        }
        Ok(restored)
    }

    /// Restores the tunnels of outer addresses that other software changed.
    pub(super) fn restore_outer_slots(&mut self) -> anyhow::Result<bool> {
        self.outers.write_slots()
    }
}
