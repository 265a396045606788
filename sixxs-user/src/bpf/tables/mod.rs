//! Fills the programs' maps, and reads their counters.
//!
//! * this file – slots, tunnels and interfaces
//! * `insert` – inserts into maps whose elements the kernel allocates one by one
//! * `endpoints` – the endpoints of tunnels, and the counters of outer packets
//! * `outers` – the outer paths of tunnels that the programs carry
//! * `screening` – the outer packets to screen, and the counters of those that are forged
//! * `sources` – which source addresses belong to which tunnel
//! * `read` – counters and measurements
//! * `restore` – restores maps that other software changed

mod endpoints;
mod insert;
mod outers;
mod read;
mod restore;
mod screening;
mod sources;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues,
    },
};
use bytemuck::Zeroable as _;
use sixxs_common::{
    address::Address,
    echo::{Pending, Times},
    flow::Flow,
    layout::{self, Control, FlowRecord, SlotName, SlotState, SourceTable},
    source_filter::SourceFilter,
    stat::{CAPACITY, Counters},
};
use sixxs_core::{
    enforce::{Enforcement, Interface, RedirectTarget, Role, slots},
    types::{IfIndex, IfName},
};

pub(super) use self::read::sum;
use self::{
    endpoints::Endpoints, insert::insert, outers::Outers, screening::Screens, sources::Written,
};
use super::pod::Raw;

/// Upper limit for the generation of the sources. It starts at one and never reaches this limit; other software has
/// written any higher value.
const HIGHEST_GENERATION: u64 = u64::MAX / 2;

/// The maps, with copies of the values last written, so that only changes are written.
pub(super) struct Tables {
    interfaces: Array<MapData, Raw<layout::Interface>>,
    counters: PerCpuArray<MapData, Raw<SlotState>>,
    control: Array<MapData, Raw<Control>>,
    /// The intended value of the only entry in `control`.
    current: Control,
    few: Array<MapData, Raw<SourceTable>>,
    /// The entry of `few` that is in use.
    in_use: SourceTable,
    filters: Array<MapData, Raw<SourceFilter>>,
    /// The intended value of the present filter.
    filter: Box<SourceFilter>,
    sources: LpmTrie<MapData, [u8; 16], Raw<layout::Source>>,
    directs: LpmTrie<MapData, [u8; 20], u32>,
    tunnels: Array<MapData, Raw<layout::Tunnel>>,
    /// The entries of `tunnels` that are not empty, by slot.
    tunnel_entries: BTreeMap<u32, layout::Tunnel>,
    outers: Outers,
    endpoints: Endpoints,
    screens: Screens,
    leaks: HashMap<MapData, Raw<Flow>, Raw<FlowRecord>>,
    states: Array<MapData, Raw<layout::TunnelState>>,
    echoes: Array<MapData, Raw<Pending>>,
    times: PerCpuHashMap<MapData, u32, Raw<Times>>,
    /// Slots that have an entry in `times`.
    timed: BTreeSet<u32>,
    /// Counters of programs with maps of another layout.
    carried: Array<MapData, Raw<Counters>>,
    names: Array<MapData, Raw<SlotName>>,
    slots: BTreeMap<IfName, u32>,
    /// A copy of the interface table in its map.
    interface_entries: BTreeMap<u32, layout::Interface>,
    written: Option<Written>,
}

/// Takes a map out of the object.
pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Map> {
    ebpf.take_map(name)
        .ok_or_else(|| anyhow!("the eBPF object has no map {name}"))
}

