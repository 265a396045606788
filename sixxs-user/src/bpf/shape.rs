//! The type and sizes of a map. A map with other values is foreign.

use std::{fmt, path::Path};

use bytemuck::{Pod, Zeroable};

use super::objects;

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
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Information {
        kind: u32,
        id: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    }
    let object = objects::open(path).ok()?;
    if objects::kind(&object) != Some(objects::Kind::Map) {
        return None;
    }
    let information: Information = objects::information(&object).ok()?;
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
