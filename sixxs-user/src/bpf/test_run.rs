//! Runs a program once or many times on a given packet, without an interface (`BPF_PROG_TEST_RUN`), for golden
//! packets, benchmarks, inside and outside tests.

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

/// The part of the kernel's `struct __sk_buff` up to the control buffer (`cb`).
#[repr(C)]
#[derive(Default)]
struct Context {
    before: [u32; 12],
    control_buffer: [u32; 5],
}

/// Runs `program` once on an Ethernet frame at the loopback interface, with this first word in the control buffer. Returns
/// its return value.
pub(super) fn run_with_word(program: BorrowedFd<'_>, frame: &[u8], word: u32) -> io::Result<i32> {
    run_with_words(program, frame, [word, 0])
}

/// Runs `sixxs_inject` once, so that it puts the frame into the egress of an interface. Returns its return value.
pub(super) fn run_to_egress(
    program: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: u32,
) -> io::Result<i32> {
    run_with_words(program, frame, [ifindex, 1])
}

fn run_with_words(
    program: BorrowedFd<'_>,
    frame: &[u8],
    [first, second]: [u32; 2],
) -> io::Result<i32> {
    let mut context = Context::default();
    context.control_buffer[0] = first;
    context.control_buffer[1] = second;
    let mut attributes = Attributes {
        ctx_size_in: u32::try_from(size_of::<Context>()).map_err(io::Error::other)?,
        ctx_in: (&raw const context) as u64,
        repeat: 1,
        ..for_frame(program, frame)?
    };
    // SAFETY: `attributes` has the layout of the kernel's union for this command; `data_in` and `ctx_in` point to data of
    // the given lengths, which outlive the call. There is no output besides the numbers.
    unsafe { call(BPF_PROG_TEST_RUN, &mut attributes) }?;
    Ok(attributes.retval.cast_signed())
}

fn for_frame(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<Attributes> {
    let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "the frame is too long");
    Ok(Attributes {
        prog_fd: u32::try_from(program.as_raw_fd()).map_err(too_long)?,
        data_size_in: u32::try_from(frame.len()).map_err(too_long)?,
        data_in: frame.as_ptr() as u64,
        ..Attributes::default()
    })
}

/// Runs `program` `repeat` times on an Ethernet frame at the loopback interface.
pub fn run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<Run> {
    let mut packet = vec![0; frame.len() + 256];
    let mut attributes = Attributes {
        data_size_out: u32::try_from(packet.len()).map_err(io::Error::other)?,
        data_out: packet.as_mut_ptr() as u64,
        repeat,
        ..for_frame(program, frame)?
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
