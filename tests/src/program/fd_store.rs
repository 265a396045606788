//! Systemd's fd store for one service: stores descriptors that the service sends, and passes them to its next
//! start (sd_notify(3), `LISTEN_FDS`).

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, RecvMsg, UnixAddr, recvmsg};
use nix::unistd::dup2_raw;

use crate::lab::netns::Namespace;
use crate::program::Program;
use crate::wait;

/// Numbers of the descriptors in the child, until its shell moves them to their final numbers.
const PARKED: RawFd = 900;

/// Final number of the first descriptor: `SD_LISTEN_FDS_START`.
const FIRST: usize = 3;

/// The fd store of one service.
#[derive(Debug)]
pub struct FdStore {
    socket: UnixDatagram,
    path: PathBuf,
    held: Vec<(String, Arc<OwnedFd>)>,
}

impl FdStore {
    /// Listens on a socket at this path, which must not exist.
    pub fn listen(path: &Path) -> Result<Self> {
        let socket =
            UnixDatagram::bind(path).with_context(|| format!("listen at {}", path.display()))?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            held: Vec::new(),
        })
    }

    /// Waits until the store holds exactly the descriptors with these names, in order.
    pub fn holds(&mut self, names: &[&str]) -> Result<()> {
        let what = format!("{names:?} are held");
        let limit = Duration::from_secs(10);
        wait::until(&what, limit, || self.names(), |found| found == names)?;
        Ok(())
    }

    /// Stores a descriptor of the caller.
    pub fn hold(&mut self, name: &str, descriptor: OwnedFd) {
        self.held.push((name.to_owned(), Arc::new(descriptor)));
    }

    /// Drops all stored descriptors.
    pub fn clear(&mut self) {
        self.held.clear();
    }

    fn names(&mut self) -> Result<Vec<String>> {
        while self.receive()? {}
        let mut names: Vec<_> = self.held.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        Ok(names)
    }

    /// Receives one message; false if there is none.
    fn receive(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let mut space = nix::cmsg_space!([RawFd; 4]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let socket = self.socket.as_raw_fd();
        let message: RecvMsg<'_, '_, UnixAddr> =
            match recvmsg(socket, &mut slices, Some(&mut space), flags) {
                Ok(message) => message,
                Err(nix::Error::EAGAIN) => return Ok(false),
                Err(error) => return Err(error).context("listen to the daemon"),
            };
        let mut descriptors = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                // SAFETY: the kernel has just made them for this process, and returns each only once, so
                // nothing else owns them.
                let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
                descriptors.extend(fds.into_iter().map(owned));
            }
        }
        let length = message.bytes;
        let text = std::str::from_utf8(&buffer[..length]).context("what the daemon says")?;
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let name = value("FDNAME=");
        if value("FDSTORE=") == Some("1") {
            let (Some(name), 1) = (name, descriptors.len()) else {
                bail!("to be held: {text:?}, {descriptors:?}");
            };
            ensure!(value("FDPOLL=") == Some("0"), "{text:?}");
            self.held.extend(
                descriptors
                    .into_iter()
                    .map(|fd| (name.to_owned(), Arc::new(fd))),
            );
        }
        if value("FDSTOREREMOVE=") == Some("1") {
            let name = name.context("nothing is named to be held no more")?;
            self.held.retain(|(held, _)| held != name);
        }
        Ok(true)
    }

    /// A command that runs the daemon and passes the stored descriptors, as systemd does.
    pub fn daemon(&self, program: &Program, host: &Namespace) -> Command {
        let mut script = String::new();
        for index in 0..self.held.len() {
            let parked = PARKED as usize + index;
            script += &format!("exec {}<&{parked} {parked}<&-; ", FIRST + index);
        }
        // Only the process itself knows its PID.
        script += "LISTEN_PID=$$ exec \"$0\" run";
        let names: Vec<_> = self.held.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = host.command("bash");
        program.apply_environment(&mut command);
        command
            .args(["-c", &script])
            .arg(program.binary())
            .env("NOTIFY_SOCKET", &self.path);
        if self.held.is_empty() {
            return command;
        }
        command
            .env("LISTEN_FDS", self.held.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        let held: Vec<_> = self.held.iter().map(|(_, fd)| Arc::clone(fd)).collect();
        let park = move || {
            for (number, descriptor) in (PARKED..).zip(&held) {
                // SAFETY: no other descriptor in the child has these numbers, and no code in it uses them.
                let parked = unsafe { dup2_raw(&**descriptor, number) }?;
                let _stays_open = parked.into_raw_fd();
            }
            Ok(())
        };
        // SAFETY: between fork and exec `park` only makes system calls: no allocation, no lock.
        unsafe { command.pre_exec(park) };
        command
    }
}