impl Tables {
    /// Takes the maps of the object. `are_new`: the maps are empty.
    pub(super) fn new(ebpf: &mut Ebpf, are_new: bool) -> anyhow::Result<Self> {
        let filled = |count: u32| if are_new { 0..0 } else { 0..count };
        let control: Array<_, Raw<Control>> = take(ebpf, "CONTROL")?.try_into()?;
        let mut current = control.get(&0, 0).context("read the control entry")?.0;
        // 0 means an empty interface entry, or an address that was never looked up.
        current.generation = current.generation.clamp(1, HIGHEST_GENERATION);
        let interfaces: Array<_, Raw<layout::Interface>> = take(ebpf, "INTERFACES")?.try_into()?;
        let mut interface_entries = BTreeMap::new();
        for index in filled(layout::INTERFACES) {
            let entry = interfaces.get(&index, 0).context("read an interface")?.0;
            if entry != layout::Interface::default() {
                interface_entries.insert(index, entry);
            }
        }
        let tunnels: Array<_, Raw<layout::Tunnel>> = take(ebpf, "TUNNELS")?.try_into()?;
        let mut tunnel_entries = BTreeMap::new();
        for slot in filled(layout::SLOTS) {
            let entry = tunnels.get(&slot, 0).context("read a tunnel")?.0;
            if entry != layout::Tunnel::default() {
                tunnel_entries.insert(slot, entry);
            }
        }
        Ok(Self {
            interfaces,
            interface_entries,
            counters: take(ebpf, "COUNTERS")?.try_into()?,
            control,
            current,
            few: take(ebpf, "FEW")?.try_into()?,
            in_use: SourceTable::EMPTY,
            filters: take(ebpf, "SOURCE_FILTERS")?.try_into()?,
            filter: Box::new(SourceFilter::EMPTY),
            sources: take(ebpf, "SOURCES")?.try_into()?,
            directs: take(ebpf, "DIRECTS")?.try_into()?,
            tunnels,
            tunnel_entries,
            outers: Outers::new(ebpf, are_new)?,
            endpoints: Endpoints::new(ebpf)?,
            screens: Screens::new(ebpf)?,
            leaks: take(ebpf, "LEAKS")?.try_into()?,
            states: take(ebpf, "STATES")?.try_into()?,
            echoes: take(ebpf, "ECHOES")?.try_into()?,
            times: take(ebpf, "TIMES")?.try_into()?,
            timed: BTreeSet::new(),
            carried: take(ebpf, "CARRIED")?.try_into()?,
            names: take(ebpf, "SLOTS")?.try_into()?,
            slots: BTreeMap::new(),
            written: None,
        })
    }

    pub(super) const fn slots(&self) -> &BTreeMap<IfName, u32> {
        &self.slots
    }

    /// Writes all wanted entries; call it before programs are attached. `names` need a slot, wanted or not. At the
    /// interfaces in `answering`, the XDP program may answer echo requests.
    pub(super) fn write(
        &mut self,
        wanted: &Enforcement,
        names: &BTreeSet<IfName>,
        answering: &BTreeSet<IfIndex>,
    ) -> anyhow::Result<()> {
        let has_slot = |role| matches!(role, Role::Uplink | Role::Tunnel);
        let interfaces = wanted.interfaces.iter();
        let named = interfaces.filter(|(_, interface)| has_slot(interface.role));
        self.assign_slots(names.iter().chain(named.map(|(name, _)| name)))?;
        self.write_tunnels(wanted)?;
        self.write_outers(wanted)?;
        self.write_interfaces(wanted, answering)?;
        self.write_sources(wanted)
    }

    /// Clears entries that are no longer wanted; call it after their programs are detached.
    pub(super) fn forget(&mut self, wanted: &Enforcement) -> anyhow::Result<()> {
        self.forget_interfaces(&wanted.interfaces)?;
        self.forget_outers(wanted)?;
        self.forget_tunnels(wanted)
    }

