//! The program that does nothing: what a run costs anyway. Loaded by hand, so that the object that
//! people get does not have to carry it.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::libc;

/// `BPF_PROG_LOAD`, from the kernel's `enum bpf_cmd`.
const COMMAND: libc::c_long = 5;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;

/// `r0 = -1` (next program, as ours return) and `exit`, as the kernel's `struct bpf_insn`.
const PROGRAM: [[u8; 8]; 2] = [
    [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    [0x95, 0, 0, 0, 0, 0, 0, 0],
];

/// The part of `union bpf_attr` that the command needs.
#[repr(C)]
struct Attributes {
    kind: u32,
    instructions: u32,
    program: u64,
    license: u64,
}

/// Loads it.
pub(crate) fn load() -> Result<OwnedFd> {
    let attributes = Attributes {
        kind: SCHED_CLS,
        instructions: u32::try_from(PROGRAM.len())?,
        program: PROGRAM.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
    };
    // SAFETY: `attributes` begins as the kernel's union for this command does and is as long as
    // said; what it points to is static.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            COMMAND,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("load an empty program; this needs root");
    }
    // SAFETY: the kernel just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(result)?) })
}
