//! Direct access to the kernel's BPF for tests: lists the programs of an interface, attaches foreign
//! programs, and detaches programs. It uses bare system calls: bpftool supports TCX only from version 7.3,
//! and the library of the program under test must not check itself.

mod call;
mod maps;
mod xdp;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::libc;

use self::call::{Command, call, descriptor};
pub use self::maps::{entries, pin, pin_array, wipe};
pub use self::xdp::{
    FrameSource, Xdp, attach_dropping_generic_xdp, attach_dropping_xdp, attach_xdp, detach_pinned,
    load_empty_xdp, xdp,
};
use crate::lab::netns::Namespace;

/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;

/// The `enum bpf_attach_type` of an interface's TCX hook.
const fn attach_type(ingress: bool) -> u32 {
    if ingress { 46 } else { 47 }
}

/// `r0 = -1` (next program, like the programs under test) and `exit`, as `struct bpf_insn`.
const EMPTY: [[u8; 8]; 2] = [
    [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    [0x95, 0, 0, 0, 0, 0, 0, 0],
];

/// Loads a program that does nothing.
pub fn load_empty() -> Result<OwnedFd> {
    load(SCHED_CLS, &EMPTY)
}

/// Loads a program that drops everything (`TC_ACT_SHOT`).
pub fn load_dropping() -> Result<OwnedFd> {
    let [_, end] = EMPTY;
    load(SCHED_CLS, &[[0xb7, 0, 0, 0, 2, 0, 0, 0], end])
}

/// Attaches a program that drops everything to the egress of a control group; it stays until the link is dropped.
pub fn attach_dropping_to_group(group: &Path) -> Result<OwnedFd> {
    /// `BPF_PROG_TYPE_CGROUP_SKB`.
    const CGROUP_SKB: u32 = 8;
    /// `BPF_CGROUP_INET_EGRESS`.
    const EGRESS: u32 = 1;
    /// `r0 = 0`: drop.
    const DROP: [u8; 8] = [0xb7, 0, 0, 0, 0, 0, 0, 0];
    #[repr(C)]
    struct Link {
        program: u32,
        group: u32,
        attach_type: u32,
        flags: u32,
    }
    let [_, end] = EMPTY;
    let program = load(CGROUP_SKB, &[DROP, end])?;
    let group = File::open(group)?;
    let mut link = Link {
        program: u32::try_from(program.as_raw_fd())?,
        group: u32::try_from(group.as_raw_fd())?,
        attach_type: EGRESS,
        flags: 0,
    };
    // SAFETY: the structure is a prefix of the kernel's union for this command, without pointers.
    let made = unsafe { descriptor(Command::LinkCreate, &mut link) };
    made.context("attach a program to a control group")
}

/// Loads a program of this many instructions that does nothing. The time that it takes shows how fast the
/// kernel verifies programs at present.
pub fn load_straight(instructions: usize) -> Result<OwnedFd> {
    // r0 += 1
    let add = [0x07, 0, 0, 0, 1, 0, 0, 0];
    let [begin, end] = EMPTY;
    let mut program = vec![begin];
    program.resize(instructions.saturating_sub(1).max(1), add);
    program.push(end);
    load(SCHED_CLS, &program)
}

/// Loads a program of a `kind` from `enum bpf_prog_type`.
fn load(kind: u32, program: &[[u8; 8]]) -> Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        program: u64,
        license: u64,
    }
    let mut load = Load {
        kind,
        instructions: u32::try_from(program.len())?,
        program: program.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
    };
    // SAFETY: the structure begins like the kernel's union for this command; the objects behind its
    // pointers outlive the call.
    let loaded = unsafe { descriptor(Command::ProgramLoad, &mut load) };
    loaded.context("load a program; this needs root")
}

/// A program that is attached to an interface by TCX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attached {
    /// The program's ID.
    pub program: u32,
    /// The ID of the link that attaches it.
    pub link: u32,
}

/// The TCX programs of an interface, in the order they run. Empty on kernels without TCX (before 6.6), and if
/// the interface does not exist.
pub fn tcx(namespace: &Namespace, interface: &str, ingress: bool) -> Result<Vec<Attached>> {
    namespace.run(|| tcx_here(interface, ingress))
}

/// Like [`tcx`], in the namespace of this thread.
pub fn tcx_here(interface: &str, ingress: bool) -> Result<Vec<Attached>> {
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        target_ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        padding: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let target_ifindex = match nix::net::if_::if_nametoindex(interface) {
        Ok(index) => index,
        Err(Errno::ENODEV) => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("find interface {interface}")),
    };
    let mut programs = [0_u32; 64];
    let mut links = [0_u32; 64];
    let mut query = Query {
        target_ifindex,
        attach_type: attach_type(ingress),
        prog_ids: programs.as_mut_ptr() as u64,
        prog_cnt: u32::try_from(programs.len())?,
        link_ids: links.as_mut_ptr() as u64,
        ..Query::default()
    };
    // SAFETY: the structure has the layout of kernel 6.6 for this command; both arrays outlive the call and
    // have room for `prog_cnt` numbers.
    match unsafe { call(Command::ProgramQuery, &mut query) } {
        Ok(_) => {}
        // No TCX; or the interface was deleted meanwhile.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENODEV)) => {
            return Ok(Vec::new());
        }
        Err(e) => {
            return Err(e).with_context(|| format!("ask for the TCX programs of {interface}"));
        }
    }
    let both = programs.iter().zip(&links).take(query.prog_cnt as usize);
    let attached = both.map(|(program, link)| Attached {
        program: *program,
        link: *link,
    });
    Ok(attached.collect())
}

