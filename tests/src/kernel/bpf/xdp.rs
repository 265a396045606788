//! Owns foreign XDP programs, and the XDP program of an interface as the kernel reports it.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::call::{Command, call, descriptor};
use super::load;
use super::maps::pinned;
use crate::lab::netns::Namespace;

/// `BPF_PROG_TYPE_XDP`.
const PROGRAM_TYPE: u32 = 6;

/// `r0 = XDP_PASS` and `exit`, as `struct bpf_insn`.
const PASS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// `r0 = XDP_DROP` and `exit`.
const DROP: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 1, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// `r1 = index`, `r2 = 0`, `call bpf_redirect` and `exit`.
const fn redirect(index: u32) -> [[u8; 8]; 4] {
    let [a, b, c, d] = index.to_ne_bytes();
    [
        [0xb7, 1, 0, 0, a, b, c, d],
        [0xb7, 2, 0, 0, 0, 0, 0, 0],
        [0x85, 0, 0, 0, 23, 0, 0, 0],
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ]
}

/// The XDP program of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// The program's ID.
    pub program: u64,
    /// Whether it is in the driver.
    pub is_native: bool,
}

/// The XDP program of an interface; `None`: it has none.
pub fn xdp(namespace: &Namespace, interface: &str) -> Result<Option<Xdp>> {
    let shown = namespace.sh(&format!("ip -json link show dev {interface}"))?;
    let shown: Value = serde_json::from_str(&shown).context("read what ip says")?;
    let xdp = &shown[0]["xdp"];
    let program = xdp["prog"]["id"].as_u64();
    Ok(program.map(|program| Xdp {
        program,
        is_native: xdp["mode"] == 1,
    }))
}

/// Loads a program that lets everything pass.
pub fn load_empty_xdp() -> Result<OwnedFd> {
    load(PROGRAM_TYPE, &PASS)
}

/// Attaches a program that lets everything pass, in the driver or not; it stays until the link is dropped.
pub fn attach_xdp(namespace: &Namespace, interface: &str, native: bool) -> Result<OwnedFd> {
    attach(namespace, interface, native, &load_empty_xdp()?)
}

/// Attaches a program that drops everything, in the driver; it stays until the link is dropped.
pub fn attach_dropping_xdp(namespace: &Namespace, interface: &str) -> Result<OwnedFd> {
    attach(namespace, interface, true, &load(PROGRAM_TYPE, &DROP)?)
}

/// The same in the kernel, behind the driver.
pub fn attach_dropping_generic_xdp(namespace: &Namespace, interface: &str) -> Result<OwnedFd> {
    attach(namespace, interface, false, &load(PROGRAM_TYPE, &DROP)?)
}

fn attach(
    namespace: &Namespace,
    interface: &str,
    native: bool,
    program: &OwnedFd,
) -> Result<OwnedFd> {
    #[repr(C)]
    struct Link {
        program: u32,
        interface: u32,
        attach_type: u32,
        flags: u32,
    }
    namespace.run(|| {
        let index = nix::net::if_::if_nametoindex(interface);
        let mut link = Link {
            program: u32::try_from(program.as_raw_fd())?,
            interface: index.with_context(|| format!("find interface {interface}"))?,
            // `BPF_XDP`.
            attach_type: 37,
            // `XDP_FLAGS_DRV_MODE` and `XDP_FLAGS_SKB_MODE`.
            flags: if native { 1 << 2 } else { 1 << 1 },
        };
        // SAFETY: the structure begins like the kernel's union for this command, without pointers.
        let made = unsafe { descriptor(Command::LinkCreate, &mut link) };
        made.with_context(|| format!("attach an XDP program to {interface}"))
    })
}

/// Detaches the link that is pinned at a path by force; the pin stays.
pub fn detach_pinned(path: &Path) -> Result<()> {
    let link = pinned(path)?;
    let mut descriptor = u32::try_from(link.as_raw_fd())?;
    // SAFETY: the command's only argument is a descriptor.
    unsafe { call(Command::LinkDetach, &mut descriptor) }.context("detach a link")?;
    Ok(())
}

/// Makes frames in the kernel and sends them, faster than any socket (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18).
#[derive(Debug)]
pub struct FrameSource {
    program: OwnedFd,
    frame: Vec<u8>,
}

impl FrameSource {
    /// Copies of a frame, out of an interface with this index; without one they are dropped at once, which shows what
    /// making them costs.
    pub fn new(frame: &[u8], interface: Option<u32>) -> Result<Self> {
        let program = match interface {
            None => load(PROGRAM_TYPE, &DROP),
            Some(index) => load(PROGRAM_TYPE, &redirect(index)),
        };
        Ok(Self {
            program: program?,
            frame: frame.to_vec(),
        })
    }

    /// Sends `count` frames, in the network namespace and on the processor of this thread. The receiver handles them
    /// there, too, before the next ones are sent.
    pub fn send(&self, count: u32) -> Result<()> {
        #[repr(C)]
        #[derive(Default)]
        struct Run {
            program: u32,
            result: u32,
            data_size_in: u32,
            data_size_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
            context_size_in: u32,
            context_size_out: u32,
            context_in: u64,
            context_out: u64,
            flags: u32,
            processor: u32,
            batch_size: u32,
            padding: u32,
        }
        /// `BPF_F_TEST_XDP_LIVE_FRAMES`.
        const LIVE_FRAMES: u32 = 1 << 1;
        let mut run = Run {
            program: u32::try_from(self.program.as_raw_fd())?,
            data_size_in: u32::try_from(self.frame.len())?,
            data_in: self.frame.as_ptr() as u64,
            repeat: count,
            flags: LIVE_FRAMES,
            batch_size: 64,
            ..Run::default()
        };
        // SAFETY: the structure has the layout of the kernel's union for this command (kernel 5.18); the frame outlives
        // the call.
        unsafe { call(Command::ProgramTestRun, &mut run) }.context("send frames")?;
        Ok(())
    }
}
