//! Owns pinned maps: making them, reading them, and emptying them behind the program's back.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::call::{Command, call, descriptor};

/// Makes an array with `entries` values as long as `value`, per processor if wanted, writes `value` to one
/// entry, and pins the array.
pub fn pin_array(
    path: &Path,
    per_processor: bool,
    entries: u32,
    entry: u32,
    value: &[u8],
) -> Result<()> {
    const ARRAY: u32 = 2;
    const PER_PROCESSOR_ARRAY: u32 = 6;
    #[repr(C)]
    struct Create {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Update {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let mut create = Create {
        kind: if per_processor {
            PER_PROCESSOR_ARRAY
        } else {
            ARRAY
        },
        key_size: 4,
        value_size: u32::try_from(value.len())?,
        max_entries: entries,
        flags: 0,
    };
    // SAFETY: the structure begins like the kernel's union for this command, and no pointers.
    let map = unsafe { descriptor(Command::MapCreate, &mut create) }.context("make a map")?;
    let copies = if per_processor {
        possible_processors()?
    } else {
        1
    };
    // The value of each processor is padded.
    let mut padded = value.to_vec();
    padded.resize(value.len().next_multiple_of(8), 0);
    let values = padded.repeat(copies);
    let mut update = Update {
        map: u32::try_from(map.as_raw_fd())?,
        padding: 0,
        key: (&raw const entry) as u64,
        value: values.as_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the structure has the layout of the kernel's union for this command. The key has 4 bytes, and
    // `values` has the number and size of values that the kernel reads. Both outlive the call.
    unsafe { call(Command::MapUpdate, &mut update) }.context("fill a map")?;
    pin(path, &map)
}

/// Pins a map or a link.
pub fn pin(path: &Path, object: &OwnedFd) -> Result<()> {
    #[repr(C)]
    struct Pin {
        path: u64,
        descriptor: u32,
        flags: u32,
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = Pin {
        path: name.as_ptr() as u64,
        descriptor: u32::try_from(object.as_raw_fd())?,
        flags: 0,
    };
    // SAFETY: the structure has the layout of the kernel's union for this command; the path ends with a zero
    // and outlives the call.
    unsafe { call(Command::Pin, &mut pin) }.with_context(|| format!("pin {}", path.display()))?;
    Ok(())
}

/// `bpf_map_info`, up to the number of entries.
#[repr(C)]
#[derive(Default)]
struct MapShape {
    kind: u32,
    number: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The kernel's structure for commands about an element of a map.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    fn new(map: &OwnedFd, key: u64, value: u64) -> Result<Self> {
        Ok(Self {
            map: u32::try_from(map.as_raw_fd())?,
            padding: 0,
            key,
            value,
            flags: 0,
        })
    }
}

/// Empties a pinned map, as bpftool can: an array gets zeroes, other maps lose their entries.
pub fn wipe(path: &Path) -> Result<()> {
    const ARRAY: u32 = 2;
    let map = pinned(path)?;
    let shape = map_shape(&map)?;
    if shape.kind == ARRAY {
        write_zeroes(&map, &shape)
    } else {
        delete_entries(&map, &shape)
    }
}

/// The entries of a pinned map with one value per key.
pub fn entries(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let map = pinned(path)?;
    let shape = map_shape(&map)?;
    let mut entries = BTreeMap::new();
    let mut before: Option<Vec<u8>> = None;
    loop {
        let mut key = vec![0_u8; shape.key_size as usize];
        let after = before.as_ref().map_or(0, |key| key.as_ptr() as u64);
        let mut next = Element::new(&map, after, key.as_mut_ptr() as u64)?;
        // SAFETY: the structure is the kernel's for this command; both keys have the size that the map reports, and
        // outlive the call.
        match unsafe { call(Command::MapNextKey, &mut next) } {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(entries),
            Err(e) => return Err(e).context("read a map's next key"),
        }
        let mut value = vec![0_u8; shape.value_size as usize];
        let mut element = Element::new(&map, key.as_ptr() as u64, value.as_mut_ptr() as u64)?;
        // SAFETY: the structure has the layout of the kernel's union for this command; key and value have the sizes
        // that the map reports, and outlive the call.
        unsafe { call(Command::MapLookup, &mut element) }.context("read a map")?;
        before = Some(key.clone());
        entries.insert(key, value);
    }
}

fn map_shape(map: &OwnedFd) -> Result<MapShape> {
    #[repr(C)]
    struct Ask {
        descriptor: u32,
        length: u32,
        information: u64,
    }
    let mut shape = MapShape::default();
    let mut ask = Ask {
        descriptor: u32::try_from(map.as_raw_fd())?,
        length: u32::try_from(size_of::<MapShape>())?,
        information: (&raw mut shape) as u64,
    };
    // SAFETY: the structure has the layout of the kernel's union for this command. It points to `length`
    // bytes that the kernel may write, and all of them are plain numbers.
    unsafe { call(Command::Information, &mut ask) }.context("ask for a map's shape")?;
    Ok(shape)
}

fn write_zeroes(map: &OwnedFd, shape: &MapShape) -> Result<()> {
    let value = vec![0_u8; shape.value_size as usize];
    for entry in 0..shape.max_entries {
        let entry = entry.to_ne_bytes();
        let mut element = Element::new(map, entry.as_ptr() as u64, value.as_ptr() as u64)?;
        // SAFETY: the structure has the layout of the kernel's union for this command; key and value have
        // the sizes that the map reports, and outlive the call.
        unsafe { call(Command::MapUpdate, &mut element) }.context("write to a map")?;
    }
    Ok(())
}

fn delete_entries(map: &OwnedFd, shape: &MapShape) -> Result<()> {
    let mut key = vec![0_u8; shape.key_size as usize];
    loop {
        let mut next = Element::new(map, 0, key.as_mut_ptr() as u64)?;
        // SAFETY: the structure is the kernel's for this command; without a key it writes the first one to
        // `key`, which has room for it.
        match unsafe { call(Command::MapNextKey, &mut next) } {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e).context("read a map's first key"),
        }
        let mut element = Element::new(map, key.as_ptr() as u64, 0)?;
        // SAFETY: the structure has the layout of the kernel's union for this command; the key has the size
        // that the map reports, and outlives the call.
        unsafe { call(Command::MapDelete, &mut element) }.context("delete from a map")?;
    }
}

pub(super) fn pinned(path: &Path) -> Result<OwnedFd> {
    #[repr(C)]
    struct Get {
        path: u64,
        descriptor: u32,
        flags: u32,
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut get = Get {
        path: name.as_ptr() as u64,
        descriptor: 0,
        flags: 0,
    };
    // SAFETY: the structure has the layout of the kernel's union for this command; the path ends with a zero
    // and outlives the call.
    let map = unsafe { descriptor(Command::GetPinned, &mut get) };
    map.with_context(|| format!("open {}", path.display()))
}

/// The number of values of an entry in a map per processor, from a list such as `0-3`.
fn possible_processors() -> Result<usize> {
    const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
    let range = std::fs::read_to_string(POSSIBLE).with_context(|| format!("read {POSSIBLE}"))?;
    let last = range.trim().rsplit(['-', ',']).next().unwrap_or_default();
    Ok(last
        .parse::<usize>()
        .with_context(|| format!("read {range:?}"))?
        + 1)
}
