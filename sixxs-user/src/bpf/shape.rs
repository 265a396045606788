//! The type and sizes of a map. A map with other values is foreign.

use std::{fmt, os::fd::AsRawFd as _, path::Path};

use super::{objects, syscall::call};

/// A value of the kernel's `enum bpf_cmd`.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// The type and sizes of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// A value of `enum bpf_map_type`.
    pub(super) kind: u32,
    pub(super) key_bytes: u32,
    pub(super) value_bytes: u32,
    pub(super) entries: u32,
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "type {}, key {}, value {}, entries {}",
            self.kind, self.key_bytes, self.value_bytes, self.entries
        )
    }
}

/// A pinned map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pinned {
    /// Its ID.
    pub(super) id: u32,
    pub(super) shape: Shape,
}

/// The map that is pinned at a path; `None` if there is another object, or nothing.
pub(super) fn pinned(path: &Path) -> Option<Pinned> {
    #[repr(C)]
    #[derive(Default)]
    struct Information {
        kind: u32,
        id: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    }
    #[repr(C)]
    struct InfoByFd {
        descriptor: u32,
        length: u32,
        information: u64,
    }
    let object = objects::open(path).ok()?;
    if objects::kind(&object) != Some(objects::Kind::Map) {
        return None;
    }
    let mut information = Information::default();
    let mut request = InfoByFd {
        descriptor: u32::try_from(object.as_raw_fd()).ok()?,
        length: u32::try_from(size_of::<Information>()).ok()?,
        information: (&raw mut information) as u64,
    };
    // SAFETY: the structure has the kernel's layout for this command; it points to `length` bytes that the
    // kernel may write, and all of them are plain numbers.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &mut request) }.ok()?;
    Some(Pinned {
        id: information.id,
        shape: Shape {
            kind: information.kind,
            key_bytes: information.key_size,
            value_bytes: information.value_size,
            entries: information.max_entries,
        },
    })
}
