//! Pseudo-terminals: starts a command on one, and reads its output and the terminal's modes.
//!
//! Tasks: a [`Pty`] has a thread that reads, which ends with the terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::wait;

nix::ioctl_write_ptr_bad!(
    /// Sets the number of a terminal's rows and columns.
    set_size,
    libc::TIOCSWINSZ,
    libc::winsize
);

/// Limit for each wait.
const LIMIT: Duration = Duration::from_secs(15);

/// A command with its own controlling terminal; killed on drop.
#[derive(Debug)]
pub struct Pty {
    child: Child,
    /// Open so that the modes can be read; `None` after [`Pty::hang_up`].
    terminal: Option<File>,
    master: Option<File>,
    written: Arc<Mutex<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    before: Termios,
}

impl Pty {
    /// Starts a command on a terminal with 80 columns and 24 rows, with this `TERM`.
    pub fn start(command: &mut Command, kind: &str) -> Result<Self> {
        // Not openpty(3): children that other threads start meanwhile would inherit the terminal.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).context("open a terminal")?;
        grantpt(&master).context("open a terminal")?;
        unlockpt(&master).context("open a terminal")?;
        let name = ptsname_r(&master).context("open a terminal")?;
        let terminal = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(&name)
            .with_context(|| format!("open {name}"))?;
        let size = libc::winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the terminal is open, and `size` outlives the call.
        unsafe { set_size(terminal.as_raw_fd(), &raw const size) }.context("size a terminal")?;
        let before = tcgetattr(&terminal).context("read the terminal's modes")?;
        let end = || terminal.try_clone().context("open the terminal again");
        command
            .stdin(end()?)
            .stdout(end()?)
            .stderr(end()?)
            .env("TERM", kind)
            .env("LC_ALL", "C.UTF-8");
        let control = || {
            nix::unistd::setsid()?;
            // SAFETY: descriptor 0 is the terminal, and the argument of this ioctl is a number.
            match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec `control` only makes system calls: no allocation, no lock.
        unsafe { command.pre_exec(control) };
        let child = command.spawn().context("start on a terminal")?;
        let master = File::from(OwnedFd::from(master));
        let reader = master.try_clone().context("read the terminal")?;
        let written = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (to, stopped) = (Arc::clone(&written), Arc::clone(&stop));
        let reader = std::thread::Builder::new()
            .name("pty".to_owned())
            .spawn(move || read(reader, &to, &stopped))
            .context("read the terminal")?;
        Ok(Self {
            child,
            terminal: Some(terminal),
            master: Some(master),
            written,
            stop,
            reader: Some(reader),
            before,
        })
    }

    /// Its process ID.
    pub fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(
            self.child.id().try_into().context("a pid fits")?,
        ))
    }

    /// Types these bytes.
    pub fn key(&mut self, bytes: &[u8]) -> Result<()> {
        let master = self.master.as_mut().context("it hung up")?;
        master.write_all(bytes).context("type")
    }

    /// The whole output.
    pub fn written(&self) -> String {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&written).into_owned()
    }

    /// Waits until the output satisfies `good`.
    pub fn until(&self, what: &str, good: impl Fn(&str) -> bool) -> Result<()> {
        let good = |written: &String| good(written);
        wait::until(what, LIMIT, || Ok(self.written()), good).map(drop)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("send {signal}"))
    }

    /// Waits until it is stopped, as after ctrl-Z.
    pub fn stopped(&self) -> Result<()> {
        let flags = WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG;
        let look = || waitpid(self.pid()?, Some(flags)).context("look at it");
        wait::until("it is stopped", LIMIT, look, |status| {
            matches!(status, WaitStatus::Stopped(..))
        })?;
        Ok(())
    }

    /// Closes the terminal, like a connection that breaks.
    pub fn hang_up(&mut self) -> Result<()> {
        self.terminal = None;
        self.master = None;
        self.stop.store(true, Ordering::Relaxed);
        let reader = self.reader.take().context("it hung up once")?;
        ensure!(reader.join().is_ok(), "the terminal's reader panicked");
        Ok(())
    }

    /// Whether the terminal passes single keys, without echo.
    pub fn is_raw(&self) -> Result<bool> {
        let modes = self.modes()?;
        Ok(!modes
            .local_flags
            .intersects(LocalFlags::ICANON | LocalFlags::ECHO))
    }

    /// Whether the modes are the same as before the command.
    pub fn is_as_before(&self) -> Result<bool> {
        Ok(self.modes()? == self.before)
    }

    fn modes(&self) -> Result<Termios> {
        let terminal = self.terminal.as_ref().context("it hung up")?;
        tcgetattr(terminal.as_fd()).context("read the terminal's modes")
    }

    /// Waits for the end; returns the exit status, or 128 plus the signal number.
    pub fn wait(&mut self) -> Result<i32> {
        let look = || self.child.try_wait().context("wait for its end");
        let ended = wait::until("it ends", LIMIT, look, Option::is_some)?;
        let code = |status: ExitStatus| status.code().or(status.signal().map(|n| 128 + n));
        ended.and_then(code).context("it ended somehow")
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Ok(None) = self.child.try_wait() {
            // It may end by itself at the same time.
            let _ended = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

fn read(mut master: File, to: &Mutex<Vec<u8>>, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, 20_u16) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        // The read ends with EIO when the last process has closed the other side.
        let Ok(length @ 1..) = master.read(&mut buffer) else {
            return;
        };
        to.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(&buffer[..length]);
    }
}
