//! The output of all commands: results on stdout, messages on stderr.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::UNHEALTHY;
use crate::host::plain::Plain;

/// The reader of the output has closed the pipe: `sixxs alerts | head`.
#[derive(Debug, thiserror::Error)]
#[error("the output is not read any more")]
pub(super) struct ReaderGone;

/// Prints a command's result: all output goes through here.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    write(Plain::lines(text).as_str())
}

/// Prints the whole result of a command and returns its exit status, which does not depend on the reader.
pub(super) fn print_and_exit_code(text: &str, good: bool) -> anyhow::Result<ExitCode> {
    match print(text) {
        Err(error) if !error.is::<ReaderGone>() => Err(error),
        _ => Ok(exit_code(good)),
    }
}

/// The exit status of a command that reports whether something is in order.
pub(super) fn exit_code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(UNHEALTHY)
    }
}

/// A result as a line of JSON.
pub(super) fn json_line<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(format!("{}\n", Plain::json(&serde_json::to_string(value)?)))
}

/// Redraws the screen: moves the cursor home, clears each line to its end, then clears the rest.
pub(super) fn redraw(text: &str) -> anyhow::Result<()> {
    let lines = Plain::lines(text).as_str().replace('\n', "\x1b[K\n");
    write(&format!("\x1b[H{lines}\x1b[J"))
}

/// Prints a message to stderr: an error, or progress.
pub(super) fn message(text: &str) {
    // An error means that stderr is closed, which does not matter.
    let _unread = writeln!(io::stderr(), "sixxs: {}", Plain::lines(text));
}

/// Prints a note to stderr.
pub(super) fn note(text: &str) {
    // An error means that stderr is closed, which does not matter.
    let _unread = writeln!(io::stderr(), "sixxs: note: {}", Plain::line(text));
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => bail!(ReaderGone),
        written => written.context("write to stdout"),
    }
}
