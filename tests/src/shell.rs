//! Runs other programs (`ip`, `nft`, `tc`…); an error includes their output.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end and returns its output; an error if it fails.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", line(command)))?;
    checked(command, &output)
}

/// Like [`capture`], with `input` on its standard input.
pub fn capture_with_input(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {}", line(command)))?;
    let mut stdin = child.stdin.take().context("standard input is piped")?;
    // A command that ends early closes its input; its exit status is more useful than EPIPE.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for {}", line(command)))?;
    let printed = checked(command, &output).with_context(|| format!("its input was:\n{input}"))?;
    written.with_context(|| format!("write the input of {}", line(command)))?;
    Ok(printed)
}

fn checked(command: &Command, output: &Output) -> Result<String> {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{}: {}\n{}{}",
            line(command),
            output.status,
            printed,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(printed)
}

fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
