//! Progress of long commands. On a terminal, a line shows the elapsed time and the last output of the
//! command; elsewhere, plain lines are printed.

use std::{
    io::{self, BufRead as _, BufReader, IsTerminal as _},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::process;

/// The line moves this often.
const TICK: Duration = Duration::from_millis(120);

/// What took no longer is not worth a line when it is done.
const SHORT: Duration = Duration::from_secs(2);

/// Something that is being done; done when dropped.
pub(crate) struct Progress {
    what: String,
    bar: ProgressBar,
    began: Instant,
}

impl Progress {
    /// Says what is being done from now on.
    pub(crate) fn begin(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = ProgressBar::new_spinner();
        if bar.is_hidden() {
            eprintln!("{what}");
        } else {
            // A template that cannot be read would be our mistake; the line then looks otherwise.
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(what.clone());
            bar.enable_steady_tick(TICK);
        }
        Self {
            what,
            bar,
            began: Instant::now(),
        }
    }

    /// How far it is.
    pub(crate) fn tell(&self, line: &str) {
        self.bar.set_message(line.trim().to_owned());
    }

    /// Lets somebody print while the line is out of the way.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let was_shown = !self.bar.is_hidden();
        self.bar.finish_and_clear();
        let took = self.began.elapsed();
        if was_shown && took > SHORT {
            eprintln!("{} ({} s)", self.what, took.as_secs());
        }
    }
}

/// As [`process::run`], for what takes long and prints much that only matters if it fails. Where there
/// is no terminal it prints as it always did.
pub(crate) fn run(what: &str, verb: &str, command: &mut Command, advice: &str) -> Result<()> {
    let progress = Progress::begin(what);
    if !io::stderr().is_terminal() {
        return process::run(verb, command, advice);
    }
    let (status, printed) = gather(command, |line| progress.tell(line))
        .with_context(|| format!("{verb}: run `{}`; {advice}", process::line(command)))?;
    if !status.success() {
        progress.aside(|| eprint!("{printed}"));
        bail!(
            "{verb}: `{}` ended with {status}; {advice}",
            process::line(command)
        );
    }
    Ok(())
}

/// Runs a command, hears each line that it prints as it comes, and returns all of them.
fn gather(command: &mut Command, mut hear: impl FnMut(&str)) -> io::Result<(ExitStatus, String)> {
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let child = command.stdin(Stdio::null()).spawn();
    // The pipe has an end only when nobody here holds it open any more.
    command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let mut child = child?;
    let mut printed = String::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        // What was overwritten in a line is not shown again.
        hear(line.trim_end().rsplit('\r').next().unwrap_or_default());
        printed += &line;
        printed.push('\n');
    }
    Ok((child.wait()?, printed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_prints_is_heard_and_kept() -> io::Result<()> {
        let mut heard = Vec::new();
        let script = r"echo a; echo b >&2; printf '1%%\r2%%\n'; exit 3";
        let mut command = Command::new("sh");
        let (status, printed) = gather(command.args(["-c", script]), |line| {
            heard.push(line.to_owned())
        })?;
        assert_eq!(status.code(), Some(3));
        assert_eq!(printed, "a\nb\n1%\r2%\n");
        assert_eq!(heard, ["a", "b", "2%"]);
        Ok(())
    }

    #[test]
    fn a_failure_names_verb_command_and_advice() {
        let error = run("trying", "try it", &mut Command::new("false"), "do better").unwrap_err();
        assert_eq!(
            error.to_string(),
            "try it: `false` ended with exit status: 1; do better"
        );
    }
}
