//! Owns the terminal of the live screen: one picture over the other, and the terminal as it was
//! afterwards. Where standard output is no terminal, pictures follow one another.

use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsRawFd as _;

use nix::libc;

nix::ioctl_read_bad!(
    /// How many rows and columns a terminal has.
    window_size,
    libc::TIOCGWINSZ,
    libc::winsize
);

const ALTERNATE_SCREEN_WITHOUT_CURSOR: &str = "\x1b[?1049h\x1b[?25l";
const NORMAL_SCREEN_WITH_CURSOR: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE_END: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
/// Rows and columns where nobody says; also the least that pictures are made for.
const SIZE: (usize, usize) = (24, 80);

/// The screen, until dropped.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
}

impl Screen {
    /// Takes the terminal.
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
        // SAFETY: winsize is plain data, for which all zeroes is a value.
        let mut size: libc::winsize = unsafe { std::mem::zeroed() };
        // SAFETY: standard output is open, and `size` outlives the call.
        let known = unsafe { window_size(std::io::stdout().as_raw_fd(), &raw mut size) };
        match known {
            Ok(_) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
            _ => SIZE,
        }
    }

    /// Shows a picture: lines that fit.
    pub fn draw(&mut self, picture: &str) {
        if !self.terminal {
            put(&format!("{picture}\n"));
            return;
        }
        let lines: Vec<String> = picture
            .lines()
            .map(|line| format!("{line}{CLEAR_LINE_END}"))
            .collect();
        // No line end after the last: in the bottom row it would scroll.
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

/// A terminal that is gone is noticed by its signal, not here.
fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    drop(written);
}
