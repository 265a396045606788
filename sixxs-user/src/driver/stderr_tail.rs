//! The end of a command's standard error.
//!
//! The pipe is read until its last writer closes it, and only its end is stored. Neither the command nor a
//! process that it leaves behind is ever blocked, or killed by SIGPIPE.
//!
//! Tasks: one per pipe, detached; it ends with the last writer.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{io::AsyncReadExt as _, net::unix::pipe, task::JoinHandle, time};

/// This much of the end of the output is stored.
const TAIL_BYTES: usize = 1024;

/// Limit of the characters shown of a line.
const LINE_CHARS: usize = 200;

/// After a command's end, a process that it has left behind may hold up the last line for this long.
const DRAIN_LIMIT: Duration = Duration::from_millis(100);

/// The end of a command's output.
pub(super) struct StderrTail {
    tail: Arc<Mutex<Vec<u8>>>,
    drain: JoinHandle<()>,
}

impl StderrTail {
    /// Makes the pipe, and returns its writing end for a command.
    pub(super) fn new() -> anyhow::Result<(Self, Stdio)> {
        let (reader, writer) = io::pipe().context("make a pipe")?;
        // Open for reading as well (Linux: fifo(7)), so that the pipe has a reader when the daemon
        // has ended and the tunnel's program has not.
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let writer = File::options().read(true).write(true).open(&path);
        let writer = writer.with_context(|| format!("open {path}"))?;
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))
            .context("make a pipe's end non-blocking")?;
        let tail = Arc::new(Mutex::new(Vec::new()));
        let drain = tokio::spawn(drain(reader, Arc::clone(&tail)));
        Ok((Self { tail, drain }, Stdio::from(writer)))
    }

    /// The last line, once the command has ended.
    pub(super) async fn line(&mut self) -> Option<String> {
        // After the time limit, the tail may lack the last line.
        let _whole = time::timeout(DRAIN_LIMIT, &mut self.drain).await;
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        last_line(&tail)
    }
}

async fn drain(mut reader: pipe::Receiver, tail: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 4096];
    // An error ends the output too.
    while let Ok(read @ 1..) = reader.read(&mut buffer).await {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&buffer[..read]);
        let surplus = tail.len().saturating_sub(TAIL_BYTES);
        tail.drain(..surplus);
    }
}

fn last_line(output: &[u8]) -> Option<String> {
    let output = String::from_utf8_lossy(output);
    let mut lines = output.split(['\n', '\r']).map(str::trim);
    lines.rfind(|line| !line.is_empty()).map(printable_line)
}

/// The text in one line: without control characters, and truncated to [`LINE_CHARS`].
pub(super) fn printable_line(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().map(clean).take(LINE_CHARS).collect();
    if text.chars().nth(LINE_CHARS).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_printable() {
        for (output, expected) in [
            ("", None),
            ("\n \r\n", None),
            ("one\ntwo\n\n", Some("two")),
            ("10 %\r90 %\rno route", Some("no route")),
            ("\x1b[31mno\x07 route\x1b[0m\n", Some(" [31mno  route [0m")),
        ] {
            assert_eq!(last_line(output.as_bytes()).as_deref(), expected);
        }
        assert_eq!(last_line(b"caf\xc3"), Some("caf\u{fffd}".to_owned()));
        let long = last_line("é".repeat(300).as_bytes()).unwrap();
        assert_eq!(long.chars().count(), LINE_CHARS + 1);
        assert!(long.ends_with("é…"));
    }
}
