//! The programs' verdict for a packet: runs their decision on the present contents of their maps. No program
//! runs, and nothing is counted.

use std::{net::Ipv6Addr, path::Path};

use anyhow::Context as _;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, lpm_trie::Key};
use nix::time::{ClockId, clock_gettime};
use sixxs_common::{
    address::Address,
    decide::{Exit, Tables, Verdict, decide},
    flow::Flow,
    layout::{
        self, Control, FlowRecord, Interface, SlotName, Source, SourceTable, Tunnel, USE_TRIE,
    },
};
use sixxs_core::{
    explain::{
        Endpoint, Packet,
        verdict::{Decided, header},
    },
    types::IfIndex,
};

use super::{pins::Pins, pod::Raw, tables::read_name};

/// The programs' verdict for a packet that leaves by an interface, from the pinned maps.
pub fn dry_run(pin_dir: &Path, index: IfIndex, packet: &Packet) -> anyhow::Result<Decided> {
    let pins = Pins::for_this_namespace(pin_dir)?;
    let interfaces: Array<_, Raw<Interface>> = Map::Array(open(&pins, "INTERFACES")?).try_into()?;
    let mut decided = Decided {
        verdict: None,
        tunnel: Tunnel::default(),
        name: None,
        recursion: None,
    };
    let Some(interface) = interface(&interfaces, index)? else {
        return Ok(decided);
    };
    let verdict = decide(
        Ok(&header(packet)),
        Exit::of(&interface),
        &Pinned::open(&pins, index)?,
    );
    decided.verdict = Some(verdict);
    if matches!(verdict, Verdict::Leak(_) | Verdict::Own) {
        decided.recursion = recursion(&pins, packet)?;
    }
    if let Verdict::Leak(slot) = verdict {
        let tunnels: Array<_, Raw<Tunnel>> = Map::Array(open(&pins, "TUNNELS")?).try_into()?;
        decided.tunnel = tunnels.get(&slot, 0).context("read a tunnel")?.0;
        let names: Array<_, Raw<SlotName>> = Map::Array(open(&pins, "SLOTS")?).try_into()?;
        decided.name = read_name(&names.get(&slot, 0).context("read a slot's name")?.0);
    }
    Ok(decided)
}

/// The endpoint of a flow between the packet's addresses that was detected as a tunnel's outer packets.
fn recursion(pins: &Pins, packet: &Packet) -> anyhow::Result<Option<Endpoint>> {
    let flows: HashMap<_, Raw<Flow>, Raw<FlowRecord>> =
        Map::LruHashMap(open(pins, "LEAKS")?).try_into()?;
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    let now_ns = u64::try_from(now.tv_sec())? * 1_000_000_000;
    for entry in flows.iter() {
        let (Raw(flow), Raw(record)) = entry.context("read the leaking flows")?;
        let [local, remote] = [flow.local, flow.remote].map(|one| Ipv6Addr::from(one.octets()));
        let is_it = (local, remote) == (packet.source, packet.destination);
        if is_it && record.is_recursive(now_ns) {
            let (address, port) = (remote, flow.remote_port);
            return Ok(Some(Endpoint { address, port }));
        }
    }
    Ok(None)
}

fn open(pins: &Pins, name: &str) -> anyhow::Result<MapData> {
    let path = pins.maps().join(name);
    MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))
}

fn interface(
    all: &Array<MapData, Raw<Interface>>,
    index: IfIndex,
) -> anyhow::Result<Option<Interface>> {
    for probe in 0..layout::PROBES {
        let place = layout::probe_index(index.0, probe);
        let found = all.get(&place, 0).context("read an interface")?.0;
        if found.ifindex == index.0 {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The tables that the programs look up.
struct Pinned {
    table: SourceTable,
    sources: LpmTrie<MapData, [u8; 16], Raw<Source>>,
    directs: LpmTrie<MapData, [u8; 20], u32>,
    tunnels: Array<MapData, Raw<Tunnel>>,
    /// The interface by which the packet leaves.
    index: IfIndex,
}

impl Pinned {
    fn open(pins: &Pins, index: IfIndex) -> anyhow::Result<Self> {
        let control: Array<_, Raw<Control>> = Map::Array(open(pins, "CONTROL")?).try_into()?;
        let few: Array<_, Raw<SourceTable>> = Map::Array(open(pins, "FEW")?).try_into()?;
        let current = control.get(&0, 0).context("read the control entry")?.0;
        Ok(Self {
            table: few.get(&current.table, 0).context("read the sources")?.0,
            sources: Map::LpmTrie(open(pins, "SOURCES")?).try_into()?,
            directs: Map::LpmTrie(open(pins, "DIRECTS")?).try_into()?,
            tunnels: Map::Array(open(pins, "TUNNELS")?).try_into()?,
            index,
        })
    }
}

impl Tables for Pinned {
    fn source(&self, address: Address) -> Option<Source> {
        if !address.within(&self.table.common) {
            return None;
        }
        if self.table.count == USE_TRIE {
            let key = Key::new(128, address.octets());
            return self.sources.get(&key, 0).ok().map(|source| source.0);
        }
        let count = usize::try_from(self.table.count).ok()?;
        let mut few = self.table.few.iter().take(count);
        let found = few.find(|entry| address.within(&entry.prefix))?;
        Some(found.source)
    }

    fn is_direct(&self, tunnel: u32, destination: Address) -> bool {
        let key = layout::direct_key(tunnel, destination);
        let key = Key::new(layout::DIRECT_SLOT_BITS + 128, key);
        self.directs.get(&key, 0).is_ok()
    }

    fn leads_here(&self, tunnel: u32) -> bool {
        let entry = self.tunnels.get(&tunnel, 0);
        entry.is_ok_and(|entry| entry.0.ifindex == self.index.0)
    }
}
