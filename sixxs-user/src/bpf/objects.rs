//! Objects of BPF behind descriptors and pins: their types, and the kernel's facts about links.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::Context as _;
use bytemuck::{Pod, Zeroable};

use super::syscall::{call, make};

/// Values of the kernel's `enum bpf_cmd`.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// A link to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// A value of `enum bpf_link_type`.
    pub(super) kind: u32,
    /// Its ID.
    pub(super) id: u32,
    /// The ID of its program.
    pub(super) program: u32,
    /// The index of its interface, in any network namespace; 0 if it is detached.
    pub(super) interface: u32,
}

/// The name of a loaded program, of which the kernel keeps 15 characters. `None`: there is no such program, or this process
/// lacks `CAP_SYS_ADMIN`.
pub(super) fn program_name(id: u32) -> Option<String> {
    /// `struct bpf_prog_info` up to the name.
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Information {
        kind: u32,
        id: u32,
        tag: [u8; 8],
        lengths: [u32; 2],
        instructions: [u64; 2],
        load_time: u64,
        created_by: u32,
        maps: u32,
        map_ids: u64,
        name: [u8; 16],
    }
    #[repr(C)]
    struct Get {
        id: u32,
        next: u32,
        flags: u32,
    }
    let mut get = Get {
        id,
        next: 0,
        flags: 0,
    };
    // SAFETY: the structure is a prefix of the kernel's union for this command, without pointers.
    let descriptor = unsafe { make(BPF_PROG_GET_FD_BY_ID, &mut get) }.ok()?;
    // SAFETY: the kernel just made this descriptor, and nothing else owns it.
    let program = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let information: Information = information(&program).ok()?;
    let name = information.name.iter().take_while(|byte| **byte != 0);
    let name: Vec<u8> = name.copied().collect();
    String::from_utf8(name).ok().filter(|name| !name.is_empty())
}

/// The link that is pinned at a path; `None` if the object is something else.
pub(super) fn pinned_link(path: &Path) -> anyhow::Result<Option<Link>> {
    let what = || format!("read {}", path.display());
    let object = open(path).with_context(what)?;
    if kind(&object) != Some(Kind::Link) {
        return Ok(None);
    }
    link(&object).map(Some).with_context(what)
}

/// The kernel's facts about a link.
pub(super) fn link(descriptor: &impl AsFd) -> anyhow::Result<Link> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Information {
        kind: u32,
        id: u32,
        program: u32,
        padding: u32,
        interface: u32,
        attach_type: u32,
    }
    let information: Information = information(descriptor)?;
    Ok(Link {
        kind: information.kind,
        id: information.id,
        program: information.program,
        interface: information.interface,
    })
}

/// The first bytes of the kernel's facts about an object: `T` is the beginning of the structure for this type of object
/// (`struct bpf_map_info`, `bpf_prog_info` or `bpf_link_info`). A shorter structure of an older kernel leaves zeros.
pub(super) fn information<T: Pod>(object: &impl AsFd) -> io::Result<T> {
    #[repr(C)]
    struct InfoByFd {
        descriptor: u32,
        length: u32,
        information: u64,
    }
    let mut information = T::zeroed();
    let mut request = InfoByFd {
        descriptor: object.as_fd().as_raw_fd().cast_unsigned(),
        length: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        information: (&raw mut information) as u64,
    };
    // SAFETY: the structure has the kernel's layout for this command; it points to `length` bytes that the
    // kernel may write, and any bytes are a `T`. All of them are zero, so the kernel finds no pointers to write to.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &mut request) }?;
    Ok(information)
}

/// Opens the object that is pinned at a path.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
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
    // SAFETY: the structure has the kernel's layout for this command; the path ends with a zero and outlives
    // the call.
    let descriptor = unsafe { make(BPF_OBJ_GET, &mut get) }?;
    // SAFETY: the kernel just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The type of the object behind a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Map,
    Link,
}

/// The type of the object behind a descriptor, from the kernel's name of its file; `None` for other types.
pub(super) fn kind(object: &OwnedFd) -> Option<Kind> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd())).ok()?;
    match target.to_str()?.strip_prefix("anon_inode:")? {
        "bpf-map" => Some(Kind::Map),
        // The name at the descriptor that created it, and at one that was opened later.
        "bpf_link" | "bpf-link" => Some(Kind::Link),
        _ => None,
    }
}
