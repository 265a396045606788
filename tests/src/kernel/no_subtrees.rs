//! Owns the simulation of a kernel without source-specific routes (`CONFIG_IPV6_SUBTREES`). Such a kernel
//! refuses a route with a source with EINVAL (`ip6_route_info_create`). Seccomp reports each netlink message
//! of the program before it is sent, and a message that adds such a route gets an invalid source length.
//!
//! Tasks: a thread for each program, which ends with it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{pipe2, read, write};

/// Length of a netlink header, and the offset of the message type in it.
const HEADER: usize = 16;
const TYPE: usize = 4;
const RTM_NEWROUTE: u16 = 24;
/// Offset of the source's prefix length in a message about routes (`struct rtmsg`).
const SOURCE_LENGTH: usize = HEADER + 2;
/// An invalid prefix length, longer than an address.
const NO_LENGTH: u8 = 255;

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`: the kernel continues the call unchanged.
const CONTINUE: u32 = 1;

nix::ioctl_readwrite!(
    /// `SECCOMP_IOCTL_NOTIF_RECV`.
    next_call, b'!', 0, libc::seccomp_notif
);
nix::ioctl_readwrite!(
    /// `SECCOMP_IOCTL_NOTIF_SEND`.
    answer_call, b'!', 1, libc::seccomp_notif_resp
);

/// Simulates such a kernel for a command. Returns the count of refused routes.
pub fn simulate(command: &mut Command) -> Result<Arc<AtomicU64>> {
    let [(listener_from, listener_to), (ready_from, ready_to)] = [
        pipe2(OFlag::O_CLOEXEC).context("make a pipe")?,
        pipe2(OFlag::O_CLOEXEC).context("make a pipe")?,
    ];
    let refused = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&refused);
    std::thread::spawn(move || {
        let watched = fetch(File::from(listener_from), File::from(ready_to))
            .and_then(|listener| watch(&listener, &count));
        if let Err(error) = watched {
            eprintln!("simulate a kernel without subtrees: {error:#}");
        }
    });
    let begin = move || {
        let listener = install()?;
        let mut words = [0; 8];
        words[..4].copy_from_slice(&std::process::id().to_ne_bytes());
        words[4..].copy_from_slice(&listener.to_ne_bytes());
        write(&listener_to, &words)?;
        // Wait until the listener was fetched.
        read(&ready_from, &mut words[..1])?;
        Ok(())
    };
    // SAFETY: between fork and exec `begin` only makes system calls: no allocation, no lock.
    unsafe { command.pre_exec(begin) };
    Ok(refused)
}

/// Makes the kernel report every `sendto` of the calling process, and of programs that it executes, at the
/// returned descriptor.
fn install() -> io::Result<i32> {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    // Codes have 16 bits, and system call numbers 32.
    let short = |code: u32| u16::try_from(code).map_err(io::Error::other);
    let filter = |code, jt, jf, k| {
        io::Result::Ok(libc::sock_filter {
            code: short(code)?,
            jt,
            jf,
            k,
        })
    };
    let sendto = u32::try_from(libc::SYS_sendto).map_err(io::Error::other)?;
    let mut filters = [
        // Load the first field: the number of the system call.
        filter(load, 0, 0, 0)?,
        filter(equals, 0, 1, sendto)?,
        filter(answer, 0, 0, libc::SECCOMP_RET_USER_NOTIF)?,
        filter(answer, 0, 0, libc::SECCOMP_RET_ALLOW)?,
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(filters.len()).map_err(io::Error::other)?,
        filter: filters.as_mut_ptr(),
    };
    // SAFETY: `program` and the filters that it points to live until the call returns.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(listener).map_err(io::Error::other)
}

/// Copies the listener descriptor from the program.
fn fetch(mut listener_from: File, mut ready_to: File) -> Result<OwnedFd> {
    let mut words = [0; 8];
    listener_from
        .read_exact(&mut words)
        .context("the program starts")?;
    let [process, listener] = [&words[..4], &words[4..]]
        .map(|word| i64::from(i32::from_ne_bytes(word.try_into().unwrap_or_default())));
    let own = |descriptor: i64| -> io::Result<OwnedFd> {
        let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a system call just returned it, and no other code owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    };
    // SAFETY: all arguments and the result are numbers.
    let process = own(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) });
    let process = process.context("open the program")?;
    // SAFETY: all arguments and the result are numbers.
    let fetched =
        own(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), listener, 0) });
    let fetched = fetched.context("get its descriptor")?;
    ready_to.write_all(&[1]).context("let it continue")?;
    Ok(fetched)
}

/// Checks each message before it is sent, until the program ends.
fn watch(listener: &OwnedFd, refused: &AtomicU64) -> Result<()> {
    loop {
        if !is_called(listener)? {
            return Ok(());
        }
        // SAFETY: this structure has only numbers, so all zeroes is a valid value; the kernel requires
        // zeroes.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: this ioctl fills in a structure of this type.
        if unsafe { next_call(listener.as_raw_fd(), &raw mut call) }.is_err() {
            // The caller died meanwhile.
            continue;
        }
        refused.fetch_add(refuse(&call)?, Ordering::Relaxed);
        let mut answer = libc::seccomp_notif_resp {
            id: call.id,
            val: 0,
            error: 0,
            flags: CONTINUE,
        };
        // SAFETY: this ioctl reads a structure of this type. It fails if the caller died, which needs no
        // answer.
        let _answered = unsafe { answer_call(listener.as_raw_fd(), &raw mut answer) };
    }
}

/// Waits for a call; false if no process is left that could make one.
fn is_called(listener: &OwnedFd) -> Result<bool> {
    // SAFETY: the descriptor is open while the reference is alive.
    let borrowed = unsafe { BorrowedFd::borrow_raw(listener.as_raw_fd()) };
    let mut polled = [PollFd::new(borrowed, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::NONE).context("wait for a message")?;
    Ok(polled[0]
        .revents()
        .is_some_and(|events| events.contains(PollFlags::POLLIN)))
}

/// Corrupts the messages that request such a route; returns their number.
fn refuse(call: &libc::seccomp_notif) -> Result<u64> {
    let [_, address, length, ..] = call.data.args;
    let path = format!("/proc/{}/mem", call.pid);
    let memory = File::options().read(true).write(true).open(&path);
    let memory = memory.with_context(|| format!("open {path}"))?;
    let mut sent = vec![0; usize::try_from(length).context("a length")?];
    memory
        .read_exact_at(&mut sent, address)
        .context("read a message")?;
    let mut refused = 0;
    for at in asking(&sent) {
        memory
            .write_all_at(&[NO_LENGTH], address + at as u64)
            .context("spoil a message")?;
        refused += 1;
    }
    Ok(refused)
}

/// Offsets of the source's prefix length in the messages that request a route with a source.
fn asking(sent: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(message) = sent.get(at..).filter(|left| left.len() >= HEADER) {
        let length = u32::from_ne_bytes([message[0], message[1], message[2], message[3]]);
        let kind = u16::from_ne_bytes([message[TYPE], message[TYPE + 1]]);
        let source = message.get(SOURCE_LENGTH).copied().unwrap_or_default();
        if kind == RTM_NEWROUTE && source > 0 {
            found.push(at + SOURCE_LENGTH);
        }
        // A message that is not netlink has no valid length, but the loop still ends.
        let step = (length as usize).max(HEADER).next_multiple_of(4);
        at = at.saturating_add(step);
    }
    found
}
