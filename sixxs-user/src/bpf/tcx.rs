//! Queries TCX: the programs that are attached to an interface, and the interface of a pinned link. It uses
//! plain system calls: aya's query also opens each program, which needs `CAP_SYS_ADMIN`, and returns no links.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::Context as _;
use aya::programs::{SchedClassifier, TcAttachType};
use sixxs_core::types::{IfIndex, IfName};

use super::{
    objects::{self, Link},
    program_id,
    syscall::{call, make},
};
use crate::netlink::tc::Direction;

/// Values of the kernel's `enum bpf_cmd`.
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `BPF_LINK_TYPE_TCX`.
const LINK_TYPE_TCX: u32 = 11;

/// Maximum number of programs at a TCX hook (`BPF_MPROG_MAX`).
const MAX_PROGRAMS: usize = 64;

/// A program that is attached by TCX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AttachedProgram {
    /// The program's ID.
    pub(super) program: u32,
    /// The link's ID; 0 for a program without a link.
    pub(super) link: u32,
}

/// The programs that are attached to an interface of this network namespace, in order. Returns an error if the
/// interface is gone, or if the kernel has no TCX (before 6.6).
pub(super) fn attached(index: IfIndex, direction: Direction) -> io::Result<Vec<AttachedProgram>> {
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        target_ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        padding: u32,
        program_flags: u64,
        links: u64,
        link_flags: u64,
        revision: u64,
    }
    let mut programs = [0_u32; MAX_PROGRAMS];
    let mut links = [0_u32; MAX_PROGRAMS];
    let mut query = Query {
        target_ifindex: index.0,
        // `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS`.
        attach_type: match direction {
            Direction::Ingress => 46,
            Direction::Egress => 47,
        },
        programs: programs.as_mut_ptr() as u64,
        count: 64,
        links: links.as_mut_ptr() as u64,
        ..Query::default()
    };
    // SAFETY: the structure has the layout of `union bpf_attr` in kernel 6.6 for this command; both arrays
    // outlive the call and have room for `count` numbers.
    unsafe { call(BPF_PROG_QUERY, &mut query) }?;
    let count = usize::try_from(query.count).unwrap_or(MAX_PROGRAMS);
    let both = programs.iter().zip(&links).take(count);
    Ok(both
        .map(|(program, link)| AttachedProgram {
            program: *program,
            link: *link,
        })
        .collect())
}

/// The TCX link that is pinned at a path; `None` if the object is something else.
pub(super) fn pinned(path: &Path) -> anyhow::Result<Option<Link>> {
    let link = objects::pinned_link(path)?;
    Ok(link.filter(|link| link.kind == LINK_TYPE_TCX))
}

/// Detaches the program of a link, even if other processes hold the link. Needs `CAP_SYS_ADMIN`.
fn detach(link: u32) -> io::Result<()> {
    #[repr(C)]
    struct Get {
        id: u32,
        next: u32,
        flags: u32,
    }
    let mut get = Get {
        id: link,
        next: 0,
        flags: 0,
    };
    // SAFETY: the structure is a prefix of the kernel's union for this command, without pointers.
    let descriptor = unsafe { make(BPF_LINK_GET_FD_BY_ID, &mut get) }?;
    // SAFETY: the kernel just made this descriptor, and nothing else owns it.
    let link = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let mut descriptor = link.as_raw_fd();
    // SAFETY: a descriptor is the only argument of the command.
    unsafe { call(BPF_LINK_DETACH, &mut descriptor) }
}

/// Whether the program is attached to an interface by TCX.
pub(super) fn has(
    program: &SchedClassifier,
    index: IfIndex,
    direction: Direction,
) -> anyhow::Result<bool> {
    let own = program_id(program)?;
    let attached = attached(index, direction)
        .with_context(|| format!("list the TCX programs of interface {index}"))?;
    Ok(attached.iter().any(|attached| attached.program == own))
}

/// Detaches programs of an earlier run whose pins cannot be opened. A network namespace has one daemon, so
/// they are not in use.
pub(super) fn detach_earlier(
    program: &SchedClassifier,
    name: &IfName,
    index: IfIndex,
    direction: Direction,
) -> anyhow::Result<()> {
    let own = program.info().context("query the program's name")?;
    let attached =
        attached(index, direction).with_context(|| format!("list the TCX programs of {name}"))?;
    if attached.len() == 1 {
        return Ok(());
    }
    let (_, programs) = SchedClassifier::query_tcx(name.as_str(), attach_type(direction))
        .with_context(|| format!("list the TCX programs of {name}"))?;
    let earlier = programs
        .iter()
        .filter(|found| found.id() != own.id() && found.name() == own.name());
    for earlier_program in earlier {
        let links = attached
            .iter()
            .filter(|it| it.program == earlier_program.id());
        for link in links {
            detach(link.link).context("detach its link")?;
        }
    }
    Ok(())
}

/// Whether the link that is pinned at a path is attached to this interface. For a link, the kernel returns the
/// index of its interface, but not the network namespace; so look for it among the links of the interface.
pub(super) fn is_attached_here(path: &Path, index: IfIndex, direction: Direction) -> bool {
    let Ok(Some(link)) = pinned(path) else {
        return false;
    };
    let attached = attached(index, direction);
    attached.is_ok_and(|attached| attached.iter().any(|found| found.link == link.id))
}

/// The attach type of a direction.
pub(super) const fn attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}
