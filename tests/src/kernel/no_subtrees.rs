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

/// Of a netlink message: its length, and its type at this offset.
const HEADER: usize = 16;
const TYPE: usize = 4;
const RTM_NEWROUTE: u16 = 24;
/// Of a message about routes: where the length of the source is (`struct rtmsg`).
const SOURCE_LENGTH: usize = HEADER + 2;
/// Longer than any.
const NO_LENGTH: u8 = 255;

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`: the call is made as it is.
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
    let [(told, tell), (heard, hear)] = [
        pipe2(OFlag::O_CLOEXEC).context("make a pipe")?,
        pipe2(OFlag::O_CLOEXEC).context("make a pipe")?,
    ];
    let refused = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&refused);
    std::thread::spawn(move || {
        let watched =
            fetch(File::from(told), File::from(hear)).and_then(|listener| watch(&listener, &count));
        if let Err(error) = watched {
            eprintln!("simulate a kernel without subtrees: {error:#}");
        }
    });
    let begin = move || {
        let listener = install()?;
        let mut words = [0; 8];
        words[..4].copy_from_slice(&std::process::id().to_ne_bytes());
        words[4..].copy_from_slice(&listener.to_ne_bytes());
        write(&tell, &words)?;
        // Until it was fetched.
        read(&heard, &mut words[..1])?;
        Ok(())
    };
    // SAFETY: between fork and exec `begin` only makes system calls: no allocation, no lock.
    unsafe { command.pre_exec(begin) };
    Ok(refused)
}

/// Has every `sendto` of the calling process, and of what it executes, shown at the descriptor that this
/// returns.
fn install() -> io::Result<i32> {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    // Codes are of 16 bits, and all numbers of calls of 32.
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
        // The number of the call is the first thing.
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

/// Gets the descriptor that the program has.
fn fetch(mut told: File, mut hear: File) -> Result<OwnedFd> {
    let mut words = [0; 8];
    told.read_exact(&mut words).context("the program starts")?;
    let [process, listener] = [&words[..4], &words[4..]]
        .map(|word| i64::from(i32::from_ne_bytes(word.try_into().unwrap_or_default())));
    let own = |descriptor: i64| -> io::Result<OwnedFd> {
        let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a call just returned it, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    };
    // SAFETY: numbers go in and come out.
    let process = own(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) });
    let process = process.context("open the program")?;
    // SAFETY: numbers go in and come out.
    let fetched =
        own(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), listener, 0) });
    let fetched = fetched.context("get its descriptor")?;
    hear.write_all(&[1]).context("let it go on")?;
    Ok(fetched)
}

/// Looks at each message before it is sent, until the program has ended.
fn watch(listener: &OwnedFd, refused: &AtomicU64) -> Result<()> {
    loop {
        if !is_called(listener)? {
            return Ok(());
        }
        // SAFETY: all zero is a value of this structure of numbers; the kernel wants it so.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is the one that this call fills in.
        if unsafe { next_call(listener.as_raw_fd(), &raw mut call) }.is_err() {
            // The caller has died.
            continue;
        }
        refused.fetch_add(refuse(&call)?, Ordering::Relaxed);
        let mut answer = libc::seccomp_notif_resp {
            id: call.id,
            val: 0,
            error: 0,
            flags: CONTINUE,
        };
        // SAFETY: the structure is the one that this call reads. A caller that died needs no answer.
        let _answered = unsafe { answer_call(listener.as_raw_fd(), &raw mut answer) };
    }
}

/// Waits for a call; false: there is nobody left to make one.
fn is_called(listener: &OwnedFd) -> Result<bool> {
    // SAFETY: it is open for as long as the reference lives.
    let borrowed = unsafe { BorrowedFd::borrow_raw(listener.as_raw_fd()) };
    let mut polled = [PollFd::new(borrowed, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::NONE).context("wait for a message")?;
    Ok(polled[0]
        .revents()
        .is_some_and(|events| events.contains(PollFlags::POLLIN)))
}

/// Spoils those of the messages that ask for such a route; how many.
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

/// Where the length of a source is, in those of the messages that ask for a route with one.
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
        // What is no netlink ends here.
        let step = (length as usize).max(HEADER).next_multiple_of(4);
        at = at.saturating_add(step);
    }
    found
}
