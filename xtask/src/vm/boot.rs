//! Boots the virtual machine, shows its output, and evaluates it.

use std::{
    ffi::OsString,
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{process, progress::Progress};

/// Output of the machine's first process, see `init`.
const BOOTED: &str = "vm: booted ";
const ENDED: &str = "vm: ended with ";

/// The machine to boot.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// A disk, which persists across reboots. Without one, a reboot ends the machine.
    pub(crate) disk: Option<&'a Path>,
}

/// Runs the machine until it powers itself off, or until `limit`; returns its output.
pub(crate) fn run(machine: &Machine<'_>, limit: Duration) -> Result<String> {
    // timeout(1) also ends the machine if this process is killed.
    let mut command = Command::new("timeout");
    command
        .args(["--foreground", "--kill-after=5"])
        .arg(limit.as_secs().to_string())
        .arg("qemu-system-x86_64")
        // Emulated: acceleration needs a device that cloud machines do not have.
        .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-smp", "2", "-m", "1024"])
        .args(["-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(machine.kernel)
        .arg("-initrd")
        .arg(machine.initramfs)
        // panic=-1 ends the machine at once; mitigations only cost time here.
        .args([
            "-append",
            "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if let Some(disk) = machine.disk {
        let mut drive = OsString::from("if=virtio,format=raw,cache=unsafe,file=");
        // A comma would start another option.
        drive.push(disk.to_string_lossy().replace(',', ",,"));
        command.arg("-drive").arg(drive);
    } else {
        command.arg("-no-reboot");
    }
    let verb = "run the virtual machine";
    let mut child = command
        .spawn()
        .with_context(|| format!("{verb}: start `{}`", process::line(&command)))?;
    let mut console = child.stdout.take().context("its output is piped")?;
    let progress = Progress::begin(format!(
        "in the virtual machine ({} s at most)",
        limit.as_secs()
    ));
    let mut transcript = Vec::new();
    let mut buffer = [0; 4096];
    while let length @ 1.. = console
        .read(&mut buffer)
        .with_context(|| format!("{verb}: read its console"))?
    {
        let new = transcript.len();
        transcript.extend(buffer[..length].iter().filter(|byte| **byte != b'\r'));
        let show = || {
            let mut stdout = std::io::stdout().lock();
            stdout
                .write_all(&transcript[new..])
                .and_then(|()| stdout.flush())
        };
        progress
            .aside(show)
            .with_context(|| format!("{verb}: show its console"))?;
    }
    let status = child.wait().with_context(|| format!("{verb}: wait"))?;
    match status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&transcript).into_owned()),
        // timeout(1): it ended the command, by SIGTERM or SIGKILL.
        Some(124 | 137) => bail!("{verb}: not done within {} s", limit.as_secs()),
        _ => bail!("{verb}: `{}` ended with {status}", process::line(&command)),
    }
}

/// The number of passed tests; an error if one failed or none ran.
pub(crate) fn judge(transcript: &str) -> Result<u64> {
    let verb = "run the tests on an old kernel";
    // Match only at the start of a line: the kernel may print in the middle of a line, but not before it.
    let said = |what| transcript.lines().find_map(|line| line.strip_prefix(what));
    ensure!(said(BOOTED).is_some(), "{verb}: it did not boot");
    let Some(status) = said(ENDED) else {
        bail!("{verb}: it did not get to the end");
    };
    ensure!(
        status == "0",
        "{verb}: ended with {status}; the summaries above name the tests that failed"
    );
    let passed = transcript
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. "))
        .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
        .sum();
    ensure!(passed > 0, "{verb}: none ran");
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "[    0.1] x\nvm: booted 6.1.0\n";
    const TWO: &str = "test result: ok. 2 passed; 0 failed; 0 ignored\n";

    fn verdict(transcript: &str) -> Result<u64, String> {
        judge(transcript).map_err(|error| error.to_string())
    }

    #[test]
    fn tests_that_passed_are_counted() {
        let transcript = format!("{BOOT}{TWO}{TWO}vm: ended with 0\n");
        assert_eq!(verdict(&transcript), Ok(4));
    }

    #[test]
    fn everything_else_is_a_failure() {
        for (transcript, word) in [
            (String::new(), "not boot"),
            (format!("{BOOT}{TWO}"), "not get to the end"),
            (format!("{BOOT}{TWO}vm: ended with 1\n"), "ended with 1"),
            (format!("{BOOT}vm: ended with 0\n"), "none ran"),
        ] {
            let error = verdict(&transcript).unwrap_err();
            assert!(error.contains(word), "{transcript}: {error}");
        }
    }
}
