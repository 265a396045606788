//! Moves the daemon's clock by a request that exists for tests. The machine's clock never changes.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::lab::dirs::Paths;
use crate::wait;

/// Arguments of a daemon whose clock can be moved.
pub const MOVABLE: [&str; 2] = ["run", "--movable-clock"];

/// Limit for its answer.
const ANSWERED: Duration = Duration::from_secs(5);

/// Sets the offset of the wall clock from the machine's, and the total time of suspension.
pub fn displace(paths: &Paths, wall_seconds: i64, slept_seconds: u64) -> Result<()> {
    let body = format!("{{\"wall_seconds\": {wall_seconds}, \"slept_seconds\": {slept_seconds}}}");
    let request = format!(
        "POST /v1/clock HTTP/1.1\r\nhost: sixxs\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // A daemon that was just started may not listen yet.
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
