//! The terminal: taken over when the screen opens, and always restored.
//!
//! It is opened again (`/dev/tty`), so that it can be non-blocking without changing the shell's descriptor.
//! While it is taken, its former modes are in a static, so that a panic can restore them too.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::OpenOptionsExt as _,
    },
    panic,
    sync::{Mutex, Once, PoisonError},
};

use anyhow::Context as _;
use nix::{
    libc,
    poll::{PollFd, PollFlags, poll},
    sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
};
use ratatui_core::layout::Size;
use tokio::io::unix::AsyncFd;

/// Switches to the alternate screen, clears it, and hides the cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[0m\x1b[H\x1b[2J";
/// Resets attributes, shows the cursor, and switches back to the former screen.
const LEAVE: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";

/// How long to wait, at the end, for a terminal that does not accept output.
const PATIENCE_MS: u16 = 300;

/// The former modes and the terminal to restore them on; none while it is not taken.
static TAKEN: Mutex<Option<(File, Termios)>> = Mutex::new(None);

nix::ioctl_read_bad!(
    /// Number of rows and columns of a terminal.
    window_size,
    libc::TIOCGWINSZ,
    libc::winsize
);

/// There is no terminal to draw on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// Input or output is a file or a pipe.
    #[error(
        "top needs a terminal; `sixxs status --watch` prints to anything, and `sixxs status --json` \
         is for programs"
    )]
    NoTerminal,
    /// TERM=dumb.
    #[error("with TERM=dumb the terminal cannot position text; use `sixxs status`")]
    Dumb,
}

/// The terminal; dropping it restores it.
#[derive(Debug)]
pub(super) struct Terminal {
    file: AsyncFd<File>,
}

/// Whether this process has a terminal that it can draw on.
pub(super) fn check() -> Result<(), Unfit> {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(Unfit::NoTerminal);
    }
    match env::var("TERM").as_deref() {
        Ok("dumb") => Err(Unfit::Dumb),
        _ => Ok(()),
    }
}

impl Terminal {
    /// Opens the terminal and takes it.
    pub(super) fn open() -> anyhow::Result<Self> {
        give_back_when_panicking();
        let file = open().context("open the terminal")?;
        // SAFETY: a File stays open, with the same descriptor, until it is dropped, and nothing here drops or
        // replaces it earlier.
        let file = unsafe { AsyncFd::register(file) }.context("listen to the terminal")?;
        let terminal = Self { file };
        terminal.take()?;
        Ok(terminal)
    }

    /// Takes it again, after [`Terminal::give_back`].
    pub(super) fn take(&self) -> anyhow::Result<()> {
        let file = self.file.get_ref();
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let modes = match taken.take() {
            // After SIGSTOP and SIGCONT: other programs may have changed the modes since.
            Some((_, modes)) => modes,
            None => tcgetattr(file).context("read the terminal's modes")?,
        };
        let kept = file.try_clone().context("keep the terminal")?;
        let mut raw = modes.clone();
        cfmakeraw(&mut raw);
        tcsetattr(file, SetArg::TCSANOW, &raw).context("set the terminal's modes")?;
        *taken = Some((kept, modes));
        drop(taken);
        write_soon(file, ENTER);
        Ok(())
    }

    /// Restores the terminal for a while.
    pub(super) fn give_back(&self) {
        give_back();
    }

    /// Its number of rows and columns.
    pub(super) fn size(&self) -> Size {
        // SAFETY: winsize is plain data, and all zeroes are a valid value for it.
        let mut size: libc::winsize = unsafe { std::mem::zeroed() };
        // SAFETY: the terminal is open, and `size` outlives the call.
        let known = unsafe { window_size(self.file.get_ref().as_raw_fd(), &raw mut size) };
        match known {
            Ok(_) if size.ws_row > 0 && size.ws_col > 0 => Size::new(size.ws_col, size.ws_row),
            // Unknown: assume the usual size.
            _ => Size::new(80, 24),
        }
    }

    /// Reads input. An end of file is an error too: the terminal is gone.
    pub(super) async fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.file.readable().await?;
            match ready.try_io(|file| file.get_ref().read(bytes)) {
                Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(outcome) => return outcome,
                Err(_would_block) => {}
            }
        }
    }

    /// Writes as much as the terminal accepts now.
    pub(super) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.file.writable().await?;
            match ready.try_io(|file| file.get_ref().write(bytes)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(outcome) => return outcome,
                Err(_would_block) => {}
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// The controlling terminal of this process; if there is none, the terminal at stdout.
fn open() -> io::Result<File> {
    let open = |path| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
    };
    open("/dev/tty").or_else(|_| open("/proc/self/fd/1"))
}

/// Restores the terminal, if it is taken.
fn give_back() {
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((file, modes)) = taken {
        write_soon(&file, LEAVE);
        // An error means that the terminal is gone.
        let _gone = tcsetattr(&file, SetArg::TCSANOW, &modes);
    }
}

/// Writes all of it, unless the terminal accepts nothing for a while: then it is stopped or gone, and the rest
/// does not matter.
fn write_soon(mut file: &File, text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut ready = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                if !matches!(poll(&mut ready, PATIENCE_MS), Ok(1..)) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Makes a panic restore the terminal, so that its message is readable. The release build aborts afterwards.
fn give_back_when_panicking() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |information| {
            give_back();
            hook(information);
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::CommandExt as _,
        process::{Command, Stdio},
    };

    use nix::{pty::openpty, unistd::setsid};

    use super::*;

    /// Environment variable that makes this process panic with the terminal taken.
    const PANICS: &str = "SIXXS_TEST_PANICS_ON_ITS_TERMINAL";

    #[test]
    fn a_panic_gives_it_back() {
        if env::var_os(PANICS).is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let _inside = runtime.enter();
            let _terminal = Terminal::open().unwrap();
            panic!("as somebody's mistake would");
        }
        let pair = openpty(None, None).unwrap();
        let before = tcgetattr(&pair.slave).unwrap();
        let end = || Stdio::from(pair.slave.try_clone().unwrap());
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["a_panic_gives_it_back", "--nocapture"])
            .env(PANICS, "1")
            .stdin(end())
            .stdout(end())
            .stderr(end());
        let control = || {
            setsid()?;
            // SAFETY: descriptor 0 is the terminal, and the argument of the call is a number.
            match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec, `control` only makes system calls.
        unsafe { command.pre_exec(control) };
        let status = command.status().unwrap();
        assert!(!status.success());
        assert_eq!(tcgetattr(&pair.slave).unwrap(), before);
        drop((command, pair.slave));
        let mut written = Vec::new();
        // Ends with EIO, since the other end is closed.
        let _end = File::from(pair.master).read_to_end(&mut written);
        let written = String::from_utf8_lossy(&written);
        let (taken, rest) = written.split_once("\x1b[?1049h").unwrap();
        let (_, after) = rest.split_once(LEAVE).unwrap();
        assert!(!taken.contains("mistake"), "{written:?}");
        assert!(after.contains("as somebody's mistake would"), "{written:?}");
    }
}
