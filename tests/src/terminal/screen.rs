//! Draws a live screen on the terminal, and restores the terminal afterwards. If standard output is not a
//! terminal, it prints one picture after the other.

use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsRawFd as _;

use nix::libc;

nix::ioctl_read_bad!(
    /// Gets the number of a terminal's rows and columns.
    window_size,
    libc::TIOCGWINSZ,
    libc::winsize
);

const ALTERNATE_SCREEN_WITHOUT_CURSOR: &str = "\x1b[?1049h\x1b[?25l";
const NORMAL_SCREEN_WITH_CURSOR: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE_END: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
/// Rows and columns if the size is unknown; also the smallest supported size.
const SIZE: (usize, usize) = (24, 80);

/// The screen; its drop restores the terminal.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
}

impl Screen {
    /// Switches the terminal to the alternate screen.
    pub fn open() -> Self {
        let screen = Self {
            terminal: std::io::stdout().is_terminal(),
        };
        if screen.terminal {
            put(ALTERNATE_SCREEN_WITHOUT_CURSOR);
        }
        screen
    }

    /// Rows and columns.
    pub fn size(&self) -> (usize, usize) {
        // SAFETY: winsize is plain data, for which all zeroes is a valid value.
        let mut size: libc::winsize = unsafe { std::mem::zeroed() };
        // SAFETY: standard output is open, and `size` outlives the call.
        let known = unsafe { window_size(std::io::stdout().as_raw_fd(), &raw mut size) };
        match known {
            Ok(_) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
            _ => SIZE,
        }
    }

    /// Draws a picture, whose lines have to fit.
    pub fn draw(&mut self, picture: &str) {
        if !self.terminal {
            put(&format!("{picture}\n"));
            return;
        }
        let lines: Vec<String> = picture
            .lines()
            .map(|line| format!("{line}{CLEAR_LINE_END}"))
            .collect();
        // No newline after the last line: in the bottom row it would scroll the screen.
        put(&format!("{HOME}{}{CLEAR_BELOW}", lines.join("\r\n")));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            put(NORMAL_SCREEN_WITH_CURSOR);
        }
    }
}

/// Ignores errors: the signal SIGHUP reports a closed terminal.
fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    drop(written);
}
