//! Runs a program that lists packet filters, within limits.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, bail, ensure};
use tokio::{io::AsyncReadExt as _, process::Command, time::timeout};

/// Time limit of the program.
const WITHIN: Duration = Duration::from_secs(2);

/// Limit of its output. A rule set that bans 10,000 addresses takes less.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The output of a program; `None`: it is not installed.
pub(crate) async fn output(program: &str, arguments: &[&str]) -> anyhow::Result<Option<Vec<u8>>> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("run {program}")),
    };
    let output = child.stdout.take().context("it has no output")?;
    let finished = async {
        let mut listed = Vec::new();
        output.take(MAX_BYTES + 1).read_to_end(&mut listed).await?;
        ensure!(
            listed.len() as u64 <= MAX_BYTES,
            "{program} lists more than {MAX_BYTES} bytes"
        );
        let status = child.wait().await?;
        ensure!(status.success(), "{program} lists nothing: {status}");
        Ok(Some(listed))
    };
    match timeout(WITHIN, finished).await {
        Ok(listed) => listed,
        Err(_) => bail!("{program} takes longer than {} s", WITHIN.as_secs()),
    }
}