    /// Makes sure that each name has a slot, and that new slots count from zero.
    fn assign_slots<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a IfName>,
    ) -> anyhow::Result<()> {
        let names: BTreeSet<_> = names.into_iter().collect();
        if names.iter().all(|name| self.slots.contains_key(*name)) {
            return Ok(());
        }
        let held: Vec<_> = (0..layout::NEWCOMERS_SLOT)
            .map(|slot| self.names.get(&slot, 0).map(|name| read_name(&name.0)))
            .collect::<Result<_, _>>()
            .context("read the slots' names")?;
        // Names keep the slot that they had in this run, even if they are not needed now, if there is room.
        let with_former = names.iter().copied().chain(self.slots.keys());
        let assigned = slots::assign(&held, with_former.collect::<BTreeSet<_>>())
            .or_else(|_| slots::assign(&held, names.iter().copied()))?;
        for slot in &assigned.fresh {
            self.counters
                .set(*slot, on_all_cpus(SlotState::zeroed())?, 0)
                .context("reset counters")?;
            self.states
                .set(*slot, Raw(layout::TunnelState::default()), 0)
                .context("reset counters")?;
            self.endpoints.reset(*slot)?;
            self.screens.reset(*slot)?;
            tolerate_missing(self.times.remove(slot))?;
            self.timed.remove(slot);
            self.carried
                .set(*slot, Raw([0; CAPACITY]), 0)
                .context("reset counters")?;
            let name = assigned.by_name.iter().find(|(_, held)| *held == slot);
            let name = name.map(|(name, _)| write_name(name)).unwrap_or_default();
            self.names.set(*slot, Raw(name), 0).context("name a slot")?;
        }
        self.slots = assigned.by_name;
        Ok(())
    }

    fn slot(&self, name: &IfName) -> anyhow::Result<u32> {
        let slot = self.slots.get(name).copied();
        slot.with_context(|| format!("{name} has no slot"))
    }

    /// Writes the redirect targets for leaks.
    fn write_tunnels(&mut self, wanted: &Enforcement) -> anyhow::Result<()> {
        for (name, target) in &wanted.tunnels {
            let slot = self.slot(name)?;
            self.ensure_times_entry(slot)?;
            let entry = tunnel_entry(target);
            if self.tunnel_entries.get(&slot) != Some(&entry) {
                self.tunnels
                    .set(slot, Raw(entry), 0)
                    .with_context(|| format!("write tunnel {name}"))?;
                self.tunnel_entries.insert(slot, entry);
            }
        }
        Ok(())
    }

    /// Adds an entry for the reply times of a tunnel, unless the map has one.
    fn ensure_times_entry(&mut self, slot: u32) -> anyhow::Result<()> {
        /// `BPF_NOEXIST`, from the kernel's uapi/linux/bpf.h: an existing entry stays.
        const NEW: u64 = 1;
        if self.timed.contains(&slot) {
            return Ok(());
        }
        match insert(|| self.times.insert(slot, on_all_cpus(Times::NONE)?, NEW)) {
            Ok(()) => {}
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context("make room for the times of replies"),
        }
        self.timed.insert(slot);
        Ok(())
    }

    /// Clears the entries of tunnels that are no longer wanted; call it after their sources are removed.
    fn forget_tunnels(&mut self, wanted: &Enforcement) -> anyhow::Result<()> {
        for (name, slot) in &self.slots {
            if !wanted.tunnels.contains_key(name) && self.tunnel_entries.contains_key(slot) {
                self.tunnels
                    .set(*slot, Raw(layout::Tunnel::default()), 0)
                    .with_context(|| format!("clear tunnel {name}"))?;
                self.tunnel_entries.remove(slot);
            }
        }
        Ok(())
    }

    /// Adds and updates entries of interfaces; call it before programs are attached.
    pub(super) fn write_interfaces(
        &mut self,
        wanted: &Enforcement,
        answering: &BTreeSet<IfIndex>,
    ) -> anyhow::Result<()> {
        let has_ipv6_endpoints = wanted.endpoints.keys().any(|end| end.remote.is_ipv6());
        for (name, interface) in &wanted.interfaces {
            let (role, slot) = match interface.role {
                Role::Uplink => (layout::Role::Uplink, self.slot(name)?),
                Role::Newcomer => (layout::Role::Uplink, layout::NEWCOMERS_SLOT),
                Role::Tunnel => (layout::Role::Tunnel, self.slot(name)?),
                Role::Underlay => (layout::Role::Underlay, layout::NEWCOMERS_SLOT),
                // Without an entry the programs let every packet pass.
                Role::Candidate => continue,
            };
            let entry = layout::Interface {
                ifindex: interface.index.0,
                slot,
                role: role.raw(),
                link_bytes: link_bytes(interface.mac),
                mac: interface.mac.unwrap_or_default(),
                generation: self.current.generation,
                is_carried: wanted.outer_paths.contains_key(name).into(),
                answers_echo: (wanted.answers_echo && interface.role == Role::Tunnel).into(),
                counts_outer: interface.is_underlay.into(),
                counts_outer_ipv6: (interface.is_underlay && has_ipv6_endpoints).into(),
                answers_by_xdp: (wanted.answers_echo && answering.contains(&interface.index))
                    .into(),
                uses_filter: (role == layout::Role::Uplink && interface.mac.is_some()).into(),
                reserved: [0; 2],
                own: interface.own.map_or(Address::UNSPECIFIED, |own| {
                    Address::from_octets(own.octets())
                }),
            };
            let index = self.entry_index(interface.index.0)?;
            if self.interface_entries.get(&index) != Some(&entry) {
                self.interfaces
                    .set(index, Raw(entry), 0)
                    .with_context(|| format!("write interface {name}"))?;
                self.interface_entries.insert(index, entry);
            }
        }
        Ok(())
    }

    /// The index of an interface's entry, or of a free entry.
    fn entry_index(&self, ifindex: u32) -> anyhow::Result<u32> {
        let interface_entries =
            || (0..layout::PROBES).map(|probe| layout::probe_index(ifindex, probe));
        let is_its = |index: &u32| {
            self.interface_entries
                .get(index)
                .is_some_and(|i| i.ifindex == ifindex)
        };
        let is_free = |index: &u32| !self.interface_entries.contains_key(index);
        interface_entries()
            .find(is_its)
            .or_else(|| interface_entries().find(is_free))
            .with_context(|| {
                format!("no free entry for interface {ifindex} in the interface table")
            })
    }

    /// Removes entries of interfaces that are no longer wanted; call it after their programs are detached.
    fn forget_interfaces(&mut self, wanted: &BTreeMap<IfName, Interface>) -> anyhow::Result<()> {
        let in_use = wanted.values().filter(|i| i.role != Role::Candidate);
        let keep: BTreeSet<_> = in_use.map(|interface| interface.index.0).collect();
        let unwanted: Vec<_> = self
            .interface_entries
            .iter()
            .filter(|(_, entry)| !keep.contains(&entry.ifindex))
            .map(|(index, entry)| (*index, entry.ifindex))
            .collect();
        for (index, ifindex) in unwanted {
            self.interfaces
                .set(index, Raw(layout::Interface::default()), 0)
                .with_context(|| format!("clear interface {ifindex}"))?;
            self.interface_entries.remove(&index);
        }
        Ok(())
    }

    /// Adds the counters of programs with maps of another layout; call it after the last of them is replaced.
    /// Counters of names that have no slot now are lost.
    pub(super) fn add_carried(
        &mut self,
        counted: &BTreeMap<IfName, Counters>,
    ) -> anyhow::Result<()> {
        for (name, counters) in counted {
            if let Some(slot) = self.slots.get(name) {
                let before = self.carried.get(slot, 0).context("read counters")?.0;
                self.carried
                    .set(*slot, Raw(sum(&[before, *counters])), 0)
                    .with_context(|| format!("write the earlier counters of {name}"))?;
            }
        }
        Ok(())
    }
}

