//! Boots the virtual machine and shows its console. Its callers judge the transcript.

use std::{
    ffi::OsString,
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{process, progress::Progress};

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
    let mut command = command(machine, limit);
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

/// The command that runs qemu.
fn command(machine: &Machine<'_>, limit: Duration) -> Command {
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
    command
}
