//! Owns the daemon's clock being moved, by a request of its own for tests. The machine's never is.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::lab::dirs::Paths;
use crate::wait;

/// What a daemon is started with whose clock can be moved.
pub const MOVABLE: [&str; 2] = ["run", "--movable-clock"];

/// How soon it answers.
const ANSWERED: Duration = Duration::from_secs(5);

/// Moves it: the wall clock so far from the machine's, and so many seconds were slept altogether.
pub fn displace(paths: &Paths, wall_seconds: i64, slept_seconds: u64) -> Result<()> {
    let body = format!("{{\"wall_seconds\": {wall_seconds}, \"slept_seconds\": {slept_seconds}}}");
    let request = format!(
        "POST /v1/clock HTTP/1.1\r\nhost: sixxs\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // One that was just started may not listen yet.
    let answer = || exchange(paths, &request);
    let answer = wait::until("the daemon answers", ANSWERED, answer, |_| true)?;
    ensure!(
        answer.starts_with("HTTP/1.1 200"),
        "move the clock: {answer}"
    );
    Ok(())
}

fn exchange(paths: &Paths, request: &str) -> Result<String> {
    let path = paths.run().join("control.sock");
    let stream = UnixStream::connect(&path);
    let mut stream = stream.with_context(|| format!("connect to {}", path.display()))?;
    stream
        .set_read_timeout(Some(ANSWERED))
        .context("set a time limit")?;
    stream.write_all(request.as_bytes()).context("ask")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("be answered")?;
    Ok(answer)
}
