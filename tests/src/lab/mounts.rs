//! Mount namespaces: the machine does not have their mounts, and the kernel removes them with the namespace.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::lab::netns::Namespace;

/// A handle of a mount namespace; clones are handles of the same one. The namespace exists while a handle or
/// a process in it exists.
#[derive(Clone, Debug)]
pub struct Mounts(Arc<File>);

impl Mounts {
    /// A copy of the machine's mounts, with this network namespace's /sys, and with each first directory
    /// bind-mounted over the second one, with all its mounts. The last bind may hide the sources of the
    /// others.
    pub fn new(node: &Namespace, binds: &[(PathBuf, PathBuf)]) -> Result<Self> {
        let made = node.run(|| furnish(binds))?;
        Ok(Self(Arc::new(made)))
    }

    /// Makes a command run in it.
    pub fn enter(&self, command: &mut Command) {
        let mounts = Arc::clone(&self.0);
        let enter = move || setns(&*mounts, CloneFlags::CLONE_NEWNS).map_err(io::Error::from);
        // SAFETY: between fork and exec `enter` only makes a system call.
        unsafe { command.pre_exec(enter) };
    }
}

/// Moves the calling thread into a new mount namespace, and returns that. /sys is writable, since programs
/// take a read-only one as the sign of a container.
fn furnish(binds: &[(PathBuf, PathBuf)]) -> Result<File> {
    const NONE: Option<&CStr> = None;
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, c"/", NONE, private, NONE).context("have mounts apart")?;
    for (kind, to) in [(c"sysfs", c"/sys"), (c"bpf", c"/sys/fs/bpf")] {
        mount(Some(kind), to, Some(kind), MsFlags::empty(), NONE)
            .with_context(|| format!("mount {to:?}"))?;
    }
    for (from, to) in binds {
        let (from, to) = (path_to_c(from)?, path_to_c(to)?);
        let whole = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&*from), &*to, NONE, whole, NONE)
            .with_context(|| format!("bind {from:?} to {to:?}"))?;
    }
    let path = "/proc/thread-self/ns/mnt";
    File::open(path).with_context(|| format!("open {path}"))
}

fn path_to_c(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).context("a path without zeroes")
}
