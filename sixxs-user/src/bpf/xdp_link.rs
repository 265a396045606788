//! XDP links, by plain system calls: aya would attach without a link where the kernel refuses one, and that would replace the
//! program of other software.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::Context as _;
use aya::{Ebpf, programs::Xdp};
use sixxs_core::{link::XdpMode, types::IfIndex};

use super::{
    objects,
    syscall::{self, call, descriptor_number},
};

/// Values of the kernel's `enum bpf_cmd`.
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// `BPF_LINK_TYPE_XDP`.
pub(super) const KIND: u32 = 6;

/// The attach type `BPF_XDP`.
const ATTACH_TYPE: u32 = 37;

/// The XDP program, as far as it is needed to attach it.
pub(super) struct Program {
    descriptor: OwnedFd,
    pub(super) id: u32,
}

/// The program in the object.
pub(super) fn in_object(ebpf: &mut Ebpf) -> anyhow::Result<Program> {
    let program: &mut Xdp = super::find(ebpf, super::XDP)?.try_into()?;
    Ok(Program {
        id: program.info().context("query the program's ID")?.id(),
        descriptor: program.fd()?.as_fd().try_clone_to_owned()?,
    })
}

/// Whether a link is attached to an interface.
pub(super) fn is_at(link: &OwnedFd, index: IfIndex) -> bool {
    objects::link(link).is_ok_and(|found| found.interface == index.0)
}

/// Attaches the program by a new link.
pub(super) fn create(program: &Program, index: IfIndex, mode: XdpMode) -> io::Result<OwnedFd> {
    // `XDP_FLAGS_DRV_MODE` and `XDP_FLAGS_SKB_MODE`.
    let flags = match mode {
        XdpMode::Native => 1 << 2,
        XdpMode::Generic => 1 << 1,
    };
    syscall::create_link(program.descriptor.as_fd(), index.0, ATTACH_TYPE, flags)
}

/// Replaces the program of a link, in one step.
pub(super) fn update(link: &OwnedFd, program: &Program) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let mut update = Update {
        link: descriptor_number(link.as_fd())?,
        program: descriptor_number(program.descriptor.as_fd())?,
        flags: 0,
        old_program: 0,
    };
    // SAFETY: the structure is a prefix of the kernel's union for this command, without pointers.
    unsafe { call(BPF_LINK_UPDATE, &mut update) }
}

/// Pins a link.
pub(super) fn pin(link: &OwnedFd, path: &Path) -> io::Result<()> {
    #[repr(C)]
    struct PinAt {
        path: u64,
        descriptor: u32,
        flags: u32,
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = PinAt {
        path: name.as_ptr() as u64,
        descriptor: descriptor_number(link.as_fd())?,
        flags: 0,
    };
    // SAFETY: the structure has the kernel's layout for this command; the path ends with a zero and outlives
    // the call.
    unsafe { call(BPF_OBJ_PIN, &mut pin) }
}

/// Whether this link is pinned at the path.
pub(super) fn is_pinned(path: &Path, link: &OwnedFd) -> bool {
    let own = objects::link(link).map(|link| link.id);
    let found = objects::pinned_link(path).ok().flatten();
    found.is_some_and(|found| own.is_ok_and(|own| own == found.id))
}
