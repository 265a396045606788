//! Reads the counters of programs with maps of another layout, so that an upgrade loses none.
//!
//! Only this is known of another layout: a slot's state begins with its counters, 64 bits each, in an order
//! that is only appended to; a map has counters alone; and slots have names of 16 bytes. So the maps are read as bytes.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, ensure};
use aya::maps::MapData;
use sixxs_common::{
    layout::SlotName,
    stat::{CAPACITY, Counters},
};
use sixxs_core::types::IfName;

use super::{
    pins::Pins,
    syscall::call,
    tables::{read_name, sum},
};

/// A value of the kernel's `enum bpf_cmd`.
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;

/// The part of `union bpf_attr` that the command uses (kernel 3.18; flags since 5.1).
#[repr(C)]
struct Attributes {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A pinned array with values of unknown layout.
struct RawArray {
    map: MapData,
    entries: u32,
    /// Size of a value in bytes; in a per-CPU map, of one CPU's value.
    value: usize,
    /// Number of values per entry.
    values: usize,
}

impl RawArray {
    fn open(pins: &Pins, name: &str, is_per_processor: bool) -> anyhow::Result<Self> {
        let path = pins.maps().join(name);
        let what = || format!("read {}", path.display());
        let map = MapData::from_pin(&path).with_context(what)?;
        let info = map.info().with_context(what)?;
        let kind = info.map_type().with_context(what)?;
        let expected = if is_per_processor {
            aya::maps::MapType::PerCpuArray
        } else {
            aya::maps::MapType::Array
        };
        ensure!(kind == expected, "{} is a {kind:?}", path.display());
        let value = usize::try_from(info.value_size()).with_context(what)?;
        Ok(Self {
            entries: info.max_entries(),
            // The kernel rounds each CPU's value up.
            value: if is_per_processor {
                value.next_multiple_of(8)
            } else {
                value
            },
            values: if is_per_processor {
                aya::util::nr_cpus().map_err(|(_, error)| error)?
            } else {
                1
            },
            map,
        })
    }

    /// All values of an entry.
    fn read(&self, entry: u32) -> anyhow::Result<Vec<u8>> {
        let mut values = vec![0; self.value * self.values];
        let mut attributes = Attributes {
            map_fd: u32::try_from(self.map.fd().as_fd().as_raw_fd())?,
            padding: 0,
            key: (&raw const entry) as u64,
            value: values.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: `attributes` has the layout of the kernel's union for this command. The keys of both kinds of
        // array are 4 bytes, which `entry` has. The kernel writes the size of a value; in a per-CPU map it is
        // rounded up to 8 bytes, for each possible CPU. `values` has exactly this size. Both outlive the call.
        let read = unsafe { call(BPF_MAP_LOOKUP_ELEM, &mut attributes) };
        read.context("read an entry of an earlier map")?;
        Ok(values)
    }
}

/// Size of the counters in layouts without the map `CARRIED`.
const OLDEST_BYTES: usize = 48 * 8;

/// The counters by name.
pub(super) fn read_counters(pins: &Pins) -> anyhow::Result<BTreeMap<IfName, Counters>> {
    let names = RawArray::open(pins, "SLOTS", false)?;
    let counters = RawArray::open(pins, "COUNTERS", true)?;
    // Its values are counters alone, so they have the size of the counters at the beginning of a slot's state. Older
    // layouts have no such map.
    let carried = RawArray::open(pins, "CARRIED", false).ok();
    let size = carried.as_ref().map_or(OLDEST_BYTES, |map| map.value);
    let mut counted = BTreeMap::new();
    for slot in 0..names.entries.min(counters.entries) {
        let name = names.read(slot)?;
        let Some(name) = name
            .first_chunk()
            .and_then(|bytes| read_name(&SlotName { bytes: *bytes }))
        else {
            continue;
        };
        let bytes = counters.read(slot)?;
        let of_processors = bytes.chunks(counters.value);
        let mut values: Vec<_> = of_processors
            .map(|bytes| counters_in(&bytes[..size.min(bytes.len())]))
            .collect();
        if let Some(carried) = &carried {
            values.push(counters_in(&carried.read(slot)?));
        }
        counted.insert(name, sum(&values));
    }
    Ok(counted)
}

/// Reads the counters that the layout has; the others are 0.
fn counters_in(bytes: &[u8]) -> Counters {
    let mut counters = [0; CAPACITY];
    for (counter, bytes) in counters.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *counter = u64::from_ne_bytes(*bytes);
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_counters_are_zero_and_unknown_ones_ignored() {
        let mut bytes = Vec::new();
        for value in 1..=3u64 {
            bytes.extend_from_slice(&value.to_ne_bytes());
        }
        bytes.extend_from_slice(&[0xff; 5]);
        let counters = counters_in(&bytes);
        assert_eq!(counters[..4], [1, 2, 3, 0]);
        let many = vec![1; CAPACITY * 8 + 100];
        assert_eq!(counters_in(&many), [0x0101_0101_0101_0101; CAPACITY]);
    }
}
