//! Runs a program once or many times on a given packet, without an interface (`BPF_PROG_TEST_RUN`), for golden
//! packets and benchmarks.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

use super::syscall::call;

/// A value of the kernel's `enum bpf_cmd`.
const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// The part of `union bpf_attr` that the command uses (kernel 5.10).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The program's return value.
    pub verdict: i32,
    /// The packet as the program left it.
    pub packet: Vec<u8>,
    /// Average duration of one run.
    pub duration: Duration,
}

/// Runs `program` `repeat` times on an Ethernet frame at the loopback interface.
pub fn run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<Run> {
    let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "the frame is too long");
    let mut packet = vec![0; frame.len() + 256];
    let mut attributes = Attributes {
        prog_fd: u32::try_from(program.as_raw_fd()).map_err(too_long)?,
        data_size_in: u32::try_from(frame.len()).map_err(too_long)?,
        data_size_out: u32::try_from(packet.len()).map_err(too_long)?,
        data_in: frame.as_ptr() as u64,
        data_out: packet.as_mut_ptr() as u64,
        repeat,
        ..Attributes::default()
    };
    // SAFETY: `attributes` has the layout of the kernel's union for this command; `data_in` and `data_out`
    // point to buffers of the given lengths, which outlive the call.
    unsafe { call(BPF_PROG_TEST_RUN, &mut attributes) }?;
    packet.truncate(attributes.data_size_out as usize);
    Ok(Run {
        verdict: attributes.retval.cast_signed(),
        packet,
        duration: Duration::from_nanos(u64::from(attributes.duration)),
    })
}