/// The same value for each CPU.
fn on_all_cpus<T: Copy>(value: T) -> io::Result<PerCpuValues<Raw<T>>>
where
    Raw<T>: aya::Pod,
{
    let processors = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    PerCpuValues::try_from(vec![Raw(value); processors])
}

/// Removes what a map has too much, then adds what it lacks: it may be full. Returns whether something differed.
fn reconcile<K: aya::Pod + Ord, V: aya::Pod + PartialEq>(
    map: &mut HashMap<MapData, K, V>,
    intended: &BTreeMap<K, V>,
) -> anyhow::Result<bool> {
    let mut found = BTreeMap::new();
    for entry in map.iter() {
        let (key, value) = entry.context("read the entries of a map")?;
        found.insert(key, value);
    }
    for key in found.keys().filter(|key| !intended.contains_key(*key)) {
        tolerate_missing(map.remove(key))?;
    }
    for (key, value) in intended {
        if found.get(key) != Some(value) {
            insert(|| map.insert(key, value, 0)).context("write an entry of a map")?;
        }
    }
    Ok(found != *intended)
}

fn tolerate_missing(result: Result<(), MapError>) -> anyhow::Result<()> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        Err(error) => Err(error).context("remove an entry"),
    }
}

fn tunnel_entry(target: &RedirectTarget) -> layout::Tunnel {
    layout::Tunnel {
        ifindex: target.index.map_or(0, |index| index.0),
        mtu: target.mtu.0,
        on_leak: target.on_leak.raw(),
        link_bytes: link_bytes(target.mac),
        mac: target.mac.unwrap_or_default(),
        next_hop: target
            .gateway
            .map_or_else(layout::NextHop::default, |gateway| layout::NextHop {
                family: layout::AF_INET6,
                octets: gateway.octets(),
            }),
        reserved: 0,
        router: Address::from_octets(target.router.octets()),
    }
}

const fn link_bytes(mac: Option<[u8; 6]>) -> u8 {
    if mac.is_some() { 14 } else { 0 }
}

pub(super) fn read_name(name: &SlotName) -> Option<IfName> {
    let end = name.bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&name.bytes[..end]).ok()?.parse().ok()
}

fn write_name(name: &IfName) -> SlotName {
    let mut bytes = [0; 16];
    let text = name.as_str().as_bytes();
    bytes[..text.len()].copy_from_slice(text);
    SlotName { bytes }
}
