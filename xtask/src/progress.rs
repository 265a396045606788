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

/// Interval of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// A shorter task leaves no line when it is done.
const SHORT: Duration = Duration::from_secs(2);

/// A task in progress; it ends on drop.
pub(crate) struct Progress {
    what: String,
    bar: ProgressBar,
    began: Instant,
}

impl Progress {
    /// Shows the task from now on.
    pub(crate) fn begin(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = ProgressBar::new_spinner();
        if bar.is_hidden() {
            eprintln!("{what}");
        } else {
            // An invalid template would be a bug here; the line then has the default style.
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

    /// Shows the last line of output.
    pub(crate) fn tell(&self, line: &str) {
        self.bar.set_message(line.trim().to_owned());
    }

    /// Runs `print` while the line is hidden.
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

/// Like [`process::run`], for a long command whose output matters only if it fails. Without a terminal the
/// output is printed directly.
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

/// Runs a command, calls `hear` with each line of its output, and returns the whole output.
fn gather(command: &mut Command, mut hear: impl FnMut(&str)) -> io::Result<(ExitStatus, String)> {
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let child = command.stdin(Stdio::null()).spawn();
    // The pipe ends only if this process has no writer open.
    command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let mut child = child?;
    let mut printed = String::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        // Skip overwritten parts of the line.
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