/// The name of a loaded program; `None` if the program is no longer loaded.
pub fn program_name(number: u32) -> Result<Option<String>> {
    /// `struct bpf_prog_info` up to the name, which the kernel truncates to 15 characters.
    #[repr(C)]
    #[derive(Default)]
    struct Information {
        kind: u32,
        number: u32,
        tag: [u8; 8],
        lengths: [u32; 2],
        instructions: [u64; 2],
        load_time: u64,
        created_by: u32,
        maps: u32,
        map_numbers: u64,
        name: [u8; 16],
    }
    #[repr(C)]
    struct Ask {
        descriptor: u32,
        length: u32,
        information: u64,
    }
    let Some(program) = by_number(Command::ProgramByNumber, number)? else {
        return Ok(None);
    };
    let mut information = Information::default();
    let mut ask = Ask {
        descriptor: u32::try_from(program.as_raw_fd())?,
        length: u32::try_from(size_of::<Information>())?,
        information: (&raw mut information) as u64,
    };
    // SAFETY: the structure has the layout of the kernel's union for this command. It points to `length`
    // bytes that the kernel may write, and all of them are plain numbers.
    unsafe { call(Command::Information, &mut ask) }.context("ask for a program's name")?;
    let name = information.name.iter().take_while(|byte| **byte != 0);
    Ok(Some(name.map(|byte| char::from(*byte)).collect()))
}

/// Position among an interface's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Before all others.
    First,
    /// After all others.
    Last,
}

/// Attaches a program to an interface by TCX; it stays until the link is dropped.
pub fn attach(
    namespace: &Namespace,
    program: &OwnedFd,
    interface: &str,
    ingress: bool,
    order: Order,
) -> Result<OwnedFd> {
    /// `BPF_F_BEFORE` and `BPF_F_AFTER`; without a relative program they mean first and last.
    const BEFORE: u32 = 8;
    const AFTER: u32 = 16;
    #[repr(C)]
    struct Link {
        program: u32,
        interface: u32,
        attach_type: u32,
        flags: u32,
        relative: u32,
        padding: u32,
        revision: u64,
    }
    namespace.run(|| {
        let index = nix::net::if_::if_nametoindex(interface);
        let mut link = Link {
            program: u32::try_from(program.as_raw_fd())?,
            interface: index.with_context(|| format!("find interface {interface}"))?,
            attach_type: attach_type(ingress),
            flags: match order {
                Order::First => BEFORE,
                Order::Last => AFTER,
            },
            relative: 0,
            padding: 0,
            revision: 0,
        };
        // SAFETY: the structure has the layout of kernel 6.6 for this command, and no pointers.
        let made = unsafe { descriptor(Command::LinkCreate, &mut link) };
        made.with_context(|| format!("attach a program to {interface}"))
    })
}

/// Detaches a link by force; its pin stays, and refers to a link without a program. False if the link does
/// not exist.
pub fn detach(link: u32) -> Result<bool> {
    let Some(link) = by_number(Command::LinkByNumber, link)? else {
        return Ok(false);
    };
    let mut descriptor = u32::try_from(link.as_raw_fd())?;
    // SAFETY: the command's only argument is a descriptor.
    unsafe { call(Command::LinkDetach, &mut descriptor) }.context("detach a link")?;
    Ok(true)
}

fn by_number(command: Command, number: u32) -> Result<Option<OwnedFd>> {
    #[repr(C)]
    struct Get {
        number: u32,
        next: u32,
        flags: u32,
    }
    let mut get = Get {
        number,
        next: 0,
        flags: 0,
    };
    // SAFETY: the structure begins like the kernel's union for this command, and no pointers.
    match unsafe { descriptor(command, &mut get) } {
        Ok(descriptor) => Ok(Some(descriptor)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context("get a BPF object by its number"),
    }
}

/// The IDs of the programs that [`tcx`] lists.
pub fn tcx_programs(namespace: &Namespace, interface: &str, ingress: bool) -> Result<Vec<u32>> {
    let attached = tcx(namespace, interface, ingress)?;
    Ok(attached.iter().map(|attached| attached.program).collect())
}

/// The TCX programs of an interface that have this name.
pub fn tcx_named(
    namespace: &Namespace,
    interface: &str,
    ingress: bool,
    name: &str,
) -> Result<Vec<Attached>> {
    ensure!(name.len() < 16, "{name} is too long for a program");
    let mut named = Vec::new();
    for attached in tcx(namespace, interface, ingress)? {
        if program_name(attached.program)?.as_deref() == Some(name) {
            named.push(attached);
        }
    }
    Ok(named)
}
