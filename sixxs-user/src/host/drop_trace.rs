//! The kernel's drop reasons for packets that this thread puts in (`skb:kfree_skb`), and the interfaces by which they leave
//! (`net:net_dev_queue`): in an instance of tracefs of our own, filtered by the thread's number.
//!
//! An instance belongs to the file system, so a killed process leaves it behind; the next one removes it. The kernel refuses
//! to remove an instance that a process reads.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use nix::unistd::{AccessFlags, access, gettid};
use tracing::debug;

/// Where tracefs may be mounted. The second one is where the systemd unit makes it writable.
const MOUNTED: [&str; 2] = ["/sys/kernel/tracing", "/run/sixxs/tracing"];

/// The beginning of the names of our instances.
const PREFIX: &str = "sixxs-check-";

/// The EtherType of IPv6, as the tracepoint shows it.
const IPV6: u16 = 0x86dd;

/// Number of attempts to make an instance.
const MAX_TRIES: u32 = 16;

/// Limit of the text that is read at a time.
const MAX_BYTES: usize = 256 * 1024;

/// A running trace. Removed on drop.
pub(crate) struct DropTrace {
    directory: PathBuf,
    pipe: Option<File>,
    /// Keeps the mount.
    _tracefs: TraceFs,
}

impl DropTrace {
    /// Traces the IPv6 packets that the kernel drops in the context of this thread, and those that leave: with one of these
    /// lengths, link layer included, or all of them.
    pub(crate) fn start(lengths: Option<[usize; 2]>) -> anyhow::Result<Self> {
        let tracefs = TraceFs::find()?;
        let instances = tracefs.instances();
        remove_leftovers_in(&instances);
        let thread = gettid();
        let (directory, pipe) = make(&instances, thread.as_raw())?;
        let trace = Self {
            pipe: Some(pipe),
            directory,
            _tracefs: tracefs,
        };
        trace.enable(thread.as_raw(), lengths)?;
        Ok(trace)
    }

    fn enable(&self, thread: i32, lengths: Option<[usize; 2]>) -> anyhow::Result<()> {
        let events = self.directory.join("events");
        let (event, departure) = (
            events.join("skb/kfree_skb"),
            events.join("net/net_dev_queue"),
        );
        let format = fs::read_to_string(event.join("format"));
        let format = format.context("this kernel does not trace dropped packets")?;
        if !format.contains("reason") {
            bail!("this kernel gives no reasons for dropped packets: they come with Linux 5.17");
        }
        let filter = format!("common_pid == {thread} && protocol == {IPV6}");
        write(&event.join("filter"), &filter)?;
        write(&event.join("enable"), "1")?;
        let filter = match lengths {
            Some([one, other]) => {
                format!("common_pid == {thread} && (len == {one} || len == {other})")
            }
            None => format!("common_pid == {thread}"),
        };
        write(&departure.join("filter"), &filter)?;
        write(&departure.join("enable"), "1")
    }

    /// The events since the last call, as text.
    pub(crate) fn text(&mut self) -> anyhow::Result<String> {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        while let Some(pipe) = &mut self.pipe
            && text.len() < MAX_BYTES
        {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(bytes) => text.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("read the trace of dropped packets"),
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for DropTrace {
    fn drop(&mut self) {
        // The kernel removes no instance that is read.
        self.pipe = None;
        if let Err(error) = fs::remove_dir(&self.directory) {
            debug!("remove {}: {error}", self.directory.display());
        }
    }
}

/// Makes an instance for a thread, and opens its output. Until it is open, another process may remove it as left behind. The
/// name may be in use: numbers of threads return.
fn make(instances: &Path, thread: i32) -> anyhow::Result<(PathBuf, File)> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let mut attempt = 1;
    loop {
        let directory = instances.join(format!("{PREFIX}{thread}-{attempt}"));
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("make {}", directory.display()));
            }
            _ => {}
        }
        match options.open(directory.join("trace_pipe")) {
            Err(error) if is_unusable(&error) && attempt < MAX_TRIES => attempt += 1,
            opened => {
                let pipe = opened.with_context(|| format!("open {}", directory.display()))?;
                return Ok((directory, pipe));
            }
        }
    }
}

/// Whether an instance does not exist, is being removed, or has a reader.
fn is_unusable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::EBUSY)
    )
}

/// Removes the instances of killed processes, where tracefs is mounted.
pub(crate) fn remove_leftovers() {
    for mounted in MOUNTED {
        remove_leftovers_in(&Path::new(mounted).join("instances"));
    }
}

fn remove_leftovers_in(instances: &Path) {
    let entries = fs::read_dir(instances).into_iter().flatten().flatten();
    let is_ours = |name: &str| name.starts_with(PREFIX);
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_ours)) {
        if let Err(error) = fs::remove_dir(entry.path()) {
            // Another process reads it, or has just removed it.
            debug!("remove {}: {error}", entry.path().display());
        }
    }
}

/// A tracefs.
enum TraceFs {
    /// It is mounted here.
    At(&'static str),
    /// A mount of our own, which is in no directory.
    Detached(OwnedFd),
}

impl TraceFs {
    /// The file system where it is mounted and writable, or a mount of our own.
    fn find() -> anyhow::Result<Self> {
        let is_writable =
            |root: &&str| access(&Path::new(root).join("instances"), AccessFlags::W_OK).is_ok();
        if let Some(root) = MOUNTED.into_iter().find(is_writable) {
            return Ok(Self::At(root));
        }
        mount_detached().map(Self::Detached).with_context(|| {
            format!(
                "tracefs is not writable at {}, and cannot be mounted",
                MOUNTED[0]
            )
        })
    }

    fn instances(&self) -> PathBuf {
        let root = match self {
            Self::At(root) => PathBuf::from(root),
            Self::Detached(mount) => PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())),
        };
        root.join("instances")
    }
}

/// Mounts a tracefs in no directory. It ends with the descriptor. Linux 5.2.
fn mount_detached() -> io::Result<OwnedFd> {
    /// Values of the kernel's uapi/linux/mount.h.
    const CLOSE_ON_EXEC: libc::c_long = 1;
    const CMD_CREATE: libc::c_long = 6;
    const NOSUID_NODEV_NOEXEC: libc::c_long = 2 | 4 | 8;
    // SAFETY: the name ends with a zero, and outlives the call.
    let context =
        descriptor(unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), CLOSE_ON_EXEC) })?;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes no key and no value.
    let created = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            CMD_CREATE,
            none,
            none,
            0,
        )
    };
    if created < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes a descriptor and numbers.
    descriptor(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            CLOSE_ON_EXEC,
            NOSUID_NODEV_NOEXEC,
        )
    })
}

/// The descriptor that a system call has just made.
fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let number = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("write {text:?} to {}", path.display()))
}
