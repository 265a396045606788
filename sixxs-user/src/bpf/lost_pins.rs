//! Pins maps again whose pins were removed while no daemon ran: attached programs still hold them.
//!
//! Without this, the programs of a new daemon would share some maps with the attached ones, and others not.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, AsRawFd as _},
    path::PathBuf,
};

use anyhow::Context as _;
use aya::{
    maps::{MapData, MapInfo},
    programs::{SchedClassifier, loaded_programs},
};

use super::{
    pins::Pins,
    shape::{self, Shape},
    syscall::call,
};
use crate::host::files;

/// A value of the kernel's `enum bpf_cmd`.
const BPF_PROG_BIND_MAP: libc::c_long = 35;

/// Makes a program hold these maps, including those that it does not use: they live as long as it is attached.
/// Kernel 5.10.
pub(super) fn hold(program: &SchedClassifier, maps: &[(PathBuf, MapData)]) -> anyhow::Result<()> {
    #[repr(C)]
    struct Bind {
        program: u32,
        map: u32,
        flags: u32,
    }
    let program = u32::try_from(program.fd()?.as_fd().as_raw_fd())?;
    for (path, map) in maps {
        let mut bind = Bind {
            program,
            map: u32::try_from(map.fd().as_fd().as_raw_fd())?,
            flags: 0,
        };
        // SAFETY: the structure is a prefix of the kernel's union for this command, without pointers.
        unsafe { call(BPF_PROG_BIND_MAP, &mut bind) }
            .with_context(|| format!("hold the map {}", path.display()))?;
    }
    Ok(())
}

/// Pins the missing ones of these maps, as far as a program with a pinned link holds them.
pub(super) fn restore(pins: &Pins, maps: &BTreeMap<String, Shape>) -> anyhow::Result<()> {
    let is_missing = |name: &&String| !pins.maps().join(name).exists();
    let mut missing: Vec<_> = maps.keys().filter(is_missing).collect();
    let links = pins.read_links()?;
    if missing.is_empty() || links.is_empty() {
        return Ok(());
    }
    for program in loaded_programs() {
        // Another program may end meanwhile.
        let Ok(program) = program else { continue };
        if links.iter().all(|(_, link)| link.program != program.id()) {
            continue;
        }
        let ids = program.map_ids().context("query a program's maps")?;
        for id in ids.unwrap_or_default() {
            let info = MapInfo::from_id(id).context("query a map")?;
            let Some(at) = missing
                .iter()
                .position(|name| info.name_as_str() == Some(name))
            else {
                continue;
            };
            let name = missing[at];
            let path = pins.maps().join(name);
            let map = MapData::from_id(id).context("open a map")?;
            map.pin(&path)
                .with_context(|| format!("pin {}", path.display()))?;
            // A program of another build may have another map of that name.
            if shape::pinned(&path).map(|found| found.shape) == maps.get(name).copied() {
                missing.swap_remove(at);
            } else {
                files::remove_if_exists(&path)?;
            }
        }
    }
    Ok(())
}
